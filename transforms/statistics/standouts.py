"""Finds the classes whose evidence stands out somewhere in the image, and says where in words."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from transforms.statistics.accumulators import Moments
from transforms.statistics.effects import FALSE_DISCOVERIES, Effects, effects

# The least effect that is worth a look, and the least lead over the class that comes second in the same cell. Smaller
# differences are common among classes without a shortcut: objects have places. docs/shortcuts.md shows the choice.
LEAST_EFFECT = 0.6
LEAST_GAP = 0.3

_ROWS, _COLUMNS = ("top", "", "bottom"), ("left", "", "right")


@dataclasses.dataclass(frozen=True, slots=True)
class Standout:
    """A class with more evidence at a place than the other classes have there.

    Attributes:
      class_index: the class.
      images: the number of its maps.
      place: where, in words, such as "bottom right".
      y, x: the centre of the cell with the largest effect, as fractions of the image's height and width.
      share: the part of the class's evidence that lies at the place.
      others: the same of the other classes, on average.
      effect: the difference in the cell with the largest one, in the other classes' standard deviations.
      gap: the same to the class that comes second there.
      cells: bool [h, w], the place.
    """

    class_index: int
    images: int
    place: str
    y: float
    x: float
    share: float
    others: float
    effect: float
    gap: float
    cells: np.ndarray


def standouts(
    moments: Mapping[int, Moments],
    rate: float = FALSE_DISCOVERIES,
    least_effect: float = LEAST_EFFECT,
    least_gap: float = LEAST_GAP,
) -> list[Standout]:
    """The classes that stand out, the largest effect first; each with the place where it stands out most.

    Args:
      moments: for each class the moments of its coarse maps [h, w] of unit mass.
      rate: the share of the flags that may be false if classes differ by chance alone.
      least_effect, least_gap: as `LEAST_EFFECT` and `LEAST_GAP`. With two classes, the gap is the effect.
    """
    found = effects(moments)
    certain = found.discovered(rate) & (found.effect >= least_effect)
    standing = certain & (found.gap >= least_gap)
    chosen = [_standout(found, k, certain[k], standing[k]) for k in range(len(found.classes)) if standing[k].any()]
    return sorted(chosen, key=lambda standout: -standout.effect)


def _standout(found: Effects, k: int, certain: np.ndarray, standing: np.ndarray) -> Standout:
    height, width = certain.shape
    y, x = np.unravel_index(np.where(standing, found.effect[k], -np.inf).argmax(), certain.shape)
    cells = _around(certain & (found.effect[k] >= found.effect[k, y, x] / 2), int(y), int(x))
    return Standout(
        class_index=int(found.classes[k]),
        images=int(found.images[k]),
        place=place_of(cells),
        y=(int(y) + 0.5) / height,
        x=(int(x) + 0.5) / width,
        share=float(found.means[k][cells].sum()),
        others=float(found.others[k][cells].sum()),
        effect=float(found.effect[k, y, x]),
        gap=float(found.gap[k, y, x]),
        cells=cells,
    )


def _around(cells: np.ndarray, y: int, x: int) -> np.ndarray:
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
    """Where cells [h, w] lie, in words: "bottom right", "top", "centre", "along the border", "most of the image"."""
    height, width = cells.shape
    if cells.mean() > 0.5:
        return "most of the image"
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
