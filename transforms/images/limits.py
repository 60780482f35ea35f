"""Images that cannot be decoded, and images that are too large."""

from __future__ import annotations

from PIL import Image


class UndecodableImage(ValueError):
    """The bytes are no image that can be decoded: one sentence that says what is wrong with them."""


def check_size(width: int, height: int) -> None:
    """Refuses what would fill the memory: Pillow itself only warns up to twice its limit."""
    if Image.MAX_IMAGE_PIXELS is not None and width * height > Image.MAX_IMAGE_PIXELS:
        raise UndecodableImage(f"the image of {width}×{height} pixels is over the limit of {Image.MAX_IMAGE_PIXELS}")
