"""Candidates for examples: the first of each kind, however they are split into units and merged."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from transforms.statistics import EXAMPLES_OF_KIND, KINDS, SCORES, Candidates, MergeCandidates
from transforms.unit import Shard, Unit


def unit(shard: int, start: int = 0) -> Unit:
    return Unit(Shard(f"/data/{shard}.tfrecord", "tfrecord", 1), start)


def rows_of(count: int, seed: int) -> dict[str, np.ndarray]:
    """Rows with few different scores, so that many are equal; some have no similarity and no masses."""
    generator = np.random.default_rng(seed)
    scores = {name: generator.integers(0, 4, count) / np.float32(4) for name in ("similarity", *SCORES)}
    without_mass = generator.random(count) < 0.2
    for name in ("similarity", "border_mass", "corner_mass"):
        scores[name] = np.where(without_mass, np.nan, scores[name])
    return {"targets": generator.integers(0, 3, count), "wrong": generator.random(count) < 0.4, **scores}


def candidates(of: Unit, index: np.ndarray, rows: dict[str, np.ndarray]) -> Candidates:
    scores = {name: rows[name][index] for name in ("similarity", *SCORES)}
    return Candidates.of(of, index, rows["targets"][index], rows["wrong"][index], scores)


def shown(found: Candidates) -> list[tuple[int, str, int, float, str, int]]:
    """(class, kind, rank, score, shard, index) of each row."""
    return [
        (c, KINDS[kind].name, rank, score, found.units[u].shard.path, index)
        for (c, kind, _, score, _, u, index), rank in zip(found.rows.tolist(), found.ranks().tolist(), strict=True)
    ]


def expected(shards: list[dict[str, np.ndarray]]) -> list[tuple[int, str, int, float, str, int]]:
    """The same from a plain sort of all rows."""
    result = []
    for class_index in range(3):
        for kind in KINDS:
            ranked = sorted(
                (-score if kind.highest else score, unit(number).shard.path, index)
                for number, rows in enumerate(shards)
                for index, score in enumerate(rows[kind.score].tolist())
                if rows["targets"][index] == class_index
                and not np.isnan(score)
                and (rows["wrong"][index] or not kind.wrong)
            )
            for rank, (key, shard, index) in enumerate(ranked[:EXAMPLES_OF_KIND], 1):
                result.append((class_index, kind.name, rank, -key if kind.highest else key, shard, index))
    return result


@given(st.lists(st.integers(0, 60), min_size=1, max_size=3), st.integers(0, 99), st.data())
def test_merging_equals_one_pass_for_any_split_into_units(sizes: list[int], seed: int, data: st.DataObject) -> None:
    shards = [rows_of(size, seed + number) for number, size in enumerate(sizes)]
    parts = []
    for number, size in enumerate(sizes):
        cuts = sorted({0, size, *data.draw(st.lists(st.integers(0, size), max_size=3))})
        for start, stop in zip(cuts, [*cuts[1:], size], strict=True):
            parts.append(candidates(unit(number, start), np.arange(start, stop), shards[number]))
    merge = MergeCandidates()
    accumulators = [merge.create_accumulator() for _ in range(2)]
    for part in data.draw(st.permutations(parts)):
        which = data.draw(st.integers(0, 1))
        accumulators[which] = merge.add_input(accumulators[which], part)
    compacted = [merge.compact(each) for each in accumulators]
    assert shown(merge.extract_output(merge.merge_accumulators(compacted))) == expected(shards)


def test_many_candidates_are_thinned_out_while_they_are_merged() -> None:
    merge = MergeCandidates()
    accumulator = merge.create_accumulator()
    shards = [rows_of(400, seed) for seed in range(90)]
    longest = 0
    for number, rows in enumerate(shards):
        accumulator = merge.add_input(accumulator, candidates(unit(number), np.arange(400), rows))
        longest = max(longest, sum(len(each.rows) for each in accumulator))
    assert longest < 17_000 < sum(len(candidates(unit(0), np.arange(400), rows).rows) for rows in shards)
    found = merge.extract_output(accumulator)
    assert len(found.units) <= len(found.rows) == 3 * len(KINDS) * EXAMPLES_OF_KIND
    assert {row[:4] for row in shown(found)} == {row[:4] for row in expected(shards)}


def test_a_class_without_wrong_predictions_has_no_wrong_examples() -> None:
    rows = rows_of(30, 0) | {"wrong": np.zeros(30, bool)}
    names = {row[1] for row in shown(candidates(unit(0), np.arange(30), rows))}
    assert names == {kind.name for kind in KINDS} - {"wrong"}
