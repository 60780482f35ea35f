"""Resampling: changes the size of maps by one matrix for each side; linear, exact, the same on every backend.

A map [h, w] becomes R_rows · map · R_columnsᵀ. All rules here are separable: a matrix [new, old] for each side.
The product of two matrices is both resizes in one, and a batch of maps costs two matrix products.
"""

from __future__ import annotations

import functools

import numpy as np


@functools.lru_cache(maxsize=1024)
def aligned_bilinear(old: int, new: int) -> np.ndarray:
    """Bilinear interpolation, corners aligned: sample i lies at i · (old − 1) / (new − 1). float64 [new, old]."""
    positions = np.arange(new) * ((old - 1) / (new - 1)) if new > 1 else np.zeros(new)
    return _interpolation(positions, old)


@functools.lru_cache(maxsize=1024)
def half_pixel_bilinear(old: int, new: int) -> np.ndarray:
    """Bilinear interpolation between pixel centres, the edge repeated outwards. float64 [new, old]."""
    return _interpolation((np.arange(new) + 0.5) * (old / new) - 0.5, old)


@functools.lru_cache(maxsize=1024)
def area(old: int, new: int) -> np.ndarray:
    """Distributes the mass of `old` equal cells over `new` cells, by the length they share. float64 [new, old].

    Every column adds up to one, so the map's sum stays. Times new/old, it is the mean over each new cell's area.
    """
    edges = np.arange(new + 1) * (old / new)
    cells = np.arange(old)
    shared = np.minimum(edges[1:, None], cells + 1) - np.maximum(edges[:-1, None], cells)
    return np.clip(shared, 0, None)


@functools.lru_cache(maxsize=1024)
def spread(old: int, new: int) -> np.ndarray:
    """Spreads each cell's mass over `new` cells: bilinearly if they are more, else by area. float64 [new, old].

    Every column adds up to one, so the map's sum stays.
    """
    if new <= old:
        return area(old, new)
    weights = half_pixel_bilinear(old, new)
    return weights / weights.sum(axis=0)


def _interpolation(positions: np.ndarray, old: int) -> np.ndarray:
    """Weights that interpolate linearly at `positions` between samples 0 … old − 1."""
    positions = np.clip(positions, 0, old - 1)
    below = np.minimum(np.floor(positions).astype(int), max(old - 2, 0))
    weights = np.zeros((len(positions), old))
    rows = np.arange(len(positions))
    weights[rows, below] = 1 - (positions - below)
    weights[rows, np.minimum(below + 1, old - 1)] += positions - below
    return weights
