from __future__ import annotations

import dataclasses
import itertools
import pathlib

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transforms.output import Output, statistics_from_table, statistics_table
from transforms.statistics import (
    COARSE,
    DATASET,
    FIGURES,
    ClassStatistics,
    Digest,
    MapRows,
    Moments,
    PartialStatistics,
    Sample,
    map_figures,
    merged,
    resample,
    sample_key,
    unit_mass,
)
from transforms.unit import Shard, Unit

GRID = 7


def _figures(image: np.ndarray) -> dict[str, float]:
    return dict(zip(FIGURES, map_figures(image[None].astype(np.float32))[0].tolist(), strict=True))


def test_an_even_map_is_spread_evenly() -> None:
    figures = _figures(np.full((20, 10), 0.5))
    assert figures["total"] == 100
    assert figures["entropy"] == pytest.approx(1)
    assert figures["gini"] == pytest.approx(0, abs=1e-6)
    assert figures["area50"] == pytest.approx(0.5, abs=0.01)
    assert figures["area90"] == pytest.approx(0.9, abs=0.01)
    assert (figures["center_y"], figures["center_x"]) == pytest.approx((0.5, 0.5))
    assert figures["border_mass"] == pytest.approx(1 - 0.8 * 0.8, rel=1e-5)
    assert figures["corner_mass"] == pytest.approx(0.04, rel=1e-5)


def test_a_single_pixel_holds_everything() -> None:
    image = np.zeros((10, 20))
    image[0, 19] = -3
    figures = _figures(image)
    assert figures["total"] == -3
    assert figures["entropy"] == 0
    assert figures["gini"] == pytest.approx(1 - 1 / 200)
    assert figures["area50"] == figures["area90"] == pytest.approx(1 / 200)
    assert (figures["center_y"], figures["center_x"]) == pytest.approx((0.05, 0.975))
    assert (figures["peak_y"], figures["peak_x"]) == pytest.approx((0.05, 0.975))
    assert figures["spread"] == pytest.approx(0, abs=1e-4)
    assert figures["border_mass"] == figures["corner_mass"] == pytest.approx(1)


def test_figures_hardly_depend_on_the_resolution() -> None:
    fine = np.random.default_rng(0).gamma(1, size=(8, 8)).repeat(6, axis=0).repeat(6, axis=1)
    coarse = fine[::3, ::3]
    for name in ("center_y", "center_x", "border_mass", "corner_mass", "gini", "area50"):
        assert _figures(fine)[name] == pytest.approx(_figures(coarse)[name], rel=0.02), name


def test_a_map_without_mass_has_a_total_and_nothing_else() -> None:
    figures = map_figures(np.zeros((1, 4, 4), np.float32))[0]
    assert figures[0] == 0
    assert np.isnan(figures[1:]).all()


def test_resampling_keeps_the_mass() -> None:
    maps = np.random.default_rng(0).normal(size=(3, 32, 20))
    for size in ((14, 14), (56, 56), (32, 20)):
        np.testing.assert_allclose(resample(maps, size).sum(axis=(1, 2)), maps.sum(axis=(1, 2)))


def _rows(count: int, seed: int) -> MapRows:
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
        figures=map_figures(maps),
    )


def _equal(a: ClassStatistics, b: ClassStatistics) -> None:
    assert (a.labelled, a.correct, a.largest_error) == (b.labelled, b.correct, b.largest_error)
    for name in ("logit", "probability", "map", "coarse", "wrong", "figures"):
        x, y = getattr(a, name), getattr(b, name)
        assert x.count == y.count
        np.testing.assert_allclose(x.mean, y.mean, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(x.squares, y.squares, rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(a.sample.keys, b.sample.keys)
    np.testing.assert_array_equal(a.sample.rows, b.sample.rows)
    assert a.by_logit == b.by_logit


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 12), min_size=1, max_size=6), st.randoms(use_true_random=False))
def test_merging_in_any_order_equals_one_pass(counts: list[int], random: object) -> None:
    batches = [_rows(count, seed) for seed, count in enumerate(counts)]
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
        _equal(statistics, once.classes[class_index])


def test_rows_without_a_completeness_error_do_not_hide_the_others_largest() -> None:
    with_errors, without = _rows(20, 0), _rows(20, 1)
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
    first.add(_rows(5, 0))
    second.add(_rows(5, 1))
    inputs = [first.classes[DATASET], second.classes[DATASET]]
    before = [(s.logit.count, s.sample.keys.copy()) for s in inputs]
    once, again = (merged((DATASET, s) for s in inputs)[DATASET] for _ in range(2))
    _equal(once, again)
    for statistics, (count, keys) in zip(inputs, before, strict=True):
        assert statistics.logit.count == count
        np.testing.assert_array_equal(statistics.sample.keys, keys)


def test_partial_statistics_are_read_back_as_they_were_written() -> None:
    partial = PartialStatistics(GRID)
    partial.add(_rows(30, 3))
    read = dict(statistics_from_table(statistics_table(partial.classes)))
    assert read.keys() == partial.classes.keys()
    for class_index, statistics in partial.classes.items():
        _equal(read[class_index], statistics)
        assert read[class_index].map.mean.shape == (GRID, GRID)


def test_a_block_of_classes_is_read_by_itself(tmp_path: pathlib.Path) -> None:
    partial = PartialStatistics(GRID)
    rows = _rows(400, 3)
    partial.add(dataclasses.replace(rows, targets=np.arange(400) % 100))
    output, unit = Output(str(tmp_path)), Unit(Shard("a", "tfrecord", 1))
    output.create()
    output.write_partials(unit, partial.classes)
    blocks = output.read_blocks(unit)
    assert blocks == [0, 1, 2, 3]
    read = [list(output.read_partials(unit, block)) for block in blocks]
    assert [c for block in read for c, _ in block] == sorted(partial.classes)
    assert [c for c, _ in read[0]] == [DATASET, *range(32)]
    assert [c for c, _ in output.read_partials(unit)] == sorted(partial.classes)
    for block in read:
        for class_index, statistics in block:
            _equal(statistics, partial.classes[class_index])


@pytest.mark.parametrize("rows_together", [1, 7, 1000])
def test_blocks_are_found_in_whatever_row_groups_classes_are(tmp_path: pathlib.Path, rows_together: int) -> None:
    """Earlier versions wrote all classes as one, and the dataset as one by itself."""
    partial = PartialStatistics(GRID)
    partial.add(dataclasses.replace(_rows(100, 3), targets=np.arange(100) % 50 * 2))
    output, unit = Output(str(tmp_path)), Unit(Shard("a", "tfrecord", 1))
    output.create()
    pq.write_table(statistics_table(partial.classes), output.part("partials", unit), row_group_size=rows_together)
    blocks = output.read_blocks(unit)
    assert blocks == [0, 1, 2, 3]
    read = [c for block in blocks for c, _ in output.read_partials(unit, block)]
    assert read == sorted(partial.classes)


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


def test_unit_mass_leaves_a_map_of_zeros_alone() -> None:
    maps = np.zeros((2, 3, 3))
    maps[1, 0, 0] = -4
    np.testing.assert_array_equal(np.abs(unit_mass(maps)).sum(axis=(1, 2)), [0, 1])
