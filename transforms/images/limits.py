"""Refuses images that cannot be decoded or are too large."""

from __future__ import annotations

from PIL import Image


class UndecodableImage(ValueError):
    """The bytes cannot be decoded as an image. The message says what is wrong in one sentence."""


def check_size(width: int, height: int) -> None:
    """Refuses an image that would fill the memory.

    Pillow itself only warns, up to twice its limit.

    Raises:
      UndecodableImage: the image has more pixels than Pillow's `Image.MAX_IMAGE_PIXELS`.
    """
    if Image.MAX_IMAGE_PIXELS is not None and width * height > Image.MAX_IMAGE_PIXELS:
        raise UndecodableImage(f"the image of {width}×{height} pixels is over the limit of {Image.MAX_IMAGE_PIXELS}")
