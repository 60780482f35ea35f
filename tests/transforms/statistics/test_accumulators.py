from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.transforms.statistics.samples import GRID, assert_equal, random_rows
from transforms.statistics import DATASET, Digest, Moments, PartialStatistics, Sample, merged


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 12), min_size=1, max_size=6), st.randoms(use_true_random=False))
def test_merging_in_any_order_equals_one_pass(counts: list[int], random: object) -> None:
    batches = [random_rows(count, seed) for seed, count in enumerate(counts)]
    once = PartialStatistics(GRID)
    for batch in batches:
        once.add(batch)
    partials = []
    for batch in batches:
        partial = PartialStatistics(GRID)
        partial.add(batch)
        partials.append(partial.classes)
    random.shuffle(partials)  # type: ignore[attr-defined]
    cut = len(partials) // 2
    halves = [merged(part for each in half for part in each.items()) for half in (partials[:cut], partials[cut:])]
    whole = merged(part for half in halves for part in half.items())
    assert whole.keys() == once.classes.keys()
    for class_index, statistics in whole.items():
        assert_equal(statistics, once.classes[class_index])


def test_rows_without_a_completeness_error_do_not_hide_the_others_largest() -> None:
    with_errors, without = random_rows(20, 0), random_rows(20, 1)
    without.completeness[:] = np.nan
    partial = PartialStatistics(GRID)
    partial.add(without)
    assert partial.classes[DATASET].largest_error == 0
    partial.add(with_errors)
    partial.add(without)
    assert partial.classes[DATASET].largest_error == with_errors.completeness.max()
    assert Digest.of(DATASET, partial.classes[DATASET]).errors.shape == (20,)


def test_merging_does_not_change_what_is_merged() -> None:
    first, second = PartialStatistics(GRID), PartialStatistics(GRID)
    first.add(random_rows(5, 0))
    second.add(random_rows(5, 1))
    inputs = [first.classes[DATASET], second.classes[DATASET]]
    before = [(s.logit.count, s.sample.keys.copy()) for s in inputs]
    once, again = (merged((DATASET, s) for s in inputs)[DATASET] for _ in range(2))
    assert_equal(once, again)
    for statistics, (count, keys) in zip(inputs, before, strict=True):
        assert statistics.logit.count == count
        np.testing.assert_array_equal(statistics.sample.keys, keys)


def test_a_sample_is_the_same_however_it_was_split_and_has_its_size() -> None:
    keys = np.random.default_rng(0).permutation(1000).astype(np.uint64)
    rows = keys[:, None].astype(np.float32)
    whole = Sample.of(50, keys, rows)
    merged = Sample.of(50, keys[:3], rows[:3])
    for part in np.array_split(np.arange(3, 1000), 7):
        merged.merge(Sample.of(50, keys[part], rows[part]))
    np.testing.assert_array_equal(merged.keys, np.arange(50))
    np.testing.assert_array_equal(merged.rows, whole.rows)


def test_moments_are_numpy_s() -> None:
    values = np.random.default_rng(0).normal(1e3, 1e-3, size=(1000, 4))
    merged = Moments.of(values[:0])
    for part in itertools.pairwise((0, 1, 300, 301, 1000)):
        merged.merge(Moments.of(values[slice(*part)]))
    np.testing.assert_allclose(merged.mean, values.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(merged.std(), values.std(axis=0), rtol=1e-6)


def test_evidence_is_averaged_in_its_own_unit_and_as_shares_over_the_maps_with_mass() -> None:
    rows = random_rows(40, 0)
    partial = PartialStatistics(GRID)
    partial.add(rows)
    for class_index in np.unique(rows.targets).tolist():
        chosen = rows.evidence[(rows.targets == class_index) & np.isfinite(rows.figures).all(axis=1)]
        statistics = partial.classes[class_index]
        np.testing.assert_allclose(statistics.evidence.mean, chosen.mean(axis=0), rtol=1e-5)
        shares = chosen / chosen.sum(axis=(1, 2), keepdims=True)
        np.testing.assert_allclose(statistics.share.mean, shares.mean(axis=0), rtol=1e-5)
        assert statistics.share.count == statistics.coarse.count == len(chosen)
