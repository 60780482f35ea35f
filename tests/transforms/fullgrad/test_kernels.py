"""What the compiled loops condense, against the operations that say it in one line each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import pytest

from transforms.fullgrad import maps
from transforms.fullgrad.located import Activated, Located, Product

SHAPES = [(3, 5, 4, 7), (2, 12, 9, 32), (5, 1, 1, 6), (1, 14, 11, 3)]
KINDS = {
    "plain": lambda draw, c: Located(Product(draw())),
    "one bias": lambda draw, c: Located(Product(draw()), scales=draw()[0, 0, :1]),
    "three biases": lambda draw, c: Located(Product(draw()), scales=np.stack([draw()[0, 0, 0] for _ in range(3)])),
    "behind a ReLU": lambda draw, c: Located(Product(np.maximum(draw(), 0)), scales=draw()[0, 0, :1]),
    "product": lambda draw, c: Located(Product(draw(), draw())),
    "twice less a product": lambda draw, c: Located(Product(draw(), draw()), factor=-2.0),
    "clipped": lambda draw, c: Located(Product(draw(), np.clip(4 * draw(), 0, 6), reaching=6.0)),
    "difference": lambda draw, c: Located(Product(draw(), draw()), Product(draw(), draw())),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rule", ["reference", "signed"])
def test_kernels_condense_as_operations_do(rule: str, shape: tuple[int, ...], kind: str) -> None:
    generator = np.random.default_rng(len(kind))
    located = KINDS[kind](lambda: generator.normal(size=shape).astype(np.float32), shape[-1])
    kernel = maps.RULES[rule].kernel
    assert kernel is not None
    (condensed,) = kernel([located])
    expected = np.asarray(maps.RULES[rule].condense(located))
    np.testing.assert_allclose(condensed.map, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())
    magnitude = sum(np.abs(each).sum(axis=(1, 2, 3)).max() for each in map(np.asarray, located.each()))
    np.testing.assert_allclose(condensed.totals, np.asarray(located.totals()), atol=1e-6 * magnitude)


ACTIVATIONS: dict[str, tuple[Callable[[np.ndarray], np.ndarray], Callable[[np.ndarray], np.ndarray]]] = {
    "relu6": (lambda z: np.clip(z, 0, 6), lambda z: (z > 0) & (z < 6)),
    "silu": (lambda z: z / (1 + np.exp(-z)), lambda z: (1 + z / (1 + np.exp(z))) / (1 + np.exp(-z))),
}


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("biases", [1, 3])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rule", ["reference", "signed"])
def test_what_is_read_behind_an_activation_is_what_lies_before_it(
    rule: str, shape: tuple[int, ...], activation: Literal["relu6", "silu"], biases: int, own: bool
) -> None:
    generator = np.random.default_rng(biases)
    g, scales = (generator.normal(size=size).astype(np.float32) for size in (shape, (biases, shape[-1])))
    z = 4 * generator.normal(size=shape)
    z[:, 0, 0, 0] = 0
    function, derivative = ACTIVATIONS[activation]
    z, y, inner = (each.astype(np.float32) for each in (z, function(z), g * derivative(z)))
    given = z if activation == "silu" else None
    kernel = maps.RULES[rule].kernel
    assert kernel is not None
    (read,) = kernel([Activated(activation, g, y, given, scales, own)])
    before = [Located(Product(inner), scales=scales), *([Located(Product(g, y), Product(inner, z))] if own else [])]
    expected = sum(np.asarray(maps.RULES[rule].condense(each)) for each in before)
    np.testing.assert_allclose(read.map, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())
    totals = np.concatenate([np.asarray(each.totals()) for each in before], axis=1)
    np.testing.assert_allclose(read.totals, totals, atol=1e-5 * np.abs(g * z).sum(axis=(1, 2, 3)).max())


def test_threads_that_share_images_out_condense_as_one() -> None:
    located = KINDS["difference"](lambda: np.random.default_rng(0).normal(size=(5, 6, 4, 8)).astype(np.float32), 8)
    kernel = maps.RULES["signed"].kernel
    assert kernel is not None
    (one,), (several,) = kernel([located], threads=1), kernel([located])
    np.testing.assert_array_equal(one.map, several.map)
    np.testing.assert_array_equal(one.totals, several.totals)


def test_a_difference_of_equal_products_leaves_nothing_for_psi_to_magnify() -> None:
    generator = np.random.default_rng(0)
    g, y = (generator.normal(size=(2, 6, 6, 16)).astype(np.float32) for _ in range(2))
    kernel = maps.RULES["reference"].kernel
    assert kernel is not None
    (condensed,) = kernel([Located(Product(g, y), Product(g, y))])
    assert not condensed.map.any()
    assert not condensed.totals.any()


def test_no_image_and_one_that_is_not_finite() -> None:
    kernel = maps.RULES["reference"].kernel
    assert kernel is not None
    (none,) = kernel([Located(Product(np.zeros((0, 3, 3, 2), np.float32)))])
    assert none.map.shape == (0, 3, 3)
    tensor = np.ones((2, 3, 3, 2), np.float32)
    tensor[1, 1, 1, 1] = np.nan
    (condensed,) = kernel([Located(Product(tensor), scales=np.ones((1, 2), np.float32))])
    assert np.isfinite(condensed.totals[0])
    assert np.isnan(condensed.totals[1])
