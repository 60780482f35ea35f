"""Computes the figures of maps, and resamples and normalizes maps."""

from __future__ import annotations

import numpy as np

COARSE = 14  # the side of the coarse maps, which SQL compares and images are ranked by

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

# The number of pixels whose figures are computed at once. The intermediate results then stay in the cache.
_PIXELS_AT_ONCE = 1 << 16

# Of the cells between 0, 0.1, 0.2, 0.8, 0.9 and 1: those in the first and in the last fifth of a side.
_OUTER_FIFTHS = slice(0, 2), slice(3, 5)


def resample(maps: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resamples maps [N, H, W] to [N, *size] by the area that cells share. Every map keeps its sum."""
    rows, columns = (np.arange(new + 1) * (old / new) for old, new in zip(maps.shape[1:], size, strict=True))
    return _sums_over_cells(maps, rows, columns)


def _sums_over_cells(maps: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Sums maps [N, H, W] over the cells of a grid. A pixel that an edge cuts is divided by area.

    Args:
      rows, columns: the cells' edges in pixels, ascending, from 0 to H and from 0 to W.

    Returns:
      [N, len(rows) − 1, len(columns) − 1], with the maps' dtype.
    """
    for axis, edges in ((1, rows), (2, columns)):
        pixels = maps.shape[axis]
        if np.diff(edges).min() < 1:
            shares = _shares(edges, pixels).astype(maps.dtype)
            maps = shares @ maps if axis == 1 else maps @ shares.T
            continue
        # Not a product with a mostly empty matrix: NumPy's BLAS would use threads, which keep spinning afterwards and
        # take the cores from the model.
        first = np.minimum((edges + 1e-9).astype(int), pixels - 1)  # the pixel that each edge cuts
        before = np.clip(edges - first, 0, 1).astype(maps.dtype)  # how much of it lies before the edge
        before[-1] = 0  # the last pixel is not cut
        sums = np.add.reduceat(maps, first[:-1], axis=axis)
        if before.any():
            shape = [-1 if a == axis else 1 for a in range(maps.ndim)]
            cut = np.take(maps, first, axis=axis) * before.reshape(shape)
            lower, upper = (cut[:, :-1], cut[:, 1:]) if axis == 1 else (cut[..., :-1], cut[..., 1:])
            sums += upper - lower
        maps = sums
    return maps


def _shares(edges: np.ndarray, pixels: int) -> np.ndarray:
    """How much of each pixel lies between each edge and the next: float64 [len(edges) − 1, pixels]."""
    at = np.arange(pixels)
    return np.clip(np.minimum(edges[1:, None], at + 1) - np.maximum(edges[:-1, None], at), 0, None)


def unit_mass(maps: np.ndarray) -> np.ndarray:
    """Maps [N, H, W] divided by the sums of their absolute values. A map of zeros stays zero."""
    mass = np.abs(maps).sum(axis=(1, 2), keepdims=True)
    return np.divide(maps, mass, out=np.zeros_like(maps), where=mass > 0)


def map_figures(maps: np.ndarray) -> np.ndarray:
    """The figures of each map, in the order of `FIGURES`.

    All figures but `total` describe p = |map| / Σ|map|. Lengths are fractions of the image's height and width.
    Positions are 0 … 1 from the top left. They hardly depend on the map's resolution.

      total        Σ map
      entropy      −Σ p ln p / ln(H·W): 0 for a single pixel, 1 for an even map
      gini         the Gini coefficient of p: 0 for an even map, towards 1 for a single pixel
      area50, 90   the smallest fraction of the pixels that holds 50, 90 % of the mass
      center_y, x  the centre of mass
      spread       the root mean square distance of the mass from its centre
      border_mass  the mass less than a tenth of the image's side away from an edge
      corner_mass  the mass in the corner with the most mass; corners are a fifth by a fifth of the sides
      peak_y, x    the centre of the pixel with the most mass

    Args:
      maps: float32 [N, H, W].

    Returns:
      float32 [N, len(FIGURES)]. A map without mass has NaN in all figures but `total`.
    """
    count, height, width = maps.shape
    together = max(1, _PIXELS_AT_ONCE // (height * width))
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
        corners = np.stack([cells[:, y, x].sum(axis=(1, 2)) for y in _OUTER_FIFTHS for x in _OUTER_FIFTHS], axis=1)

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
