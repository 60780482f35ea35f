"""Encodes a small copy of the image that the model saw, for people to look at."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image

# Up to this longer side the copy is lossless: every pixel is seen, and it is still small. Beyond, it is lossy.
# docs/performance.md has the sizes and times from which this, the quality and the method were chosen.
LOSSLESS_SIDE = 48


def encode_thumbnail(pixels: np.ndarray, longest: int) -> bytes | None:
    """A copy of an image, reduced so that its longer side is at most `longest`. It is never enlarged.

    Up to `LOSSLESS_SIDE` it is a PNG file, beyond that WebP. WebP has no grey: it stores three equal channels.

    Args:
      pixels: uint8 [height, width, channels].
      longest: pixels, at least 1.

    Returns:
      The file's bytes; None if the image has neither 1 nor 3 channels.
    """
    height, width, channels = pixels.shape
    if channels not in (1, 3):
        return None
    side = max(height, width)
    if side <= min(longest, LOSSLESS_SIDE):
        return _png(pixels)
    image = Image.fromarray(pixels[..., 0] if channels == 1 else pixels)
    if side > longest:
        size = (max(1, round(width * longest / side)), max(1, round(height * longest / side)))
        image = image.resize(size, Image.Resampling.BILINEAR)
    if longest <= LOSSLESS_SIDE:
        return _png(np.asarray(image).reshape(*reversed(image.size), channels))
    sink = io.BytesIO()
    image.save(sink, "WEBP", quality=80, method=2)
    return sink.getvalue()


def _png(pixels: np.ndarray) -> bytes:
    """A PNG file that is not compressed: Parquet compresses it with the other images of its page.

    For an image of 32², Pillow's PNG takes 140 us and its lossless WebP 110 us. This takes 10, and Parquet's zstd 5.
    Rows are stored as differences from the pixel to the left, which compress better.
    """
    height, width, channels = pixels.shape
    rows = np.empty((height, 1 + width * channels), np.uint8)
    flat = pixels.reshape(height, -1)
    rows[:, 0] = 1  # the filter "Sub"
    rows[:, 1 : 1 + channels] = flat[:, :channels]
    np.subtract(flat[:, channels:], flat[:, :-channels], out=rows[:, 1 + channels :])
    header = struct.pack(">IIBBBBB", width, height, 8, 0 if channels == 1 else 2, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 0)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in parts)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
