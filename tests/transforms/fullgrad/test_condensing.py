"""The two condensers: which one is chosen, and that both do the same."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops

from tests.transforms.fullgrad.networks import images, randomize
from transforms.fullgrad import condensing, expose, full_gradients, maps
from transforms.fullgrad.condensing import Condenser, PlainCondenser
from transforms.fullgrad.contributions import Contribution, Product
from transforms.fullgrad.tensorflow import autodiff
from transforms.fullgrad.tensorflow.native.graph import NativeCondenser

needs_native = pytest.mark.skipif(
    not condensing.usable(maps.RULES["reference"]) or autodiff.has_accelerator(),
    reason="native operations run on CPUs alone",
)


def _choose(rule: str, **options: Any) -> Condenser:
    return condensing.choose(maps.RULES[rule], **{"implicit": True, "jit": False, **options})


@needs_native
@pytest.mark.parametrize("rule", ["reference", "signed"])
def test_native_operations_are_chosen_where_they_run(rule: str) -> None:
    chosen = _choose(rule, implicit=False)
    assert isinstance(chosen, NativeCondenser)
    assert chosen.early is chosen
    assert chosen.signed == (rule == "signed")
    assert not chosen.implicit


def test_xla_and_channelwise_maps_use_tensorflows_operations() -> None:
    for chosen in (_choose("reference", jit=True), _choose("signed", jit=True), _choose("channelwise")):
        assert isinstance(chosen, PlainCondenser)
        assert chosen.early is None


def test_an_accelerator_or_a_missing_function_leaves_tensorflows_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(autodiff, "has_accelerator", lambda: True)
        assert isinstance(_choose("reference"), PlainCondenser)
    monkeypatch.setattr(condensing, "usable", lambda rule: False)
    assert isinstance(_choose("reference"), PlainCondenser)


@needs_native
@pytest.mark.parametrize("rule", ["reference", "signed"])
def test_both_condense_and_add_up_alike(rule: str) -> None:
    generator = np.random.default_rng(0)
    gradient, total = (
        ops.convert_to_tensor(generator.normal(size=s).astype("float32")) for s in ((2, 5, 4, 8), (2, 9, 8))
    )
    contribution = Contribution(Product(gradient), scales=gradient[0, 0, :2])
    rows, columns = (maps.RULES[rule].resize(*each).astype(np.float32) for each in ((5, 9), (4, 8)))

    def results(condenser: Condenser) -> list[np.ndarray]:
        def function() -> list[Any]:
            condensed = condenser.condense(contribution)
            small = condensed.map
            added = [
                condenser.add_resized(total, small, rows, columns),
                condenser.add_resized(None, small, rows, columns),
                condenser.add_resized(small, small, None, None),
            ]
            return [small, condensed.totals, *added]

        return [np.asarray(each) for each in autodiff.compiled(function, jit=False)()]

    for ours, theirs in zip(results(_choose(rule)), results(PlainCondenser(maps.RULES[rule])), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5 * np.abs(theirs).max())


@needs_native
@pytest.mark.parametrize("rule", ["reference", "signed"])
def test_a_chosen_condenser_changes_neither_maps_nor_terms(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    image = keras.Input((13, 12, 3))
    x = layers.ReLU(6.0)(layers.BatchNormalization()(layers.Conv2D(6, 3)(image)))
    x = layers.Activation("gelu")(layers.Conv2D(5, 3)(x))
    model = randomize(keras.Model(image, layers.Dense(4)(layers.GlobalAveragePooling2D()(x))))
    native = full_gradients(expose(model), images(model), maps=rule, jit=False)
    monkeypatch.setattr(condensing, "choose", lambda rule, **options: PlainCondenser(rule))
    plain = full_gradients(expose(model), images(model), maps=rule, jit=False)
    assert native.layers == plain.layers
    for name in ("maps", "layer_terms", "input_term", "unlocated_term"):
        expected = getattr(plain, name)
        np.testing.assert_allclose(getattr(native, name), expected, atol=1e-5 * np.abs(expected).max())
