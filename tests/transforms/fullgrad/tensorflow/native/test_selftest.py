"""A TensorFlow that was not tested: its own operations make the maps if the native ones do not pass their self-test."""

from __future__ import annotations

import pathlib
import re
import tomllib
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from tests.transforms.fullgrad import networks
from transforms.fullgrad import expose, full_gradients, maps
from transforms.fullgrad.condensing import PlainCondenser, choose
from transforms.fullgrad.tensorflow.native import c_api, glue, graph, kernels, selftest
from transforms.fullgrad.tensorflow.native.graph import NativeCondenser

ROOT = pathlib.Path(__file__).parents[5]


@pytest.fixture(autouse=True)
def newer(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A TensorFlow that was not tested, and no verdict about it yet."""
    monkeypatch.setattr(tf, "__version__", "2.99.0-rc1")
    verdicts = selftest._problem, selftest._warn
    for each in verdicts:
        each.cache_clear()
    yield
    for each in verdicts:
        each.cache_clear()


@pytest.fixture(scope="module")
def model() -> keras.Model:
    inputs = keras.Input((13, 12, 3))
    x = layers.ReLU(6.0)(layers.BatchNormalization()(layers.Conv2D(6, 3)(inputs)))
    return networks.randomize(keras.Model(inputs, layers.Dense(4)(layers.GlobalAveragePooling2D()(x))))


@pytest.fixture(scope="module")
def right(model: keras.Model) -> np.ndarray:
    """The maps by native operations, whose verdict is already in."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tf, "__version__", "2.18.0")
        return full_gradients(expose(model), networks.images(model)).maps


def _wrong_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library computes g · scale + 1 for g · scale."""

    @kernels.elementwise_kernel
    def off_by_one(arrays, scales, threshold, n, i, t, c):  # type: ignore[no-untyped-def]
        return arrays[0][n, i] * scales[t, c] + np.float32(1)

    right_ones, wrong = graph._registered, glue.compiled_kernel(off_by_one, 1, signed=False)

    def registered(name: str, signed: bool) -> tuple[str, int]:
        operation, address = right_ones(name, signed)
        return operation, wrong.address if name == "Scaled" else address

    monkeypatch.setattr(graph, "_registered", registered)


def _missing_function(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(c_api, "_missing", [])
    assert c_api._function(c_api._tensorflow, "TF_NoSuchFunction", None) is None


def _refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str, signed: bool) -> tuple[str, int]:
        raise RuntimeError(f"TensorFlow does not take the operation {name}")

    monkeypatch.setattr(graph, "_registered", refuse)


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (_wrong_kernel, "condensing gives wrong numbers"),
        (_missing_function, "its C API lacks TF_NoSuchFunction"),
        (_refusal, "RuntimeError: TensorFlow does not take the operation Scaled"),
    ],
    ids=["a kernel that gives wrong numbers", "a missing function", "a refusal"],
)
def test_what_does_not_pass_falls_back_with_one_warning_and_makes_the_same_maps(
    break_it: Callable[[pytest.MonkeyPatch], None],
    said: str,
    model: keras.Model,
    right: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    break_it(monkeypatch)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        for _ in range(2):
            made = full_gradients(expose(model), networks.images(model)).maps
        [warning] = [str(each.message) for each in warned if "fullgrad" in str(each.message)]
    assert said in warning
    assert "TensorFlow 2.99.0-rc1" in warning
    assert "tested with TensorFlow 2.18 to 2.21" in warning
    np.testing.assert_allclose(made, right, atol=1e-5 * right.max())


def test_a_newer_tensorflow_that_passes_uses_native_operations_without_a_word() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert isinstance(choose(maps.RULES["reference"], implicit=True, jit=False), NativeCondenser)


def test_a_tested_tensorflow_is_not_tested_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(rule: Any) -> None:
        raise AssertionError("was tested")

    monkeypatch.setattr(selftest, "_problem", fail)
    for version in ("2.18.0", "2.21.3"):
        monkeypatch.setattr(tf, "__version__", version)
        assert isinstance(choose(maps.RULES["reference"], implicit=True, jit=False), NativeCondenser)
    monkeypatch.setattr(tf, "__version__", "2.17.1")
    with pytest.raises(AssertionError, match="was tested"):
        choose(maps.RULES["reference"], implicit=True, jit=False)


def test_what_has_no_native_operations_is_not_tested() -> None:
    assert isinstance(choose(maps.RULES["channelwise"], implicit=True, jit=False), PlainCondenser)


def test_the_tested_versions_are_those_that_the_project_takes() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    [tensorflow] = [each for each in project["dependencies"] if each.startswith("tensorflow")]
    found = re.fullmatch(r"tensorflow>=2\.(\d+),<2\.(\d+)", tensorflow)
    assert found is not None
    assert ((2, int(found[1])), (2, int(found[2]) - 1)) == selftest.TESTED
