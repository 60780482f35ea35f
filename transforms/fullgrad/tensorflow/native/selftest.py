"""Whether native operations may be used: a TensorFlow that was not tested has to pass a self-test first."""

from __future__ import annotations

import functools
import itertools
import threading
import warnings
from typing import Any

import numpy as np
import tensorflow as tf

from transforms.fullgrad import maps, resampling
from transforms.fullgrad.contributions import Contribution, Product
from transforms.fullgrad.tensorflow.native import c_api, graph

# The first and the last minor version of TensorFlow with which all tests passed (docs/versions.md).
TESTED = (2, 18), (2, 21)

_TOLERANCE = 1e-4  # relative to the largest number; float32 sums in another order differ by less than 1e-5
_testing = threading.RLock()


def usable(rule: maps.MapRule) -> bool:
    """Whether this TensorFlow takes native operations, and computes with them what its own operations compute.

    The versions in `TESTED` are trusted, which costs nothing. Any other version has to pass a self-test, once in a
    process and kind of map. It compiles the kernels, most of which a run needs anyway, and calls them on two tiny
    images. If it fails, one `RuntimeWarning` says why; maps are then the same and take longer.

    Args:
      rule: how contributions become a map; its `native` is not None.
    """
    first, last = TESTED
    if first <= _minor_version() <= last:
        return c_api.available()
    with _testing:
        problem = _problem(rule)
        if problem is not None:
            _warn(problem)
    return problem is None


def _minor_version() -> tuple[int, int]:
    major, minor, *_ = tf.__version__.split(".")
    return int(major), int(minor)


@functools.cache
def _warn(problem: str) -> None:
    (first, last), version = (".".join(map(str, each)) for each in TESTED), tf.__version__
    warnings.warn(
        f"fullgrad's native operations do not work with TensorFlow {version} ({problem}), so TensorFlow's own "
        f"are used: maps are the same, but take longer; the native ones were tested with TensorFlow {first} to {last}",
        RuntimeWarning,
        stacklevel=2,
    )


@functools.cache
def _problem(rule: maps.MapRule) -> str | None:
    """What is wrong with native operations here, in a few words; None if nothing is."""
    if not c_api.available():
        return f"its C API lacks {c_api.missing()[0]}"
    try:
        with tf.init_scope():  # the caller may be tracing a graph of its own
            wrong = _wrong_results(rule)
    except Exception as error:  # whatever a version that nobody tried raises
        return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
    return f"{wrong} gives wrong numbers" if wrong else None


def _wrong_results(rule: maps.MapRule) -> str | None:
    """The name of the first operation that differs from TensorFlow's; None if all agree."""
    condenser = graph.NativeCondenser(signed=rule.native == "signed", epsilon=maps.EPSILON)
    numbers = itertools.count(1)

    def draw(*shape: int) -> Any:
        return tf.constant(np.random.default_rng(next(numbers)).normal(size=shape).astype(np.float32))

    def condensed(contribution: Contribution) -> tuple[list[Any], list[Any]]:
        found = condenser.condense(contribution)
        return [found.map, found.evidence, found.totals], [
            rule.condense(contribution),
            contribution.sums(),
            contribution.totals(),
        ]

    def activated(name: str) -> tuple[list[Any], list[Any]]:
        g, z, scales = draw(2, 3, 4, 8), 6 * draw(2, 3, 4, 8), draw(2, 8)
        gate = tf.sigmoid(z)
        y = tf.nn.relu6(z) if name == "relu6" else z * gate
        passed = g * (tf.cast((z > 0) & (z < 6), tf.float32) if name == "relu6" else gate * (1 + z * (1 - gate)))
        inner, found = condenser.pull_back(name, tf.identity(g), y, z, scales)  # type: ignore[arg-type]
        parts = Contribution(Product(passed), scales=scales), Contribution(Product(g, y), Product(passed, z))
        return [inner, found.map, found.evidence, found.totals], [
            passed,
            sum(rule.condense(each) for each in parts),
            sum(each.sums() for each in parts),
            tf.concat([each.totals() for each in parts], axis=1),
        ]

    def resized() -> tuple[list[Any], list[Any]]:
        total, small = draw(2, 9, 8), draw(2, 3, 4)
        sides = (3, 9), (4, 8)
        rows, columns = (resampling.aligned_bilinear(*side).astype(np.float32) for side in sides)
        expected = maps.add_resized(total, small, rows, columns)
        return [condenser.add_resized(tf.identity(total), small, rows, columns)], [expected]

    cases = {
        "condensing": lambda: condensed(Contribution(Product(draw(2, 3, 4, 8)), scales=draw(2, 8))),
        "condensing pixels": lambda: condensed(Contribution(Product(draw(2, 5, 4, 3)))),
        "condensing a product": lambda: condensed(Contribution(Product(draw(2, 3, 4, 8), draw(2, 3, 4, 8)))),
        "condensing a difference": lambda: condensed(
            Contribution(Product(draw(2, 3, 4, 8), draw(2, 3, 4, 8)), Product(draw(2, 3, 4, 8), draw(2, 3, 4, 8)))
        ),
        "relu6": lambda: activated("relu6"),
        "silu": lambda: activated("silu"),
        "resizing": resized,
    }
    for name, case in cases.items():
        results = tf.function(case, autograph=False)()
        for ours, expected in zip(*results, strict=True):
            allowed = _TOLERANCE * max(float(np.abs(expected).max()), 1e-6)
            if not np.allclose(ours, expected, rtol=0, atol=allowed):
                return name
    return None
