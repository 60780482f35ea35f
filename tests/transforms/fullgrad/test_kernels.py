"""What the compiled loops condense as operations of a graph, against the operations that say it in one line each."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import keras
import numpy as np
import pytest
from keras import layers, ops

from tests.transforms.fullgrad import networks
from transforms import resampling
from transforms.fullgrad import autodiff, expose, full_gradients, maps, operations
from transforms.fullgrad.located import Condensed, Located, Product
from transforms.fullgrad.operations import Reading


def _reading(rule: str, **others: Any) -> Reading:
    reading = maps.RULES[rule].reading
    assert reading is not None
    return dataclasses.replace(reading, **others)


def _condense(located: Located, reading: Reading) -> Condensed:
    def function() -> tuple[Any, Any]:
        condensed = operations.condense(located, reading)
        return condensed.map, condensed.totals

    return Condensed(*map(np.asarray, autodiff.compiled(function, jit=False)()))


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
    condensed = _condense(located, _reading(rule))
    expected = np.asarray(maps.RULES[rule].condense(located))
    np.testing.assert_allclose(condensed.map, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())
    magnitude = sum(np.abs(each).sum(axis=(1, 2, 3)).max() for each in map(np.asarray, located.each()))
    np.testing.assert_allclose(condensed.totals, np.asarray(located.totals()), atol=1e-6 * magnitude)


ACTIVATIONS: dict[str, tuple[Callable[[np.ndarray], np.ndarray], Callable[[np.ndarray], np.ndarray]]] = {
    "relu6": (lambda z: np.clip(z, 0, 6), lambda z: (z > 0) & (z < 6)),
    "silu": (lambda z: z / (1 + np.exp(-z)), lambda z: (1 + z / (1 + np.exp(z))) / (1 + np.exp(-z))),
}


def _pass_back(
    activation: Literal["relu6", "silu"], arrays: list[np.ndarray], reading: Reading, *, needed: bool = False
) -> tuple[np.ndarray, Condensed]:
    """Goes back from a gradient that the graph made, whose memory may be used again, but not where it is `needed`."""

    def function(g: Any, *others: Any) -> Any:
        made = g + 0.0
        passed, condensed = operations.pass_back(activation, made, *others, reading)
        return (passed, condensed.map, condensed.totals, *([made] if needed else []))

    passed, *condensed = map(np.asarray, autodiff.compiled(function, jit=False)(*map(ops.convert_to_tensor, arrays)))
    if needed:
        np.testing.assert_array_equal(condensed.pop(), arrays[0])
    return passed, Condensed(*condensed)


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("biases", [1, 3])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rule", ["reference", "signed"])
def test_going_back_through_an_activation_reads_what_lies_around_it(
    rule: str, shape: tuple[int, ...], activation: Literal["relu6", "silu"], biases: int, own: bool
) -> None:
    generator = np.random.default_rng(biases)
    g, scales = (generator.normal(size=size).astype(np.float32) for size in (shape, (biases, shape[-1])))
    z = 4 * generator.normal(size=shape)
    z[:, 0, 0, 0] = 0
    function, derivative = ACTIVATIONS[activation]
    z, y, inner = (each.astype(np.float32) for each in (z, function(z), g * derivative(z)))
    passed, read = _pass_back(activation, [g, y, z, scales], _reading(rule, implicit=own), needed=own)
    np.testing.assert_allclose(passed, inner, atol=1e-6 * np.abs(g).max())
    before = [Located(Product(inner), scales=scales), *([Located(Product(g, y), Product(inner, z))] if own else [])]
    expected = sum(np.asarray(maps.RULES[rule].condense(each)) for each in before)
    np.testing.assert_allclose(read.map, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())
    totals = np.concatenate([np.asarray(each.totals()) for each in before], axis=1)
    np.testing.assert_allclose(read.totals, totals, atol=1e-5 * np.abs(g * z).sum(axis=(1, 2, 3)).max())


@pytest.mark.parametrize("threads", [2, 3, 16, None])
def test_threads_that_share_images_out_read_as_one(threads: int | None) -> None:
    generator = np.random.default_rng(0)
    g, y, z = (generator.normal(size=(5, 64, 48, 32)).astype(np.float32) for _ in range(3))  # large enough to be shared
    one, several = (_reading("reference", threads=each) for each in (1, threads))
    for located in (Located(Product(g), scales=y[0, 0, :2]), Located(Product(g, y), Product(z, y))):
        np.testing.assert_array_equal(_condense(located, one).map, _condense(located, several).map)
        np.testing.assert_array_equal(_condense(located, one).totals, _condense(located, several).totals)
    (back, read), (back_of_several, read_of_several) = (
        _pass_back("silu", [g, y, z, y[0, 0, :2]], reading) for reading in (one, several)
    )
    np.testing.assert_array_equal(back, back_of_several)
    np.testing.assert_array_equal(read.map, read_of_several.map)
    np.testing.assert_array_equal(read.totals, read_of_several.totals)


def test_without_the_c_api_tensorflows_own_operations_make_the_same_map(monkeypatch: pytest.MonkeyPatch) -> None:
    model = networks.randomize(_network())
    x = networks.images(model)
    ours = full_gradients(expose(model), x)
    monkeypatch.setattr(operations, "_missing", ["TF_NewKernelBuilder"])
    monkeypatch.setattr(operations, "pass_back", None)
    theirs = full_gradients(expose(model), x)
    np.testing.assert_allclose(ours.maps, theirs.maps, atol=1e-5 * theirs.maps.max())


def _network() -> keras.Model:
    inputs = keras.Input((13, 12, 3))
    x = layers.ReLU(6.0)(layers.BatchNormalization()(layers.Conv2D(6, 3)(inputs)))
    return keras.Model(inputs, layers.Dense(4)(layers.GlobalAveragePooling2D()(x)))


@pytest.mark.parametrize("sizes", [((1, 1), (9, 8)), ((2, 3), (9, 8)), ((7, 7), (9, 8)), ((5, 9), (5, 8))])
@pytest.mark.parametrize("resize", [resampling.aligned_bilinear, resampling.half_pixel_bilinear, resampling.spread])
def test_resizing_is_what_the_matrices_say(resize: Any, sizes: tuple[tuple[int, int], tuple[int, int]]) -> None:
    generator = np.random.default_rng(0)
    rows, columns = (resize(*side).astype(np.float32) for side in zip(*sizes, strict=True))
    taps = operations.two_taps(rows), operations.two_taps(columns)
    assert taps[0] is not None
    assert taps[1] is not None
    total, old = (generator.normal(size=(3, *size)).astype(np.float32) for size in reversed(sizes))

    def function(total: Any, old: Any) -> Any:
        made = total + 0.0  # by the graph, whose memory may be used again
        return operations.add_resized(made, old, *taps), operations.add_resized(total, old, *taps), total

    first, second, same = map(
        np.asarray, autodiff.compiled(function, jit=False)(*map(ops.convert_to_tensor, (total, old)))
    )
    np.testing.assert_allclose(first, total + rows @ old @ columns.T, atol=1e-5)
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(same, total)


def test_matrices_that_interpolate_between_more_than_neighbours_are_not_two_taps() -> None:
    assert operations.two_taps(resampling.area(9, 4)) is None
    assert operations.two_taps(np.float32([[1, 0, 1]])) is None


def test_an_operation_is_registered_once_however_many_threads_ask() -> None:
    generator = np.random.default_rng(0)
    located = Located(Product(*(generator.normal(size=(2, 3, 3, 4)).astype(np.float32) for _ in range(2))))
    readings = [_reading("signed"), _reading("reference")] * 4
    with ThreadPoolExecutor(len(readings)) as pool:
        found = list(pool.map(lambda reading: _condense(located, reading).totals, readings))
    for totals in found[1:]:
        np.testing.assert_allclose(totals, found[0], rtol=1e-5)


def test_a_difference_of_equal_products_leaves_nothing_for_psi_to_magnify() -> None:
    generator = np.random.default_rng(0)
    g, y = (generator.normal(size=(2, 6, 6, 16)).astype(np.float32) for _ in range(2))
    condensed = _condense(Located(Product(g, y), Product(g, y)), _reading("reference"))
    assert not condensed.map.any()
    assert not condensed.totals.any()


def test_no_image_and_one_that_is_not_finite() -> None:
    none = _condense(Located(Product(np.zeros((0, 3, 3, 2), np.float32))), _reading("reference"))
    assert none.map.shape == (0, 3, 3)
    tensor = np.ones((2, 3, 3, 2), np.float32)
    tensor[1, 1, 1, 1] = np.nan
    condensed = _condense(Located(Product(tensor), scales=np.ones((1, 2), np.float32)), _reading("reference"))
    assert np.isfinite(condensed.totals[0])
    assert np.isnan(condensed.totals[1])
