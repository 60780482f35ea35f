"""Models with BatchNorm folded into convolutions, against the same models as they are."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import keras
import numpy as np
import pytest
from keras import layers

from tests.transforms.fullgrad.networks import images, randomize
from transforms.fullgrad import Exposed, expose, full_gradients


def _network(convolution: keras.Layer, activation: Callable[..., object] | None = None, **norm: object) -> keras.Model:
    inputs = keras.Input((13, 12, 3))
    x = layers.BatchNormalization(**norm)(convolution(inputs))
    x = layers.GlobalAveragePooling2D()((activation or layers.ReLU(6.0))(x))
    return randomize(keras.Model(inputs, layers.Dense(4)(x)))


def _as_it_is(exposed: Exposed) -> Exposed:
    """The same, but that nothing is folded."""
    same = dataclasses.replace(exposed, compiled={})
    same.__dict__.update(folded=same, folded_with_activations=same)
    return same


CONVOLUTIONS = {
    "biased": lambda: layers.Conv2D(6, 3),
    "no bias": lambda: layers.Conv2D(6, 3, use_bias=False, padding="same"),
    "strided": lambda: layers.Conv2D(6, 5, strides=2, padding="same"),
    "strided otherwise": lambda: layers.Conv2D(6, (3, 4), strides=(2, 1)),
    "dilated": lambda: layers.Conv2D(6, 3, dilation_rate=2),
    "grouped": lambda: layers.Conv2D(6, 3, groups=3),
    "depthwise": lambda: layers.DepthwiseConv2D(3, strides=2, depth_multiplier=2),
    "separable": lambda: layers.SeparableConv2D(6, 3, depth_multiplier=2, padding="same"),
}


@pytest.mark.quick_cases(every=5)
@pytest.mark.parametrize("maps", ["reference", "signed", "channelwise"])
@pytest.mark.parametrize("convolution", CONVOLUTIONS)
def test_folding_changes_neither_maps_nor_terms(convolution: str, maps: str) -> None:
    model = _network(CONVOLUTIONS[convolution]())
    exposed, x = expose(model), images(model)
    assert sum(a is not b for a, b in zip(exposed.rules, exposed.folded.rules, strict=True)) == 2
    folded, plain = (full_gradients(each, x, maps=maps) for each in (exposed, _as_it_is(exposed)))
    assert folded.layers == plain.layers
    np.testing.assert_allclose(folded.maps, plain.maps, atol=1e-5 * np.abs(plain.maps).max())
    for name in ("logits", "input_term", "bias_term", "layer_terms"):
        expected = getattr(plain, name)
        np.testing.assert_allclose(getattr(folded, name), expected, atol=1e-5 * np.abs(expected).max())


ACTIVATIONS = {
    "ReLU6": lambda: layers.ReLU(6.0),
    "relu6": lambda: layers.Activation("relu6"),
    "silu": lambda: layers.Activation("silu"),
    "a function": lambda: keras.ops.silu,
    "another": lambda: keras.ops.relu6,
    "Lambda": lambda: layers.Lambda(keras.activations.silu),
    "ReLU": lambda: layers.ReLU(),
    "gelu": lambda: layers.Activation("gelu"),
}


@pytest.mark.quick_cases(every=6)
@pytest.mark.parametrize("biases", ["all", "explicit"])
@pytest.mark.parametrize("maps", ["reference", "signed"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_terms_read_behind_an_activation_are_those_before_it(activation: str, maps: str, biases: str) -> None:
    model = _network(layers.Conv2D(6, 3), ACTIVATIONS[activation]())
    exposed, x = expose(model), 20 * images(model)  # so that ReLU6 clips many
    read, plain = (full_gradients(each, x, maps=maps, biases=biases) for each in (exposed, _as_it_is(exposed)))
    assert read.layers == plain.layers
    np.testing.assert_allclose(read.maps, plain.maps, atol=1e-5 * np.abs(plain.maps).max())
    np.testing.assert_allclose(read.layer_terms, plain.layer_terms, atol=1e-5 * np.abs(plain.layer_terms).max())


def test_what_an_activation_shares_with_another_step_is_not_read_behind_it() -> None:
    inputs = keras.Input((9, 9, 3))
    z = layers.BatchNormalization()(layers.Conv2D(4, 3)(inputs))
    x = layers.Add()([z, layers.Activation("silu")(z)])  # the gradient at z is more than what comes back from y
    last = layers.BatchNormalization()(layers.Conv2D(2, 3)(x))
    x = layers.GlobalAveragePooling2D()(last)
    exposed = expose(model := randomize(keras.Model(inputs, x)))
    read, plain = (full_gradients(each, images(model)) for each in (exposed, _as_it_is(exposed)))
    assert read.layers == plain.layers
    np.testing.assert_allclose(read.maps, plain.maps, atol=1e-5 * plain.maps.max())
    assert read.completeness_error.max() < 1e-5


@pytest.mark.parametrize("norm", [{"scale": False}, {"center": False}, {"epsilon": 0.1}, {"axis": 3}])
def test_any_batch_norm_over_channels_is_folded(norm: dict[str, object]) -> None:
    model = _network(layers.Conv2D(6, 3), **norm)
    exposed, x = expose(model), images(model)
    assert exposed.folded.rules != exposed.rules
    folded, plain = (full_gradients(each, x) for each in (exposed, _as_it_is(exposed)))
    np.testing.assert_allclose(folded.maps, plain.maps, atol=1e-5 * plain.maps.max())


def test_what_must_not_be_folded_is_not() -> None:
    inputs = keras.Input((8, 8, 3))
    activated = layers.BatchNormalization()(layers.Conv2D(3, 3, activation="relu")(inputs))
    other_axis = layers.BatchNormalization(axis=1)(layers.Conv2D(3, 3)(inputs))
    shared = layers.Conv2D(3, 3)(inputs)
    used_twice = layers.Add()([shared, layers.BatchNormalization()(shared)])
    x = layers.Flatten()(layers.Add()([activated, other_axis, used_twice]))
    model = randomize(keras.Model(inputs, layers.Dense(2)(x)))
    exposed = expose(model)
    assert exposed.folded.rules == exposed.rules
    assert full_gradients(exposed, images(model)).completeness_error.max() < 1e-5


def test_a_convolution_called_twice_is_folded_with_each_batch_norm() -> None:
    inputs = keras.Input((8, 8, 3))
    shared = layers.Conv2D(3, 3, padding="same")
    x = layers.ReLU()(layers.BatchNormalization()(shared(inputs)))
    x = layers.ReLU()(layers.BatchNormalization()(shared(x)))
    model = randomize(keras.Model(inputs, layers.Dense(2)(layers.Flatten()(x))))
    exposed, x = expose(model), images(model)
    folded, plain = (full_gradients(each, x) for each in (exposed, _as_it_is(exposed)))
    np.testing.assert_allclose(folded.maps, plain.maps, atol=1e-5 * plain.maps.max())
    np.testing.assert_allclose(folded.layer_terms, plain.layer_terms, atol=1e-5 * np.abs(plain.layer_terms).max())
