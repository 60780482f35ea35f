"""Findings: what is to be tested, for one class."""

from __future__ import annotations

import dataclasses
from typing import Literal, TypeAlias, get_args

import numpy as np

from transforms.probing.places import Box, Grid, frame

# `place`: one place in all images. `look`: wherever it was found in an image. `border`: the whole frame of the image.
Kind: TypeAlias = Literal["place", "look", "border"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """Something that a class may rest on.

    Attributes:
      class_index: the class.
      kind: what is tested.
      boxes: the pixels; none for a `look`, which is at another place in each image.
    """

    class_index: int
    kind: Kind
    boxes: tuple[Box, ...]


def located_findings(class_index: int, drops: np.ndarray, grid: Grid) -> list[Finding]:
    """The findings of a class whose evidence was located: one of each kind.

    All classes get the same ones, the innocent ones too. They are what the others are compared with.

    Args:
      class_index: the class.
      drops: float32 [n, P], what covering each window costs in n images.
      grid: the windows.
    """
    peak = grid.boxes[int(drops.mean(axis=0).argmax())]
    return [
        Finding(class_index, "place", (peak,)),
        Finding(class_index, "look", ()),
        Finding(class_index, "border", frame(grid.height, grid.width)),
    ]


def elsewhere(finding: Finding, grid: Grid, generator: np.random.Generator) -> tuple[Box, ...]:
    """As much of the image at another place, for comparison.

    For a frame, it is the ring inside it. For a window, it is a window that does not touch it, chosen at random.
    """
    if finding.kind == "border":
        return _ring(grid)
    (own,) = finding.boxes
    free = [box for box in grid.boxes if not box.overlaps(own)]
    return (free[int(generator.integers(len(free)))],) if free else _ring(grid)


def _ring(grid: Grid) -> tuple[Box, ...]:
    """The frame of what is inside the frame: as wide."""
    outer = frame(grid.height, grid.width)
    y, x = outer[0].bottom, outer[2].right
    inside = (grid.height - 2 * y, grid.width - 2 * x)
    top, left, bottom, right = y, x, y + inside[0], x + inside[1]
    return (
        Box(top, left, top + y, right),
        Box(bottom - y, left, bottom, right),
        Box(top + y, left, bottom - y, left + x),
        Box(top + y, right - x, bottom - y, right),
    )
