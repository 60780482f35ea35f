"""Computes what the report adds to the numbers of the output: intervals, and maps as codes of one byte."""

from __future__ import annotations

import base64
import dataclasses
import math
from typing import Any

import numpy as np

from transforms.output import encode_maps
from transforms.statistics import resample

Z95 = 1.96  # of the normal distribution, for intervals that hold in 95 of 100 cases


def wilson(correct: int, labelled: int) -> tuple[float, float] | None:
    """The 95 % interval of a rate: Wilson's score interval, which also holds for few images and rates near 0 or 1.

    Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927). With
    p = correct / n: (p + z²/2n ± z √(p(1 − p)/n + z²/4n²)) / (1 + z²/n).

    Returns:
      the interval's two ends, or None if there are no labelled images.
    """
    if not labelled:
        return None
    p, shift = correct / labelled, Z95**2 / labelled
    half = Z95 * math.sqrt(p * (1 - p) / labelled + shift / (4 * labelled))
    return max(0.0, (p + shift / 2 - half) / (1 + shift)), min(1.0, (p + shift / 2 + half) / (1 + shift))


def half_width(std: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Half the 95 % interval of a mean, 1.96 · std / √n; NaN for fewer than two images.

    Args:
      std: float64 [N, …], the standard deviations.
      images: int64 [N], the numbers n of images.
    """
    count = images.reshape(-1, *[1] * (std.ndim - 1)).astype(np.float64)
    return np.where(count > 1, Z95 * std / np.sqrt(np.maximum(count, 1)), np.nan)


def plain(value: Any) -> float | None:
    """A number with six significant digits, as the report's data files have it; None for NaN and None."""
    if value is None or not math.isfinite(value):
        return None
    return float(f"{value:.6g}")


def plain_list(values: np.ndarray) -> list[float | None]:
    """`plain` of each number of an array [N]."""
    return [plain(value) for value in values.tolist()]


@dataclasses.dataclass(frozen=True, slots=True)
class CodedMap:
    """A map in bytes, as the page decodes it: value = code · scale + offset.

    Attributes:
      data: the uint8 codes in base64, row by row.
    """

    data: str
    scale: float
    offset: float
    height: int
    width: int

    @classmethod
    def of(cls, values: np.ndarray) -> CodedMap:
        """The code of a map float [H, W]. The error is at most 1/510 of the range of its values."""
        encoded = encode_maps(values[None].astype(np.float32), "uint8")
        data = encoded.data[0]
        assert data is not None
        return cls.of_codes(data, float(encoded.scale[0]), float(encoded.offset[0]), *values.shape)

    @classmethod
    def of_codes(cls, codes: bytes, scale: float, offset: float, height: int, width: int) -> CodedMap:
        return cls(base64.b64encode(codes).decode("ascii"), scale, offset, height, width)


def small(values: np.ndarray, side: int) -> np.ndarray:
    """A map [H, W] with at most `side` rows and columns; each cell is the sum of the map there."""
    height, width = (min(side, length) for length in values.shape)
    return resample(values[None], (height, width))[0]
