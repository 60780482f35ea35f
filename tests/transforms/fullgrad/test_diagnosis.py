from __future__ import annotations

import dataclasses

import keras
import numpy as np
import pytest
from keras import layers

from tests.transforms.fullgrad.networks import images, randomize
from tests.transforms.fullgrad.test_layers import vision_transformer
from transforms.fullgrad import expose, full_gradients
from transforms.fullgrad.diagnosis import account_for_steps
from transforms.fullgrad.rules import Rule


def _network() -> keras.Model:
    inputs = keras.Input((12, 12, 3))
    x = layers.Conv2D(4, 3, activation="silu", name="first")(inputs)
    x = layers.Multiply(name="gate")([x, layers.Conv2D(4, 1, activation="sigmoid", name="second")(x)])
    x = layers.GlobalAveragePooling2D()(layers.BatchNormalization(name="norm")(x))
    return randomize(keras.Model(inputs, layers.Dense(3, activation="softmax", name="logits")(x)))


@pytest.mark.parametrize("network", [_network, vision_transformer])
def test_where_the_law_holds_no_step_misses_anything(network: object) -> None:
    model = network()  # type: ignore[operator]
    accounts = account_for_steps(expose(model), images(model))
    assert accounts.unaccounted(1e-6) == []


@pytest.mark.parametrize("layer", ["first", "second", "gate", "norm", "logits"])
def test_a_step_that_is_treated_wrongly_is_named(layer: str) -> None:
    model = _network()
    exposed = expose(model)
    wrong = Rule("", lambda run, step, values: step.call(values))  # as if the layer added nothing
    rules = [
        (dataclasses.replace(rule, apply=_without_terms(rule)) if layer == "logits" else wrong)
        if step.name == layer
        else rule
        for step, rule in zip(exposed.program.steps, exposed.rules, strict=True)
    ]
    broken = dataclasses.replace(exposed, rules=tuple(rules), compiled={})
    assert full_gradients(broken, images(model)).completeness_error.max() > 1e-4
    accounts = account_for_steps(broken, images(model))
    assert accounts.unaccounted(1e-5) == [layer]
    assert np.abs(accounts.missing).max() > 1e-3


def _without_terms(rule: Rule) -> object:
    """The rule's own output, without what it adds: the softmax behind the logits stays undone."""

    def apply(run: object, step: object, values: object) -> object:
        made = rule.apply(run, step, values)  # type: ignore[arg-type]
        run.terms.pop()  # type: ignore[attr-defined]
        return made

    return apply
