"""Encodes a small copy of the image that the model saw, for people to look at."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

# Up to this longer side the copy is lossless: every pixel is seen, and it is still small. Beyond, it is lossy.
# docs/performance.md has the sizes and times from which this, the quality and the methods were chosen.
LOSSLESS_SIDE = 48


def encode_thumbnail(pixels: np.ndarray, longest: int) -> bytes | None:
    """A WebP file of an image, reduced so that its longer side is at most `longest`. It is never enlarged.

    WebP has no grey: a grey image is stored with three equal channels.

    Args:
      pixels: uint8 [height, width, channels].
      longest: pixels, at least 1.

    Returns:
      The file's bytes; None if the image has neither 1 nor 3 channels.
    """
    height, width, channels = pixels.shape
    if channels not in (1, 3):
        return None
    image = Image.fromarray(pixels[..., 0] if channels == 1 else pixels)
    side = max(height, width)
    if side > longest:
        smaller = tuple(max(1, round(each * longest / side)) for each in (width, height))
        image = image.resize(smaller, Image.Resampling.BILINEAR)
    sink = io.BytesIO()
    if max(image.size) <= LOSSLESS_SIDE:
        image.save(sink, "WEBP", lossless=True, quality=0, method=0)
    else:
        image.save(sink, "WEBP", quality=80, method=2)
    return sink.getvalue()
