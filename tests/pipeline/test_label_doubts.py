"""What a run says of labels that do not fit the predictions."""

from __future__ import annotations

from typing import Any

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
    digests = [digest(index, zeros, 0) for index in (0, DATASET)]
    return label_doubts(receipts, digests)


def digest(class_index: int, labelled: int, correct: int) -> Digest:
    """A digest with nothing but counts."""
    empty, none = np.zeros(0), Moments.of(np.zeros((0, 14, 14)))
    return Digest(class_index, 1, labelled, correct, empty, empty, none, none, None, None, None, 0.0)


def of_classes(*recalls: tuple[int, int], classes: int | None = None) -> list[str]:
    """The doubts where so many images of each class are labelled, and so many of them correct."""
    labelled, correct = (sum(each) for each in zip(*recalls, strict=True))
    counts = LabelCounts(classes or len(recalls), labelled=labelled, correct=correct)
    receipt = Receipt(Unit(Shard("a", "tfrecord", 1)), "run", 1, 1, {}, 0.0, 1.0, "host/1", 1, labels=counts)
    digests = [digest(i, n, c) for i, (n, c) in enumerate(recalls)]
    return label_doubts([receipt], [*digests, digest(DATASET, labelled, correct)])


@pytest.mark.parametrize(
    "recalls",
    [
        [(900, 900), (100, 0)],  # 90 % correct, as every image is taken for the more frequent class
        [(90, 90), (20, 1)],
        [(100, 20), (100, 20), (100, 0), (100, 0), (100, 0)],
    ],
)
def test_predictions_that_do_not_depend_on_the_label_are_no_better_than_guessing(recalls: list[Any]) -> None:
    (doubt,) = of_classes(*recalls)
    assert "no better than guessing" in doubt
    assert "model.preprocess" in doubt
    assert "fullgrad init" in doubt


@pytest.mark.parametrize(
    "recalls",
    [
        [(900, 890), (100, 20)],  # a weak model for the rarer class still tells them apart
        [(18, 18), (2, 0)],  # too few to tell
        [(500, 300), (500, 290)],
        [(40, 10)] + [(40, 8)] * 9,
        [(1000, 900)],
    ],
)
def test_predictions_that_depend_on_the_label_are_passed_over(recalls: list[Any]) -> None:
    assert of_classes(*recalls, classes=max(2, len(recalls))) == []


def test_two_classes_that_are_swapped_are_said_to_be() -> None:
    (doubt,) = of_classes((50, 5), (50, 4))
    assert "the two classes seem to be swapped" in doubt


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
