"""A map must not explain another function than the model's: whatever rule is broken, it is noticed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops

from tests.transforms.fullgrad.networks import family, images, randomize
from transforms.fullgrad import Disagreement, Exposed, agreement, expose, full_gradients, rules
from transforms.fullgrad.flatten import Step
from transforms.fullgrad.tensorflow import folding


def _network(**head: Any) -> keras.Model:
    image = keras.Input((16, 16, 3))
    x = layers.Rescaling(0.5, 0.1)(image)
    x = layers.Conv2D(8, 3, padding="same", activation="tanh", name="convolution")(x)
    x = layers.BatchNormalization(name="norm")(x)
    x = layers.Activation("relu6", name="clipped")(x)
    gate = layers.Dense(8, activation="sigmoid", name="gate")(layers.GlobalAveragePooling2D(keepdims=True)(x))
    x = layers.Multiply(name="product")([x, gate])
    x = layers.LayerNormalization(name="layer_norm")(x)
    return randomize(keras.Model(image, layers.Dense(5, name="head", **head)(layers.GlobalAveragePooling2D()(x))))


def _with_broken_rule(exposed: Exposed, name: str, make: Callable[..., Any]) -> Exposed:
    """Its rule for one step makes something else of what the step takes."""

    def broken(step: Step, rule: Any) -> Any:
        if step.name != name:
            return rule
        return dataclasses.replace(rule, apply=lambda run, step, values: make(rule.apply, run, step, values))

    rules = tuple(broken(*each) for each in zip(exposed.program.steps, exposed.rules, strict=True))
    return dataclasses.replace(exposed, rules=rules, compiled={}, agreements=[])


def _scaled(by: float) -> Callable[..., Any]:
    return lambda apply, run, step, values: apply(run, step, values) * by


# Each is a mistake that a rule could have, and that the account alone does not show.
BROKEN: dict[str, tuple[str, Callable[..., Any]]] = {
    "a convolution that is a hundredth too large": ("convolution", _scaled(1.01)),
    "an activation that is left out": ("clipped", lambda apply, run, step, values: values[step.inputs[0]]),
    "a product that forgets its gate": ("product", lambda apply, run, step, values: values[step.inputs[0]]),
    "a BatchNorm that goes by the batch": (
        "norm",
        lambda apply, run, step, values: step.operation(values[step.inputs[0]], training=True),
    ),
    "a head without its bias": (
        "head",
        lambda apply, run, step, values: ops.matmul(values[step.inputs[0]], step.operation.kernel),
    ),
    "a normalisation that is left out": ("layer_norm", lambda apply, run, step, values: values[step.inputs[0]]),
}


@pytest.mark.quick_cases(every=3)
@pytest.mark.parametrize(
    "head",
    [
        {},
        pytest.param({"activation": "softmax"}, marks=pytest.mark.slow),
        pytest.param({"activation": "sigmoid"}, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("broken", BROKEN)
def test_a_broken_rule_is_noticed_and_named(broken: str, head: dict[str, Any]) -> None:
    name, make = BROKEN[broken]
    model = _network(**head)
    exposed = _with_broken_rule(expose(model), name, make)
    batch = images(model)
    with pytest.raises(Disagreement, match=f"the first layer that differs is '{name}'"):
        agreement.check(exposed, batch)
    with pytest.raises(Disagreement, match=f"the first layer that differs is '{name}'"):
        full_gradients(exposed, batch)


def test_a_wrong_folding_is_noticed_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(layer: layers.BatchNormalization) -> tuple[Any, Any]:
        scale, bias = rules.effective_scale_and_bias(layer)
        return scale, 1.05 * bias

    monkeypatch.setattr(folding, "effective_scale_and_bias", wrong)
    image = keras.Input((16, 16, 3))
    x = layers.BatchNormalization(name="norm")(layers.Conv2D(8, 3)(image))
    x = layers.GlobalAveragePooling2D()(layers.ReLU()(x))
    model = randomize(keras.Model(image, layers.Dense(5, activation="softmax")(x)))
    with pytest.raises(Disagreement, match="the first layer that differs is 'norm'"):
        agreement.check(expose(model), images(model))
    with pytest.raises(Disagreement, match="the first layer that differs is 'norm'"):
        full_gradients(expose(model), images(model))


def test_a_call_that_was_opened_wrongly_is_named() -> None:
    class Fickle(layers.Layer):
        def call(self, x: Any) -> Any:
            return ops.relu(x) if isinstance(x, keras.KerasTensor) else ops.relu(x) * 1.5

    image = keras.Input((16, 16, 3))
    x = layers.Conv2D(8, 3)(image)
    x = layers.GlobalAveragePooling2D()(Fickle(name="fickle")(x))
    model = randomize(keras.Model(image, layers.Dense(5, activation="softmax")(x)))
    with pytest.raises(Disagreement, match=r"the first layer that differs is 'fickle' \(Fickle\)"):
        agreement.check(expose(model), images(model))


@pytest.mark.parametrize("head", [{}, {"activation": "softmax"}, {"activation": "sigmoid"}])
def test_what_is_right_agrees_far_within_the_limit(head: dict[str, Any]) -> None:
    model = _network(**head)
    found = agreement.check(expose(model), images(model))
    assert found.holds
    assert found.difference < found.limit / 100


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ResNet50", "MobileNetV2", "EfficientNetB0", "ConvNeXtTiny"])
@pytest.mark.parametrize(("policy", "room"), [("float32", 10), ("mixed_float16", 2), ("mixed_bfloat16", 2)])
def test_families_agree_within_the_limit_in_any_precision(name: str, policy: str, room: float) -> None:
    before = keras.mixed_precision.dtype_policy()
    keras.mixed_precision.set_dtype_policy(policy)
    try:
        model, batch = family(name, 64)
    finally:
        keras.mixed_precision.set_dtype_policy(before)
    exposed = expose(model)
    found = agreement.check(exposed, batch)
    assert found.difference < found.limit / room
    full_gradients(exposed, batch)
    assert exposed.agreements[0].holds


def test_saturated_probabilities_hide_no_difference() -> None:
    """Where the model's probabilities are 0 and 1, its logits are compared."""
    model = _network(activation="softmax")
    head = model.get_layer("head")
    head.kernel.assign(10 * head.kernel)
    exposed = expose(model)
    batch = images(model)
    assert agreement.check(exposed, batch).holds
    assert not agreement.compare(exposed, batch, full_gradients(exposed, batch).logits * 1.01).holds


@pytest.mark.slow
@pytest.mark.parametrize("activation", ["softmax", None])
@pytest.mark.parametrize("name", ["MobileNetV2", "EfficientNetB0", "VGG16"])
def test_a_model_that_was_not_trained_agrees(name: str, activation: str | None) -> None:
    """Its logits are nearly the same, so that rounding of its probabilities is as large as their differences."""
    build = getattr(keras.applications, name)
    model = build(weights=None, input_shape=(96, 96, 3), classifier_activation=activation)
    exposed = expose(model)
    batch = images(model, scale=50.0)
    assert agreement.check(exposed, batch).holds
    full_gradients(exposed, batch)


def test_only_the_first_batch_is_compared() -> None:
    model = _network()
    exposed = expose(model)
    full_gradients(exposed, images(model))
    assert len(exposed.agreements) == 1
    model.get_layer("head").bias.assign_add(np.ones(5))  # after which it has to be exposed again
    full_gradients(exposed, images(model))
    assert len(exposed.agreements) == 1
