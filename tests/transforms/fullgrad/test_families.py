"""The law on every family of keras.applications."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from tests.transforms.fullgrad.networks import FAMILIES, family
from transforms.fullgrad import expose, full_gradients

TOLERANCE = 1e-5


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name != "MobileNetV2" else []) for name in FAMILIES]
)
def test_the_decomposition_is_complete(name: str) -> None:
    keras.utils.clear_session()
    model, images = family(name, FAMILIES[name], count=4)
    explanation = full_gradients(expose(model), images, maps="signed", channels="auto", jit=False)
    assert explanation.completeness_error.max() <= TOLERANCE

    layers, terms = np.array(explanation.layers), explanation.layer_terms
    whole = np.abs(terms).sum(axis=1) + np.abs(explanation.input_term)
    assert (np.abs(explanation.input_term) / whole).max() > 1e-3, "the signal reaches the input"
    assert not layers[(terms == 0).any(axis=0)].tolist(), "every term is there to lose, in every image"

    f = explanation.logits[np.arange(len(images)), explanation.targets]
    rest = f - explanation.input_term - explanation.bias_term
    error_without = np.abs(rest[:, None] + terms) / (whole[:, None] - np.abs(terms))
    assert not layers[error_without.max(axis=0) <= TOLERANCE].tolist(), "without any one, the sum would not be complete"

    for layer, below, above in _saturated(model, images):
        assert below.min() > 0, f"{layer} saturates below, in every image"
        assert above.min() > 0, f"{layer} saturates above, in every image"

    np.testing.assert_allclose(explanation.maps.sum(axis=(1, 2)) + explanation.unlocated_term, f, rtol=1e-4, atol=1e-4)

    channels = explanation.channel_terms
    assert channels.shape[1] > 0, "every family has a last layer with places"
    error = np.abs(channels.sum(axis=1) + explanation.after_term - f)
    assert (error / (np.abs(channels).sum(axis=1) + np.abs(explanation.after_term))).max() <= TOLERANCE


def _saturated(model: keras.Model, images: np.ndarray) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """For each ReLU6 and hard-swish, how many of its inputs [N] are at or beyond the lower and the upper kink."""
    kinks = {}
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.ReLU) and layer.max_value is not None:
            kinks[layer] = 0, layer.max_value
        elif isinstance(layer, keras.layers.Activation) and layer.activation is keras.activations.hard_swish:
            kinks[layer] = -3, 3
    assert bool(kinks) == model.name.lower().startswith("mobilenet")
    if not kinks:
        return []
    inputs = keras.Model(model.input, [layer.input for layer in kinks])(images)
    flat = [np.reshape(z, (len(images), -1)) for z in inputs]
    return [
        (layer.name, (z <= low).sum(axis=1), (z >= high).sum(axis=1))
        for (layer, (low, high)), z in zip(kinks.items(), flat, strict=True)
    ]
