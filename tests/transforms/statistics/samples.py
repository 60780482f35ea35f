"""Rows of statistics to test on, and when two statistics are equal."""

from __future__ import annotations

import numpy as np

from transforms.statistics import COARSE, ClassStatistics, MapRows, map_figures, resample, sample_key, unit_mass

GRID = 7


def random_rows(count: int, seed: int) -> MapRows:
    generator = np.random.default_rng(seed)
    maps = generator.gamma(1, size=(count, 9, 9)).astype(np.float32)
    maps[generator.random(count) < 0.1] = 0
    targets = generator.integers(0, 3, count)
    return MapRows(
        targets=targets,
        labels=generator.integers(-1, 4, count),
        predicted=generator.integers(0, 3, count),
        first=generator.random(count) < 0.7,
        image_ids=[f"{seed}-{i}" for i in range(count)],
        keys=np.asarray([sample_key(str(seed), i, int(t)) for i, t in enumerate(targets)], np.uint64),
        logits=generator.normal(size=count).astype(np.float32),
        probabilities=generator.random(count).astype(np.float32),
        completeness=generator.random(count).astype(np.float32),
        maps=maps,
        coarse=resample(unit_mass(maps), (COARSE, COARSE)),
        evidence=resample(np.maximum(maps, 0), (COARSE, COARSE)),
        speaking=resample(np.maximum(maps - 1, 0), (COARSE, COARSE)),
        figures=map_figures(maps),
    )


def assert_equal(a: ClassStatistics, b: ClassStatistics) -> None:
    assert (a.labelled, a.correct, a.largest_error) == (b.labelled, b.correct, b.largest_error)
    assert a.predictions == b.predictions
    assert a.predictions.total() in (0, a.labelled), "the dataset has none"
    for name in ("logit", "probability", "map", "coarse", "evidence", "share", "wrong", "figures"):
        x, y = getattr(a, name), getattr(b, name)
        assert x.count == y.count
        np.testing.assert_allclose(x.mean, y.mean, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(x.squares, y.squares, rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(a.sample.keys, b.sample.keys)
    np.testing.assert_array_equal(a.sample.rows, b.sample.rows)
    np.testing.assert_array_equal(a.cells.keys, b.cells.keys)
    np.testing.assert_array_equal(a.cells.rows, b.cells.rows)
    assert a.by_logit == b.by_logit
