"""Maps against their definitions, computed term by term and channel by channel as they are written."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers, ops

from tests.transforms.fullgrad.networks import images, randomize
from transforms.fullgrad import Exposed, expose, full_gradients
from transforms.fullgrad.resampling import aligned_bilinear, half_pixel_bilinear, spread
from transforms.fullgrad.tensorflow import autodiff


def _network() -> keras.Model:
    inputs = keras.Input((14, 11, 3))
    x = layers.Conv2D(4, 3, activation="relu6")(inputs)
    x = layers.BatchNormalization()(x)
    x = layers.Conv2D(5, 3, strides=2, activation="silu")(x)
    s = layers.Conv2D(5, 1, activation="sigmoid")(layers.GlobalAveragePooling2D(keepdims=True)(x))
    x = layers.Flatten()(layers.Multiply()([x, s]))
    return randomize(keras.Model(inputs, layers.Dense(3)(layers.Dense(6, activation="relu")(x))))


def _located_terms(exposed: Exposed, x: np.ndarray) -> list[np.ndarray]:
    """The input term and every term with a place, [N, h, w, C] each."""

    def forward(tap: autodiff.Tap) -> tuple:
        tapped = tap(ops.convert_to_tensor(x))
        logits, terms = exposed.run(tapped, tap)
        return ops.max(logits, axis=-1), (tapped, terms)

    (tapped, terms), gradients = autodiff.tapped_gradients(forward)
    found = [np.asarray(gradients[tapped]) * x]
    for term in terms:
        found += [np.asarray(t) for located in term.contributions(gradients).located for t in located.tensors()]
    return found


def _resize(channel: np.ndarray, rule: object, size: tuple[int, int]) -> np.ndarray:
    rows, columns = (rule(old, new) for old, new in zip(channel.shape, size, strict=True))  # type: ignore[operator]
    return rows @ channel @ columns.T


def test_reference_maps_are_psi_of_each_term_resized_channel_by_channel() -> None:
    model = _network()
    exposed, x = expose(model), images(model)
    terms = _located_terms(exposed, x)
    assert len({t.shape[1:3] for t in terms}) == 4
    expected = np.zeros((3, 14, 11))
    for term in terms:
        for n in range(3):
            psi = np.abs(term[n].astype(np.float64))
            psi -= psi.min()
            psi /= psi.max() + 1e-6
            for channel in range(psi.shape[-1]):
                expected[n] += _resize(psi[..., channel], aligned_bilinear, (14, 11))
    maps = full_gradients(exposed, x).maps
    np.testing.assert_allclose(maps, expected, atol=1e-5 * expected.max())


def test_channelwise_maps_are_psi_of_each_channel() -> None:
    model = _network()
    exposed, x = expose(model), images(model)
    expected = np.zeros((3, 14, 11))
    for term in _located_terms(exposed, x):
        for n in range(3):
            channels = term.shape[-1]
            for channel in range(channels):
                psi = np.abs(term[n, ..., channel].astype(np.float64))
                psi = (psi - psi.min()) / (psi.max() - psi.min() + 1e-6)
                expected[n] += _resize(psi, half_pixel_bilinear, (14, 11)) / channels
    maps = full_gradients(exposed, x, maps="channelwise").maps
    np.testing.assert_allclose(maps, expected, atol=1e-5 * expected.max())


@pytest.mark.parametrize("size", [(14, 11), (28, 33), (5, 4)])
def test_signed_maps_spread_each_channel_s_mass(size: tuple[int, int]) -> None:
    model = _network()
    exposed, x = expose(model), images(model)
    explanation = full_gradients(exposed, x, maps="signed", map_size=size)
    sums = sum(term.sum(axis=(1, 2, 3), dtype=np.float64) for term in _located_terms(exposed, x))
    np.testing.assert_allclose(explanation.maps.sum(axis=(1, 2)), sums, rtol=1e-4, atol=1e-5)
    if size == (14, 11):
        expected = sum(
            _resize(term[0, ..., channel].astype(np.float64), spread, size)
            for term in _located_terms(exposed, x)
            for channel in range(term.shape[-1])
        )
        np.testing.assert_allclose(explanation.maps[0], expected, atol=1e-5)


def test_a_smaller_reference_map_is_the_mean_over_each_of_its_cells() -> None:
    model = _network()
    exposed, x = expose(model), images(model)
    whole = full_gradients(exposed, x).maps
    half = full_gradients(exposed, x, map_size=(7, 11)).maps
    np.testing.assert_allclose(half, whole.reshape(3, 7, 2, 11).mean(axis=2), rtol=1e-4, atol=1e-5)


def test_flat_dense_terms_have_no_place() -> None:
    model = _network()
    exposed = expose(model)
    explanation = full_gradients(exposed, images(model), maps="signed")
    dense = [i for i, name in enumerate(explanation.layers) if "dense" in name]
    np.testing.assert_allclose(explanation.unlocated_term, explanation.layer_terms[:, dense].sum(axis=1), rtol=1e-4)
