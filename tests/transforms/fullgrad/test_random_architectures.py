"""The law on architectures that nobody chose."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from keras import layers, ops

from tests.transforms.fullgrad.networks import images, randomize
from transforms.fullgrad import expose, full_gradients

ACTIVATIONS = ("relu", "relu6", "leaky_relu", "silu", "gelu", "sigmoid", "tanh", "hard_swish", "softplus", None)
NORMALIZATIONS = ("none", "batch", "layer", "group", "rms", "unit")


def _normalize(x: Any, kind: str, axis_scale: bool) -> Any:
    if kind == "batch":
        return layers.BatchNormalization(scale=axis_scale, center=not axis_scale)(x)
    if kind == "layer":
        return layers.LayerNormalization(scale=axis_scale)(x)
    if kind == "group":
        return layers.GroupNormalization(2)(x)
    if kind == "rms":
        return layers.RMSNormalization()(x)
    return layers.UnitNormalization()(x) if kind == "unit" else x


def _join(a: Any, b: Any, how: str) -> Any:
    if how == "concatenate":
        return layers.Concatenate()([a, b])
    return {"add": a + b, "multiply": a * b, "maximum": ops.maximum(a, b), "subtract": a - 0.5 * b + 0.3}[how]


@st.composite
def architectures(draw: st.DrawFn) -> keras.Model:
    """Depth 1 to 4; each level a convolution of some kind, a normalisation, an activation, and perhaps a branch."""
    inputs = keras.Input((draw(st.integers(8, 13)), draw(st.integers(8, 13)), draw(st.sampled_from([1, 3]))))
    x: Any = inputs
    for _ in range(draw(st.integers(1, 4))):
        kind = draw(st.sampled_from(["conv", "depthwise", "separable", "transpose", "dense"]))
        strides = draw(st.sampled_from([1, 2]))
        bias, activation = draw(st.booleans()), draw(st.sampled_from(ACTIVATIONS))
        width = 2 * draw(st.integers(1, 3))
        options = {"use_bias": bias, "activation": activation}
        x = {
            "conv": layers.Conv2D(width, 3, strides=strides, padding="same", **options),
            "depthwise": layers.DepthwiseConv2D(3, strides=strides, padding="same", depth_multiplier=2, **options),
            "separable": layers.SeparableConv2D(width, 3, strides=strides, padding="same", **options),
            "transpose": layers.Conv2DTranspose(width, 2, padding="same", **options),
            "dense": layers.Dense(width, **options),
        }[kind](x)
        x = _normalize(x, draw(st.sampled_from(NORMALIZATIONS)), draw(st.booleans()))
        if draw(st.booleans()):
            branch = layers.Conv2D(x.shape[-1], 3, padding="same", activation=draw(st.sampled_from(ACTIVATIONS)))(x)
            how = draw(st.sampled_from(["add", "multiply", "maximum", "subtract", "concatenate"]))
            x = _join(x, branch, how)
    pooling = draw(st.sampled_from([layers.GlobalAveragePooling2D, layers.GlobalMaxPooling2D, layers.Flatten]))
    end = draw(st.sampled_from([None, "softmax", "sigmoid"]))
    model = keras.Model(inputs, layers.Dense(draw(st.integers(2, 4)), activation=end)(pooling()(x)))
    return randomize(model, draw(st.integers(0, 9)))


@settings(max_examples=5, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(architectures(), st.booleans())
def test_an_architecture_s_logits_are_taken_apart_completely(model: keras.Model, contrast: bool) -> None:
    is_complete(model, contrast)


@pytest.mark.slow
@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(architectures(), st.booleans())
def test_every_architecture_s_logits_are_taken_apart_completely(model: keras.Model, contrast: bool) -> None:
    is_complete(model, contrast)


def is_complete(model: keras.Model, contrast: bool) -> None:
    """The terms add up to the logit, and the map to the terms that have a place."""
    explanation = full_gradients(
        expose(model), images(model), maps="signed", contrast="runner_up" if contrast else "none", jit=False
    )
    assert explanation.completeness_error.max() <= 1e-5
    terms = explanation.input_term + explanation.bias_term
    largest = 1 + np.abs(explanation.layer_terms).sum(axis=1)
    mapped = explanation.maps.sum(axis=(1, 2)) + explanation.unlocated_term
    np.testing.assert_allclose(mapped / largest, terms / largest, atol=1e-5)
