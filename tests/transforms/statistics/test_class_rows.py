"""The rows of classes: the ends of intervals."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from tests.transforms.statistics.samples import GRID, random_rows
from transforms.output import CLASSES
from transforms.statistics import FIGURES, QUANTILES, ClassStatistics, Digest, PartialStatistics, class_row


def _row(statistics: ClassStatistics) -> dict[str, object]:
    return class_row(0, statistics, [Digest.of(0, statistics)], {}, None)


def test_a_row_has_all_columns_and_the_intervals_of_the_figures() -> None:
    rows = random_rows(600, 0)
    partial = PartialStatistics(GRID)
    partial.add(rows)
    row = _row(partial.classes[0])
    assert set(row) == set(CLASSES.names)
    chosen = (rows.targets == 0) & np.isfinite(rows.figures).all(axis=1)
    for i, name in enumerate(FIGURES):
        values = rows.figures[chosen, i].astype(np.float64)
        expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
        found = row[f"{name}_mean_low"], row[f"{name}_mean_high"]
        np.testing.assert_allclose(found, (expected.low, expected.high), rtol=1e-5)
        for what, quantile in QUANTILES.items():
            interval = stats.quantile_test(values, p=quantile).confidence_interval(0.95)
            found = row[f"{name}_{what}_low"], row[f"{name}_{what}_high"]
            assert found[0] <= row[f"{name}_{what}"] <= found[1]
            # SciPy's ends are at most one value of the sample away.
            places = np.searchsorted(np.sort(values), [*found, interval.low, interval.high])
            assert np.abs(places[:2] - places[2:]).max() <= 1 or len(np.unique(values)) < len(values)
    logits = rows.logits[rows.targets == 0].astype(np.float64)
    expected = stats.ttest_1samp(logits, 0).confidence_interval(0.95)
    np.testing.assert_allclose((row["mean_logit_low"], row["mean_logit_high"]), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_few_maps_have_no_intervals(count: int) -> None:
    statistics = ClassStatistics.empty(0, GRID)
    rows = random_rows(40, 1)
    partial = PartialStatistics(GRID)
    kept = np.flatnonzero((rows.targets == 0) & np.isfinite(rows.figures).all(axis=1))[:count]
    names = [name for name in rows.__slots__ if name != "image_ids"]
    partial.add(type(rows)(**{n: getattr(rows, n)[kept] for n in names}, image_ids=[rows.image_ids[i] for i in kept]))
    row = _row(partial.classes.get(0, statistics))
    assert (row["entropy_mean"] is None) == (count == 0)
    assert (row["entropy_mean_low"] is None) == (count < 2)
    assert row["entropy_p50_low"] is None
    assert set(row) == set(CLASSES.names)
