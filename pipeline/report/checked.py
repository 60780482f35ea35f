"""Reads what a check found, and turns it into the values of the page's data files."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from apache_beam.io.filesystems import FileSystems

from pipeline.report.numbers import plain
from pipeline.report.sprites import Sprite
from pipeline.report.unusable import reading
from transforms.output import Output, open_parquet, read_table

# The overview has so many findings at most, the most convincing ones; each class's page has all of its own.
_LISTED = 300

# A class's page shows so many pairs of pictures for a finding and a kind.
_PAIRS = 6

# So many rows of evidence.parquet are in memory at once, and those of a class.
_BATCH = 64

# The columns of checks.parquet whose numbers a class's page shows.
NUMBERS = (
    "logit_drop logit_drop_low logit_drop_high logit_drop_blurred logit_drop_elsewhere logit_drop_others "
    "probability_drop probability_drop_low probability_drop_high "
    "turned turned_low turned_high turned_blurred turned_elsewhere turned_others "
    "added added_low added_high added_control accuracy_before accuracy_after q_cover q_add alikeness near"
).split()
_WORDS = ("class", "class_name", "kind", "verdict", "stands_out", "main", "sentence", "place")
_PAIR = (
    "finding kind image_id shard index top left bottom right predicted_before predicted_before_name predicted_after "
    "predicted_after_name probability_before probability_after before after"
).split()


@dataclasses.dataclass(frozen=True, slots=True)
class Evidence:
    """The pictures of one class: rows of evidence.parquet, by their columns, with the bytes of the pictures.

    Attributes:
      pairs: for each finding and kind the first ranks.
      pictures: the encoded pictures of the pairs, each once.
      numbers: for each pair, where its pictures are in `pictures`: before and after.
    """

    class_index: int
    pairs: tuple[dict[str, Any], ...] = ()
    pictures: tuple[bytes, ...] = ()
    numbers: tuple[tuple[int, int | None], ...] = ()


def read_checks(output: Output) -> dict[int, list[dict[str, Any]]] | None:
    """The findings of each class, in the order of checks.parquet; None if the output has not been checked."""
    path = output.file("checks.parquet")
    if not FileSystems.exists(path):
        return None
    found: dict[int, list[dict[str, Any]]] = {}
    with reading(path):
        rows = read_table(path, [*_WORDS, "images", "others", "turned_into", "turned_into_name", *NUMBERS]).to_pylist()
    for order, row in enumerate(rows):
        found.setdefault(row["class"], []).append({**row, "order": order})
    return found


def read_evidence(output: Output) -> Iterator[Evidence]:
    """Yields the pictures of one class after another, in the order of the classes; nothing without evidence.parquet."""
    path = output.file("evidence.parquet")
    if not FileSystems.exists(path):
        return
    with open_parquet(path) as file:
        rows: list[dict[str, Any]] = []
        counts: dict[tuple[str, str], int] = {}
        for batch in file.iter_batches(_BATCH, columns=["class", *_PAIR], use_threads=False):
            for row in batch.to_pylist():
                if rows and rows[0]["class"] != row["class"]:
                    yield _evidence(rows)
                    rows, counts = [], {}
                key = row["finding"], row["kind"]
                counts[key] = counts.get(key, 0) + 1
                if counts[key] <= _PAIRS:
                    rows.append(row)
        if rows:
            yield _evidence(rows)


def _evidence(rows: list[dict[str, Any]]) -> Evidence:
    places: dict[bytes, int] = {}
    numbers = []
    for row in rows:
        before = places.setdefault(row["before"]["bytes"], len(places))
        # The patch of a kind `evidence` is shown as a box on its image.
        after = None if row["kind"] == "evidence" else places.setdefault(row["after"]["bytes"], len(places))
        numbers.append((before, after))
    return Evidence(rows[0]["class"], tuple(rows), tuple(places), tuple(numbers))


def checks_value(checks: dict[int, list[dict[str, Any]]] | None) -> dict[str, Any] | None:
    """What the overview shows of a check: how much was tested, and the most convincing findings."""
    if checks is None:
        return None
    rows = sorted((row for own in checks.values() for row in own), key=lambda row: row["order"])
    return {
        "classes": len(checks),
        "used": len({row["class"] for row in rows if row["main"]}),
        "findings": len(rows),
        "listed": [{name: row[name] for name in _WORDS} for row in rows[:_LISTED]],
    }


def class_checks_value(
    rows: list[dict[str, Any]] | None, evidence: Evidence, sprite: Sprite | None
) -> dict[str, Any] | None:
    """What a class's page shows of a check; None for a class that was not checked."""
    if rows is None:
        return None
    return {
        "findings": [
            {
                **{name: row[name] for name in _WORDS[2:]},
                **{name: row[name] for name in ("images", "others", "turned_into", "turned_into_name")},
                **{name: plain(row[name]) for name in NUMBERS},
            }
            for row in rows
        ],
        "pairs": []
        if sprite is None
        else [_pair(row, places) for row, places in zip(evidence.pairs, evidence.numbers, strict=True)],
        "sprite": None if sprite is None else sprite.value(),
    }


def _pair(row: dict[str, Any], places: tuple[int, int | None]) -> dict[str, Any]:
    return {
        **{name: row[name] for name in ("finding", "kind", "shard", "index")},
        "id": row["image_id"],
        "box": [plain(row[side]) for side in ("top", "left", "bottom", "right")],
        "pictures": places,
        **{
            f"{name}_{when}": row[f"{name}_{when}"]
            for name in ("predicted",)
            for when in ("before", "before_name", "after", "after_name")
        },
        **{f"probability_{when}": plain(row[f"probability_{when}"]) for when in ("before", "after")},
    }
