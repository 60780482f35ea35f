"""Covers a part of images by what its surroundings suggest, so that the part's own evidence is gone.

The filling is the noisy linear imputation of ROAD (Rong et al. 2022, arXiv 2202.00449): each missing pixel is the
weighted mean of its eight neighbours, 1/6 for those that share an edge and 1/12 for the diagonal ones, plus a little
noise. A grey or black patch would be a new object; the imputed one leaves no edge to see. A blur is a second filling,
to see whether a result depends on the first.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, Literal, TypeAlias

import numpy as np
from scipy import ndimage, sparse
from scipy.sparse import linalg

Filling: TypeAlias = Literal["imputation", "blur"]

# The standard deviation of the noise in grey levels of 255. ROAD's own is 0.01 of the range of preprocessed values.
NOISE = 2.55

_NEIGHBOURS = [(y, x, 1 / 12 if y and x else 1 / 6) for y in (-1, 0, 1) for x in (-1, 0, 1) if y or x]


def cover(
    images: np.ndarray,
    mask: np.ndarray,
    generator: np.random.Generator,
    filling: Filling = "imputation",
    noise: float = NOISE,
) -> np.ndarray:
    """The images with the masked pixels filled from the others.

    Args:
      images: uint8 [N, H, W, C], decoded and not yet preprocessed.
      mask: bool [H, W], the pixels to cover; not all of them.
      generator: makes the noise of an imputation.
      filling: `imputation` or `blur`.
      noise: the standard deviation of an imputation's noise, in grey levels.

    Returns:
      uint8 [N, H, W, C], a copy.

    Raises:
      ValueError: the mask covers the whole image, which leaves nothing to fill from.
    """
    if mask.all():
        raise ValueError("the mask covers the whole image, so there is nothing to fill it from")
    covered = images.copy()
    if not mask.any():
        return covered
    ys, xs = _with_margin(mask.any(axis=1)), _with_margin(mask.any(axis=0))
    part, hole = images[:, ys, xs], mask[ys, xs]
    if filling == "blur":
        values = _blurred(images, mask)
    else:
        values = _system(hole.shape, hole.tobytes()).solve(part)
        values = values + generator.normal(0, noise, values.shape)
    covered[:, mask] = np.rint(values).clip(0, 255).astype(np.uint8)
    return covered


def _with_margin(taken: Any) -> slice:
    """From one before the first True to one behind the last, within the image."""
    found = np.flatnonzero(taken)
    return slice(max(0, found[0] - 1), min(len(taken), found[-1] + 2))


def _blurred(images: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The masked pixels of blurred images: float64 [N, pixels, C]. The blur is as wide as half the hole."""
    sigma = ndimage.distance_transform_edt(np.pad(mask, 1)).max()
    blurred = ndimage.gaussian_filter(images.astype(np.float32), (0, sigma, sigma, 0), mode="nearest")
    return blurred[:, mask].astype(np.float64)


@dataclasses.dataclass(frozen=True, eq=False)
class _System:
    """The linear equations of a hole, factorized: inside = A⁻¹ B outside.

    Attributes:
      factors: the factorization of A, [n, n] for the n missing pixels.
      outside: B, sparse [n, pixels of the part].
    """

    factors: linalg.SuperLU
    outside: sparse.csr_array

    def solve(self, part: np.ndarray) -> np.ndarray:
        """The values of the n missing pixels of images [N, h, w, C]: float64 [N, n, C], all solved at once."""
        count, channels = len(part), part.shape[3]
        known = np.moveaxis(part.reshape(count, -1, channels), 0, 1).reshape(-1, count * channels)
        inside = self.factors.solve(self.outside @ known.astype(np.float64))
        return np.moveaxis(inside.reshape(-1, count, channels), 0, 1)


@functools.lru_cache(maxsize=64)
def _system(shape: tuple[int, int], hole: bytes) -> _System:
    """The equations of a hole in a part of an image. All windows inside an image share one, which is why it is kept.

    The weights of neighbours outside the image are shared out among the others.
    """
    missing = np.frombuffer(hole, bool).reshape(shape)
    number = np.full(missing.size, -1)
    number[missing.ravel()] = np.arange(missing.sum())
    rows, columns, weights = [], [], []
    ys, xs = np.nonzero(missing)
    own = np.arange(len(ys))
    for dy, dx, weight in _NEIGHBOURS:
        y, x = ys + dy, xs + dx
        there = (y >= 0) & (y < shape[0]) & (x >= 0) & (x < shape[1])
        rows.append(own[there])
        columns.append((y * shape[1] + x)[there])
        weights.append(np.full(there.sum(), weight))
    row, column, share = (np.concatenate(each) for each in (rows, columns, weights))
    share = share / np.bincount(row, share, len(own))[row]
    inner = number[column] >= 0
    among = sparse.csc_array((share[inner], (row[inner], number[column[inner]])), (len(own), len(own)))
    outside = sparse.csr_array((share[~inner], (row[~inner], column[~inner])), (len(own), missing.size))
    return _System(linalg.splu(sparse.csc_array(sparse.eye_array(len(own)) - among)), outside)
