"""What each channel of a layer adds to f, and the terms after it."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

from tests.transforms.fullgrad.networks import images, randomize
from transforms.fullgrad import CannotExpose, Explanation, expose, full_gradients


def _chain(activation: str = "relu6") -> keras.Model:
    """Two convolutions with BatchNorms and activations, all folded, then a head with a bias and a hidden layer."""
    x = inputs = keras.Input((12, 10, 3))
    for i in range(2):
        x = layers.Conv2D(5 + i, 3, use_bias=True, name=f"conv{i}")(x)
        x = layers.BatchNormalization(name=f"norm{i}")(x)
        x = layers.Activation(activation, name=f"act{i}")(x)
    x = layers.GlobalAveragePooling2D(name="mean")(x)
    x = layers.Dense(7, activation="relu", name="hidden")(x)
    return randomize(keras.Model(inputs, layers.Dense(4, name="classes")(x)))


def _residual() -> keras.Model:
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(6, 3, padding="same", activation="relu", name="stem")(inputs)
    y = layers.Conv2D(6, 3, padding="same", activation="relu", name="branch")(x)
    x = layers.Add(name="sum")([x, y])
    x = layers.GlobalMaxPooling2D(name="max")(x)
    return randomize(keras.Model(inputs, layers.Dense(3, activation="softmax", name="classes")(x)))


def _holds(explanation: Explanation, tolerance: float = 1e-5) -> None:
    total = explanation.channel_terms.sum(axis=1, dtype=np.float64) + explanation.after_term
    scale = np.abs(explanation.channel_terms).sum(axis=1) + np.abs(explanation.after_term)
    assert (np.abs(total - explanation.explained) / scale).max() <= tolerance


@pytest.mark.quick_cases(every=4)
@pytest.mark.parametrize("layer", ["conv0", "norm0", "act0", "conv1", "norm1", "act1", "auto"])
@pytest.mark.parametrize("activation", ["relu", "relu6", "silu"])
@pytest.mark.parametrize("maps", ["reference", "channelwise"])  # the native kernels, and TensorFlow's operations
def test_the_channels_and_the_terms_after_them_add_up(layer: str, activation: str, maps: str) -> None:
    model = _chain(activation)
    batch = images(model)
    explanation = full_gradients(expose(model), batch, channels=layer, maps=maps, jit=False)
    _holds(explanation)
    assert explanation.channel_terms.shape == (3, 5 if layer.endswith("0") else 6)
    assert (explanation.channel_terms != 0).any(axis=0).all()
    plain = full_gradients(expose(model), batch, maps=maps, jit=False)
    np.testing.assert_allclose(explanation.maps, plain.maps, rtol=2e-4, atol=1e-5, err_msg="the maps are the same")
    np.testing.assert_allclose(explanation.bias_term, plain.bias_term, rtol=1e-4)


def test_each_channel_is_gradient_times_activation_of_the_head_alone() -> None:
    model = _chain()
    batch = images(model)
    explanation = full_gradients(expose(model), batch, targets=2, channels="act1")
    activations = np.asarray(keras.Model(model.input, model.get_layer("act1").output)(batch))
    # By hand: the head is piecewise linear, mean over positions → hidden (ReLU) → class 2.
    hidden, classes = model.get_layer("hidden"), model.get_layer("classes")
    means = activations.mean(axis=(1, 2))
    active = means @ np.asarray(hidden.kernel) + np.asarray(hidden.bias) > 0
    gradient = (active * np.asarray(classes.kernel)[:, 2]) @ np.asarray(hidden.kernel).T
    np.testing.assert_allclose(explanation.channel_terms, gradient * means, rtol=1e-4, atol=1e-5)
    after = (active * np.asarray(classes.kernel)[:, 2]) @ np.asarray(hidden.bias) + np.asarray(classes.bias)[2]
    np.testing.assert_allclose(explanation.after_term, after, rtol=1e-4, atol=1e-5)


def test_auto_takes_the_last_layer_with_places_that_all_paths_go_through() -> None:
    model = _residual()
    exposed, batch = expose(model), images(model)
    automatic = full_gradients(exposed, batch, channels="auto")
    _holds(automatic)
    named = full_gradients(exposed, batch, channels="sum")
    np.testing.assert_array_equal(automatic.channel_terms, named.channel_terms)
    _holds(full_gradients(exposed, batch, channels="stem"))


def test_with_contrast_they_add_up_to_the_difference() -> None:
    model = _residual()
    _holds(full_gradients(expose(model), images(model), channels="auto", contrast="runner_up"))


def test_a_sequence_of_patches_counts_every_token() -> None:
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(6, 4, strides=4, name="patches")(inputs)
    x = layers.Reshape((4, 6))(x)
    x = layers.Dense(5, activation="gelu", name="tokens")(x)
    x = layers.GlobalAveragePooling1D()(x)
    model = randomize(keras.Model(inputs, layers.Dense(3)(x)))
    explanation = full_gradients(expose(model), images(model), channels="auto")
    assert explanation.channel_terms.shape == (3, 5)
    _holds(explanation)


def test_a_model_without_such_a_layer_has_none() -> None:
    inputs = keras.Input((4, 4, 1))
    model = randomize(keras.Model(inputs, layers.Dense(3)(layers.Flatten()(inputs))))
    explanation = full_gradients(expose(model), images(model), channels="auto")
    assert explanation.channel_terms.shape == (3, 0)
    assert np.isnan(explanation.after_term).all()


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        ("brnch", "has no layer 'brnch'.*'branch'"),
        ("branch", "other paths lead past it.*'stem', 'sum'"),
        ("classes", "no channels with places.*'stem', 'sum'"),
    ],
)
def test_a_layer_that_cannot_be_is_refused_with_those_that_can(layer: str, reason: str) -> None:
    model = _residual()
    with pytest.raises(CannotExpose, match=reason):
        full_gradients(expose(model), images(model), channels=layer)


def test_without_channels_there_are_none() -> None:
    model = _residual()
    explanation = full_gradients(expose(model), images(model))
    assert explanation.channel_terms.shape == (3, 0)
    assert np.isnan(explanation.after_term).all()
