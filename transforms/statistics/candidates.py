"""Chooses the examples of a class: the images that stand first when its maps are ranked, for each kind of ranking."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import apache_beam as beam
import numpy as np

# The most examples of a class and kind.
EXAMPLES_OF_KIND = 12

# So many rows are collected before the first ones of each kind are chosen among them: sorting has a fixed cost.
_PENDING_ROWS = 1 << 14


@dataclasses.dataclass(frozen=True, slots=True)
class Kind:
    """A kind of example: the images that stand first in one ranking of a class's maps.

    Attributes:
      name: as in `examples.parquet`.
      score: the column that the images are ranked by: `similarity`, or one of `maps`. Rows without one are left out.
      highest: whether the highest score comes first.
      wrong: only images that have a label and are predicted as the explained class, which is not their label.
    """

    name: str
    score: str
    highest: bool = True
    wrong: bool = False


KINDS = tuple(
    sorted(
        (
            Kind("typical", "similarity"),
            Kind("unusual", "similarity", highest=False),
            Kind("confident", "probability"),
            Kind("unsure", "probability", highest=False),
            Kind("wrong", "probability", wrong=True),
            Kind("border", "border_mass"),
            Kind("corner", "corner_mass"),
        ),
        key=lambda kind: kind.name,  # the order of rows in `examples.parquet`
    )
)

# The kind of what clusters show, in place of the number of a kind in `KINDS`. It is ranked by the closeness to the
# cluster's centre, and each cluster of a class has ranks of its own.
CLUSTER = len(KINDS)
NAMES = (*(kind.name for kind in KINDS), "cluster")

# The columns of maps that the kinds need, beside the similarity.
SCORES = tuple(sorted({kind.score for kind in KINDS} - {"similarity"}))

# A candidate: the explained class, the number of the kind in `NAMES`, its cluster (−1 for other kinds), what it is
# ranked by, the similarity of its map to its class's mean map, the number of its unit, and the image's index in the
# shard.
ROW = np.dtype(
    [
        ("class", np.int32),
        ("kind", np.uint8),
        ("cluster", np.int32),
        ("score", np.float32),
        ("similarity", np.float32),
        ("unit", np.int32),
        ("index", np.int64),
    ]
)


@dataclasses.dataclass(frozen=True, slots=True)
class Candidates:
    """Rows that may become examples, in the order of class, kind, cluster and rank; at most `EXAMPLES_OF_KIND` of each.

    Attributes:
      units: the units that the rows belong to, by shard and first record.
      rows: [n] of `ROW`.
    """

    units: tuple[Any, ...]
    rows: np.ndarray

    @classmethod
    def of(
        cls,
        unit: Any,
        index: np.ndarray,
        targets: np.ndarray,
        wrong: np.ndarray,
        scores: Mapping[str, np.ndarray],
    ) -> Candidates:
        """The candidates among a unit's rows.

        Args:
          unit: the `Unit`.
          index: int64 [N], the images' indices in the shard.
          targets: int [N], the explained classes.
          wrong: bool [N], whether the image has a label, and the explained class is predicted and is not the label.
          scores: float [N] for `similarity` and each of `SCORES`; NaN without a value.
        """
        parts = []
        for number, kind in enumerate(KINDS):
            score = scores[kind.score].astype(np.float32)
            chosen = np.flatnonzero(np.isfinite(score) & (wrong if kind.wrong else True))
            rows = np.zeros(len(chosen), ROW)
            rows["class"], rows["kind"], rows["score"] = targets[chosen], number, score[chosen]
            rows["similarity"], rows["index"] = scores["similarity"][chosen], index[chosen]
            rows["cluster"] = -1
            parts.append(rows)
        return cls((unit,), _first(np.concatenate(parts)))

    @classmethod
    def join(cls, parts: Sequence[Candidates]) -> Candidates:
        """The candidates among those of all parts. The order of the parts does not matter."""
        units = sorted({unit for part in parts for unit in part.units}, key=lambda unit: (unit.shard.path, unit.start))
        place = {unit: i for i, unit in enumerate(units)}
        rows = [part._renumbered([place[unit] for unit in part.units]) for part in parts]
        first = _first(np.concatenate(rows or [np.zeros(0, ROW)]))
        left, renumbered = np.unique(first["unit"], return_inverse=True)
        first["unit"] = renumbered
        return cls(tuple(units[i] for i in left), first)

    def _renumbered(self, units: Sequence[int]) -> np.ndarray:
        rows = self.rows.copy()
        rows["unit"] = np.asarray(units, np.int32)[rows["unit"]]
        return rows

    def select(self, rows: np.ndarray) -> Candidates:
        """Those of the rows that a mask or indices select."""
        return Candidates(self.units, self.rows[rows])

    def ranks(self) -> np.ndarray:
        """Each row's rank among those of its class, kind and cluster, from 1: int32 [n]."""
        return (_places(self.rows) + 1).astype(np.int32)


_HIGHEST = np.asarray([*(kind.highest for kind in KINDS), True])


# The fields of `ROW` that rows are ranked within.
_GROUP = ("class", "kind", "cluster")


def _first(rows: np.ndarray) -> np.ndarray:
    """The first `EXAMPLES_OF_KIND` rows of each class, kind and cluster, in order. Ties go by shard and index."""
    key = np.where(_HIGHEST[rows["kind"]], -rows["score"], rows["score"])
    rows = rows[np.lexsort((rows["index"], rows["unit"], key, *(rows[name] for name in reversed(_GROUP))))]
    return rows[_places(rows) < EXAMPLES_OF_KIND]


def _places(rows: np.ndarray) -> np.ndarray:
    """The number of rows of the same class, kind and cluster before each row. These rows must be adjacent."""
    if not len(rows):
        return np.zeros(0, np.int64)
    new = np.concatenate([[True], np.any([rows[name][1:] != rows[name][:-1] for name in _GROUP], axis=0)])
    starts = np.flatnonzero(new)
    return np.arange(len(rows)) - np.repeat(starts, np.diff([*starts, len(rows)]))


class MergeCandidates(beam.CombineFn):
    """Joins the candidates of all units, as a Beam combiner."""

    def create_accumulator(self) -> list[Candidates]:
        return []

    def add_input(self, accumulator: list[Candidates], element: Candidates) -> list[Candidates]:
        accumulator.append(element)
        if sum(len(each.rows) for each in accumulator) > _PENDING_ROWS + len(accumulator[0].rows):
            return self.compact(accumulator)
        return accumulator

    def merge_accumulators(self, accumulators: Iterable[list[Candidates]]) -> list[Candidates]:
        merged: list[Candidates] = []
        for accumulator in accumulators:
            for each in accumulator:
                merged = self.add_input(merged, each)
        return merged

    def compact(self, accumulator: list[Candidates]) -> list[Candidates]:
        return [Candidates.join(accumulator)] if len(accumulator) > 1 else accumulator

    def extract_output(self, accumulator: list[Candidates]) -> Candidates:
        return Candidates.join(accumulator)
