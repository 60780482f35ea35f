"""Holds the score of each class against what was planted in it."""

from __future__ import annotations

import dataclasses

import numpy as np

from benchmarks.shortcuts.measuring import Measured
from benchmarks.shortcuts.scores import Scores, parts_of, unit
from transforms.statistics import COARSE, Moments
from transforms.statistics.standout import standouts


@dataclasses.dataclass(frozen=True, slots=True)
class Verdict:
    """A class and its score.

    Attributes:
      score: of the class; 0 if flags were asked for and it has none.
      kind, share: of its shortcut; None and 0 for an innocent class.
      used: whether the model uses it.
      at_place: whether the score's cell is at most one cell from the shortcut; None if that has no place.
    """

    score: float
    kind: str | None
    share: float
    used: bool
    at_place: bool | None


def verdicts(measured: Measured, scores: Scores | None = None, flags: np.ndarray | None = None) -> list[Verdict]:
    """One verdict for each class with enough maps: by scores, or by the flags of coarse maps [N, 14, 14]."""
    case = measured.case
    if scores is None:
        scores = _of_flags(flags, measured)
    planted = {plant.target: (plant, truth) for plant, truth in zip(case.plants, measured.truths, strict=True)}
    found = []
    for k in range(case.classes):
        if np.isnan(scores.values[k]):
            continue
        if k not in planted:
            found.append(Verdict(float(scores.values[k]), None, 0.0, False, None))
            continue
        plant, truth = planted[k]
        cells, (y, x) = plant.cells(COARSE), scores.peaks[k]
        at_place = None if cells is None or y < 0 else bool(cells[max(0, y - 1) : y + 2, max(0, x - 1) : x + 2].any())
        found.append(Verdict(float(scores.values[k]), plant.kind, plant.share, truth.used_by(k), at_place))
    return found


def _of_flags(maps: np.ndarray, measured: Measured) -> Scores:
    predicted, classes = measured.evidence.predicted, measured.case.classes
    values, peaks = np.zeros(classes), np.full((classes, 2), -1)
    by_class = [{k: Moments.of(each[predicted == k]) for k in range(classes)} for each in (unit(maps), maps)]
    # As in a run: what the whole class has, then what parts of other classes have. Their scores are not on one scale.
    found = standouts(*by_class)
    speaking = measured.evidence.positive[0]
    for rank, each in enumerate([*found, *parts_of(np.maximum(maps, 0), speaking, predicted)][::-1], 1):
        if each.effect is not None or not any(each.class_index == other.class_index for other in found):
            values[each.class_index] = rank
            peaks[each.class_index] = int(each.y * COARSE), int(each.x * COARSE)
    return Scores(values, peaks)
