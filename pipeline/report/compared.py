"""Reads a comparison with another output, and turns it into the values of the page's data file."""

from __future__ import annotations

import dataclasses
import heapq
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow.compute as pc
from apache_beam.io.filesystems import FileSystems

from pipeline.report.numbers import plain
from pipeline.report.unusable import reading
from transforms.output import Output, open_parquet
from transforms.statistics import DATASET

# So many images with another prediction are shown.
_SHOWN = 24

COUNTS = ("images", "changed", "labelled", "correct_a", "correct_b")
MEANS = ("spearman", "cosine", "probability_shift")
NUMBERS = ("changed_low", "changed_high", *(f"{name}_{what}" for name in MEANS for what in ("mean", "low", "high")))
_IMAGE = (
    "image_id shard index label label_name predicted_a predicted_name_a probability_a predicted_b predicted_name_b "
    "probability_b cosine spearman"
).split()


@dataclasses.dataclass(frozen=True, slots=True)
class Comparison:
    """A comparison of two outputs, A and B.

    Attributes:
      sides: what A and B are, by the names that `fullgrad compare` gives; None if the file does not say it.
      whole: the row of all images in comparison_classes.parquet.
      classes: the other rows, ordered by class.
      changed: rows of comparison.parquet whose predictions differ, the least similar maps first.
    """

    sides: dict[str, dict[str, str]] | None
    whole: dict[str, Any]
    classes: list[dict[str, Any]]
    changed: list[dict[str, Any]]


def read_comparison(output: Output) -> Comparison | None:
    """The comparison whose files lie in an output; None if there is none."""
    path = output.file("comparison_classes.parquet")
    if not FileSystems.exists(path):
        return None
    with reading(path), open_parquet(path) as file:
        rows = file.read(["class", "class_name", *COUNTS, *NUMBERS], use_threads=False).to_pylist()
        told = (file.schema_arrow.metadata or {}).get(b"fullgrad.compared")
    rows.sort(key=lambda row: row["class"])
    return Comparison(
        sides=None if told is None else json.loads(told),
        whole=next(row for row in rows if row["class"] == DATASET),
        classes=[row for row in rows if row["class"] != DATASET],
        changed=heapq.nsmallest(_SHOWN, _changed(output), key=_likeness),
    )


def _changed(output: Output) -> Iterator[dict[str, Any]]:
    path = output.file("comparison.parquet")
    if not FileSystems.exists(path):
        return
    with reading(path), open_parquet(path) as file:
        for batch in file.iter_batches(columns=[*_IMAGE, "changed"], use_threads=False):
            yield from batch.filter(pc.field("changed")).to_pylist()


def _likeness(row: Mapping[str, Any]) -> tuple[float, str, int]:
    likeness = row["spearman"]
    return math.inf if likeness is None or math.isnan(likeness) else likeness, row["shard"], row["index"]


def comparison_value(
    comparison: Comparison | None, addresses: Mapping[tuple[str, int], tuple[int, str, str]]
) -> dict[str, Any] | None:
    """What the page shows of a comparison.

    Args:
      comparison: what was read.
      addresses: for images that are among the examples, by shard and index: the class, the kind and the key.
    """
    if comparison is None:
        return None
    return {
        "sides": comparison.sides,
        "classes": _classes([comparison.whole, *comparison.classes]),
        "changed": [
            {
                **{name: row[name] for name in _IMAGE},
                **{name: plain(row[name]) for name in ("probability_a", "probability_b", "cosine", "spearman")},
                "example": addresses.get((row["shard"], row["index"])),
            }
            for row in comparison.changed
        ],
    }


def _classes(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """All images, then the classes: a list for each column, which is much smaller than an object for each class."""
    return {
        **{name: [row[name] for row in rows] for name in ("class", "class_name", *COUNTS)},
        **{name: [plain(row[name]) for row in rows] for name in NUMBERS},
    }
