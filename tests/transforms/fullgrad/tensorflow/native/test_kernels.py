"""The native operations, against the same in TensorFlow's operations, one line each."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import keras
import numpy as np
import pytest
from keras import layers, ops

from tests.transforms.fullgrad import networks
from transforms.fullgrad import expose, full_gradients, maps, resampling
from transforms.fullgrad.contributions import Condensed, Contribution, Product
from transforms.fullgrad.tensorflow import autodiff
from transforms.fullgrad.tensorflow.native import c_api, graph
from transforms.fullgrad.tensorflow.native.graph import NativeCondenser


def _condenser(rule: str, **others: Any) -> NativeCondenser:
    native = maps.RULES[rule].native
    assert native is not None
    return NativeCondenser(signed=native == "signed", epsilon=maps.EPSILON, **others)


def _condense(contribution: Contribution, condenser: NativeCondenser) -> Condensed:
    def function() -> tuple[Any, ...]:
        condensed = condenser.condense(contribution)
        return condensed.map, condensed.evidence, condensed.totals

    return Condensed(*map(np.asarray, autodiff.compiled(function, jit=False)()))


SHAPES = [
    (3, 5, 4, 7),
    (2, 12, 9, 32),
    pytest.param((5, 1, 1, 6), marks=pytest.mark.slow),
    pytest.param((1, 14, 11, 3), marks=pytest.mark.slow),
]
KINDS = {
    "plain": lambda draw, c: Contribution(Product(draw())),
    "one bias": lambda draw, c: Contribution(Product(draw()), scales=draw()[0, 0, :1]),
    "three biases": lambda draw, c: Contribution(Product(draw()), scales=np.stack([draw()[0, 0, 0] for _ in range(3)])),
    "behind a ReLU": lambda draw, c: Contribution(Product(np.maximum(draw(), 0)), scales=draw()[0, 0, :1]),
    "product": lambda draw, c: Contribution(Product(draw(), draw())),
    "twice less a product": lambda draw, c: Contribution(Product(draw(), draw()), factor=-2.0),
    "clipped": lambda draw, c: Contribution(Product(draw(), np.clip(4 * draw(), 0, 6), threshold=6.0)),
    "difference": lambda draw, c: Contribution(Product(draw(), draw()), Product(draw(), draw())),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rule", ["reference", "signed"])
def test_kernels_condense_as_operations_do(rule: str, shape: tuple[int, ...], kind: str) -> None:
    generator = np.random.default_rng(len(kind))
    contribution = KINDS[kind](lambda: generator.normal(size=shape).astype(np.float32), shape[-1])
    condensed = _condense(contribution, _condenser(rule))
    expected = np.asarray(maps.RULES[rule].condense(contribution))
    np.testing.assert_allclose(condensed.map, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())
    sums = np.asarray(contribution.sums())
    np.testing.assert_allclose(condensed.evidence, sums, rtol=1e-5, atol=1e-5 * np.abs(sums).max())
    magnitude = sum(np.abs(each).sum(axis=(1, 2, 3)).max() for each in map(np.asarray, contribution.tensors()))
    np.testing.assert_allclose(condensed.totals, np.asarray(contribution.totals()), atol=1e-6 * magnitude)


ACTIVATIONS: dict[str, tuple[Callable[[np.ndarray], np.ndarray], Callable[[np.ndarray], np.ndarray]]] = {
    "relu6": (lambda z: np.clip(z, 0, 6), lambda z: (z > 0) & (z < 6)),
    "silu": (lambda z: z / (1 + np.exp(-z)), lambda z: (1 + z / (1 + np.exp(z))) / (1 + np.exp(-z))),
}


def _pull_back(
    activation: Literal["relu6", "silu"], arrays: list[np.ndarray], condenser: NativeCondenser, *, needed: bool = False
) -> tuple[np.ndarray, Condensed]:
    """Goes back from a gradient that the graph made, whose memory may be used again, but not where it is `needed`."""

    def function(g: Any, *others: Any) -> Any:
        made = g + 0.0
        passed, condensed = condenser.pull_back(activation, made, *others)
        return (passed, condensed.map, condensed.evidence, condensed.totals, *([made] if needed else []))

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
    passed, read = _pull_back(activation, [g, y, z, scales], _condenser(rule, implicit=own), needed=own)
    np.testing.assert_allclose(passed, inner, atol=1e-6 * np.abs(g).max())
    before = [
        Contribution(Product(inner), scales=scales),
        *([Contribution(Product(g, y), Product(inner, z))] if own else []),
    ]
    expected = sum(np.asarray(maps.RULES[rule].condense(each)) for each in before)
    np.testing.assert_allclose(read.map, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())
    sums = sum(np.asarray(each.sums()) for each in before)
    np.testing.assert_allclose(read.evidence, sums, rtol=1e-4, atol=1e-5 * np.abs(g * z).max() * shape[-1])
    totals = np.concatenate([np.asarray(each.totals()) for each in before], axis=1)
    np.testing.assert_allclose(read.totals, totals, atol=1e-5 * np.abs(g * z).sum(axis=(1, 2, 3)).max())


@pytest.mark.parametrize("threads", [2, 3, 16, None])
def test_threads_that_share_images_out_read_as_one(threads: int | None) -> None:
    generator = np.random.default_rng(0)
    g, y, z = (generator.normal(size=(5, 64, 48, 32)).astype(np.float32) for _ in range(3))  # large enough to be shared
    one, several = (_condenser("reference", threads=each) for each in (1, threads))
    for contribution in (Contribution(Product(g), scales=y[0, 0, :2]), Contribution(Product(g, y), Product(z, y))):
        np.testing.assert_array_equal(_condense(contribution, one).map, _condense(contribution, several).map)
        np.testing.assert_array_equal(_condense(contribution, one).evidence, _condense(contribution, several).evidence)
        np.testing.assert_array_equal(_condense(contribution, one).totals, _condense(contribution, several).totals)
    (back, read), (back_of_several, read_of_several) = (
        _pull_back("silu", [g, y, z, y[0, 0, :2]], condenser) for condenser in (one, several)
    )
    np.testing.assert_array_equal(back, back_of_several)
    np.testing.assert_array_equal(read.map, read_of_several.map)
    np.testing.assert_array_equal(read.totals, read_of_several.totals)


def test_without_the_c_api_tensorflows_own_operations_make_the_same_map(monkeypatch: pytest.MonkeyPatch) -> None:
    model = networks.randomize(_network())
    x = networks.images(model)
    ours = full_gradients(expose(model), x)
    monkeypatch.setattr(c_api, "_missing", ["TF_NewKernelBuilder"])
    monkeypatch.setattr(NativeCondenser, "pull_back", None)
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
    condenser = _condenser("reference")
    taps = graph.two_neighbours(rows), graph.two_neighbours(columns)
    assert taps[0] is not None
    assert taps[1] is not None
    total, old = (generator.normal(size=(3, *size)).astype(np.float32) for size in reversed(sizes))

    def function(total: Any, old: Any) -> Any:
        made = total + 0.0  # by the graph, whose memory may be used again
        return condenser.add_resized(made, old, rows, columns), condenser.add_resized(total, old, rows, columns), total

    first, second, same = map(
        np.asarray, autodiff.compiled(function, jit=False)(*map(ops.convert_to_tensor, (total, old)))
    )
    np.testing.assert_allclose(first, total + rows @ old @ columns.T, atol=1e-5)
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(same, total)


def test_matrices_that_mix_more_than_two_neighbours_are_not_taken() -> None:
    assert graph.two_neighbours(resampling.area(9, 4)) is None
    assert graph.two_neighbours(np.float32([[1, 0, 1]])) is None


def test_an_operation_is_registered_once_however_many_threads_ask() -> None:
    generator = np.random.default_rng(0)
    contribution = Contribution(Product(*(generator.normal(size=(2, 3, 3, 4)).astype(np.float32) for _ in range(2))))
    condensers = [_condenser("signed"), _condenser("reference")] * 4
    with ThreadPoolExecutor(len(condensers)) as pool:
        found = list(pool.map(lambda condenser: _condense(contribution, condenser).totals, condensers))
    for totals in found[1:]:
        np.testing.assert_allclose(totals, found[0], rtol=1e-5)


def test_a_difference_of_equal_products_leaves_nothing_for_psi_to_magnify() -> None:
    generator = np.random.default_rng(0)
    g, y = (generator.normal(size=(2, 6, 6, 16)).astype(np.float32) for _ in range(2))
    condensed = _condense(Contribution(Product(g, y), Product(g, y)), _condenser("reference"))
    assert not condensed.map.any()
    assert not condensed.totals.any()


def test_no_image_and_one_that_is_not_finite() -> None:
    none = _condense(Contribution(Product(np.zeros((0, 3, 3, 2), np.float32))), _condenser("reference"))
    assert none.map.shape == (0, 3, 3)
    tensor = np.ones((2, 3, 3, 2), np.float32)
    tensor[1, 1, 1, 1] = np.nan
    condensed = _condense(Contribution(Product(tensor), scales=np.ones((1, 2), np.float32)), _condenser("reference"))
    assert np.isfinite(condensed.totals[0])
    assert np.isnan(condensed.totals[1])
