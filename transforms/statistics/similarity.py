"""How alike two maps are, pair by pair."""

from __future__ import annotations

import numpy as np


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The cosine of the angle between each map of a and that of b, both [N, …]: float64 [N], NaN without mass."""
    a, b = _flat(a), _flat(b)
    with np.errstate(invalid="ignore", divide="ignore"):
        found = np.einsum("nc,nc->n", a, b) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
    return np.clip(found, -1, 1)


def rank_correlations(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Spearman's rank correlation of each map of a with that of b, both [N, …]: float64 [N].

    It is the correlation of ranks; equal values share the mean of their ranks. NaN if all values of a map are equal.
    """
    from scipy import stats  # which takes most of a second to import

    a, b = (stats.rankdata(_flat(each), axis=1) for each in (a, b))
    return cosines(a - a.mean(axis=1, keepdims=True), b - b.mean(axis=1, keepdims=True))


def _flat(maps: np.ndarray) -> np.ndarray:
    return maps.reshape(len(maps), -1).astype(np.float64)
