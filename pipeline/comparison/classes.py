"""Sums a comparison up for each class, with intervals."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from scipy import stats

from pipeline.comparison.pairs import Pairs
from pipeline.comparison.schemas import AVERAGED
from transforms.statistics import COARSE, DATASET, FIGURES, Moments
from transforms.statistics.effects import mean_interval

_LEVEL = 0.95


@dataclasses.dataclass(slots=True)
class ComparedClass:
    """How the images of one class differ between two outputs.

    Attributes:
      name: the class's name; None if it has none.
      images: the number of images that the first output explains for the class.
      changed: how many of them have another prediction in the second output.
      labelled, correct_a, correct_b: how many have a label, and how many of these each output predicts correctly.
      averages: for each name in `AVERAGED`, the moments of the images that have the value.
      shift: the moments of the coarse maps' differences, second less first, [14, 14].
    """

    name: str | None
    images: int = 0
    changed: int = 0
    labelled: int = 0
    correct_a: int = 0
    correct_b: int = 0
    averages: list[Moments] = dataclasses.field(default_factory=lambda: [Moments.of(np.zeros(0)) for _ in AVERAGED])
    shift: Moments = dataclasses.field(default_factory=lambda: Moments.of(np.zeros((0, COARSE, COARSE))))

    def row(self, class_index: int) -> dict[str, Any]:
        """A row of `COMPARED_CLASSES`."""
        # Wilson's score interval (Wilson 1927), which also holds for few images and shares near 0 or 1.
        changed = stats.binomtest(self.changed, self.images).proportion_ci(_LEVEL, "wilson")
        row: dict[str, Any] = {
            "class": class_index,
            "class_name": self.name,
            **{name: getattr(self, name) for name in ("images", "changed", "labelled", "correct_a", "correct_b")},
            "changed_low": changed.low,
            "changed_high": changed.high,
        }
        for name, moments in zip(AVERAGED, self.averages, strict=True):
            low, high = mean_interval(moments, _LEVEL)
            mean = float(moments.mean) if moments.count else np.nan
            row |= {
                f"{name}_{what}": None if np.isnan(value) else float(value)
                for what, value in (("mean", mean), ("low", low), ("high", high))
            }
        low, high = mean_interval(self.shift, _LEVEL)
        row["shift_map"] = self.shift.mean.ravel() if self.shift.count else None
        certain = self.shift.count > 1
        row["shift_map_low"], row["shift_map_high"] = (low.ravel(), high.ravel()) if certain else (None, None)
        return row


class ComparedClasses:
    """Collects pairs class by class; `DATASET` is all images together. The class is the one that the first explains."""

    def __init__(self) -> None:
        self.of: dict[int, ComparedClass] = {}

    def add(self, pairs: Pairs, cosine: np.ndarray, spearman: np.ndarray) -> None:
        """Adds pairs with the similarities of their maps, float64 [N]."""
        column_a, column_b = (
            lambda name, table=table: table[name].to_numpy(zero_copy_only=False).astype(np.float64)
            for table in (pairs.a, pairs.b)
        )
        values = np.stack(
            [
                cosine,
                spearman,
                *(column_b(name) - column_a(name) for name in ("probability", *FIGURES)),
            ],
            axis=1,
        )
        targets = pairs.a["target"].to_numpy()
        names = dict(zip(targets.tolist(), pairs.a["target_name"].to_pylist(), strict=True))
        labels = pairs.a["label"].fill_null(-1).to_numpy()
        predicted_a, predicted_b = (table["predicted"].to_numpy() for table in (pairs.a, pairs.b))
        shift = pairs.coarse_b.astype(np.float64) - pairs.coarse_a
        for class_index in [DATASET, *np.unique(targets).tolist()]:
            own = np.ones(len(targets), bool) if class_index == DATASET else targets == class_index
            found = self.of.setdefault(class_index, ComparedClass(names.get(class_index)))
            labelled = own & (labels >= 0)
            found.images += int(own.sum())
            found.changed += int((predicted_a != predicted_b)[own].sum())
            found.labelled += int(labelled.sum())
            found.correct_a += int((predicted_a == labels)[labelled].sum())
            found.correct_b += int((predicted_b == labels)[labelled].sum())
            for moments, column in zip(found.averages, values[own].T, strict=True):
                moments.merge(Moments.of(column[np.isfinite(column)]))
            found.shift.merge(Moments.of(shift[own]))
