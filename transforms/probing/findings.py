"""Findings: what is to be tested for one class, and what it is compared with."""

from __future__ import annotations

import dataclasses
from typing import Literal, TypeAlias, get_args

import numpy as np

from transforms.probing.places import Box, Grid, in_words, inside, ring

# `place`: a window. `edge`: a band along one edge. `border`: all four edges. `surroundings`: all but the middle.
# `look`: wherever the evidence was found in an image.
Kind: TypeAlias = Literal["place", "edge", "border", "surroundings", "look"]
KINDS: tuple[Kind, ...] = get_args(Kind)

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


def located_findings(class_index: int, drops: np.ndarray, grid: Grid) -> tuple[Finding, ...]:
    """The findings of a class whose evidence was located: one of each kind.

    All classes get the same ones, the innocent ones too. They are what the others are compared with.

    Args:
      class_index: the class.
      drops: float32 [n, P], what covering each window costs in n images.
      grid: the windows.
    """
    mean = drops.mean(axis=0, dtype=np.float64)
    peak = grid.boxes[int(mean.argmax())]
    elsewhere = tuple((box,) for box in grid.boxes if not box.overlaps(peak))
    whole, margin, middle = grid.whole, inside(grid, BORDER), inside(grid, SURROUNDINGS)
    return (
        Finding(class_index, "place", in_words(peak, grid.height, grid.width), (peak,), elsewhere),
        _edge(class_index, mean.reshape(grid.shape), grid),
        Finding(class_index, "border", "border", ring(whole, margin), (ring(margin, inside(grid, 2 * BORDER)),)),
        Finding(class_index, "surroundings", "surroundings", ring(whole, middle), ((middle,),)),
        Finding(class_index, "look", None, (), ()),
    )


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
