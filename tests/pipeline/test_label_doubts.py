"""What a run says of labels that do not fit the predictions."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.label_doubts import label_doubts
from transforms.statistics import DATASET, Digest, Moments
from transforms.unit import LabelCounts, Receipt, Shard, Unit


def doubts(zeros: int = 0, classes: int = 10, **counts: int) -> list[str]:
    receipts = [
        Receipt(Unit(Shard(name, "tfrecord", 1)), "run", 1, 1, {}, 0.0, 1.0, "host/1", 1, labels=labels)
        for name, labels in (("a", LabelCounts(classes, **counts)), ("b", LabelCounts(classes)), ("c", None))
    ]
    empty = np.zeros(0)
    none = Moments.of(np.zeros((0, 14, 14)))
    digests = [Digest(index, 1, zeros, 0, empty, empty, none, none, None, None, 0.0) for index in (0, DATASET)]
    return label_doubts(receipts, digests)


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ({"labelled": 50, "one_above": 40, "beyond": 3}, "the labels seem to begin at 1, so subtract 1"),
        ({"labelled": 50, "one_above": 40}, "on 40 of 50 images the label is the predicted class plus 1"),
        (
            {"labelled": 50, "beyond": 1, "zeros": 4},
            "1 image is labelled 10, and the classes are 0 to 9; the labels may",
        ),
        ({"labelled": 50, "one_below": 45, "zeros": 9}, "on 45 of 50 images the label is the predicted class minus 1"),
        ({"labelled": 4}, "the accuracy, 0.0% on 4 images"),
        ({"labelled": 1000, "correct": 100}, "the accuracy, 10.0% on 1,000 images"),
        ({"labelled": 40, "correct": 22, "classes": 2}, "no better than guessing among 2 classes"),
    ],
)
def test_what_does_not_fit_is_one_sentence(counts: dict[str, int], words: str) -> None:
    (doubt,) = doubts(**counts)
    assert words in doubt
    assert "\n" not in doubt


@pytest.mark.parametrize(
    "counts",
    [
        {},
        {"labelled": 3},
        {"labelled": 9, "correct": 1},
        {"labelled": 1000, "correct": 150},
        {"labelled": 1000, "correct": 900, "one_above": 60, "beyond": 2},
        {"labelled": 40, "correct": 30, "one_above": 10, "classes": 2},
    ],
)
def test_what_fits_is_passed_over(counts: dict[str, int]) -> None:
    assert doubts(**counts) == []
