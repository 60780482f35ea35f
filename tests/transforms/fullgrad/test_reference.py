"""The authors' own implementation, on real models: its maps, logits and terms."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable

import keras
import numpy as np
import pytest
import tensorflow as tf

from transforms.fullgrad import Explanation, Exposed, expose, full_gradients
from transforms.fullgrad.flatten import Step
from transforms.fullgrad.terms import Part, Rule, Run, Values, without_activation

MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STD = np.array([0.229, 0.224, 0.225], np.float32)
BGR_MEAN = np.array([123, 117, 104], np.float32)

CASES: dict[str, tuple[str, Callable[[np.ndarray], np.ndarray]]] = {
    "resnet20_cifar10": ("cifar10/resnet20_cifar10.keras", lambda x: (x / 255 - MEAN) / STD),
    "squeezenet_imagenet": ("imagenet/squeezenet_v10_imagenet.keras", lambda x: x - BGR_MEAN),
}

# On this image two of the network's decisions lie below the resolution of float32, and PyTorch and exact arithmetic
# (float64) take different sides: in pool8, two candidates of one window that differ by 3e-8 of the layer's largest
# value; in fire7_conv3x3_2, a pre-activation of 8e-8 of it. Each changes the gradient, and the map by up to 0.9 %.
UNDECIDABLE = {"squeezenet_imagenet": 3}


def _difference(explanation: Explanation, saliency: np.ndarray) -> np.ndarray:
    """Largest absolute difference of each map over the reference's largest value."""
    return np.abs(explanation.maps - saliency).max(axis=(1, 2)) / saliency.max(axis=(1, 2))


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest, test_data: pathlib.Path) -> tuple[str, keras.Model, np.ndarray, dict]:
    path, preprocess = CASES[request.param]
    reference = test_data.parent / "reference" / f"{request.param}.npz"
    if not reference.exists():
        pytest.skip(f"{reference.name} is not there")
    model = keras.models.load_model(test_data / path, compile=False)
    arrays = dict(np.load(reference))
    return request.param, model, preprocess(arrays["images"].astype(np.float32)), arrays


@pytest.mark.parametrize("biases", ["all", "explicit"])
def test_maps_and_terms_are_the_authors(case: tuple, biases: str) -> None:
    name, model, images, reference = case
    explanation = full_gradients(expose(model), images, biases=biases, jit=False)
    np.testing.assert_array_equal(explanation.targets, reference["targets"])
    np.testing.assert_allclose(explanation.logits, reference["logits"], atol=1e-4)
    decidable = np.arange(len(images)) != UNDECIDABLE.get(name, -1)
    assert _difference(explanation, reference["saliency"])[decidable].max() <= 1e-5
    for term in ("input_term", "bias_term"):
        np.testing.assert_allclose(getattr(explanation, term)[decidable], reference[term][decidable], atol=1e-4)


def test_compiled_maps_are_the_authors_up_to_what_rounding_decides(case: tuple) -> None:
    # XLA rounds its convolutions differently from oneDNN, which PyTorch uses too, and so takes other sides in ties.
    _, model, images, reference = case
    explanation = full_gradients(expose(model), images, jit=True)
    np.testing.assert_allclose(explanation.logits, reference["logits"], atol=1e-4)
    difference = _difference(explanation, reference["saliency"])
    assert np.median(difference) <= 1e-3
    assert difference.max() <= 2e-2


def test_the_undecidable_image_is_the_authors_once_its_two_ties_are_decided_as_theirs(test_data: pathlib.Path) -> None:
    path, preprocess = CASES["squeezenet_imagenet"]
    reference_path = test_data.parent / "reference" / "squeezenet_imagenet.npz"
    if not reference_path.exists():
        pytest.skip(f"{reference_path.name} is not there")
    reference = np.load(reference_path)
    which = slice(UNDECIDABLE["squeezenet_imagenet"], UNDECIDABLE["squeezenet_imagenet"] + 1)
    images = preprocess(reference["images"][which].astype(np.float32))
    exact = _in_float64(keras.models.load_model(test_data / path, compile=False))
    exposed = expose(exact)

    exact_map = full_gradients(exposed, images, jit=False)
    assert 1e-3 < _difference(exact_map, reference["saliency"][which])[0] < 1e-2

    decided = _decide(_decide(exposed, "pool8", (15, 0, 258), 8.04e-5), "fire7_conv3x3_2", (12, 10, 34), -5.4e-4)
    explanation = full_gradients(decided, images, jit=False)
    assert _difference(explanation, reference["saliency"][which])[0] <= 1e-5
    for term in ("input_term", "bias_term"):
        np.testing.assert_allclose(getattr(explanation, term), reference[term][which], atol=1e-4)


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
        return step.operation(x + tf.scatter_nd([[0, *place]], tf.constant([nudge], x.dtype), x.shape))

    def convolve(run: Run, step: Step, values: Values) -> tf.Tensor:
        with without_activation(step.operation):
            z = run.tap(step.call(values))
        run.add(step, Part(z, tf.convert_to_tensor(step.operation.bias)), explicit=True)
        nudged = z + tf.scatter_nd([[0, *place]], tf.constant([nudge], z.dtype), z.shape)
        return z * tf.stop_gradient(tf.cast(nudged > 0, z.dtype))

    apply = pool if "pool" in layer else convolve
    rules = [
        Rule("", apply) if step.name == layer else rule
        for step, rule in zip(exposed.program.steps, exposed.rules, strict=True)
    ]
    return dataclasses.replace(exposed, rules=tuple(rules), compiled={})
