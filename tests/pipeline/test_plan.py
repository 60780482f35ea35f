from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.plan import AUTO_IMAGES, ChangedShard, plan_units
from transforms.sources import Record, Source
from transforms.unit import Receipt, Shard, Unit


class Counted(Source):
    """A source of empty records, as many as a shard's size says."""

    def check(self, shard: Shard) -> None:
        pass

    def count(self, shard: Shard) -> int:
        return shard.size

    def read(self, shard: Shard, start: int = 0, stop: int | None = None) -> Iterator[Record]:
        for i in range(start, min(shard.size, stop if stop is not None else shard.size)):
            yield Record(i, str(i), b"")


def _shard(size: int, name: str = "a") -> Shard:
    return Shard(f"data/{name}.tfrecord", "tfrecord", size)


def _receipt(unit: Unit) -> Receipt:
    return Receipt(unit, "r", 0, 0, {}, 0.0, 0.0, "w", 1)


def _read(units: list[Unit]) -> list[tuple[str, int]]:
    return [(u.shard.path, r.index) for u in units for r in Counted().read(u.shard, u.start, u.stop)]


def test_a_shard_of_usual_size_is_one_unit_with_an_open_end() -> None:
    (unit,) = plan_units([_shard(1250)], Counted())
    assert (unit.start, unit.stop, unit.records) == (0, None, 1250)


def test_a_large_shard_is_shared_out_evenly() -> None:
    units = plan_units([_shard(AUTO_IMAGES * 2 + 2)], Counted())
    assert [u.records for u in units] == [1366, 1366, 1366]
    assert units[-1].stop is None


def test_an_empty_shard_is_a_unit_that_will_say_so() -> None:
    (unit,) = plan_units([_shard(0)], Counted())
    assert unit.records == 0


def test_a_limit_counts_over_all_shards() -> None:
    units = plan_units([_shard(5), _shard(5, "b"), _shard(5, "c")], Counted(), limit=7)
    assert [(u.shard.path[5], u.start, u.stop) for u in units] == [("a", 0, None), ("b", 0, 2)]


def test_a_far_shard_is_not_counted_unless_something_depends_on_it() -> None:
    far = Shard("gs://bucket/a.tfrecord", "tfrecord", 10_000)
    (unit,) = plan_units([far], Counted())
    assert (unit.stop, unit.records) == (None, None)
    assert len(plan_units([far], Counted(), images_per_unit=5_000)) == 2


def test_a_shard_that_changed_is_refused() -> None:
    done = plan_units([_shard(10)], Counted())
    with pytest.raises(ChangedShard, match=r"data/a\.tfrecord has changed .* its size was 10 and is 11"):
        plan_units([_shard(11)], Counted(), [_receipt(unit) for unit in done])


def test_ids_are_stable_readable_and_different() -> None:
    units = plan_units([_shard(100), _shard(100, "b")], Counted(), images_per_unit=10)
    again = plan_units([_shard(100), _shard(100, "b")], Counted(), images_per_unit=10)
    assert [u.id for u in units] == [u.id for u in again]
    assert len({u.id for u in units}) == 20
    assert units[3].id.startswith("a.tfrecord-000000030-")


def test_a_receipt_is_read_back_as_it_was_written() -> None:
    receipt = Receipt(Unit(_shard(7), 3, 7, 4), "run", 3, 6, {"NotFinite": 1}, 1.5, 2.5, "host/1", 1)
    assert Receipt.from_json(receipt.to_json()) == receipt


@settings(deadline=None)
@given(
    sizes=st.lists(st.integers(0, 30), min_size=1, max_size=3),
    cuts=st.lists(st.integers(1, 12), min_size=1, max_size=4),
    limits=st.lists(st.integers(1, 70), min_size=3, max_size=3),
    dropped=st.randoms(use_true_random=False),
)
def test_whatever_was_done_before_every_record_is_in_exactly_one_unit(
    sizes: list[int], cuts: list[int], limits: list[int], dropped: object
) -> None:
    shards = [_shard(size, "abc"[i]) for i, size in enumerate(sizes)]
    done: list[Unit] = []
    for cut, limit in zip(cuts, limits, strict=False):  # runs that were cut differently and did not end
        planned = plan_units(shards, Counted(), map(_receipt, done), images_per_unit=cut, limit=limit)
        done += [unit for unit in planned if dropped.random() < 0.6]  # type: ignore[attr-defined]
    rest = plan_units(shards, Counted(), map(_receipt, done), images_per_unit=cuts[-1])
    records = _read(done + rest)
    assert sorted(records) == sorted((s.path, i) for s in shards for i in range(s.size))
    assert len({unit.id for unit in done + rest}) == len(done + rest)
