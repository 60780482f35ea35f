"""Finds the classes whose evidence stands out somewhere in the image, and says where in words."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from transforms.statistics.accumulators import Moments
from transforms.statistics.effects import FALSE_DISCOVERIES, discoveries, effects

# The least effect that is worth a look, and the least lead over the class that comes second in the same cell. Smaller
# ones are common among classes without a shortcut, since objects have places: docs/shortcuts.md shows how common.
LEAST_EFFECT = 0.7
LEAST_GAP = 0.6

_ROWS, _COLUMNS = ("top", "", "bottom"), ("left", "", "right")


@dataclasses.dataclass(frozen=True, slots=True)
class Standout:
    """A class with more evidence at a place than the other classes have there.

    Attributes:
      class_index: the class.
      images: the number of its maps.
      place: where, in words, such as "bottom right".
      y, x: the centre of the cell that stands out most, as fractions of the image's height and width.
      share: the part of the class's evidence that lies at the place. Of a part of a class: the part of its images that
        exceed the other classes' images in that cell.
      others: the same of the other classes, on average.
      effect: how far the class lies above the other classes' mean in that cell, in the other classes' standard
        deviations within a class. None for a part of a class.
      gap: how far it lies above the class that comes second there. Of a part of a class: in parts of the images.
      cells: bool [h, w], the place.
    """

    class_index: int
    images: int
    place: str
    y: float
    x: float
    share: float
    others: float
    effect: float | None
    gap: float
    cells: np.ndarray


def standouts(
    shares: Mapping[int, Moments],
    evidence: Mapping[int, Moments],
    rate: float = FALSE_DISCOVERIES,
    least_effect: float = LEAST_EFFECT,
    least_gap: float = LEAST_GAP,
) -> list[Standout]:
    """The classes that stand out, the largest effect first; each with the place where it stands out most.

    A class stands out in a cell if it has more there both as a share of its evidence and in all. One of the two alone
    is common: a class whose logit is large has more evidence everywhere, and one with little evidence has larger shares
    here and there. Effect and gap are the smaller ones of the two, and the p-value is the larger one, which is a test
    of both together (Berger 1982).

    Args:
      shares, evidence: for each class the moments of its coarse maps [h, w], of unit mass and in their own unit.
      rate: the share of the flags that may be false if classes differ by chance alone.
      least_effect, least_gap: as `LEAST_EFFECT` and `LEAST_GAP`. With two classes, the gap is the effect.
    """
    share, amount = effects(shares), effects(evidence)
    if not len(share.classes):
        return []
    effect, gap = np.minimum(share.effect, amount.effect), np.minimum(share.gap, amount.gap)
    certain = discoveries(np.maximum(share.p_values, amount.p_values), rate) & (effect >= least_effect)
    found: list[tuple[float, Standout]] = []
    for k in np.flatnonzero((certain & (gap >= least_gap)).any(axis=(1, 2))):
        y, x = np.unravel_index(np.where(certain[k] & (gap[k] >= least_gap), effect[k], -np.inf).argmax(), gap[k].shape)
        cells = around(certain[k] & (effect[k] >= effect[k, y, x] / 2), int(y), int(x))
        standout = Standout(
            class_index=int(share.classes[k]),
            images=int(share.images[k]),
            place=place_of(cells),
            y=float((y + 0.5) / cells.shape[0]),
            x=float((x + 0.5) / cells.shape[1]),
            share=float(share.means[k][cells].sum()),
            others=float(share.others[k][cells].sum()),
            effect=float(effect[k, y, x]),
            gap=float(gap[k, y, x]),
            cells=cells,
        )
        found.append((float(effect[k, y, x]), standout))
    return [standout for _, standout in sorted(found, key=lambda each: -each[0])]


def around(cells: np.ndarray, y: int, x: int) -> np.ndarray:
    """The cells [h, w] that hang together with the cell (y, x), by their sides."""
    reached = np.zeros_like(cells)
    reached[y, x] = True
    while True:
        wider = reached.copy()
        wider[1:] |= reached[:-1]
        wider[:-1] |= reached[1:]
        wider[:, 1:] |= reached[:, :-1]
        wider[:, :-1] |= reached[:, 1:]
        wider &= cells | reached
        if np.array_equal(wider, reached):
            return reached
        reached = wider


def place_of(cells: np.ndarray) -> str:
    """Where cells [h, w] lie, in words: "bottom right", "top", "centre", "along the border", and the like."""
    height, width = cells.shape
    if cells.mean() > 0.5:
        return "over most of the image"
    edge = np.ones_like(cells)
    edge[1:-1, 1:-1] = False
    sides = [cells[0].mean(), cells[-1].mean(), cells[:, 0].mean(), cells[:, -1].mean()]
    if sum(side > 0.5 for side in sides) >= 3 and (cells & edge).sum() > 0.5 * cells.sum():
        return "along the border"
    y, x = np.argwhere(cells).mean(axis=0) + 0.5
    words = f"{_ROWS[_third(y / height)]} {_COLUMNS[_third(x / width)]}".strip()
    return words or "centre"


def _third(fraction: float) -> int:
    return min(int(3 * fraction), 2)
