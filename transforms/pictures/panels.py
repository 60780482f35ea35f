"""Draws single pictures: an image, a map in colours, and a map over its image."""

from __future__ import annotations

import dataclasses
import functools
import math
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from transforms.pictures.colours import DIVERGING, SEQUENTIAL

OPACITY = 0.8  # of the largest value of a map over its image


@dataclasses.dataclass(frozen=True, slots=True)
class Scale:
    """Which values have which colours.

    Attributes:
      low, high: the values at the ends of the colours.
      signed: whether the colours diverge around zero. Then low is −high.
    """

    low: float
    high: float
    signed: bool

    @classmethod
    def of(cls, values: np.ndarray, signed: bool | None = None) -> Scale:
        """The scale that spans the finite ones of some values. They are signed if one of them is negative.

        Args:
          values: of any shape.
          signed: whether the colours diverge around zero; None goes by the values.
        """
        finite = values[np.isfinite(values)]
        low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
        if signed if signed is not None else low < 0:
            limit = max(abs(low), abs(high))
            return cls(-limit, limit, True)
        return cls(low, high, False)

    def places(self, values: np.ndarray) -> np.ndarray:
        """Where values lie between the ends, 0 to 1. A value that is not finite lies where there is no evidence."""
        none = 0.5 if self.signed else 0.0
        if self.high <= self.low:
            return np.full(np.shape(values), none)
        # In float64, because the range of float32 values may be beyond float32's.
        places = (np.asarray(values, np.float64) - self.low) / (self.high - self.low)
        return np.where(np.isfinite(values), places.clip(0, 1), none)

    def colours(self, values: np.ndarray) -> np.ndarray:
        """The colours of values [...], as uint8 [..., 3]."""
        table = _table(self.signed)
        return table[np.rint(self.places(values) * (len(table) - 1)).astype(int)]

    def strengths(self, values: np.ndarray) -> np.ndarray:
        """How strong the evidence is, 0 to 1: the place itself, or for signed values its distance from zero."""
        places = self.places(values)
        return np.abs(2 * places - 1) if self.signed else places


@functools.cache
def _table(signed: bool) -> np.ndarray:
    """The interpolated colours, uint8 [257, 3]. An odd number, so that zero has the middle one."""
    anchors = DIVERGING if signed else SEQUENTIAL
    rgb = np.array([[int(anchor[i : i + 2], 16) for i in (1, 3, 5)] for anchor in anchors], np.float64)
    at, known = np.linspace(0, 1, 257), np.linspace(0, 1, len(anchors))
    return np.rint(np.stack([np.interp(at, known, rgb[:, c]) for c in range(3)], axis=1)).astype(np.uint8)


def as_pictures(images: Sequence[Any]) -> list[Image.Image]:
    """Images as RGB pictures of their own sizes.

    Args:
      images: uint8 or floating-point arrays [H, W, 1, 3 or 4] or [H, W], Pillow images, or paths of image files.
        Floating-point values are taken as 0 to 1 if all images keep within it, else as 0 to 255. Values outside of
        both, as after preprocessing, are stretched from the smallest to the largest one.

    Raises:
      ValueError: an array has another shape, or no pixels, or a file cannot be read.
    """
    opened = [_opened(each) if isinstance(each, str | os.PathLike) else each for each in images]
    arrays = [each if isinstance(each, Image.Image) else _pixels(each) for each in opened]
    floats = [each for each in arrays if isinstance(each, np.ndarray) and each.dtype != np.uint8]
    low = min((float(np.nanmin(each)) for each in floats), default=0.0)
    high = max((float(np.nanmax(each)) for each in floats), default=1.0)
    if low >= 0 and high <= 255:
        low, high = 0.0, 1.0 if high <= 1 else 255.0
    pictures = []
    for each in arrays:
        if isinstance(each, np.ndarray):
            if each.dtype != np.uint8:
                each = np.rint(np.nan_to_num((each - low) / ((high - low) or 1)) * 255).clip(0, 255).astype(np.uint8)
            each = Image.fromarray(each[..., 0] if each.shape[2] == 1 else each)
        pictures.append(each.convert("RGB"))
    return pictures


def _opened(path: str | os.PathLike[str]) -> Image.Image:
    """The image in a file."""
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        reason = getattr(error, "strerror", None) or "it is no image that Pillow reads"
        raise ValueError(f"the image {os.fspath(path)} cannot be read: {reason}") from error


def _pixels(image: Any) -> np.ndarray:
    """An image as uint8 or float64 [H, W, C]."""
    pixels = np.asarray(image)
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 3, 4) or not pixels.size:
        raise ValueError(f"an image has the shape {list(np.shape(image))}; it must be [height, width, 1, 3 or 4]")
    return pixels if pixels.dtype == np.uint8 else pixels.astype(np.float64)


def as_map(values: Any) -> np.ndarray:
    """A map as float32 [H, W].

    Raises:
      ValueError: it has another shape, or no pixels.
    """
    array = np.asarray(values)
    array = array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array
    if array.ndim != 2 or not array.size:
        raise ValueError(f"a map has the shape {list(np.shape(values))}; it must be [height, width]")
    return array.astype(np.float32)


def resample_map(values: np.ndarray, size: tuple[int, int], *, smooth: bool = True) -> np.ndarray:
    """A map float32 [h, w] at another size (height, width). Its outer edges stay the image's edges.

    So cell i of h covers the rows i/h to (i+1)/h of the image, whatever the two sizes are. `smooth` interpolates
    between the centres of the cells, and averages where the map is reduced; otherwise each pixel has the value of its
    cell.
    """
    if values.shape == size:
        return values
    filter = Image.Resampling.BILINEAR if smooth else Image.Resampling.NEAREST
    finite = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
    return np.asarray(Image.fromarray(finite).resize(size[::-1], filter))


def resize_picture(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """A picture at another size (height, width). Enlarged, its pixels stay squares that can be seen."""
    if picture.size == size[::-1]:
        return picture
    larger = size[0] >= picture.height and size[1] >= picture.width
    return picture.resize(size[::-1], Image.Resampling.NEAREST if larger else Image.Resampling.BOX)


def panel_size(size: tuple[int, int], side: int) -> tuple[int, int]:
    """The size (height, width) in which a picture of `size` is drawn, with about `side` pixels as its longer side.

    A small picture is enlarged by a whole number, so that all its pixels are drawn equally large.
    """
    longer = max(size)
    if longer <= side:
        return size[0] * (side // longer), size[1] * (side // longer)
    height, width = (max(1, math.floor(each * side / longer + 0.5)) for each in size)
    return height, width


def draw_map(values: np.ndarray, scale: Scale, size: tuple[int, int], *, smooth: bool = True) -> Image.Image:
    """A map float32 [h, w] in the colours of a scale, at a size (height, width)."""
    return Image.fromarray(scale.colours(resample_map(values, size, smooth=smooth)))


def draw_overlay(
    picture: Image.Image, values: np.ndarray, scale: Scale, *, opacity: float = OPACITY, smooth: bool = True
) -> Image.Image:
    """A map float32 [h, w] over its image, at the picture's size.

    A colour covers the image the more, the stronger the evidence is: not at all where there is none, and by `opacity`
    at the end of the scale.
    """
    resampled = resample_map(values, (picture.height, picture.width), smooth=smooth)
    cover = opacity * scale.strengths(resampled)[..., None]
    pixels = np.asarray(picture.convert("RGB"), np.float64)
    return Image.fromarray(np.rint(pixels + (scale.colours(resampled) - pixels) * cover).astype(np.uint8))
