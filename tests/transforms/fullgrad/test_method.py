from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from tests.transforms.fullgrad.networks import images, randomize
from transforms.fullgrad import CannotExpose, expose, full_gradients


def _conv_net(**last: object) -> keras.Model:
    inputs = keras.Input((13, 11, 3))
    x = layers.Conv2D(6, 3, padding="same", activation="relu")(inputs)
    x = layers.BatchNormalization()(x)
    x = layers.MaxPooling2D()(x)
    x = layers.Conv2D(8, 3, use_bias=False)(x)
    x = layers.BatchNormalization(scale=False, epsilon=0.1)(x)
    x = layers.ReLU()(x)
    x = layers.GlobalAveragePooling2D()(x)
    return randomize(keras.Model(inputs, layers.Dense(5, **last)(x)))


def _separable() -> keras.Model:
    inputs = keras.Input((16, 16, 3))
    x = layers.SeparableConv2D(8, 3, strides=2, activation="relu")(inputs)
    y = layers.DepthwiseConv2D(3, padding="same")(x)
    y = layers.BatchNormalization(center=False)(y)
    x = layers.Concatenate()([layers.Add()([x, y]), layers.LeakyReLU()(y)])
    x = layers.Conv2DTranspose(4, 2, strides=2, activation="leaky_relu")(x)
    x = layers.ZeroPadding2D()(x)
    x = layers.Dropout(0.5)(x)
    x = layers.AveragePooling2D(3)(x)
    x = layers.Reshape((-1, 4))(x)
    x = layers.Flatten()(x)
    return randomize(keras.Model(inputs, layers.Dense(4, activation="softmax")(x)))


def _sequential() -> keras.Model:
    return randomize(
        keras.Sequential(
            [
                keras.Input((12, 12, 1)),
                layers.Rescaling(1 / 127.5, offset=-1),
                layers.Conv2D(4, 3, activation="relu6"),
                layers.BatchNormalization(center=False, scale=False),
                layers.PReLU(),
                layers.Flatten(),
                layers.Dense(3),
                layers.Softmax(),
            ]
        )
    )


def _nested() -> keras.Model:
    inputs = keras.Input((16, 16, 3))
    inner = keras.Sequential(
        [layers.Conv2D(5, 3, strides=2, activation="relu"), layers.BatchNormalization()], name="stem"
    )
    return randomize(
        keras.Sequential([keras.Model(inputs, inner(inputs), name="backbone"), layers.Flatten(), layers.Dense(4)])
    )


def _shared() -> keras.Model:
    inputs = keras.Input((10, 10, 4))
    conv = layers.Conv2D(4, 3, padding="same", activation="relu")
    x = conv(conv(inputs))
    x = x + 3.0 * layers.Activation("silu")(x)
    return randomize(keras.Model(inputs, layers.Dense(3)(layers.GlobalMaxPooling2D()(x))))


class _Subclassed(keras.Model):
    def __init__(self) -> None:
        super().__init__()
        self.conv = layers.Conv2D(4, 3)
        self.norm = layers.BatchNormalization()
        self.head = layers.Dense(3)

    def call(self, x: object, training: bool = False) -> object:
        x = keras.ops.relu(self.norm(self.conv(x), training=training)) + 0.5
        return self.head(keras.ops.mean(x, axis=(1, 2)))


def _subclassed() -> keras.Model:
    model = _Subclassed()
    model(np.zeros((1, 9, 9, 3), np.float32))
    return randomize(model)


NETWORKS: dict[str, Callable[[], keras.Model]] = {
    "conv": _conv_net,
    "separable": _separable,
    "sequential": _sequential,
    "nested": _nested,
    "shared": _shared,
}


@pytest.mark.quick_cases(every=3)
@pytest.mark.parametrize("jit", [True, False])
@pytest.mark.parametrize("network", NETWORKS)
def test_input_term_and_bias_terms_add_up_to_the_logit(network: str, jit: bool) -> None:
    model = NETWORKS[network]()
    explanation = full_gradients(expose(model), images(model), jit=jit)
    f = explanation.logits[np.arange(3), explanation.targets]
    np.testing.assert_allclose(explanation.input_term + explanation.bias_term, f, rtol=1e-5, atol=1e-5)
    assert explanation.completeness_error.max() < 1e-5
    assert np.abs(explanation.layer_terms).min(axis=0).max() > 0, "the test's networks have terms to lose"


def test_a_subclassed_model_is_opened_up() -> None:
    model = _subclassed()
    x = np.random.default_rng(0).normal(size=(2, 9, 9, 3)).astype(np.float32)
    exposed = expose(model)
    explanation = full_gradients(exposed, x)
    np.testing.assert_allclose(explanation.logits, model(x), rtol=1e-5)
    assert explanation.completeness_error.max() < 1e-5
    assert {"Conv2D", "BatchNormalization", "Add", "Dense"} <= {step.kind for step in exposed.program.steps}


@pytest.mark.parametrize("network", NETWORKS)
def test_the_input_gradient_is_the_framework_s_own(network: str) -> None:
    model = NETWORKS[network]()
    x = images(model)
    exposed = expose(model)
    explanation = full_gradients(exposed, x, 1)
    with tf.GradientTape() as tape:
        tensor = tf.convert_to_tensor(x)
        tape.watch(tensor)
        f = tf.reduce_sum(exposed.run(tensor, tf.identity)[0][:, 1])
    expected = tf.reduce_sum(tape.gradient(f, tensor) * tensor, axis=(1, 2, 3))
    np.testing.assert_allclose(explanation.input_term, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("network", ["separable", "sequential"])
def test_a_softmax_at_the_end_is_undone(network: str) -> None:
    model = NETWORKS[network]()
    x = images(model)
    exposed = expose(model)
    explanation = full_gradients(exposed, x)
    assert np.abs(explanation.logits.sum(axis=1) - 1).min() > 1e-2, "these are no probabilities"
    np.testing.assert_allclose(exposed.probabilities(explanation.logits), model(x), rtol=1e-4, atol=1e-6)


def test_a_single_sigmoid_counts_as_two_classes() -> None:
    inputs = keras.Input((8, 8, 3))
    x = layers.Flatten()(layers.Conv2D(2, 3, activation="relu")(inputs))
    model = randomize(keras.Model(inputs, layers.Dense(1, activation="sigmoid")(x)))
    exposed = expose(model)
    explanation = full_gradients(exposed, images(model), maps="signed")
    assert exposed.classes == 2
    np.testing.assert_allclose(explanation.logits[:, 0], -explanation.logits[:, 1])
    np.testing.assert_allclose(exposed.probabilities(explanation.logits)[:, 1:], model(images(model)), rtol=1e-5)


def test_exposing_leaves_the_model_as_it_was() -> None:
    model = _conv_net(activation="softmax")
    x, before = images(model), model.get_config()
    expected = model(x).numpy()
    full_gradients(expose(model), x)
    assert model.get_config() == before
    np.testing.assert_array_equal(model(x).numpy(), expected)


def test_any_number_of_images_in_any_batches_gives_the_same() -> None:
    model = _conv_net()
    exposed, x = expose(model), images(model, 7)
    whole = full_gradients(exposed, x, batch_size=7)
    for size in (1, 3, 16):
        parts = full_gradients(exposed, x, batch_size=size)
        np.testing.assert_allclose(parts.maps, whole.maps, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(parts.bias_term, whole.bias_term, rtol=1e-4, atol=1e-5)
    assert full_gradients(exposed, x[:0]).maps.shape == (0, 13, 11)


def test_targets_are_classes_or_ranks() -> None:
    model = _conv_net()
    exposed, x = expose(model), images(model)
    logits = full_gradients(exposed, x).logits
    np.testing.assert_array_equal(full_gradients(exposed, x).targets, logits.argmax(axis=1))
    np.testing.assert_array_equal(full_gradients(exposed, x, -2).targets, np.argsort(-logits, axis=1)[:, 1])
    np.testing.assert_array_equal(full_gradients(exposed, x, [0, 4, 2]).targets, [0, 4, 2])
    with pytest.raises(ValueError, match=r"targets must lie in 0 … 4"):
        full_gradients(exposed, x, 5)


@pytest.mark.parametrize("size", [(13, 11), (7, 5), (26, 40)])
def test_a_signed_map_and_the_unlocated_term_add_up_to_the_logit_at_any_size(size: tuple[int, int]) -> None:
    model = _conv_net()
    explanation = full_gradients(expose(model), images(model), maps="signed", map_size=size)
    f = explanation.logits[np.arange(3), explanation.targets]
    assert explanation.maps.shape == (3, *size)
    np.testing.assert_allclose(explanation.maps.sum(axis=(1, 2)) + explanation.unlocated_term, f, rtol=1e-4, atol=1e-4)


def test_contrast_is_the_difference_of_two_signed_maps() -> None:
    model = _conv_net()
    exposed, x = expose(model), images(model)
    contrasted = full_gradients(exposed, x, maps="signed", contrast="runner_up")
    first, second = (full_gradients(exposed, x, -1 - rank, maps="signed") for rank in (0, 1))
    np.testing.assert_allclose(contrasted.maps, first.maps - second.maps, rtol=1e-3, atol=1e-5)
    assert contrasted.completeness_error.max() < 1e-5


def test_explicit_biases_leave_out_the_implicit_ones() -> None:
    model = _sequential()
    exposed, x = expose(model), images(model)
    explicit = full_gradients(exposed, x, biases="explicit")
    everything = full_gradients(exposed, x)
    assert set(explicit.layers) < set(everything.layers)
    assert not any("implicit" in name for name in explicit.layers)
    assert explicit.completeness_error.max() > 1e-3


def test_images_of_another_shape_are_refused_with_both_shapes() -> None:
    with pytest.raises(ValueError, match=r"\[N, 13, 11, 3\].*\(2, 8, 8, 3\)"):
        full_gradients(expose(_conv_net()), np.zeros((2, 8, 8, 3)))


def test_what_is_no_classifier_is_refused_with_the_reason() -> None:
    inputs = keras.Input((8, 8, 3))
    with pytest.raises(CannotExpose, match="is no classifier"):
        expose(keras.Model(inputs, layers.Conv2D(4, 3)(inputs)))
    with pytest.raises(CannotExpose, match="one image input"):
        expose(keras.Model([inputs, keras.Input((3,))], layers.Flatten()(inputs)))
    x = layers.Flatten()(layers.Conv2D(2, 3, data_format="channels_first", name="first")(inputs))
    model = keras.Model(inputs, layers.Dense(2)(x))
    with pytest.raises(CannotExpose, match=r"layer 'first' has data_format 'channels_first'"):
        expose(model)


def test_one_of_several_outputs_is_chosen_by_name_or_index() -> None:
    inputs = keras.Input((8, 8, 3))
    x = layers.Flatten()(layers.Conv2D(2, 3, activation="relu")(inputs))
    model = keras.Model(inputs, {"kind": layers.Dense(3, name="kind")(x), "age": layers.Dense(5, name="age")(x)})
    assert expose(model, "age").classes == 5
    assert expose(model, "kind").classes == 3
    assert all(step.name != "kind" for step in expose(model, "age").program.steps)
    with pytest.raises(CannotExpose, match="has 2 outputs: choose one of"):
        expose(model)
    with pytest.raises(CannotExpose, match="has no output 'sex'"):
        expose(model, "sex")


@pytest.mark.slow
def test_threads_that_explain_at_once_get_what_one_alone_gets() -> None:
    script = """
import numpy as np
from concurrent.futures import ThreadPoolExecutor
from benchmarks.method import resnet20
from tests.transforms.fullgrad import networks
from transforms.fullgrad import expose, full_gradients
from transforms.fullgrad.tensorflow import autodiff

autodiff.one_thread_a_call()  # as the pipeline does it, so that calls do overlap
model = networks.randomize(resnet20())
exposed, images = expose(model), networks.images(model, 8)
alone = full_gradients(exposed, images)
with ThreadPoolExecutor(4) as pool:
    for found in pool.map(lambda _: full_gradients(exposed, images), range(600)):
        np.testing.assert_array_equal(found.maps, alone.maps)
        np.testing.assert_array_equal(found.layer_terms, alone.layer_terms)
"""
    # A process of its own: threads are a setting of the whole process, and what is tested for here crashed it.
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
