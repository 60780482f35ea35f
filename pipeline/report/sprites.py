"""Joins the example images of a class into one JPEG, so that opening a class loads one file."""

from __future__ import annotations

import dataclasses
import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError

# The sides of a cell are multiples of this: a block of JPEG never crosses from one image into the next.
_BLOCK = 8

# Small images keep more detail: the page shows each of their pixels as a square.
_SMALL_SIDE = 64
_QUALITY, _QUALITY_OF_SMALL = 86, 95


@dataclasses.dataclass(frozen=True, slots=True)
class Sprite:
    """Several images in one JPEG: cells of one size, row by row.

    Attributes:
      jpeg: the file.
      columns: cells in a row.
      cell_width, cell_height: pixels of a cell.
      sizes: width and height of each image, which begins at its cell's top left; None for an image that is missing.
    """

    jpeg: bytes
    columns: int
    cell_width: int
    cell_height: int
    sizes: tuple[tuple[int, int] | None, ...]

    def value(self) -> dict[str, Any]:
        """How the page finds the images in the file."""
        return {"columns": self.columns, "cell": [self.cell_width, self.cell_height], "sizes": self.sizes}


def make_sprite(images: Sequence[bytes | None]) -> Sprite | None:
    """Joins encoded images into a sprite; None if none of them can be decoded."""
    decoded = [None if image is None else _decode(image) for image in images]
    present = [pixels for pixels in decoded if pixels is not None]
    if not present:
        return None
    height, width = (_BLOCK * math.ceil(max(pixels.shape[axis] for pixels in present) / _BLOCK) for axis in (0, 1))
    columns = math.ceil(math.sqrt(len(decoded) * height / width))
    canvas = np.full((math.ceil(len(decoded) / columns) * height, columns * width, 3), 128, np.uint8)
    for number, pixels in enumerate(decoded):
        if pixels is not None:
            top, left = number // columns * height, number % columns * width
            # An image that is smaller than its cell goes on to the cell's end with its last row and column. The grey
            # beside it would bleed into the blocks that both share.
            margin = ((0, height - pixels.shape[0]), (0, width - pixels.shape[1]), (0, 0))
            canvas[top : top + height, left : left + width] = np.pad(pixels, margin, mode="edge")
    quality = _QUALITY_OF_SMALL if max(height, width) <= _SMALL_SIDE else _QUALITY
    # 444: colours are as sharp as brightness, so that a coloured mark stays in its pixels.
    jpeg = simplejpeg.encode_jpeg(canvas, quality, "RGB", "444")
    sizes = tuple(None if pixels is None else (pixels.shape[1], pixels.shape[0]) for pixels in decoded)
    return Sprite(jpeg, columns, width, height, sizes)


def _decode(image: bytes) -> np.ndarray | None:
    """The pixels uint8 [H, W, 3]; None for an image that cannot be decoded."""
    try:
        with Image.open(io.BytesIO(image)) as opened:
            return np.asarray(opened.convert("RGB"))
    except (OSError, UnidentifiedImageError, ValueError):
        return None
