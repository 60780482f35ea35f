"""Finds what only a part of a class has: images with more evidence at a place than nearly all images of other classes.

The mean of a class hardly shows what a third of its images have. Their number above a high quantile of the other
classes' images does. The quantile comes from a uniform sample of all images, and a second reading counts.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence

import apache_beam as beam
import numpy as np

from transforms.statistics.accumulators import Sample
from transforms.statistics.effects import FALSE_DISCOVERIES, LEAST_IMAGES, discoveries
from transforms.statistics.figures import COARSE
from transforms.statistics.standout import Standout, around, place_of

# An image exceeds the other classes if its share of evidence in a cell is above all but this part of their images.
TAIL = 0.01

# The least part of a class's images that must exceed the other classes in a cell, and the least lead over the class
# that comes second in it. docs/shortcuts.md shows how common smaller ones are among classes without a shortcut.
LEAST_PART = 0.125
LEAST_LEAD = 0.06

# With fewer sampled images of other classes, their quantile is too uncertain.
_LEAST_OTHERS = 40


@dataclasses.dataclass(frozen=True, slots=True)
class Limits:
    """What a class's images are compared with.

    Attributes:
      limits: float32 [shares], each share's value of the `rank`-th of the others.
      rank: the rank of that image among the others, from the largest share.
      others: the number of sampled images of other classes.
    """

    limits: np.ndarray
    rank: int
    others: int


@dataclasses.dataclass(frozen=True, slots=True)
class Exceeding:
    """How many images of a class are above their limits. It adds up over units.

    Attributes:
      images: the number of the class's images.
      counts: int64 [shares], how many are above the limit of each share.
      rank, others: as in `Limits`.
    """

    images: int
    counts: np.ndarray
    rank: int
    others: int

    @classmethod
    def sum(cls, parts: Sequence[Exceeding]) -> Exceeding:
        """The sum of at least one part, all of one class and with the same limits."""
        images, counts = sum(each.images for each in parts), np.sum([each.counts for each in parts], axis=0)
        return dataclasses.replace(parts[0], images=images, counts=counts)


class MergeExceeding(beam.CombineFn):
    """Adds up the counts of one class, as a Beam combiner."""

    def create_accumulator(self) -> list[Exceeding]:
        return []

    def add_input(self, accumulator: list[Exceeding], element: Exceeding) -> list[Exceeding]:
        return [Exceeding.sum([*accumulator, element])]

    def merge_accumulators(self, accumulators: Iterable[list[Exceeding]]) -> list[Exceeding]:
        parts = [each for accumulator in accumulators for each in accumulator]
        return [Exceeding.sum(parts)] if parts else []

    def extract_output(self, accumulator: list[Exceeding]) -> Exceeding:
        return accumulator[0]


@dataclasses.dataclass(frozen=True, slots=True)
class Tops:
    """The largest shares of a sample of all images, from which the limits of every class follow.

    They are sorted once. Each unit asks for the limits of its classes, and sorting takes as long as explaining dozens
    of small images.

    Attributes:
      shares: float32 [depth, shares], from the largest down; as many as are left for any class without its own images.
      targets: int32 [depth, shares], the explained classes of the images that have them.
      images: the number of images in the sample of each class that is in it.
    """

    shares: np.ndarray
    targets: np.ndarray
    images: dict[int, int]

    @classmethod
    def of(cls, sample: Sample) -> Tops:
        """The largest shares of a sample whose rows are float32 [n, 1 + shares]: the class, then `shares_in_cells`."""
        targets, shares = sample.rows[:, 0].astype(np.int32), sample.rows[:, 1:]
        found, counts = np.unique(targets, return_counts=True)
        depth = max((_rank(len(targets) - own) + own for own in counts.tolist()), default=0)
        order = np.argsort(-shares, axis=0, kind="stable")[: max(depth, _rank(len(targets)))]
        images = dict(zip(found.tolist(), counts.tolist(), strict=True))
        return cls(np.take_along_axis(shares, order, axis=0), targets[order], images)

    def limits(self, class_index: int) -> Limits | None:
        """The limits of a class; None if the sample has too few images of other classes."""
        others = sum(self.images.values()) - self.images.get(class_index, 0)
        if others < _LEAST_OTHERS:
            return None
        rank = _rank(others)
        place = (np.cumsum(self.targets != class_index, axis=0) >= rank).argmax(axis=0)
        return Limits(np.take_along_axis(self.shares, place[None], axis=0)[0], rank, others)


def _rank(others: int) -> int:
    """The rank, from the largest, of the image of the others that is the limit."""
    return math.ceil(TAIL * others)


def exceeding(shares: np.ndarray, limits: Limits) -> Exceeding:
    """Counts the images of a class that are above the limits: shares are float32 [n, shares]."""
    return Exceeding(len(shares), (shares > limits.limits).sum(axis=0), limits.rank, limits.others)


def part_standouts(
    found: Mapping[int, Exceeding],
    rate: float = FALSE_DISCOVERIES / 2,
    least_part: float = LEAST_PART,
    least_lead: float = LEAST_LEAD,
) -> list[Standout]:
    """The classes of which a part stands out, the largest part first; each with the place where it does most.

    A part that stands out in the centre is none: there are the objects, some of which are larger or bolder than others.

    If all images come from one population, how many of a class's n images are above the r-th of m others is
    hypergeometric: at least k are, if at least k of the first k + r − 1 of all n + m images are of the class. That
    gives an exact p-value for each cell, and all are corrected together (Benjamini & Hochberg 1995).

    Args:
      found: of each class.
      rate: the share of the flags that may be false if classes differ by chance alone.
      least_part, least_lead: as `LEAST_PART` and `LEAST_LEAD`.
    """
    from scipy import stats  # which takes most of a second to import

    classes = sorted(c for c, each in found.items() if each.images >= LEAST_IMAGES)
    if not classes:
        return []
    parts = np.stack([found[c].counts / found[c].images for c in classes])
    second = np.sort(parts, axis=0)[-2] if len(classes) > 1 else np.zeros(parts.shape[1])
    lead = np.where(parts == parts.max(axis=0), parts - second, -np.inf)
    p_values = np.ones(parts.shape)
    # The other cells are no flags anyway; they count as tests.
    for k, cell in np.argwhere(parts >= least_part / 2):
        each = found[classes[k]]
        count = int(each.counts[cell])
        together, drawn = each.images + each.others, count + each.rank - 1
        p_values[k, cell] = stats.hypergeom.sf(count - 1, together, each.images, drawn)
    certain = discoveries(p_values, rate) & (parts >= least_part / 2)
    flagged = certain & (parts >= least_part) & (lead >= least_lead)
    standouts = []
    for k in np.flatnonzero(flagged.any(axis=1)):
        peak = int(np.where(flagged[k], parts[k], -np.inf).argmax())
        kind, (y, x) = peak // COARSE**2, divmod(peak % COARSE**2, COARSE)
        cells = (certain[k] & (parts[k] >= parts[k, peak] / 2)).reshape(-1, COARSE, COARSE)[kind]
        cells = around(cells, y, x)
        if place_of(cells) == "centre":
            continue
        others = np.delete(parts, k, axis=0)
        standouts.append(
            Standout(
                class_index=classes[k],
                images=found[classes[k]].images,
                place=place_of(cells),
                y=(y + 0.5) / COARSE,
                x=(x + 0.5) / COARSE,
                share=float(parts[k, peak]),
                others=float(others[:, peak].mean()) if len(others) else TAIL,
                effect=None,
                gap=float(lead[k, peak]),
                cells=cells,
            )
        )
    return sorted(standouts, key=lambda standout: -standout.share)
