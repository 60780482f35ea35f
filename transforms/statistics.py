"""What maps say in numbers: the figures of one map, and per class the statistics of many that merge in any order."""

from __future__ import annotations

import dataclasses
import hashlib
import heapq
from collections.abc import Iterable, Sequence
from typing import Any

import apache_beam as beam
import numpy as np

from transforms.resampling import area

# The row of `classes.parquet` that is about all maps.
DATASET = -1

COARSE = 14  # side of the maps that SQL compares, and by which images are ranked against their class

FIGURES = (
    "total",
    "entropy",
    "gini",
    "area50",
    "area90",
    "center_y",
    "center_x",
    "spread",
    "border_mass",
    "corner_mass",
    "peak_y",
    "peak_x",
)

# Quantiles are exact for as many maps; beyond, they are those of a uniform sample of this size, whose error in rank is
# √(q(1−q)/size): at most 1.1 percentage points for a class and 0.2 for the dataset.
SAMPLE_OF_CLASS = 2_048
SAMPLE_OF_DATASET = 65_536

EXTREMES = 10  # image ids kept at either end of a ranking


def resample(maps: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Maps [N, H, W] to [N, *size] by the area that cells share; every map keeps its sum."""
    rows = area(maps.shape[1], size[0]).astype(maps.dtype)
    columns = area(maps.shape[2], size[1]).astype(maps.dtype)
    return rows @ maps @ columns.T


def unit_mass(maps: np.ndarray) -> np.ndarray:
    """Maps [N, H, W] over the sum of their absolute values; a map of zeros stays one."""
    mass = np.abs(maps).sum(axis=(1, 2), keepdims=True)
    return np.divide(maps, mass, out=np.zeros_like(maps), where=mass > 0)


def map_figures(maps: np.ndarray) -> np.ndarray:
    """The figures of each map, in the order of `FIGURES`.

    All but `total` are of p = |map| / Σ|map|; lengths are fractions of the image's height and width, and positions lie
    in 0 … 1 from the top left. They do not depend on the map's resolution but for its fineness.

      total        Σ map
      entropy      −Σ p ln p / ln(H·W): 0 for a single pixel, 1 for an even map
      gini         the Gini coefficient of p: 0 for an even map, towards 1 for a single pixel
      area50, 90   the smallest fraction of pixels that holds half, nine tenths of the mass
      center_y, x  the centre of mass
      spread       the root mean square distance from the centre of mass
      border_mass  the mass within a tenth of the image's side from an edge
      corner_mass  the mass in that corner of a fifth by a fifth of the sides that has most
      peak_y, x    the centre of the pixel that has most

    Args:
      maps: float32 [N, H, W].

    Returns:
      float32 [N, len(FIGURES)]; NaN in all but `total` where a map has no mass.
    """
    count, height, width = maps.shape
    total = maps.sum(axis=(1, 2), dtype=np.float64)
    absolute = np.abs(maps)
    mass = absolute.sum(axis=(1, 2), dtype=np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        p = absolute / mass[:, None, None].astype(np.float32)
        flat = p.reshape(count, height * width)
        pixels = flat.shape[1]
        logs = np.zeros_like(flat)
        np.log(flat, out=logs, where=flat > 0)
        entropy = -np.einsum("ni,ni->n", flat, logs, dtype=np.float64) / (np.log(pixels) or 1.0)

        ascending = np.sort(flat, axis=1)
        ranks = np.arange(1, pixels + 1, dtype=np.float64)
        gini = 2 * (ascending @ ranks) / pixels - (pixels + 1) / pixels
        held = np.cumsum(ascending[:, ::-1], axis=1, dtype=np.float64)
        area50, area90 = ((np.sum(held < share, axis=1) + 1) / pixels for share in (0.5, 0.9))

        y, x = (np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width
        rows, columns = p.sum(axis=2, dtype=np.float64), p.sum(axis=1, dtype=np.float64)
        center_y, center_x = rows @ y, columns @ x
        variance = rows @ y**2 - center_y**2 + columns @ x**2 - center_x**2
        spread = np.sqrt(np.maximum(variance, 0))

        inside = _coverage(height, 0.1, 0.9) @ p @ _coverage(width, 0.1, 0.9)
        edges_y = np.stack([_coverage(height, 0, 0.2), _coverage(height, 0.8, 1)])
        edges_x = np.stack([_coverage(width, 0, 0.2), _coverage(width, 0.8, 1)])
        corners = edges_y @ p @ edges_x.T

    peak = flat.argmax(axis=1)
    figures = np.stack(
        [
            total,
            entropy,
            gini,
            np.minimum(area50, 1),
            np.minimum(area90, 1),
            center_y,
            center_x,
            spread,
            1 - inside,
            corners.max(axis=(1, 2)),
            y[peak // width],
            x[peak % width],
        ],
        axis=1,
    ).astype(np.float32)
    figures[mass == 0, 1:] = np.nan
    return figures


def _coverage(pixels: int, start: float, stop: float) -> np.ndarray:
    """How much of each of `pixels` cells lies in [start, stop] of the side. float64 [pixels]."""
    edges = np.arange(pixels + 1) / pixels
    return np.clip(np.minimum(edges[1:], stop) - np.maximum(edges[:-1], start), 0, None) * pixels


@dataclasses.dataclass(frozen=True, slots=True)
class MapRows:
    """The rows of one batch, as the statistics take them; N rows, one per image and explained class.

    Attributes:
      targets: int64 [N].
      labels: int64 [N], −1 where not known.
      predicted: int64 [N].
      first: bool [N], whether the row is its image's first, so that images are counted once.
      image_ids: N strings.
      keys: uint64 [N] from `sample_key`.
      logits, probabilities: float32 [N], of the target.
      completeness: float32 [N], the completeness error; NaN where the method has none.
      maps: float32 [N, H, W], not yet of unit mass.
      figures: float32 [N, len(FIGURES)] of the maps.
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
    figures: np.ndarray


def sample_key(shard: str, index: int, target: int) -> int:
    """A 64-bit number that depends on the row alone, as good as random: the rows with the least ones are the sample."""
    text = f"{shard}\n{index}\n{target}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


@dataclasses.dataclass(slots=True)
class Moments:
    """Count, mean and sum of squared deviations of arrays of one shape; merges exactly (Chan et al. 1979)."""

    count: int
    mean: np.ndarray
    squares: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray) -> Moments:
        """Of values [N, …]; float64."""
        values = np.asarray(values, np.float64)
        if not len(values):
            return cls(0, np.zeros(values.shape[1:]), np.zeros(values.shape[1:]))
        mean = values.mean(axis=0)
        return cls(len(values), mean, np.square(values - mean).sum(axis=0))

    def merge(self, other: Moments) -> None:
        if not other.count:
            return
        count = self.count + other.count
        delta = other.mean - self.mean
        self.mean = self.mean + delta * (other.count / count)
        self.squares = self.squares + other.squares + np.square(delta) * (self.count * other.count / count)
        self.count = count

    def std(self) -> np.ndarray:
        """The population's standard deviation; NaN of nothing."""
        return np.sqrt(self.squares / self.count) if self.count else np.full_like(self.squares, np.nan)


@dataclasses.dataclass(slots=True)
class Sample:
    """The rows with the smallest keys: a uniform sample without replacement that merges in any order to the same.

    Attributes:
      size: the most rows that are kept.
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
    """The image ids with the highest and the lowest scores, best first; ties by id, so that order does not matter."""

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
    """Statistics of the maps that explain one class (or of all, for `DATASET`); partial until everything is merged.

    Attributes:
      labelled: images whose label is the class; of the dataset, that have a label.
      correct: those of them whose prediction is their label.
      logit, probability: of the target, of every row.
      map, coarse: unit-mass maps, [grid, grid] and [COARSE, COARSE], of the rows whose map has mass.
      wrong: the same [grid, grid] of rows whose label is known and another class.
      figures: [len(FIGURES)], of the rows whose map has mass.
      sample: columns are `FIGURES` and the completeness error.
      largest_error: the largest completeness error; 0 where no row has one.
      by_logit: the images with the highest and lowest logits.
    """

    labelled: int
    correct: int
    logit: Moments
    probability: Moments
    map: Moments
    coarse: Moments
    wrong: Moments
    figures: Moments
    sample: Sample
    largest_error: float
    by_logit: Ranking

    @classmethod
    def empty(cls, class_index: int, grid: int) -> ClassStatistics:
        def moments(*shape: int) -> Moments:
            return Moments.of(np.zeros((0, *shape)))

        size = SAMPLE_OF_DATASET if class_index == DATASET else SAMPLE_OF_CLASS
        sample = Sample(size, np.zeros(0, np.uint64), np.zeros((0, len(FIGURES) + 1), np.float32))
        return cls(
            labelled=0,
            correct=0,
            logit=moments(),
            probability=moments(),
            map=moments(grid, grid),
            coarse=moments(COARSE, COARSE),
            wrong=moments(grid, grid),
            figures=moments(len(FIGURES)),
            sample=sample,
            largest_error=0.0,
            by_logit=Ranking(),
        )

    def merge(self, other: ClassStatistics) -> None:
        self.labelled += other.labelled
        self.correct += other.correct
        for name in ("logit", "probability", "map", "coarse", "wrong", "figures", "sample", "by_logit"):
            getattr(self, name).merge(getattr(other, name))
        self.largest_error = max(self.largest_error, other.largest_error)


class PartialStatistics:
    """The statistics per class of the rows that were added so far; one unit's, usually.

    Args:
      grid: side of the maps that are averaged.
    """

    def __init__(self, grid: int):
        self.grid = grid
        self.classes: dict[int, ClassStatistics] = {}

    def _of(self, class_index: int) -> ClassStatistics:
        return self.classes.setdefault(class_index, ClassStatistics.empty(class_index, self.grid))

    def add(self, rows: MapRows) -> None:
        if not len(rows.targets):
            return
        unit = unit_mass(rows.maps)
        fine = resample(unit, (self.grid, self.grid))
        coarse = resample(unit, (COARSE, COARSE))
        groups = [(int(c), np.flatnonzero(rows.targets == c)) for c in np.unique(rows.targets)]
        for class_index, chosen in [(DATASET, np.arange(len(rows.targets))), *groups]:
            statistics = self._of(class_index)
            statistics.logit.merge(Moments.of(rows.logits[chosen]))
            statistics.probability.merge(Moments.of(rows.probabilities[chosen]))
            has_mass = chosen[np.isfinite(rows.figures[chosen]).all(axis=1)]
            wrong = has_mass[(rows.labels[has_mass] >= 0) & (rows.labels[has_mass] != rows.targets[has_mass])]
            statistics.map.merge(Moments.of(fine[has_mass]))
            statistics.coarse.merge(Moments.of(coarse[has_mass]))
            statistics.wrong.merge(Moments.of(fine[wrong]))
            statistics.figures.merge(Moments.of(rows.figures[has_mass]))
            columns = np.concatenate([rows.figures[chosen], rows.completeness[chosen, None]], axis=1)
            statistics.sample.merge(Sample.of(statistics.sample.size, rows.keys[chosen], columns))
            statistics.largest_error = float(
                np.fmax.reduce(rows.completeness[chosen], initial=statistics.largest_error)
            )
            ids = [rows.image_ids[int(i)] for i in chosen]
            statistics.by_logit.merge(Ranking.of(rows.logits[chosen], ids))
        for label, predicted in zip(rows.labels[rows.first], rows.predicted[rows.first], strict=True):
            if label >= 0:
                for class_index in (DATASET, int(label)):
                    statistics = self._of(class_index)
                    statistics.labelled += 1
                    statistics.correct += int(label == predicted)


class MergeStatistics(beam.CombineFn):
    """Merges the partial statistics of one class; merging is associative and commutative up to float64 rounding."""

    def create_accumulator(self) -> ClassStatistics | None:
        return None

    def add_input(self, accumulator: ClassStatistics | None, element: ClassStatistics) -> ClassStatistics:
        if accumulator is None:
            accumulator = ClassStatistics.empty(DATASET, element.map.mean.shape[0])
            accumulator.sample.size = element.sample.size
        accumulator.merge(element)
        return accumulator

    def merge_accumulators(self, accumulators: Iterable[ClassStatistics | None]) -> ClassStatistics | None:
        merged = None
        for accumulator in accumulators:
            if accumulator is not None:
                merged = self.add_input(merged, accumulator)
        return merged

    def extract_output(self, accumulator: ClassStatistics | None) -> Any:
        return accumulator


class MergeRankings(beam.CombineFn):
    """Merges the rankings of one class."""

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
