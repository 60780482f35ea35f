"""Findings: what is to be tested for one class, and what it is compared with."""

from __future__ import annotations

import dataclasses
from typing import Literal, TypeAlias, get_args

import numpy as np

from transforms.probing.places import Box, Grid, in_words, inside, ring

# `place`: a window. `part`: a window outside the middle, for what only some images have. `edge`: a band along one edge.
# `border`: all four edges. `surroundings`: all but the middle. `look`: wherever the evidence was found in an image.
Kind: TypeAlias = Literal["place", "part", "edge", "border", "surroundings", "look"]
KINDS: tuple[Kind, ...] = get_args(Kind)

RARELY = 0.05  # the share of other classes' images that may lose as much
BORDER = 1 / 10  # of the side, as `border_mass` counts it
SURROUNDINGS = 1 / 4

_EDGES = ("top edge", "bottom edge", "left edge", "right edge")


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """Something that a class may rest on.

    Attributes:
      class_index: the class.
      kind: what is tested.
      place: where, in words; None for a `look`.
      boxes: the pixels; none for a `look`, which is at another place in each image.
      controls: other pixels of the same images to cover for comparison, of as much area where that is possible. If
        there are several, each image gets some of them at random.
    """

    class_index: int
    kind: Kind
    place: str | None
    boxes: tuple[Box, ...]
    controls: tuple[tuple[Box, ...], ...]

    @property
    def central(self) -> bool:
        """Whether it is where objects are: in the middle of the image."""
        return self.place == "centre"


def located_findings(class_index: int, drops: np.ndarray, others: np.ndarray, grid: Grid) -> tuple[Finding, ...]:
    """The findings of a class whose evidence was located: one of each kind.

    All classes get the same ones, the innocent ones too. They are what the others are compared with.

    Args:
      class_index: the class.
      drops: float32 [n, P], what covering each window costs in n images of the class.
      others: float32 [m, P], the same in images of the other classes, of which there may be none.
      grid: the windows.
    """
    mean = drops.mean(axis=0, dtype=np.float64)
    peak, part = grid.boxes[int(mean.argmax())], grid.boxes[part_window(drops, others, grid)]
    whole, margin, middle = grid.whole, inside(grid, BORDER), inside(grid, SURROUNDINGS)
    return (
        _window(class_index, "place", peak, grid),
        _window(class_index, "part", part, grid),
        _edge(class_index, mean.reshape(grid.shape), grid),
        Finding(class_index, "border", "border", ring(whole, margin), (ring(margin, inside(grid, 2 * BORDER)),)),
        Finding(class_index, "surroundings", "surroundings", ring(whole, middle), ((middle,),)),
        Finding(class_index, "look", None, (), ()),
    )


def _window(class_index: int, kind: Kind, box: Box, grid: Grid) -> Finding:
    """A window; its controls are all windows beside it."""
    elsewhere = tuple((other,) for other in grid.boxes if not other.overlaps(box))
    return Finding(class_index, kind, in_words(box, grid.height, grid.width), (box,), elsewhere)


def part_window(drops: np.ndarray, others: np.ndarray, grid: Grid) -> int:
    """The window outside the middle whose covering costs most images of the class more than other classes' images.

    The mean over a class hardly shows what a third of its images have. So images are counted: those that lose more than
    nearly all images (`RARELY`) of other classes lose by the same. In the middle are the objects. If several windows
    have as many, or there are no other images, the mean decides.

    Args:
      drops, others: as in `located_findings`.
    """
    outside = np.asarray([in_words(box, grid.height, grid.width) != "centre" for box in grid.boxes])
    count = (drops > np.quantile(others, 1 - RARELY, axis=0)).sum(axis=0) if len(others) else np.zeros(len(grid))
    return int(np.lexsort((drops.mean(axis=0), count, outside))[-1])


def _edge(class_index: int, mean: np.ndarray, grid: Grid) -> Finding:
    """The band, as wide as a window, along the edge where covering costs most. Its control is the band beside it."""
    number = int(np.argmax([mean[0].sum(), mean[-1].sum(), mean[:, 0].sum(), mean[:, -1].sum()]))
    y, x = grid.window
    height, width = grid.height, grid.width
    band, beside = (
        (Box(0, 0, y, width), Box(y, 0, min(2 * y, height), width)),
        (Box(height - y, 0, height, width), Box(max(height - 2 * y, 0), 0, height - y, width)),
        (Box(0, 0, height, x), Box(0, x, height, min(2 * x, width))),
        (Box(0, width - x, height, width), Box(0, max(width - 2 * x, 0), height, width - x)),
    )[number]
    return Finding(class_index, "edge", _EDGES[number], (band,), ((beside,),))
