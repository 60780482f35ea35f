"""Places in an image that can be covered or pasted: boxes, the coarse grid of windows, and their names in words."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

WINDOWS_A_SIDE = 6  # a window's side is this fraction of the image's
POSITIONS_A_SIDE = 11  # windows overlap by about half

_ROWS, _COLUMNS = ("top", "centre", "bottom"), ("left", "centre", "right")


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class Box:
    """A rectangle of pixels: rows [top, bottom) and columns [left, right)."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def slices(self) -> tuple[slice, slice]:
        return slice(self.top, self.bottom), slice(self.left, self.right)

    @property
    def area(self) -> int:
        """Its pixels."""
        return (self.bottom - self.top) * (self.right - self.left)

    def overlaps(self, other: Box) -> bool:
        """Whether the two share a pixel."""
        return (
            self.top < other.bottom and other.top < self.bottom and self.left < other.right and other.left < self.right
        )


@dataclasses.dataclass(frozen=True, slots=True)
class Grid:
    """The windows that locating covers, one after the other, row by row from the top left.

    Attributes:
      height, width: the image's, in pixels.
    """

    height: int
    width: int

    @property
    def window(self) -> tuple[int, int]:
        """Height and width of a window in pixels: about a sixth of the image's."""
        return max(1, round(self.height / WINDOWS_A_SIDE)), max(1, round(self.width / WINDOWS_A_SIDE))

    @property
    def shape(self) -> tuple[int, int]:
        """The number of windows down and across: 11 × 11, or fewer where an image has fewer places."""
        (height, width), most = self.window, POSITIONS_A_SIDE
        return min(most, self.height - height + 1), min(most, self.width - width + 1)

    @property
    def whole(self) -> Box:
        """The image."""
        return Box(0, 0, self.height, self.width)

    @property
    def boxes(self) -> tuple[Box, ...]:
        """All windows."""
        return _boxes(self)

    def __len__(self) -> int:
        return self.shape[0] * self.shape[1]


@functools.lru_cache(maxsize=8)
def _boxes(grid: Grid) -> tuple[Box, ...]:
    height, width = grid.window
    tops = np.rint(np.linspace(0, grid.height - height, grid.shape[0])).astype(int).tolist()
    lefts = np.rint(np.linspace(0, grid.width - width, grid.shape[1])).astype(int).tolist()
    return tuple(Box(top, left, top + height, left + width) for top in tops for left in lefts)


def inside(grid: Grid, share: float) -> Box:
    """The image without a margin on each side; `share` is the margin's width as a part of the side."""
    y, x = max(1, round(grid.height * share)), max(1, round(grid.width * share))
    return Box(y, x, max(y + 1, grid.height - y), max(x + 1, grid.width - x))


def ring(outer: Box, inner: Box) -> tuple[Box, ...]:
    """The four boxes of what is in a box and not in one inside it: above, below, left and right."""
    return (
        Box(outer.top, outer.left, inner.top, outer.right),
        Box(inner.bottom, outer.left, outer.bottom, outer.right),
        Box(inner.top, outer.left, inner.bottom, inner.left),
        Box(inner.top, inner.right, inner.bottom, outer.right),
    )


def mask_of(boxes: tuple[Box, ...], height: int, width: int) -> np.ndarray:
    """The pixels of some boxes: bool [height, width]."""
    mask = np.zeros((height, width), bool)
    for box in boxes:
        mask[box.slices] = True
    return mask


def in_words(box: Box, height: int, width: int) -> str:
    """Where a box lies, by its centre in thirds of the image: `bottom right`, `top`, `left`, `centre`."""
    row = _ROWS[min(2, 3 * (box.top + box.bottom) // (2 * height))]
    column = _COLUMNS[min(2, 3 * (box.left + box.right) // (2 * width))]
    if row == "centre":
        return column
    return row if column == "centre" else f"{row} {column}"
