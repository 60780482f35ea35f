"""Finds labels that do not fit the predictions, for the warnings at the end of a run."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from transforms.statistics import Digest
from transforms.unit import LabelCounts, Receipt

# With fewer labelled images than _FEW there is no warning. With fewer than _ENOUGH, only if all are wrong.
_FEW = 4
_ENOUGH = 10


def label_doubts(receipts: Iterable[Receipt], digests: Sequence[Digest]) -> list[str]:
    """What looks wrong with the labels: one sentence or none, because one cause explains all symptoms.

    Args:
      receipts: of the whole output; those of earlier versions have no counts and are left out.
      digests: of the dataset and its classes.
    """
    counts = [receipt.labels for receipt in receipts if receipt.labels is not None]
    if not counts:
        return []
    total, classes = LabelCounts.sum(counts), counts[0].classes
    zeros = sum(digest.labelled for digest in digests if digest.class_index == 0)
    doubt = _beyond(total, zeros) or _shifted(total, zeros) or _at_chance(total, classes)
    return [doubt] if doubt else []


def _beyond(total: LabelCounts, zeros: int) -> str | None:
    """Some labels equal the number of classes, and most others are wrong too."""
    if not total.beyond or total.labelled < 2 * total.correct:
        return None
    what = (
        f"{_images(total.beyond, 'is', 'are')} labelled {total.classes}, and the classes are 0 to {total.classes - 1}"
    )
    if zeros:
        return f"{what}; the labels may have one class more than the model, such as a background class"
    return f"{what}; none is labelled 0: the labels seem to begin at 1, so subtract 1 from them"


def _shifted(total: LabelCounts, zeros: int) -> str | None:
    """Most labels are the class next to the prediction. With two classes, that means nothing."""
    if total.labelled < _FEW or total.classes < 3:
        return None
    if not zeros and 2 * total.one_above > total.labelled:
        return (
            f"on {total.one_above:,} of {_images(total.labelled)} the label is the predicted class plus 1, and none is "
            "labelled 0: the labels seem to begin at 1, so subtract 1 from them"
        )
    if 2 * total.one_below > total.labelled:
        return (
            f"on {total.one_below:,} of {_images(total.labelled)} the label is the predicted class minus 1: the model "
            "seems to have a class before the labels' first one, such as a background class"
        )
    return None


def _at_chance(total: LabelCounts, classes: int) -> str | None:
    """The accuracy is 0, or at most a standard deviation above that of guessing."""
    labelled, chance = total.labelled, 1 / classes
    spread = math.sqrt(labelled * chance * (1 - chance))
    if labelled < _FEW or total.correct > (labelled * chance + spread if labelled >= _ENOUGH else 0):
        return None
    return (
        f"the accuracy, {total.correct / labelled:.1%} on {_images(labelled)} with labels, is no better than guessing "
        f"among {classes} classes: check that the labels number the classes as the model does and from 0 up, that they "
        "are the field to read (input.fields.label), and that model.preprocess is as in training"
    )


def _images(count: int, one: str = "", several: str = "") -> str:
    verb = one if count == 1 else several
    return f"{count:,} image{'' if count == 1 else 's'}{f' {verb}' if verb else ''}"
