"""Tells where a class's evidence lies more often than the other classes', and how certain that is."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping

import numpy as np

from transforms.statistics.accumulators import Moments

# Classes with fewer maps are neither tested nor used as a comparison: their variances are too uncertain.
LEAST_IMAGES = 20

# The share of false flags among all flags that is allowed, if classes differ by chance alone. Two searches share it, of
# whole classes and of parts of classes: half of it each.
FALSE_DISCOVERIES = 0.05


@dataclasses.dataclass(frozen=True, slots=True)
class Effects:
    """How K classes differ from the other classes, cell by cell.

    Attributes:
      classes: int64 [K], ascending; those with at least `LEAST_IMAGES` maps.
      images: int64 [K], the maps of each.
      means: float64 [K, *cells], the mean of each class.
      others: float64 [K, *cells], the mean of the other classes' means.
      effect: float64 [K, *cells], (means − others) / the other classes' standard deviation within a class. 0 in a cell
        that does not vary.
      gap: float64 [K, *cells], the same against the other class with the largest mean, in place of the others' mean.
      p_values: float64 [K, *cells], of the difference if all images came from one population; one-sided, for means
        above the others'.
    """

    classes: np.ndarray
    images: np.ndarray
    means: np.ndarray
    others: np.ndarray
    effect: np.ndarray
    gap: np.ndarray
    p_values: np.ndarray

    def discovered(self, rate: float = FALSE_DISCOVERIES) -> np.ndarray:
        """The differences that are no chance: bool [K, *cells], with at most `rate` false ones expected among them."""
        return discoveries(self.p_values, rate)


def effects(moments: Mapping[int, Moments]) -> Effects:
    """The effects of all classes, from the moments of their images.

    The test is Welch's, of a class's mean against the unweighted mean of the other classes' means. The variance of the
    class's mean is the larger one of two estimates: from the class alone, and from all classes together. The first
    one alone is too small for a few images that happen to be alike, the second for a class that varies more. The
    degrees of freedom are those of the class, n − 1.

    Args:
      moments: for each class index the moments of arrays [*cells], one for each image.

    Returns:
      the effects of the classes with at least `LEAST_IMAGES` images; of none if there are fewer than two.
    """
    from scipy import stats  # which takes most of a second to import

    classes = sorted(c for c, each in moments.items() if each.count >= LEAST_IMAGES)
    if len(classes) < 2:
        cells = next(iter(moments.values())).mean.shape if moments else ()
        nothing = np.zeros((0, *cells))
        return Effects(np.zeros(0, np.int64), np.zeros(0, np.int64), *(nothing,) * 5)
    shape = (-1,) + (1,) * moments[classes[0]].mean.ndim
    count = np.asarray([moments[c].count for c in classes], np.int64)
    n = count.reshape(shape).astype(np.float64)
    means = np.stack([moments[c].mean for c in classes])
    squares = np.stack([moments[c].squares for c in classes])
    k = len(classes)

    of_mean = squares / (n - 1) / n
    others = (means.sum(axis=0) - means) / (k - 1)
    within_others = (squares.sum(axis=0) - squares) / ((n - 1).sum() - (n - 1))
    together = squares.sum(axis=0) / (n - 1).sum()
    variance = np.maximum(of_mean, together / n) + (of_mean.sum(axis=0) - of_mean) / (k - 1) ** 2

    with np.errstate(invalid="ignore", divide="ignore"):
        deviation = np.sqrt(within_others)
        difference = means - others
        t = np.where(variance > 0, difference / np.sqrt(variance), 0.0)
        effect = np.where(deviation > 0, difference / deviation, 0.0)
        gap = np.where(deviation > 0, (means - _largest_other(means)) / deviation, 0.0)
    return Effects(np.asarray(classes), count, means, others, effect, gap, stats.t.sf(t, n - 1))


def _largest_other(means: np.ndarray) -> np.ndarray:
    """For each class the largest mean among the other classes, cell by cell: [K, *cells]."""
    second, first = np.partition(means, -2, axis=0)[-2:]
    return np.where(means == first, second, first)


def discoveries(p_values: np.ndarray, rate: float) -> np.ndarray:
    """Which p-values [...] are discoveries: bool [...] (Benjamini & Hochberg 1995).

    Among the discoveries, at most `rate` are expected to be false. If nothing differs, the probability of any
    discovery is at most `rate`. It holds for independent tests and for positively dependent ones, as of neighbours.
    """
    ascending = np.sort(p_values, axis=None)
    allowed = rate * np.arange(1, ascending.size + 1) / max(ascending.size, 1)
    passing = np.flatnonzero(ascending <= allowed)
    return p_values <= ascending[passing[-1]] if len(passing) else np.zeros(p_values.shape, bool)


def mean_interval(moments: Moments, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """The confidence interval of the mean by Student's t: float64 [*cells], twice. NaN with fewer than two images."""
    from scipy import stats  # which takes most of a second to import

    if moments.count < 2:
        nothing = np.full(moments.mean.shape, np.nan)
        return nothing, nothing
    error = np.sqrt(moments.squares / (moments.count - 1) / moments.count)
    half = stats.t.ppf((1 + level) / 2, moments.count - 1) * error
    return moments.mean - half, moments.mean + half


def quantile_interval(values: np.ndarray, quantile: float, level: float = 0.95) -> tuple[float, float]:
    """The confidence interval of a quantile of a population, from a uniform sample [n] of it.

    It lies between two values of the sample. How many values lie below the quantile is binomial, whatever the
    distribution (Conover 1999, section 3.2); a bootstrap of the sample comes to the same with more work. NaN if the
    sample is too small for the quantile.
    """
    ranks = quantile_ranks(len(values), quantile, level)
    if ranks is None:
        return float("nan"), float("nan")
    ordered = np.sort(values)
    return float(ordered[ranks[0]]), float(ordered[ranks[1]])


@functools.lru_cache(maxsize=4096)
def quantile_ranks(count: int, quantile: float, level: float = 0.95) -> tuple[int, int] | None:
    """The places, from 0, in an ordered sample of `count` values of the two ends of `quantile_interval`.

    None if the sample is too small.
    """
    from scipy import stats  # which takes most of a second to import

    if not count:
        return None
    below, above = stats.binom.ppf(((1 - level) / 2, (1 + level) / 2), count, quantile)
    low, high = int(below) - 1, int(above)
    return None if low < 0 or high >= count else (low, high)
