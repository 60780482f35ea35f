"""The evidence that is made beside the maps: the positive part of the signed map."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

from tests.transforms.fullgrad.networks import images, randomize
from transforms.fullgrad import explain, expose, full_gradients
from transforms.statistics import resample


def _network(side: int) -> keras.Model:
    image = keras.Input((side, side, 3))
    x = layers.ReLU(6.0)(layers.BatchNormalization()(layers.Conv2D(6, 3)(image)))
    x = layers.MaxPooling2D()(layers.Activation("silu")(layers.BatchNormalization()(layers.Conv2D(6, 3)(x))))
    x = layers.Activation("gelu")(layers.Conv2D(5, 3)(x))
    return randomize(keras.Model(image, layers.Dense(4)(layers.GlobalAveragePooling2D()(x))))


@pytest.mark.quick_cases(every=6)
@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("maps", ["reference", "channelwise", "signed"])
def test_it_is_the_positive_part_of_the_signed_map(maps: str, jit: bool) -> None:
    model = _network(20)
    given = images(model)
    signed = full_gradients(expose(model), given, maps="signed", jit=False).maps
    found = full_gradients(expose(model), given, maps=maps, evidence_size=(5, 4), jit=jit).evidence
    # 4 × 4 times as fine as the evidence is 20 × 16, of which the rows are the image's own.
    expected = resample(np.maximum(resample(signed, (20, 16)), 0), (5, 4))
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * expected.max())
    assert (signed < 0).any()


def test_a_small_image_keeps_its_own_resolution() -> None:
    model = _network(13)
    given = images(model)
    signed = full_gradients(expose(model), given, maps="signed").maps
    found = full_gradients(expose(model), given, evidence_size=(14, 14)).evidence
    expected = resample(np.maximum(signed, 0), (14, 14))
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * expected.max())


def test_it_changes_neither_maps_nor_terms() -> None:
    model = _network(20)
    given = images(model)
    beside, alone = (full_gradients(expose(model), given, evidence_size=size) for size in ((5, 5), None))
    assert alone.evidence.shape == (len(given), 0, 0)
    for name in ("maps", "layer_terms", "input_term", "logits"):
        np.testing.assert_array_equal(getattr(beside, name), getattr(alone, name))


@pytest.mark.parametrize("method", ["gradients", "grad_cam", "simple_fullgrad"])
def test_methods_without_terms_have_none(method: str) -> None:
    model = _network(20)
    found = explain(expose(model), images(model), method=method, evidence_size=(5, 5))
    assert found.evidence.shape == (len(images(model)), 0, 0)
