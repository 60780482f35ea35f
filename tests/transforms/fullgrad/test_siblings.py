"""FullGrad's siblings, against versions written plainly from their papers: one image at a time, on the Keras model."""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from tests.transforms.fullgrad.networks import images, randomize
from transforms.fullgrad import CannotExpose, explain, expose, full_gradients
from transforms.fullgrad.siblings import last_spatial_step, noise_seeds
from transforms.fullgrad.tensorflow.autodiff import normal_noise
from transforms.methods import METHODS

SAMPLES, NOISE_LEVEL, SEED = 3, 0.2, 5
SIZE = (12, 10)

# ---- the network: biased convolution with a fused activation, BatchNorm, bias-free convolution, softmax


def _network(last: str = "softmax", **first: object) -> keras.Model:
    inputs = keras.Input((*SIZE, 3))
    x = layers.Conv2D(4, 3, padding="same", activation="relu", name="conv1", **first)(inputs)
    x = layers.BatchNormalization(name="norm1")(x)
    x = layers.MaxPooling2D(name="pool")(x)
    x = layers.Conv2D(5, 3, use_bias=False, name="conv2")(x)
    x = layers.BatchNormalization(name="norm2")(x)
    x = layers.ReLU(name="relu")(x)
    x = layers.GlobalAveragePooling2D(name="mean")(x)
    keras.utils.set_random_seed(0)
    return randomize(keras.Model(inputs, layers.Dense(4, activation=last, name="head")(x)))


@pytest.fixture(scope="module")
def network() -> keras.Model:
    return _network()


@pytest.fixture(scope="module")
def twin(network: keras.Model) -> keras.Model:
    """The same network without the softmax."""
    twin = _network("linear")
    twin.set_weights(network.get_weights())
    return twin


def _taken_apart(twin: keras.Model, x: tf.Tensor, watch: Callable[[tf.Tensor], None]) -> tuple[tf.Tensor, list]:
    """The logits, and (layer's output before its activation, bias) of every spatial layer with a bias."""
    layer = twin.get_layer
    biased = []

    def note(z: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
        watch(z)
        biased.append((z, bias.numpy()))
        return z

    def effective(norm: keras.Layer) -> tf.Tensor:
        return norm.beta - norm.gamma * norm.moving_mean / tf.sqrt(norm.moving_variance + norm.epsilon)

    conv = layer("conv1")
    z = tf.nn.conv2d(x, conv.kernel.value, 1, "SAME") + conv.bias
    x = tf.nn.relu(note(z, tf.convert_to_tensor(conv.bias)))
    x = note(layer("norm1")(x, training=False), effective(layer("norm1")))
    x = layer("conv2")(layer("pool")(x))
    x = note(layer("norm2")(x, training=False), effective(layer("norm2")))
    return layer("head")(layer("mean")(layer("relu")(x))), biased


# ---- the methods, plainly


def _f(logits: tf.Tensor, target: int, contrast: str) -> tf.Tensor:
    others = [logits[0, k] for k in range(logits.shape[1]) if k != target]
    return logits[0, target] - (tf.reduce_max(others) if contrast == "runner_up" else 0.0)


def _gradient(twin: keras.Model, image: np.ndarray, target: int, contrast: str) -> np.ndarray:
    x = tf.constant(image[None])
    with tf.GradientTape() as tape:
        tape.watch(x)
        f = _f(twin(x), target, contrast)
    return tape.gradient(f, x)[0].numpy()


def _noisy(image: np.ndarray) -> list[np.ndarray]:
    seed = tf.constant(noise_seeds(image[None], SEED))
    scale = NOISE_LEVEL * (image.max() - image.min())
    return [image + scale * normal_noise(seed, tf.constant(i), image.shape)[0].numpy() for i in range(SAMPLES)]


def _terms(twin: keras.Model, image: np.ndarray, target: int, contrast: str, biased: bool) -> list[np.ndarray]:
    """x ⊙ ∂f/∂x, then ∂f/∂z of every spatial layer with a bias, times the bias if `biased`; [h, w, C] each."""
    x = tf.constant(image[None])
    with tf.GradientTape() as tape:
        tape.watch(x)
        logits, found = _taken_apart(twin, x, tape.watch)
        f = _f(logits, target, contrast)
    first, *gradients = tape.gradient(f, [x, *(z for z, _ in found)])
    factors = [bias if biased else 1.0 for _, bias in found]
    return [image * first[0].numpy(), *(g[0].numpy() * factor for g, factor in zip(gradients, factors, strict=True))]


def _psi_and_sum(terms: list[np.ndarray]) -> np.ndarray:
    total = np.zeros(SIZE)
    for term in terms:
        normal = np.abs(term) - np.abs(term).min()
        normal = normal / (normal.max() + 1e-6)
        for channel in np.moveaxis(normal, -1, 0):
            resized = tf.compat.v1.image.resize(channel[None, ..., None], SIZE, align_corners=True)
            total += resized[0, ..., 0].numpy()
    return total


def _gradients(twin: keras.Model, image: np.ndarray, target: int, contrast: str) -> np.ndarray:
    return np.abs(_gradient(twin, image, target, contrast)).max(axis=-1)


def _input_x_gradient(twin: keras.Model, image: np.ndarray, target: int, contrast: str) -> np.ndarray:
    return np.abs((image * _gradient(twin, image, target, contrast)).sum(axis=-1))


def _smoothgrad(twin: keras.Model, image: np.ndarray, target: int, contrast: str) -> np.ndarray:
    mean = np.mean([_gradient(twin, copy, target, contrast) for copy in _noisy(image)], axis=0)
    return np.abs(mean).max(axis=-1)


def _simple_fullgrad(twin: keras.Model, image: np.ndarray, target: int, contrast: str) -> np.ndarray:
    return _psi_and_sum(_terms(twin, image, target, contrast, biased=False))


def _smooth_fullgrad(twin: keras.Model, image: np.ndarray, target: int, contrast: str) -> np.ndarray:
    copies = [_terms(twin, copy, target, contrast, biased=True) for copy in _noisy(image)]
    return _psi_and_sum([np.mean(term, axis=0) for term in zip(*copies, strict=True)])


def _grad_cam(twin: keras.Model, image: np.ndarray, target: int, contrast: str) -> np.ndarray:
    both = keras.Model(twin.inputs[0], [twin.get_layer("relu").output, twin.output])
    with tf.GradientTape() as tape:
        activation, logits = both(image[None])
        f = _f(logits, target, contrast)
    gradient = tape.gradient(f, activation)[0].numpy()
    cam = np.zeros(activation.shape[1:3])
    for k in range(gradient.shape[-1]):
        cam += gradient[..., k].mean() * activation[0, ..., k].numpy()
    return tf.image.resize(np.maximum(cam, 0)[..., None], SIZE)[..., 0].numpy()


PLAIN: dict[str, Callable[[keras.Model, np.ndarray, int, str], np.ndarray]] = {
    "gradients": _gradients,
    "input_x_gradient": _input_x_gradient,
    "smoothgrad": _smoothgrad,
    "simple_fullgrad": _simple_fullgrad,
    "smooth_fullgrad": _smooth_fullgrad,
    "grad_cam": _grad_cam,
}


def _noise_of(method: str) -> dict[str, float]:
    return {"samples": SAMPLES, "noise_level": NOISE_LEVEL, "seed": SEED} if METHODS[method].noise else {}


def test_every_sibling_has_a_plain_version() -> None:
    assert {"fullgrad", *PLAIN} == set(METHODS)


@pytest.mark.quick_cases(every=3)
@pytest.mark.parametrize(("target", "contrast"), [(None, "none"), (2, "none"), (-2, "none"), (1, "runner_up")])
@pytest.mark.parametrize("method", PLAIN)
def test_maps_are_those_of_the_plain_version(
    network: keras.Model, twin: keras.Model, method: str, target: int | None, contrast: str
) -> None:
    x = images(network)
    explanation = explain(
        expose(network), x, target, method=method, contrast=contrast, jit=False, batch_size=2, **_noise_of(method)
    )
    logits = twin(x).numpy()
    np.testing.assert_allclose(explanation.logits, logits, rtol=1e-5, atol=1e-5)
    ranked = np.argsort(-logits, axis=1)
    targets = {None: ranked[:, 0], -2: ranked[:, 1]}.get(target, np.full(3, target))
    np.testing.assert_array_equal(explanation.targets, targets)
    for image, chosen, made in zip(x, targets, explanation.maps, strict=True):
        expected = PLAIN[method](twin, image, int(chosen), contrast)
        np.testing.assert_allclose(made, expected, rtol=1e-4, atol=1e-5 * max(1e-3, np.abs(expected).max()))
    # Where an image's activations speak against the class at every place, its Grad-CAM map is zero.
    assert explanation.maps.any() or (method, contrast) == ("grad_cam", "runner_up")


@pytest.mark.parametrize("method", PLAIN)
def test_smaller_maps_are_means_over_areas(network: keras.Model, method: str) -> None:
    exposed, x = expose(network), images(network)
    whole = explain(exposed, x, method=method, **_noise_of(method)).maps
    small = explain(exposed, x, method=method, map_size=(6, 5), **_noise_of(method)).maps
    np.testing.assert_allclose(small, whole.reshape(3, 6, 2, 5, 2).mean(axis=(2, 4)), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("method", PLAIN)
def test_siblings_have_no_terms(network: keras.Model, method: str) -> None:
    explanation = explain(expose(network), images(network), method=method, **_noise_of(method))
    for name in ("input_term", "bias_term", "unlocated_term", "completeness_error"):
        assert np.isnan(getattr(explanation, name)).all()
        assert getattr(explanation, name).shape == (3,)
    assert explanation.layer_terms.shape == (3, 0)
    assert explanation.layers == ()


def test_full_gradients_is_the_method_fullgrad(network: keras.Model) -> None:
    exposed, x = expose(network), images(network)
    for maps in ("reference", "channelwise", "signed"):
        one, other = full_gradients(exposed, x, 1, maps=maps), explain(exposed, x, 1, maps=maps)
        np.testing.assert_array_equal(one.maps, other.maps)
        np.testing.assert_array_equal(one.layer_terms, other.layer_terms)


@pytest.mark.quick_cases(every=3)
@pytest.mark.parametrize("method", METHODS)
def test_compiled_and_not_compiled_maps_agree(network: keras.Model, method: str) -> None:
    exposed, x = expose(network), images(network)
    on, off = (explain(exposed, x, method=method, jit=jit, **_noise_of(method)).maps for jit in (True, False))
    np.testing.assert_allclose(on, off, rtol=1e-4, atol=1e-5 * np.abs(off).max())


def test_a_signed_input_x_gradient_map_adds_up_to_the_input_term(network: keras.Model) -> None:
    exposed, x = expose(network), images(network)
    for size in (SIZE, (5, 7)):
        signed = explain(exposed, x, 1, method="input_x_gradient", maps="signed", map_size=size)
        np.testing.assert_allclose(signed.maps.sum(axis=(1, 2)), full_gradients(exposed, x, 1).input_term, rtol=1e-4)


@pytest.mark.parametrize("biases", ["all", "explicit"])
def test_a_signed_smooth_fullgrad_map_is_the_mean_of_the_copies_maps(network: keras.Model, biases: str) -> None:
    exposed, x = expose(network), images(network)
    options = {"maps": "signed", "biases": biases}
    smooth = explain(exposed, x, 1, method="smooth_fullgrad", **options, **_noise_of("smooth_fullgrad"))
    for image, made in zip(x, smooth.maps, strict=True):
        copies = full_gradients(exposed, np.stack(_noisy(image)), 1, **options).maps
        np.testing.assert_allclose(made, copies.mean(axis=0), rtol=1e-3, atol=1e-5)


# ---- noise


@pytest.mark.parametrize(("smooth", "plain"), [("smoothgrad", "gradients"), ("smooth_fullgrad", "fullgrad")])
def test_without_much_noise_a_smooth_map_is_the_plain_one(network: keras.Model, smooth: str, plain: str) -> None:
    exposed, x = expose(network), images(network)
    expected = explain(exposed, x, method=plain).maps
    made = explain(exposed, x, method=smooth, samples=2, noise_level=1e-6).maps
    np.testing.assert_allclose(made, expected, rtol=1e-3, atol=1e-3 * expected.max())


@pytest.mark.slow
@pytest.mark.parametrize("method", ["smoothgrad", "smooth_fullgrad"])
def test_noise_depends_on_the_seed_and_the_image_alone(network: keras.Model, method: str) -> None:
    exposed, x = expose(network), images(network, 7)
    whole = explain(exposed, x, method=method, batch_size=7, **_noise_of(method)).maps
    close = {"rtol": 1e-4, "atol": 1e-5 * whole.max()}
    for size in (1, 3, 16):
        np.testing.assert_allclose(
            explain(exposed, x, method=method, batch_size=size, **_noise_of(method)).maps, whole, **close
        )
    order = np.random.default_rng(0).permutation(7)
    shuffled = explain(exposed, x[order], method=method, batch_size=4, **_noise_of(method)).maps
    np.testing.assert_allclose(shuffled, whole[order], **close)
    other = explain(exposed, x, method=method, **{**_noise_of(method), "seed": SEED + 1}).maps
    assert np.abs(other - whole).max() > 1e-3 * whole.max()


def test_seeds_of_images_differ_and_do_not_depend_on_their_batch() -> None:
    x = np.random.default_rng(0).normal(size=(50, 4, 4, 3)).astype(np.float32)
    seeds = noise_seeds(x, 0)
    assert (seeds.shape, seeds.dtype) == ((50, 2), np.int32)
    assert len({tuple(seed) for seed in seeds.tolist()}) == 50
    np.testing.assert_array_equal(np.concatenate([noise_seeds(each[None], 0) for each in x[::-1]]), seeds[::-1])
    assert not (noise_seeds(x, 1) == seeds).all(axis=1).any()
    assert noise_seeds(x[:0], 0).shape == (0, 2)


@pytest.mark.parametrize("jit", [True, False])
def test_noise_is_standard_normal_and_of_each_image_and_sample_its_own(jit: bool) -> None:
    seeds = noise_seeds(np.arange(3, dtype=np.float32), SEED)
    draw = tf.function(lambda seeds, sample: normal_noise(seeds, sample, (99, 101, 3)), jit_compile=jit)
    first, second = (draw(seeds, tf.constant(sample)).numpy() for sample in (0, 1))
    numbers = np.concatenate([first, second]).reshape(6, -1)
    assert np.isfinite(numbers).all()
    error = 5 / np.sqrt(numbers.shape[1])
    np.testing.assert_allclose(numbers.mean(axis=1), 0, atol=error)
    np.testing.assert_allclose((numbers**2).mean(axis=1), 1, atol=error * np.sqrt(2))
    np.testing.assert_allclose((numbers**4).mean(axis=1), 3, atol=error * np.sqrt(96))
    assert np.abs(np.corrcoef(numbers) - np.eye(6)).max() < error
    halves = np.corrcoef(numbers[:, : numbers.shape[1] // 2], numbers[:, numbers.shape[1] // 2 + 1 :])
    assert np.abs(halves[:6, 6:]).max() < error * np.sqrt(2)
    np.testing.assert_array_equal(draw(seeds[2:], tf.constant(1)).numpy()[0], second[2])


# ---- where a model lacks something


def test_simple_fullgrad_takes_the_convolutions_where_nothing_has_a_bias() -> None:
    inputs = keras.Input((*SIZE, 3))
    first = layers.Conv2D(4, 3, use_bias=False, activation="relu")
    second = layers.DepthwiseConv2D(3, strides=2, use_bias=False)
    head = layers.Dense(3, use_bias=False)
    model = keras.Model(inputs, head(layers.Flatten()(second(first(inputs)))))
    x = images(model)
    made = explain(expose(model), x, 1, method="simple_fullgrad", jit=False).maps
    for image, each in zip(x, made, strict=True):
        tensor = tf.constant(image[None])
        with tf.GradientTape() as tape:
            tape.watch(tensor)
            z1 = tf.nn.conv2d(tensor, first.kernel.value, 1, "VALID")
            tape.watch(z1)
            z2 = second(tf.nn.relu(z1))
            tape.watch(z2)
            f = head(tf.reshape(z2, (1, -1)))[0, 1]
        gx, g1, g2 = (g[0].numpy() for g in tape.gradient(f, [tensor, z1, z2]))
        np.testing.assert_allclose(each, _psi_and_sum([image * gx, g1, g2]), rtol=1e-4, atol=1e-4)


def test_grad_cam_takes_the_last_activation_with_places() -> None:
    def last(*body: keras.Layer) -> str:
        model = keras.Sequential([keras.Input((*SIZE, 3)), *body, layers.Dense(2, activation="softmax")])
        return last_spatial_step(expose(model)).name

    conv = layers.Conv2D(4, 3, activation="relu", name="conv")
    assert last(conv, layers.GlobalAveragePooling2D(keepdims=True), layers.Flatten()) == "conv"
    assert last(conv, layers.MaxPooling2D(name="pool"), layers.Flatten()) == "pool"
    assert last(layers.Conv2D(4, 3), layers.ReLU(name="relu"), layers.GlobalMaxPooling2D()) == "relu"


def test_grad_cam_refuses_a_model_without_places_in_one_sentence() -> None:
    model = keras.Sequential([keras.Input((4, 4, 3), name="image"), layers.Flatten(), layers.Dense(2)], name="flat")
    with pytest.raises(
        CannotExpose, match=r"^model 'flat' has no activation with places in the image.*grad_cam needs$"
    ):
        explain(expose(model), images(model), method="grad_cam")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"method": "gradcam"}, "method must be one of fullgrad, gradients, .*, not 'gradcam'"),
        ({"method": "gradients", "maps": "signed"}, "maps='signed' is taken only by the methods fullgrad, input_x"),
        ({"method": "input_x_gradient", "maps": "channelwise"}, "fullgrad, smooth_fullgrad, not by input_x_gradient"),
        ({"method": "simple_fullgrad", "biases": "explicit"}, "biases='explicit' is taken only by"),
        ({"samples": 3}, "samples=3 is taken only by the methods smoothgrad, smooth_fullgrad, not by fullgrad"),
        ({"method": "smoothgrad", "samples": 0}, "samples must be at least 1, not 0"),
        ({"method": "smoothgrad", "noise_level": 0.0}, "noise_level must be a finite number above 0, not 0.0"),
        ({"method": "smoothgrad", "seed": -1}, "seed must be at least 0, not -1"),
    ],
)
def test_options_that_a_method_does_not_take_are_refused(
    network: keras.Model, options: dict[str, object], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        explain(expose(network), images(network), **options)
