"""The authors' own implementation, on real models: its maps, logits and terms."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Sequence

import keras
import numpy as np
import pytest
import tensorflow as tf

from transforms.fullgrad import Explanation, Exposed, expose, full_gradients
from transforms.fullgrad.flatten import Step, Value
from transforms.fullgrad.rules import Rule, without_activation
from transforms.fullgrad.terms import Part, Run, Values

MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STD = np.array([0.229, 0.224, 0.225], np.float32)
BGR_MEAN = np.array([123, 117, 104], np.float32)

CASES: dict[str, tuple[str, Callable[[np.ndarray], np.ndarray]]] = {
    "resnet20_cifar10": ("cifar10/resnet20_cifar10.keras", lambda x: (x / 255 - MEAN) / STD),
    "squeezenet_imagenet": ("imagenet/squeezenet_v10_imagenet.keras", lambda x: x - BGR_MEAN),
}

# SqueezeNet's many maxima and gates make ties that lie below float32's resolution, and which side is taken changes the
# gradient, and a map by up to a percent. Of these six images, one to six come out differently with oneDNN's kernels for
# SSE4.1, AVX2 and AVX-512, with batches of one or six, and with XLA. In exact arithmetic (float64) nothing is left to
# chance; these are all the decisions in which the authors' float32 took the other side there: the place in a layer's
# input (of a pooling) or pre-activation, and by how much that would have to be larger. All are less than 5e-7 of the
# layer's largest value.
Tie = tuple[str, tuple[int, int, int], float]
TIES: dict[int, tuple[Tie, ...]] = {
    0: (("fire7_conv3x3_2", (25, 20, 116), -1.33e-3),),
    1: (("pool1", (76, 72, 14), 1.06e-4),),
    2: (("fire2_conv3x3_2", (53, 33, 13), 2.5e-5), ("fire3_conv3x3_2", (27, 21, 13), 1.06e-4)),
    3: (("pool8", (15, 0, 258), 8.04e-5), ("fire7_conv3x3_2", (12, 10, 34), -5.4e-4)),
    4: (),
    5: (),
}


def _difference(explanation: Explanation, saliency: np.ndarray) -> np.ndarray:
    """Largest absolute difference of each map over the reference's largest value."""
    return np.abs(explanation.maps - saliency).max(axis=(1, 2)) / saliency.max(axis=(1, 2))


def _case(name: str, test_data: pathlib.Path) -> tuple[keras.Model, np.ndarray, dict[str, np.ndarray]]:
    """The model, its preprocessed images, and the reference's arrays."""
    path, preprocess = CASES[name]
    reference = test_data.parent / "reference" / f"{name}.npz"
    if not reference.exists():
        pytest.skip(f"{reference.name} is not there")
    arrays = dict(np.load(reference))
    model = keras.models.load_model(test_data / path, compile=False)
    return model, preprocess(arrays["images"].astype(np.float32)), arrays


def _equal(explanation: Explanation, reference: dict[str, np.ndarray], images: np.ndarray) -> None:
    np.testing.assert_array_equal(explanation.targets, reference["targets"][images])
    np.testing.assert_allclose(explanation.logits, reference["logits"][images], atol=1e-4)
    assert _difference(explanation, reference["saliency"][images]).max() <= 1e-5
    for term in ("input_term", "bias_term"):
        np.testing.assert_allclose(getattr(explanation, term), reference[term][images], atol=1e-4)


@pytest.mark.parametrize("biases", ["all", "explicit"])
@pytest.mark.parametrize("jit", [pytest.param(True, marks=pytest.mark.slow), False])
def test_resnet_maps_and_terms_are_the_authors(test_data: pathlib.Path, biases: str, jit: bool) -> None:
    model, images, reference = _case("resnet20_cifar10", test_data)
    _equal(full_gradients(expose(model), images, biases=biases, jit=jit), reference, np.arange(len(images)))


@pytest.mark.slow
@pytest.mark.parametrize("biases", ["all", "explicit"])
@pytest.mark.parametrize("image", TIES)
def test_squeezenet_maps_and_terms_are_the_authors_once_ties_are_decided_as_theirs(
    test_data: pathlib.Path, image: int, biases: str
) -> None:
    model, images, reference = _case("squeezenet_imagenet", test_data)
    exposed, only = expose(_in_float64(model)), np.array([image])
    if TIES[image]:
        undecided = full_gradients(exposed, images[only], biases=biases, jit=False)
        assert 1e-5 < _difference(undecided, reference["saliency"][only])[0] < 1e-2
    for tie in TIES[image]:
        exposed = _decide(exposed, *tie)
    _equal(full_gradients(exposed, images[only], biases=biases, jit=False), reference, only)


@pytest.mark.slow
@pytest.mark.parametrize("biases", ["all", "explicit"])
@pytest.mark.parametrize("image", TIES)
def test_squeezenet_maps_and_terms_in_float32_are_the_authors_where_gates_and_maxima_are(
    test_data: pathlib.Path, image: int, biases: str
) -> None:
    model, images, reference = _case("squeezenet_imagenet", test_data)
    only, exposed = np.array([image]), _deciding_as(expose(_in_float64(model)), TIES[image], expose(model))
    _equal(full_gradients(exposed, images[only], biases=biases, jit=False), reference, only)


@pytest.mark.slow
@pytest.mark.parametrize("jit", [True, False])
def test_squeezenet_maps_in_float32_are_the_authors_up_to_ties(test_data: pathlib.Path, jit: bool) -> None:
    model, images, reference = _case("squeezenet_imagenet", test_data)
    explanation = full_gradients(expose(model), images, jit=jit)
    np.testing.assert_allclose(explanation.logits, reference["logits"], atol=1e-4)
    assert _difference(explanation, reference["saliency"]).max() <= 2e-2


def _in_float64(model: keras.Model) -> keras.Model:
    """The same model in float64, in which no rounding decides anything."""

    def clone(layer: keras.Layer) -> keras.Layer:
        return type(layer).from_config({**layer.get_config(), "dtype": "float64"})

    exact = keras.models.clone_model(model, clone_function=clone)
    exact.set_weights(model.get_weights())
    return exact


def _decide(exposed: Exposed, layer: str, place: tuple[int, int, int], nudge: float) -> Exposed:
    """Takes the layer's decision at one place as if its input there were larger by `nudge`; values stay as they are."""

    def pool(run: Run, step: Step, values: Values) -> tf.Tensor:
        x = values[step.inputs[0]]
        return step.operation(_nudged(x, place, nudge))

    def convolve(run: Run, step: Step, values: Values) -> tf.Tensor:
        z = run.tap(without_activation(step).call(values))
        run.add(step, Part(z, tf.convert_to_tensor(step.operation.bias)), explicit=True)
        return z * tf.stop_gradient(tf.cast(_nudged(z, place, nudge) > 0, z.dtype))

    apply = pool if "pool" in layer else convolve
    rules = [
        Rule("", apply) if step.name == layer else rule
        for step, rule in zip(exposed.program.steps, exposed.rules, strict=True)
    ]
    return dataclasses.replace(exposed, rules=tuple(rules), compiled={})


def _nudged(x: tf.Tensor, place: tuple[int, int, int], by: float) -> tf.Tensor:
    """One image's x [1, H, W, C], larger at one place."""
    return x + tf.scatter_nd([[0, *place]], tf.constant([by], x.dtype), x.shape)


def _deciding_as(exact: Exposed, ties: Sequence[Tie], exposed: Exposed) -> Exposed:
    """Computes as `exposed`, but opens the gates and takes the maxima that `exact`, the same in float64, does."""
    for tie in ties:
        exact = _decide(exact, *tie)
    twins: dict[Value, tf.Tensor] = {}

    def rule(step: Step, own: Rule, twin: Step, exact_rule: Rule) -> Rule:
        def apply(run: Run, _: Step, values: Values) -> tf.Tensor:
            if twin.inputs[0] is exact.program.input:
                twins[twin.inputs[0]] = tf.cast(values[step.inputs[0]], tf.float64)
            twins[twin.outputs[0]] = exact_rule.apply(Run(lambda tensor: tensor, {}), twin, twins)
            if step.kind == "MaxPooling2D":
                x = twins[twin.inputs[0]]
                for layer, place, nudge in ties:
                    x = _nudged(x, place, nudge) if layer == step.name else x
                pooling = step.operation
                _, places = tf.nn.max_pool_with_argmax(
                    x, pooling.pool_size, pooling.strides, pooling.padding.upper(), include_batch_in_index=True
                )
                return tf.gather(tf.reshape(values[step.inputs[0]], [-1]), places)
            if getattr(step.operation, "activation", None) is not keras.activations.relu:
                return own.apply(run, step, values)
            z = run.tap(without_activation(step).call(values))
            run.add(step, Part(z, tf.convert_to_tensor(step.operation.bias)), explicit=True)
            return z * tf.cast(twins[twin.outputs[0]] != 0, z.dtype)  # an opened gate lets what is below 0 pass

        return Rule(own.adds, apply, own.explicit)

    steps = zip(exposed.program.steps, exposed.rules, exact.program.steps, exact.rules, strict=True)
    return dataclasses.replace(exposed, rules=tuple(rule(*each) for each in steps), compiled={})
