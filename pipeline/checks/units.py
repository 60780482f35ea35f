"""Cuts chosen images into units of work: a range of a shard, read once, of which only chosen records are used."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from pipeline.checks.choice import Choice, Pool
from transforms.unit import Receipt, Unit

# Images of a unit. They bound what a lost worker loses: some minutes on two cores.
LOCATED_A_UNIT = 16
TESTED_A_UNIT = 128


@dataclasses.dataclass(frozen=True, slots=True)
class Chosen:
    """An image to read, and what for.

    Attributes:
      index: its place in the shard.
      target: the class that the run predicted.
      own: whether its own class is located or tested on it.
      kept: whether its pixels are kept, to be pasted or shown.
      other_of: the classes for which it stands as an image of another class.
    """

    index: int
    target: int
    own: bool = False
    kept: bool = False
    other_of: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class CheckUnit:
    """A range of a shard and its chosen records, in order. It is computed and committed as a whole."""

    unit: Unit
    chosen: tuple[Chosen, ...]

    @property
    def id(self) -> str:
        """A stable file stem that tells this work from any other."""
        chosen = [dataclasses.astuple(each) for each in self.chosen]
        key = json.dumps([self.unit.id, chosen]).encode()
        return f"{self.unit.id}-{hashlib.blake2b(key, digest_size=5).hexdigest()}"

    @property
    def images(self) -> int:
        return len(self.chosen)

    def to_json(self) -> str:
        """As ASCII: Beam's own coder of text refuses a path that is not UTF-8."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> CheckUnit:
        value = json.loads(text)
        chosen = (Chosen(**{**each, "other_of": tuple(each["other_of"])}) for each in value["chosen"])
        return cls(Unit.from_dict(value["unit"]), tuple(chosen))


def locating_units(choice: Choice, pool: Pool, receipts: Sequence[Receipt], kept: int) -> list[CheckUnit]:
    """The units that locate evidence. The first `kept` images of a class keep their pixels."""
    chosen = {
        int(row): Chosen(int(pool.index[row]), k, own=True, kept=i < kept)
        for k, rows in choice.located.items()
        for i, row in enumerate(rows.tolist())
    }
    return list(_cut(chosen, pool, receipts, LOCATED_A_UNIT))


def testing_units(choice: Choice, pool: Pool, receipts: Sequence[Receipt], shown: int) -> list[CheckUnit]:
    """The units that test evidence. The first `shown` images in each part of a class keep their pixels."""
    roles: dict[int, list[int]] = defaultdict(list)
    kept: set[int] = set()
    own: set[int] = set()
    for k, rows in choice.others.items():
        for row in rows.tolist():
            roles[row].append(k)
        kept.update(rows[:shown].tolist())
    for rows in choice.tested.values():
        own.update(rows.tolist())
        kept.update(rows[:shown].tolist())
    chosen = {
        row: Chosen(
            int(pool.index[row]), int(pool.predicted[row]), row in own, row in kept, tuple(sorted(roles.get(row, ())))
        )
        for row in own | roles.keys()
    }
    return list(_cut(chosen, pool, receipts, TESTED_A_UNIT))


def _cut(chosen: dict[int, Chosen], pool: Pool, receipts: Sequence[Receipt], size: int) -> Iterator[CheckUnit]:
    """Units of even size, none with records of two units of the run. A record is in the range of one unit alone."""
    of_unit: dict[int, list[Chosen]] = defaultdict(list)
    for row, each in chosen.items():
        of_unit[int(pool.unit[row])].append(each)
    for number in sorted(of_unit):
        images = sorted(of_unit[number], key=lambda each: each.index)
        parts = -(-len(images) // size)
        for part in np.array_split(np.arange(len(images)), parts):
            members = tuple(images[i] for i in part)
            yield CheckUnit(Unit(receipts[number].unit.shard, members[0].index, members[-1].index + 1), members)


def images_of(units: Iterable[CheckUnit]) -> int:
    """The images of all units."""
    return sum(unit.images for unit in units)
