"""Scores of classes: one number for each class, high where a statistic of its maps suspects a shortcut."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from benchmarks.shortcuts.evidence import Evidence
from transforms.statistics import Moments, Sample, Standout, Tops, map_figures, part_standouts, shares_in_cells
from transforms.statistics import exceeding as exceeding_of
from transforms.statistics.accumulators import SAMPLE_OF_CELLS
from transforms.statistics.effects import LEAST_IMAGES, Effects, effects

_TINY = 1e-30


def unit(maps: np.ndarray) -> np.ndarray:
    """Maps [N, h, w] divided by the sum of their absolute values."""
    return maps / (np.abs(maps).sum(axis=(1, 2), keepdims=True) + _TINY)


# Each kind of map: coarse maps [N, 14, 14]. Index 0 is the logit's.
MAPS: dict[str, Callable[[Evidence], np.ndarray]] = {
    "reference": lambda e: e.reference[0].sum(axis=0),
    "reference, ≥ 24²": lambda e: e.reference[0][:3].sum(axis=0),
    "signed": lambda e: e.signed[0].sum(axis=0),
    "signed, ≥ 24²": lambda e: e.signed[0][:3].sum(axis=0),
    "positive part": lambda e: e.positive[0],
    "positive part, ≥ 24²": lambda e: e.positive_fine[0],
    "magnitude of signed": lambda e: e.magnitude[0],
    "gradient × input": lambda e: e.input_signed[0],
}


@dataclasses.dataclass(frozen=True, slots=True)
class Scores:
    """What a statistic says of K classes.

    Attributes:
      values: float64 [K], NaN for a class with too few maps.
      peaks: int64 [K, 2], row and column of the cell that the score comes from; −1 if it comes from none.
    """

    values: np.ndarray
    peaks: np.ndarray


def _of_cells(cells: np.ndarray, classes: np.ndarray, count: int) -> Scores:
    """The largest of the cells [k, h, w] of the classes [k]."""
    flat = cells.reshape(len(cells), -1)
    values, peaks = np.full(count, np.nan), np.full((count, 2), -1)
    values[classes] = flat.max(axis=1)
    peaks[classes] = np.stack(np.unravel_index(flat.argmax(axis=1), cells.shape[1:]), axis=1)
    return Scores(values, peaks)


def _effects(maps: np.ndarray, targets: np.ndarray, count: int, *, amount: bool, share: bool) -> list[Effects]:
    kinds = [unit(maps)] * share + [maps] * amount
    return [effects({k: Moments.of(kind[targets == k]) for k in range(count)}) for kind in kinds]


def _least(name: str, *, amount: bool = False, share: bool = False) -> Callable[[np.ndarray, np.ndarray, int], Scores]:
    """The effect or the gap of maps in their own unit, of unit mass, or the smaller one of both, cell by cell."""

    def score(maps: np.ndarray, targets: np.ndarray, count: int) -> Scores:
        found = _effects(maps, targets, count, amount=amount, share=share)
        return _of_cells(np.min([getattr(each, name) for each in found], axis=0), found[0].classes, count)

    return score


def natural(maps: np.ndarray, targets: np.ndarray, count: int) -> Scores:
    """The mean's difference in standard deviations of the other classes' means, moderated over cells."""
    [found] = _effects(maps, targets, count, amount=False, share=True)
    k = len(found.classes)
    cells = np.zeros_like(found.means)
    for i in range(k):
        variance = np.delete(found.means, i, axis=0).var(axis=0, ddof=1) if k > 2 else np.zeros(found.means.shape[1:])
        moderated = (_PRIOR * np.median(variance) + (k - 2) * variance) / (_PRIOR + k - 2)
        cells[i] = (found.means[i] - found.others[i]) / np.sqrt(moderated * (1 + 1 / (k - 1)) + _TINY)
    return _of_cells(cells, found.classes, count)


_PRIOR = 4  # the degrees of freedom that the median over cells is worth


def exceeding(maps: np.ndarray, targets: np.ndarray, count: int) -> Scores:
    """The share of the class's images above the 99th percentile of the other classes' images in the cell."""
    classes = np.asarray([k for k in range(count) if (targets == k).sum() >= LEAST_IMAGES])
    cells = [np.mean(maps[targets == k] > np.quantile(maps[targets != k], 0.99, axis=0), axis=0) for k in classes]
    return _of_cells(np.stack(cells), classes, count)


def today(maps: np.ndarray, targets: np.ndarray, count: int) -> Scores:
    """The z-score of border or corner mass, the larger one: what the pipeline reported until version 0.1."""
    figures = map_figures(np.ascontiguousarray(maps, np.float32))[:, 8:10]
    classes = np.asarray([k for k in range(count) if (targets == k).sum() >= LEAST_IMAGES])
    means = np.stack([figures[targets == k].mean(axis=0) for k in classes])
    values = np.full(count, np.nan)
    for i, k in enumerate(classes):
        others = np.delete(means, i, axis=0)
        if len(others) >= 2:
            values[k] = ((means[i] - others.mean(axis=0)) / (others.std(axis=0, ddof=1) + _TINY)).max()
    return Scores(values, np.full((count, 2), -1))


STATISTICS: dict[str, Callable[[np.ndarray, np.ndarray, int], Scores]] = {
    "effect, share": _least("effect", share=True),
    "effect, amount": _least("effect", amount=True),
    "effect, both": _least("effect", amount=True, share=True),
    "gap, share": _least("gap", share=True),
    "gap, amount": _least("gap", amount=True),
    "gap, both": _least("gap", amount=True, share=True),
    "natural, share": natural,
    "exceeding, share": lambda maps, targets, count: exceeding(unit(maps), targets, count),
    "border, corner z": today,
}


def parts_of(coarse: np.ndarray, speaking: np.ndarray, targets: np.ndarray) -> list[Standout]:
    """The classes of which a part stands out, as a run finds them; maps are [N, 14, 14], as in `MapRows`."""
    shares = shares_in_cells(coarse.astype(np.float32), speaking.astype(np.float32))
    rows = np.concatenate([targets[:, None], shares], axis=1, dtype=np.float32)
    keys = np.random.default_rng(0).permutation(len(targets)).astype(np.uint64)
    tops = Tops.of(Sample.of(SAMPLE_OF_CELLS, keys, rows))
    limits = {k: tops.limits(k) for k in np.unique(targets).tolist()}
    return part_standouts({k: exceeding_of(shares[targets == k], each) for k, each in limits.items() if each})


def auroc(planted: np.ndarray, innocent: np.ndarray) -> float:
    """The probability that a planted class has the higher score; NaN without planted or innocent classes."""
    if not len(planted) or not len(innocent):
        return float("nan")
    difference = planted[:, None] - innocent[None]
    return float(np.mean(difference > 0) + np.mean(difference == 0) / 2)
