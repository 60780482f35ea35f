"""Resizes images to the size that the model takes."""

from __future__ import annotations

import dataclasses
from typing import Literal

from PIL import Image

from transforms.images.limits import check_size

FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


@dataclasses.dataclass(frozen=True, slots=True)
class Resize:
    """How an image of any size is resized to the model's size.

    An image that already has the right size keeps its pixels, bit for bit. All filters but `nearest` are Pillow's. They
    average over the source pixels when they shrink an image; `tf.image.resize` does not by default.

    Attributes:
      shape: (height, width) of the result in pixels. None is the model's input size; `for_input` fills it in.
      how: `stretch` resizes to `shape` and ignores the aspect ratio. `center_crop` resizes the short side to
        `short_side` and cuts `shape` out of the middle. It rounds as torchvision does: the long side is
        int(short_side · long / short), rounded down. The crop begins at round((side − crop) / 2); halves are rounded to
        the even number.
      short_side: pixels, at least the larger side of `shape`. None is round(max(shape) / 0.875), the usual 256 for 224.
      filter: one of `FILTERS`.
    """

    shape: tuple[int, int] | None = None
    how: Literal["stretch", "center_crop"] = "stretch"
    short_side: int | None = None
    filter: Literal["bilinear", "bicubic", "nearest", "lanczos", "box"] = "bilinear"

    def __post_init__(self) -> None:
        if self.how not in ("stretch", "center_crop"):
            raise ValueError(f"how is {self.how!r}; it must be stretch or center_crop")
        if self.filter not in FILTERS:
            raise ValueError(f"filter is {self.filter!r}; it must be one of {', '.join(FILTERS)}")
        if self.shape is not None and (len(self.shape) != 2 or min(self.shape) < 1):
            raise ValueError(f"shape is {self.shape}; it must be a height and a width in pixels")
        if self.short_side is None:
            return
        if self.how == "stretch":
            raise ValueError(f"short_side is {self.short_side}, but how is stretch; short_side belongs to center_crop")
        if self.short_side < max(self.shape or (1,)):
            raise ValueError(f"short_side is {self.short_side}, less than the crop's larger side, {self.shape}")

    def for_input(self, shape: tuple[int, int]) -> Resize:
        """The same with `shape` (height, width), if its own shape is None."""
        return self if self.shape is not None else dataclasses.replace(self, shape=shape)


def resized(image: Image.Image, resize: Resize) -> Image.Image:
    """Resizes an image. `resize` must have a shape.

    Raises:
      UndecodableImage: the resized image is too large.
    """
    assert resize.shape is not None
    height, width = resize.shape
    if resize.how == "stretch":
        return image.resize((width, height), FILTERS[resize.filter])
    short_side = resize.short_side or round(max(resize.shape) / 0.875)
    short = min(image.size)
    resized_width, resized_height = (int(short_side * side / short) for side in image.size)
    # A strip one pixel high may be small in the file and huge once it is as high as the model needs.
    check_size(resized_width, resized_height)
    left, top = round((resized_width - width) / 2), round((resized_height - height) / 2)
    resized = image.resize((resized_width, resized_height), FILTERS[resize.filter])
    return resized.crop((left, top, left + width, top + height))
