"""Scores of classes: one number for each class, high where a statistic of its maps suspects a shortcut."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from benchmarks.shortcuts.evidence import Evidence
from transforms.statistics import Moments, map_figures
from transforms.statistics.effects import LEAST_IMAGES, effects

_TINY = 1e-30


def unit(maps: np.ndarray) -> np.ndarray:
    """Maps [N, h, w] divided by the sum of their absolute values."""
    return maps / (np.abs(maps).sum(axis=(1, 2), keepdims=True) + _TINY)


# Each kind of map: coarse maps [N, 14, 14]. Index 0 is the logit's.
MAPS: dict[str, Callable[[Evidence], np.ndarray]] = {
    "reference": lambda e: unit(e.reference[0].sum(axis=0)),
    "reference, ≥ 24²": lambda e: unit(e.reference[0][:3].sum(axis=0)),
    "signed": lambda e: e.signed[0].sum(axis=0) / (e.magnitude[0].sum(axis=(1, 2))[:, None, None] + _TINY),
    "signed, in logits": lambda e: e.signed[0].sum(axis=0),
    "positive part": lambda e: unit(e.positive[0]),
    "positive part, in logits": lambda e: e.positive[0],
    "positive part, ≥ 24²": lambda e: unit(e.positive_fine[0]),
    "magnitude of signed": lambda e: unit(e.magnitude[0]),
    "gradient × input": lambda e: e.input_signed[0] / (e.magnitude[0].sum(axis=(1, 2))[:, None, None] + _TINY),
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


def _moments(maps: np.ndarray, targets: np.ndarray, count: int) -> dict[int, Moments]:
    return {k: Moments.of(maps[targets == k]) for k in range(count)}


def mean_effect(maps: np.ndarray, targets: np.ndarray, count: int) -> Scores:
    """The mean's difference to the other classes' mean, in their standard deviations within a class."""
    found = effects(_moments(maps, targets, count))
    return _of_cells(found.effect, found.classes, count)


def gap(maps: np.ndarray, targets: np.ndarray, count: int) -> Scores:
    """The same, to the class that comes second in the cell."""
    found = effects(_moments(maps, targets, count))
    return _of_cells(found.gap, found.classes, count)


def natural(maps: np.ndarray, targets: np.ndarray, count: int) -> Scores:
    """The mean's difference in standard deviations of the other classes' means, moderated over cells."""
    found = effects(_moments(maps, targets, count))
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


def upper_tail(maps: np.ndarray, targets: np.ndarray, count: int) -> Scores:
    """The 95th percentile's difference to the largest one of the other classes, in their standard deviations."""
    found = effects(_moments(maps, targets, count))
    tails = np.stack([np.quantile(maps[targets == k], 0.95, axis=0) for k in found.classes])
    scale = np.sqrt(np.mean([maps[targets == k].var(axis=0) for k in found.classes], axis=0)) + _TINY
    others = np.stack([np.delete(tails, i, axis=0).max(axis=0) for i in range(len(tails))])
    return _of_cells((tails - others) / scale, found.classes, count)


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
    "effect": mean_effect,
    "gap": gap,
    "natural": natural,
    "exceeding": exceeding,
    "upper tail": upper_tail,
    "border, corner z": today,
}


def auroc(planted: np.ndarray, innocent: np.ndarray) -> float:
    """The probability that a planted class has the higher score; NaN without planted or innocent classes."""
    if not len(planted) or not len(innocent):
        return float("nan")
    difference = planted[:, None] - innocent[None]
    return float(np.mean(difference > 0) + np.mean(difference == 0) / 2)
