"""The figures of one map: what a map says in numbers, and maps at another size or at unit mass."""

from __future__ import annotations

import numpy as np

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

# As many pixels of maps are worked on together as keep the intermediate results in the cache.
_PIXELS_TOGETHER = 1 << 16

_ENDS = slice(0, 2), slice(3, 5)  # of the cells between 0, 0.1, 0.2, 0.8, 0.9 and 1: the first and the last fifth


def resample(maps: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Maps [N, H, W] to [N, *size] by the area that cells share; every map keeps its sum."""
    rows, columns = (np.arange(new + 1) * (old / new) for old, new in zip(maps.shape[1:], size, strict=True))
    return _sums_over_cells(maps, rows, columns)


def _sums_over_cells(maps: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Sums of maps [N, H, W] over a grid of cells, to which a pixel that an edge cuts adds its part.

    Args:
      rows, columns: the cells' edges in pixels, ascending, from 0 to H and to W.

    Returns:
      Of the maps' type, [N, len(rows) − 1, len(columns) − 1].
    """
    for axis, edges in ((1, rows), (2, columns)):
        pixels = maps.shape[axis]
        if np.diff(edges).min() < 1:
            shares = _shares(edges, pixels).astype(maps.dtype)
            maps = shares @ maps if axis == 1 else maps @ shares.T
            continue
        # Not as a product with a matrix of zeros, mostly: NumPy's BLAS would spread it over threads, which spin for a
        # while after it and take the cores from the model.
        first = np.minimum((edges + 1e-9).astype(int), pixels - 1)  # the pixel that each edge cuts
        before = np.clip(edges - first, 0, 1).astype(maps.dtype)  # how much of it
        before[-1] = 0  # the last pixel is whole, and summed whole
        sums = np.add.reduceat(maps, first[:-1], axis=axis)
        if before.any():
            shape = [-1 if a == axis else 1 for a in range(maps.ndim)]
            cut = np.take(maps, first, axis=axis) * before.reshape(shape)
            lower, upper = (cut[:, :-1], cut[:, 1:]) if axis == 1 else (cut[..., :-1], cut[..., 1:])
            sums += upper - lower
        maps = sums
    return maps


def _shares(edges: np.ndarray, pixels: int) -> np.ndarray:
    """How much of each of `pixels` pixels lies between each edge and the next. float64 [len(edges) − 1, pixels]."""
    at = np.arange(pixels)
    return np.clip(np.minimum(edges[1:, None], at + 1) - np.maximum(edges[:-1, None], at), 0, None)


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
    together = max(1, _PIXELS_TOGETHER // (height * width))
    if count > together:
        return np.concatenate([map_figures(maps[i : i + together]) for i in range(0, count, together)])
    total = maps.sum(axis=(1, 2), dtype=np.float64)
    p = np.abs(maps)
    mass = p.sum(axis=(1, 2), dtype=np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        p /= mass[:, None, None].astype(np.float32)
        flat = p.reshape(count, height * width)
        pixels = flat.shape[1]
        logs = np.log(np.maximum(flat, np.finfo(np.float32).tiny))  # 0 ln 0 = 0
        entropy = -np.einsum("ni,ni->n", flat, logs, dtype=np.float64) / (np.log(pixels) or 1.0)

        descending = np.sort(flat, axis=1)[:, ::-1].astype(np.float64, order="C")
        held = np.cumsum(descending, axis=1)
        gini = 2 * held.sum(axis=1) / pixels - (pixels + 1) / pixels
        area50, area90 = (
            (np.asarray([np.searchsorted(row, share) for row in held]) + 1) / pixels for share in (0.5, 0.9)
        )

        y, x = (np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width
        rows, columns = p.sum(axis=2, dtype=np.float64), p.sum(axis=1, dtype=np.float64)
        center_y, center_x = rows @ y, columns @ x
        variance = rows @ y**2 - center_y**2 + columns @ x**2 - center_x**2
        spread = np.sqrt(np.maximum(variance, 0))

        edges = np.asarray([0, 0.1, 0.2, 0.8, 0.9, 1])
        cells = _sums_over_cells(p, edges * height, edges * width)
        inside = cells[:, 1:4, 1:4].sum(axis=(1, 2))
        corners = np.stack([cells[:, y, x].sum(axis=(1, 2)) for y in _ENDS for x in _ENDS], axis=1)

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
            corners.max(axis=1),
            y[peak // width],
            x[peak % width],
        ],
        axis=1,
    ).astype(np.float32)
    figures[mass == 0, 1:] = np.nan
    return figures
