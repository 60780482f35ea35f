"""Encodes maps as bytes, and decodes them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

MAP_DTYPES: dict[str, np.dtype[Any]] = {"float32": np.dtype("<f4"), "float16": np.dtype("<f2"), "uint8": np.dtype("u1")}


@dataclasses.dataclass(frozen=True, slots=True)
class EncodedMaps:
    """Encoded maps: value = stored · scale + offset.

    Attributes:
      data: the bytes of each map, row-major and little-endian; None if maps are not stored.
      scale, offset: float64 [N], one per map.
    """

    data: list[bytes | None]
    scale: np.ndarray
    offset: np.ndarray


def encode_maps(maps: np.ndarray, map_dtype: str) -> EncodedMaps:
    """Encodes maps float32 [N, H, W] as `float32`, `float16`, `uint8` or `none`.

    With float16, a map is divided by its largest absolute value, so that no value overflows. The error is at most 2⁻¹¹
    of a value, or 2⁻²⁵ of the largest one, whichever is more. With uint8, the range from the smallest to the largest
    value is divided into 255 equal steps.
    """
    count = len(maps)
    scale, offset = np.ones(count), np.zeros(count)
    if map_dtype == "none":
        return EncodedMaps([None] * count, scale, offset)
    stored = maps
    if map_dtype != "float32" and count:
        low = maps.min(axis=(1, 2)).astype(np.float64)
        high = maps.max(axis=(1, 2)).astype(np.float64)
        if map_dtype == "float16":
            scale = np.maximum(np.abs(low), np.abs(high))
        else:
            scale, offset = (high - low) / 255, low
        scale[scale == 0] = 1.0
        stored = (maps - offset[:, None, None]) / scale[:, None, None]
        if map_dtype == "uint8":
            stored = np.rint(stored)
    stored = np.ascontiguousarray(stored.astype(MAP_DTYPES[map_dtype]))
    return EncodedMaps([each.tobytes() for each in stored], scale, offset)


# The significant bits of rounded terms; as many as float16 has.
_TERM_BITS = 11


def round_keeping_sums(terms: np.ndarray) -> np.ndarray:
    """Rounds terms float32 [N, C] to 11 significant bits, so that they compress better, and keeps each row's sum.

    Each term takes over the rounding error of the next larger one. So a row's sum is off by at most the rounding of its
    smallest term, and a value by about one unit in the last place of the next larger one.
    """
    order = np.argsort(-np.abs(terms), axis=1, kind="stable")
    exact = np.take_along_axis(terms, order, axis=1).astype(np.float64)
    rounded = np.empty_like(exact)
    error = np.zeros(len(terms))
    for channel in range(terms.shape[1]):
        wanted = exact[:, channel] + error
        mantissa, exponent = np.frexp(wanted)
        rounded[:, channel] = np.ldexp(np.rint(mantissa * 2**_TERM_BITS), exponent - _TERM_BITS)
        error = wanted - rounded[:, channel]
    result = np.empty_like(terms)
    np.put_along_axis(result, order, rounded.astype(np.float32), axis=1)
    return result


def decode_map(row: Mapping[str, Any]) -> np.ndarray | None:
    """The map in one row of a `maps` part, as float32 [H, W]; None if maps are not stored."""
    if row["map"] is None:
        return None
    stored = np.frombuffer(row["map"], MAP_DTYPES[row["map_dtype"]])
    values = stored.astype(np.float64) * row["map_scale"] + row["map_offset"]
    return values.reshape(row["map_height"], row["map_width"]).astype(np.float32)
