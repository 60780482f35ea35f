"""Finds labels that do not fit the predictions, for the warnings at the end of a run."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from transforms.statistics import Digest
from transforms.unit import LabelCounts, Receipt

# With fewer labelled images than _FEW there is no warning. With fewer than _ENOUGH, only if all are wrong.
_FEW = 4
_ENOUGH = 10
# Classes with at least so many images show whether the predictions depend on the label at all.
_MANY = 10

# Part of the sentence that any cause may have, while the others name the cause.
NO_BETTER = "no better than guessing"


def label_doubts(receipts: Iterable[Receipt], digests: Sequence[Digest]) -> list[str]:
    """What looks wrong with the labels: one sentence or none, because one cause explains all symptoms.

    Args:
      receipts: of the whole output; those of earlier versions have no counts and are left out.
      digests: of the dataset and its classes.
    """
    counts = [receipt.labels for receipt in receipts if receipt.labels is not None]
    if not counts:
        return []
    total = LabelCounts.sum(counts)
    zeros = sum(digest.labelled for digest in digests if digest.class_index == 0)
    doubt = _beyond(total, zeros) or _shifted(total, zeros) or _swapped(total) or _at_chance(total, digests)
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


def _swapped(total: LabelCounts) -> str | None:
    """With two classes, far less than half is correct: the predictions depend on the label, the other way round."""
    labelled, wrong = total.labelled, total.labelled - total.correct
    if total.classes != 2 or labelled < _ENOUGH or wrong < labelled / 2 + 3 * math.sqrt(labelled) / 2:
        return None
    return (
        f"the accuracy, {total.correct / labelled:.1%} on {_images(labelled)} with labels, is lower than guessing "
        "between 2 classes would give: the two classes seem to be swapped, in the labels or in the model"
    )


def _at_chance(total: LabelCounts, digests: Sequence[Digest]) -> str | None:
    """The predictions do not depend on the labels, within one standard deviation."""
    labelled, classes = total.labelled, total.classes
    if labelled < _FEW or not (_few_correct(total) or _recall_at_chance(digests, labelled)):
        return None
    return (
        f"the accuracy, {total.correct / labelled:.1%} on {_images(labelled)} with labels, is {NO_BETTER} among "
        f"{classes} classes: check that model.preprocess is as in training (`fullgrad init MODEL DATA` tries the usual "
        "scales and proposes one), that the labels number the classes as the model does and from 0 up, and that they "
        "are the field to read (input.fields.label)"
    )


def _few_correct(total: LabelCounts) -> bool:
    """The accuracy is 0, or at most a standard deviation above that of guessing among all classes evenly."""
    chance = 1 / total.classes
    spread = math.sqrt(total.labelled * chance * (1 - chance))
    return total.correct <= (total.labelled * chance + spread if total.labelled >= _ENOUGH else 0)


def _recall_at_chance(digests: Sequence[Digest], labelled: int) -> bool:
    """The mean recall of the labels' classes is at most a standard deviation above one over their number.

    Predictions that do not depend on the label have at most this mean recall, however uneven labels and predictions
    are: the recall of a class is then the share of the predictions that it has, and shares add up to at most 1. So this
    also finds a model that calls everything by the most frequent class. It is asked only of classes with many images.
    """
    classes = [d for d in digests if d.class_index >= 0 and d.labelled >= _MANY]
    if len(classes) < 2 or sum(d.labelled for d in classes) < 0.9 * labelled:
        return False
    recalls = [d.correct / d.labelled for d in classes]
    # As if each class had one more image, half of it correct: so a recall of 0 or 1 is not taken for exact.
    smoothed = [(d.correct + 0.5) / (d.labelled + 1) for d in classes]
    variance = sum(q * (1 - q) / d.labelled for q, d in zip(smoothed, classes, strict=True))
    return sum(recalls) <= 1 + math.sqrt(variance)


def _images(count: int, one: str = "", several: str = "") -> str:
    verb = one if count == 1 else several
    return f"{count:,} image{'' if count == 1 else 's'}{f' {verb}' if verb else ''}"
