"""How an image gets the size that the model takes."""

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
    """How an image of any size gets the size that the model takes.

    An image that has the size it would be resampled to keeps its pixels, bit for bit. All filters but `nearest` are
    Pillow's, which average over the source pixels when they shrink; `tf.image.resize` by default does not.

    Attributes:
      shape: (height, width) in pixels that come out; None stands for the model's input, filled in by `for_input`.
      how: `stretch` resizes straight to `shape`, whatever the aspect ratio. `center_crop` resizes the short side to
        `short_side` and cuts `shape` out of the middle, with torchvision's roundings: the long side is
        int(short_side · long / short), rounded down, and the crop begins at round((side − crop) / 2), halves to the
        even number.
      short_side: pixels, at least the larger side of `shape`; None: round(max(shape) / 0.875), for 224 the usual 256.
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
            raise ValueError(f"short_side is {self.short_side}, but how: stretch has none; it belongs to center_crop")
        if self.short_side < max(self.shape or (1,)):
            raise ValueError(f"short_side is {self.short_side}, less than the crop's larger side, {self.shape}")

    def for_input(self, shape: tuple[int, int]) -> Resize:
        """This, with `shape` (height, width) where it leaves the shape to the model."""
        return self if self.shape is not None else dataclasses.replace(self, shape=shape)


def resized(image: Image.Image, resize: Resize) -> Image.Image:
    """The image at the size that `resize` says; `resize` has a shape.

    Raises:
      UndecodableImage: the image is too large once it is resized.
    """
    assert resize.shape is not None
    height, width = resize.shape
    if resize.how == "stretch":
        return image.resize((width, height), FILTERS[resize.filter])
    short_side = resize.short_side or round(max(resize.shape) / 0.875)
    short = min(image.size)
    resized_width, resized_height = (int(short_side * side / short) for side in image.size)
    # A strip of one pixel's height can be small as it comes and huge when it is as high as the model wants.
    check_size(resized_width, resized_height)
    left, top = round((resized_width - width) / 2), round((resized_height - height) / 2)
    resized = image.resize((resized_width, resized_height), FILTERS[resize.filter])
    return resized.crop((left, top, left + width, top + height))
