"""Repeated ids: counted exactly as long as they are few, and estimated beyond, however units are merged."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transforms.statistics import IdCounts, MergeIdCounts, repeats


@given(st.lists(st.lists(st.text("abc", max_size=3))))
def test_few_ids_are_counted_exactly_in_whatever_parts_they_come(parts: list[list[str]]) -> None:
    counts = Counter(each for part in parts for each in part)
    merge = MergeIdCounts()
    accumulators = [merge.add_input(merge.create_accumulator(), IdCounts.of(part)) for part in parts]
    merged = merge.extract_output(merge.merge_accumulators(accumulators))
    assert merged.repeated() == sum(count for count in counts.values() if count > 1)
    assert merged.counts.sum() == sum(counts.values())


def test_many_ids_are_estimated_in_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repeats, "LIMIT", 1_000)
    unique, twice = [f"u{i}" for i in range(40_000)], [f"t{i}" for i in range(10_000)]
    units = [IdCounts.of(part) for part in np.array_split(np.asarray([*unique, *twice, *twice]), 30)]
    merged = MergeIdCounts().merge_accumulators(units)
    assert len(merged.hashes) <= 1_000
    assert merged.halvings == 6
    assert 0.7 < merged.repeated() / 20_000 < 1.3
    whole = IdCounts.of([*unique, *twice, *twice])
    np.testing.assert_array_equal(whole.hashes, merged.hashes)
    np.testing.assert_array_equal(whole.counts, merged.counts)
    assert MergeIdCounts().merge_accumulators([IdCounts.of(unique[:30_000])]).repeated() == 0


def test_one_id_for_all_images_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repeats, "LIMIT", 10)
    assert IdCounts.of(["same"] * 500).merged(IdCounts.of(["same"] * 500)).repeated() == 1_000
