"""What is found of a part of a class, and what is not."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from transforms.statistics import SHARES, Exceeding, MergeExceeding, Sample, Tops, exceeding, part_standouts
from transforms.statistics.accumulators import SAMPLE_OF_CELLS

SIDE = 14
CORNER = 13 * SIDE + 12


def images(
    generator: np.random.Generator, count: int, part: float = 0.0, cell: int = CORNER, kind: int = 0
) -> np.ndarray:
    """Shares of evidence [count, SHARES]; in a part of the images, a mark at a cell has a tenth of one kind of it."""
    kinds = [generator.gamma(2, size=(count, SIDE**2)) for _ in range(2)]
    marked = np.arange(count) < round(part * count)
    kinds[kind][marked, cell] += kinds[kind][marked].sum(axis=1) / 10
    return np.concatenate([each / each.sum(axis=1, keepdims=True) for each in kinds], axis=1, dtype=np.float32)


def sampled(groups: Sequence[np.ndarray], size: int = SAMPLE_OF_CELLS) -> Sample:
    targets = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
    rows = np.concatenate([targets[:, None], np.concatenate(groups)], axis=1, dtype=np.float32)
    return Sample.of(size, np.random.default_rng(0).integers(0, 2**63, len(rows)).astype(np.uint64), rows)


def counted(groups: Sequence[np.ndarray], size: int = SAMPLE_OF_CELLS) -> dict[int, Exceeding]:
    tops = Tops.of(sampled(groups, size))
    found = {k: tops.limits(k) for k in range(len(groups))}
    return {k: exceeding(groups[k], limits) for k, limits in found.items() if limits is not None}


@pytest.mark.parametrize("classes", [2, 3, 8])
@pytest.mark.parametrize(("part", "kind"), [(0.2, 0), (0.5, 1), (1.0, 0)])
def test_a_part_with_a_mark_is_found_where_the_mark_is(classes: int, part: float, kind: int) -> None:
    generator = np.random.default_rng(classes)
    groups = [images(generator, 300, part if k == 1 else 0.0, kind=kind) for k in range(classes)]
    [found] = part_standouts(counted(groups))
    assert (found.class_index, found.place, found.images) == (1, "bottom right", 300)
    assert found.share == pytest.approx(part, abs=0.05)
    assert found.others < 0.03
    assert (found.y, found.x) == (13.5 / SIDE, 12.5 / SIDE)


def test_limits_are_quantiles_of_the_other_classes_images() -> None:
    generator = np.random.default_rng(0)
    groups = [images(generator, count) for count in (300, 120, 60)]
    tops = Tops.of(sampled(groups))
    for k in range(4):  # of the last class, no image is in the sample
        limits = tops.limits(k)
        assert limits is not None
        others = np.concatenate([group for i, group in enumerate(groups) if i != k])
        assert limits.others == len(others)
        assert limits.rank == np.ceil(len(others) / 100)
        np.testing.assert_array_equal(limits.limits, np.sort(others, axis=0)[-limits.rank])


def test_classes_without_enough_others_have_no_limits() -> None:
    generator = np.random.default_rng(0)
    tops = Tops.of(sampled([images(generator, 100), images(generator, 30)]))
    assert [tops.limits(k) is None for k in range(3)] == [True, False, False]
    assert Tops.of(sampled([images(generator, 100)])).limits(0) is None
    assert Tops.of(sampled([images(generator, 100)], 0)).limits(0) is None
    assert part_standouts({}) == []


def test_a_part_in_the_centre_is_none() -> None:
    generator = np.random.default_rng(4)
    groups = [images(generator, 300, 0.3 if k == 1 else 0.0, cell=6 * SIDE + 7) for k in range(3)]
    assert part_standouts(counted(groups)) == []


def test_a_mark_that_two_classes_share_is_none() -> None:
    generator = np.random.default_rng(3)
    groups = [images(generator, 300, 0.3 if k < 2 else 0.0) for k in range(8)]
    assert part_standouts(counted(groups)) == []


def test_maps_without_evidence_in_a_cell_do_not_exceed_each_other() -> None:
    groups = [np.zeros((100, SHARES), np.float32) for _ in range(3)]
    assert not any(each.counts.any() for each in counted(groups).values())


@pytest.mark.quick_cases(every=2)
@pytest.mark.parametrize(("classes", "runs"), [(2, 60), (8, 30)])
def test_if_nothing_is_planted_few_runs_find_anything(classes: int, runs: int) -> None:
    generator = np.random.default_rng(classes)
    found = 0
    for _ in range(runs):
        groups = [images(generator, int(generator.integers(20, 80))) for _ in range(classes)]
        found += bool(part_standouts(counted(groups), least_part=0.02, least_lead=0.0))
    # 5 % are expected at most; more than this would have a probability of 1e-3.
    assert found <= {60: 9, 30: 6}[runs]


def test_counts_of_parts_add_up_to_those_of_the_whole() -> None:
    generator = np.random.default_rng(0)
    groups = [images(generator, 100), images(generator, 100, 0.3)]
    limits = Tops.of(sampled(groups)).limits(1)
    assert limits is not None
    parts = [exceeding(part, limits) for part in np.split(groups[1], [10, 10, 70])]
    combiner = MergeExceeding()
    halves = []
    for half in (parts[:2], parts[2:], []):
        accumulator = combiner.create_accumulator()
        for part in half:
            accumulator = combiner.add_input(accumulator, part)
        halves.append(accumulator)
    merged = combiner.extract_output(combiner.merge_accumulators(halves))
    whole = exceeding(groups[1], limits)
    assert (merged.images, merged.rank, merged.others) == (whole.images, whole.rank, whole.others)
    np.testing.assert_array_equal(merged.counts, whole.counts)
