"""How alike patches look: objects vary from picture to picture, and marks that were added to pictures do not."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
from scipy import stats

_BINS = {1: 16, 3: 4}  # of each channel: a patch is described by 16 grey levels or 64 colours
_PERMUTATIONS = 200


@dataclasses.dataclass(frozen=True, slots=True)
class Alikeness:
    """How alike the patches of a class are.

    Attributes:
      excess: the mean similarity of two patches of the class, minus that of one of them and one of another class.
        −1 to 1, and near 0 for patches that could be of any class. A similarity is the area that two histograms of
        colours share, 0 to 1. It does not change where the patch shows the mark a little higher or farther left.
      p: how probable such an excess is if the patches were of any class, by the normal limit of permutations.
    """

    excess: float
    p: float


def alikeness(own: np.ndarray, others: np.ndarray, generator: np.random.Generator) -> Alikeness:
    """Compares the patches of a class with those of other classes.

    Args:
      own: uint8 [n, h, w, C], n at least 2.
      others: uint8 [m, h, w, C], m at least 1.
      generator: makes the permutations.
    """
    histograms = colours(np.concatenate([own, others]))
    similar = np.stack([np.minimum(each, histograms).sum(axis=1) for each in histograms])
    n, everyone = len(own), len(histograms)
    excess = _excess(similar, np.arange(n))
    drawn = [_excess(similar, generator.permutation(everyone)[:n]) for _ in range(_PERMUTATIONS)]
    spread = float(np.std(drawn)) or 1.0
    return Alikeness(excess, float(stats.norm.sf((excess - np.mean(drawn)) / spread)))


def _excess(similar: np.ndarray, own: np.ndarray) -> float:
    rest = np.ones(len(similar), bool)
    rest[own] = False
    within = similar[np.ix_(own, own)]
    pairs = len(own) * (len(own) - 1)
    return float((within.sum() - np.trace(within)) / pairs - similar[np.ix_(own, rest)].mean())


def colours(patches: np.ndarray) -> np.ndarray:
    """The joint histogram of the colours of each patch, shared out between neighbouring bins: float64 [n, bins]."""
    count, channels = len(patches), patches.shape[3]
    bins = _BINS[channels]
    scaled = patches.reshape(count, -1, channels) / 255 * (bins - 1)
    low = np.minimum(scaled.astype(int), bins - 2)
    above = scaled - low
    histograms = np.zeros((count, bins**channels))
    rows = np.repeat(np.arange(count), scaled.shape[1])
    for corner in itertools.product((0, 1), repeat=channels):
        weight = np.where(corner, above, 1 - above).prod(axis=2)
        place = ((low + corner) * bins ** np.arange(channels)).sum(axis=2)
        np.add.at(histograms, (rows, place.ravel()), weight.ravel())
    return histograms / scaled.shape[1]
