"""Accumulates statistics of maps per class. They merge in any order to the same result."""

from __future__ import annotations

import dataclasses
import hashlib
import heapq
import math
from collections import Counter
from collections.abc import Iterable, Sequence

import apache_beam as beam
import numpy as np

from transforms.statistics.figures import COARSE, FIGURES, resample, unit_mass

# The class index that stands for all classes together, as in the row of `classes.parquet` about all maps.
DATASET = -1

# The number of maps up to which quantiles are exact. Beyond, they come from a uniform sample of this size, whose error
# in rank is √(q(1−q)/size): at most 1.1 percentage points for a class and 0.2 for the dataset.
SAMPLE_OF_CLASS = 2_048
SAMPLE_OF_DATASET = 65_536

# The number of maps whose evidence in each cell is kept to know its quantiles. Beyond the 99th percentile there are
# then 20, so that its error in rank is 0.2 percentage points.
SAMPLE_OF_CELLS = 2_048

# The shares that `shares_in_cells` gives for a map: of two kinds of evidence, in each cell.
SHARES = 2 * COARSE**2

# The bytes of values whose moments are computed at once. The intermediate results then stay in the cache.
_BYTES_AT_ONCE = 1 << 20

# The bytes of maps, on the classes' grid, that are collected before they are merged into the statistics.
_PENDING_BYTES = 8 << 20

EXTREMES = 10  # the number of image ids at each end of a ranking


@dataclasses.dataclass(frozen=True, slots=True)
class MapRows:
    """One batch's rows for the statistics: N rows, one per image and explained class.

    Attributes:
      targets: int64 [N], the explained classes.
      labels: int64 [N], −1 for an unknown label.
      predicted: int64 [N], the predicted classes.
      first: bool [N], whether the row is its image's first one. Images are counted by it.
      image_ids: N strings.
      keys: uint64 [N], from `sample_key`.
      logits, probabilities: float32 [N], of the target. Logits are NaN if the model has none.
      completeness: float32 [N], the completeness error; NaN if the method has none.
      maps: float32 [N, H, W], not yet of unit mass.
      coarse: float32 [N, COARSE, COARSE], the coarse maps, of unit mass.
      evidence: float32 [N, COARSE, COARSE], the sums over each cell of the map's positive part, in the map's own unit.
      speaking: float32 [N, COARSE, COARSE], what speaks for the class in each cell: the positive part of the signed
        map, in the unit of f. The same as `evidence` for methods without a signed map.
      figures: float32 [N, len(FIGURES)], the maps' figures.
    """

    targets: np.ndarray
    labels: np.ndarray
    predicted: np.ndarray
    first: np.ndarray
    image_ids: Sequence[str]
    keys: np.ndarray
    logits: np.ndarray
    probabilities: np.ndarray
    completeness: np.ndarray
    maps: np.ndarray
    coarse: np.ndarray
    evidence: np.ndarray
    speaking: np.ndarray
    figures: np.ndarray


def sample_key(shard: str, index: int, target: int) -> int:
    """A pseudo-random 64-bit number that depends only on the row. The rows with the smallest keys are the sample."""
    text = f"{shard}\n{index}\n{target}".encode(errors="surrogateescape")  # a path may be any bytes
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


def shares_in_cells(coarse: np.ndarray, speaking: np.ndarray) -> np.ndarray:
    """Which part of a map's evidence lies in each cell: of the map's positive part, then of what speaks for the class.

    Args:
      coarse, speaking: float32 [N, COARSE, COARSE], as in `MapRows`.

    Returns:
      float32 [N, SHARES].
    """
    return np.stack([unit_mass(np.maximum(coarse, 0)), unit_mass(speaking)], axis=1).reshape(-1, SHARES)


@dataclasses.dataclass(slots=True)
class Moments:
    """Count, mean and sum of squared deviations of arrays of one shape. They merge exactly (Chan et al. 1979)."""

    count: int
    mean: np.ndarray
    squares: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray) -> Moments:
        """The moments of values [N, …], in float64."""
        together = max(1, _BYTES_AT_ONCE // max(1, 8 * math.prod(values.shape[1:])))
        if len(values) > together:
            whole = cls.of(values[:together])
            for start in range(together, len(values), together):
                whole.merge(cls.of(values[start : start + together]))
            return whole
        values = np.asarray(values, np.float64)
        if not len(values):
            # Views of a single zero, to save memory: most of a thousand classes have no maps of wrong images.
            return cls(0, *(np.broadcast_to(0.0, values.shape[1:]) for _ in range(2)))
        mean = values.mean(axis=0)
        deviations = values - mean
        return cls(len(values), mean, np.einsum("n...,n...->...", deviations, deviations))

    def merge(self, other: Moments) -> None:
        if not other.count:
            return
        if not self.count:
            self.count, self.mean, self.squares = other.count, np.array(other.mean), np.array(other.squares)
            return
        count = self.count + other.count
        delta = other.mean - self.mean
        # In place: new arrays for every class and batch would fragment the heap.
        self.squares += other.squares
        self.squares += np.square(delta) * (self.count * other.count / count)
        self.mean += delta * (other.count / count)
        self.count = count

    def std(self) -> np.ndarray:
        """The population's standard deviation; NaN without values."""
        return np.sqrt(self.squares / self.count) if self.count else np.full_like(self.squares, np.nan)


@dataclasses.dataclass(slots=True)
class Sample:
    """The rows with the smallest keys: a uniform sample without replacement. It merges in any order to the same sample.

    Attributes:
      size: the largest number of rows that are kept.
      keys: uint64 [n], ascending.
      rows: float32 [n, columns].
    """

    size: int
    keys: np.ndarray
    rows: np.ndarray

    @classmethod
    def of(cls, size: int, keys: np.ndarray, rows: np.ndarray) -> Sample:
        order = np.argsort(keys, kind="stable")[:size]
        return cls(size, keys[order], rows[order])

    def merge(self, other: Sample) -> None:
        merged = Sample.of(self.size, np.concatenate([self.keys, other.keys]), np.concatenate([self.rows, other.rows]))
        self.keys, self.rows = merged.keys, merged.rows


@dataclasses.dataclass(slots=True)
class Ranking:
    """The image ids with the highest and the lowest scores, most extreme first. Ties are ordered by id."""

    top: list[tuple[float, str]] = dataclasses.field(default_factory=list)
    bottom: list[tuple[float, str]] = dataclasses.field(default_factory=list)

    @classmethod
    def of(cls, scores: Iterable[float], ids: Iterable[str]) -> Ranking:
        pairs = [(float(score), image_id) for score, image_id in zip(scores, ids, strict=True)]
        return cls(_highest(pairs), _lowest(pairs))

    def merge(self, other: Ranking) -> None:
        self.top = _highest(self.top + other.top)
        self.bottom = _lowest(self.bottom + other.bottom)


def _highest(pairs: list[tuple[float, str]]) -> list[tuple[float, str]]:
    return heapq.nsmallest(EXTREMES, pairs, key=lambda pair: (-pair[0], pair[1]))


def _lowest(pairs: list[tuple[float, str]]) -> list[tuple[float, str]]:
    return heapq.nsmallest(EXTREMES, pairs)


@dataclasses.dataclass(slots=True)
class ClassStatistics:
    """Statistics of the maps that explain one class, or of all maps for `DATASET`. Partial until all parts are merged.

    Attributes:
      labelled: the number of images whose label is the class; for the dataset, of images with a label.
      correct: how many of them are predicted correctly.
      predictions: how many of them are predicted as each class; empty for the dataset.
      logit, probability: of the target, over all rows.
      map, coarse: of unit-mass maps, [grid, grid] and [COARSE, COARSE], over the rows whose map has mass.
      evidence, share: of the maps' positive part, [COARSE, COARSE], in the maps' own unit and of unit mass, over the
        same rows. For absolute maps, `share` and `coarse` are equal.
      wrong: of unit-mass maps [grid, grid], over the rows whose label is known and is another class.
      figures: [len(FIGURES)], over the rows whose map has mass.
      sample: its columns are `FIGURES` and the completeness error.
      cells: its columns are the explained class and `shares_in_cells`, over the rows whose map has mass. Only for the
        dataset; empty for a class.
      largest_error: the largest completeness error; 0 if no row has one.
      by_logit: the images with the highest and lowest logits, or probabilities if there are no logits.
    """

    labelled: int
    correct: int
    predictions: Counter[int]
    logit: Moments
    probability: Moments
    map: Moments
    coarse: Moments
    evidence: Moments
    share: Moments
    wrong: Moments
    figures: Moments
    sample: Sample
    cells: Sample
    largest_error: float
    by_logit: Ranking

    @classmethod
    def empty(cls, class_index: int, grid: int) -> ClassStatistics:
        def moments(*shape: int) -> Moments:
            return Moments.of(np.zeros((0, *shape)))

        size = SAMPLE_OF_DATASET if class_index == DATASET else SAMPLE_OF_CLASS

        def sample(size: int, columns: int) -> Sample:
            return Sample(size, np.zeros(0, np.uint64), np.zeros((0, columns), np.float32))

        return cls(
            labelled=0,
            correct=0,
            predictions=Counter(),
            logit=moments(),
            probability=moments(),
            map=moments(grid, grid),
            coarse=moments(COARSE, COARSE),
            evidence=moments(COARSE, COARSE),
            share=moments(COARSE, COARSE),
            wrong=moments(grid, grid),
            figures=moments(len(FIGURES)),
            sample=sample(size, len(FIGURES) + 1),
            cells=sample(SAMPLE_OF_CELLS, 1 + SHARES),
            largest_error=0.0,
            by_logit=Ranking(),
        )

    def merge(self, other: ClassStatistics) -> None:
        self.labelled += other.labelled
        self.correct += other.correct
        self.predictions.update(other.predictions)
        for name in (
            "logit",
            "probability",
            "map",
            "coarse",
            "evidence",
            "share",
            "wrong",
            "figures",
            "sample",
            "cells",
            "by_logit",
        ):
            getattr(self, name).merge(getattr(other, name))
        self.largest_error = max(self.largest_error, other.largest_error)


class PartialStatistics:
    """The statistics per class of all rows that were added so far, usually of one unit.

    Rows are collected over several batches before they are sorted by class: the cost is per class and merge, however
    few rows a class has.

    Args:
      grid: the side of the maps that are averaged.
    """

    def __init__(self, grid: int):
        self.grid = grid
        self._classes: dict[int, ClassStatistics] = {}
        self._pending: list[_PendingRows] = []

    @property
    def classes(self) -> dict[int, ClassStatistics]:
        """The statistics of each class that has rows."""
        self._merge()
        return self._classes

    def add(self, rows: MapRows) -> None:
        if not len(rows.targets):
            return
        self._pending.append(
            _PendingRows(
                targets=rows.targets,
                labels=rows.labels,
                predicted=rows.predicted,
                first=rows.first,
                image_ids=np.asarray(rows.image_ids, object),
                keys=rows.keys,
                logits=rows.logits,
                probabilities=rows.probabilities,
                completeness=rows.completeness,
                coarse=rows.coarse,
                evidence=rows.evidence,
                speaking=rows.speaking,
                fine=resample(unit_mass(rows.maps), (self.grid, self.grid)),
                figures=rows.figures,
            )
        )
        if sum(each.fine.nbytes for each in self._pending) >= _PENDING_BYTES:
            self._merge()

    def _of(self, class_index: int) -> ClassStatistics:
        if class_index not in self._classes:
            self._classes[class_index] = ClassStatistics.empty(class_index, self.grid)
        return self._classes[class_index]

    def _merge(self) -> None:
        """Merges the pending rows into the classes' statistics."""
        if not self._pending:
            return
        rows = _PendingRows.join(self._pending)
        self._pending = []
        by_class = np.argsort(rows.targets, kind="stable")
        found, starts = np.unique(rows.targets[by_class], return_index=True)
        groups = list(zip(found.tolist(), np.split(by_class, starts[1:]), strict=True))
        with_figures = np.isfinite(rows.figures).all(axis=1)
        wrong = with_figures & (rows.labels >= 0) & (rows.labels != rows.targets)
        share = unit_mass(rows.evidence)
        columns = np.concatenate([rows.figures, rows.completeness[:, None]], axis=1)
        dataset = self._of(DATASET)
        for class_index, chosen in groups:
            has_mass = chosen[with_figures[chosen]]
            statistics = self._of(class_index)
            for name, values in (
                ("logit", rows.logits[chosen]),
                ("probability", rows.probabilities[chosen]),
                ("map", rows.fine[has_mass]),
                ("coarse", rows.coarse[has_mass]),
                ("evidence", rows.evidence[has_mass]),
                ("share", share[has_mass]),
                ("wrong", rows.fine[chosen[wrong[chosen]]]),
                ("figures", rows.figures[has_mass]),
            ):
                moments = Moments.of(values)
                getattr(statistics, name).merge(moments)
                getattr(dataset, name).merge(moments)
        shares = shares_in_cells(rows.coarse, rows.speaking)
        cells = np.concatenate([rows.targets[:, None], shares], axis=1, dtype=np.float32)
        dataset.cells.merge(Sample.of(SAMPLE_OF_CELLS, rows.keys[with_figures], cells[with_figures]))
        for class_index, chosen in [(DATASET, np.arange(len(rows.targets))), *groups]:
            statistics = self._of(class_index)
            statistics.sample.merge(Sample.of(statistics.sample.size, rows.keys[chosen], columns[chosen]))
            statistics.largest_error = float(
                np.fmax.reduce(rows.completeness[chosen], initial=statistics.largest_error)
            )
            scores = np.where(np.isnan(rows.logits), rows.probabilities, rows.logits)[chosen]
            statistics.by_logit.merge(Ranking.of(scores, rows.image_ids[chosen].tolist()))
        labelled = rows.first & (rows.labels >= 0)
        labels, predicted = rows.labels[labelled], rows.predicted[labelled]
        correct = labels == predicted
        if len(labels):
            for class_index in (DATASET, *np.unique(labels).tolist()):
                own = slice(None) if class_index == DATASET else labels == class_index
                statistics = self._of(class_index)
                statistics.labelled += len(labels[own])
                statistics.correct += int(correct[own].sum())
                if class_index != DATASET:
                    statistics.predictions.update(predicted[own].tolist())


@dataclasses.dataclass(frozen=True, slots=True)
class _PendingRows:
    """Rows that are not merged yet: as in `MapRows`, with `fine` maps of unit mass on the classes' grid."""

    targets: np.ndarray
    labels: np.ndarray
    predicted: np.ndarray
    first: np.ndarray
    image_ids: np.ndarray
    keys: np.ndarray
    logits: np.ndarray
    probabilities: np.ndarray
    completeness: np.ndarray
    coarse: np.ndarray
    evidence: np.ndarray
    speaking: np.ndarray
    fine: np.ndarray
    figures: np.ndarray

    @classmethod
    def join(cls, parts: Sequence[_PendingRows]) -> _PendingRows:
        names = [field.name for field in dataclasses.fields(cls)]
        return cls(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})


def merged(parts: Iterable[tuple[int, ClassStatistics]]) -> dict[int, ClassStatistics]:
    """Merges partial statistics by class and does not change `parts`. The order matters only to float64 rounding."""
    classes: dict[int, ClassStatistics] = {}
    for class_index, statistics in parts:
        if class_index not in classes:
            classes[class_index] = ClassStatistics.empty(class_index, statistics.map.mean.shape[0])
        classes[class_index].merge(statistics)
    return classes


class MergeRankings(beam.CombineFn):
    """Merges the rankings of one class, as a Beam combiner."""

    def create_accumulator(self) -> Ranking:
        return Ranking()

    def add_input(self, accumulator: Ranking, element: Ranking) -> Ranking:
        accumulator.merge(element)
        return accumulator

    def merge_accumulators(self, accumulators: Iterable[Ranking]) -> Ranking:
        merged = Ranking()
        for accumulator in accumulators:
            merged.merge(accumulator)
        return merged

    def extract_output(self, accumulator: Ranking) -> Ranking:
        return accumulator
