"""Turns the kept pictures of a check into `evidence.parquet`: images before and after, for people to look at."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.checks.results import Located
from pipeline.checks.testing import AS_IT_IS, COVERED, OTHER, PASTED
from pipeline.checks.work import decoded, encoded
from transforms.probing import Box, Finding, Grid

_EVIDENCE = 12  # patches of a class
_SIDE = 96

NameOf = Callable[[int | None], str | None]


def evidence_rows(
    located: Mapping[int, Located],
    findings: Mapping[int, tuple[Finding, ...]],
    tested: pa.Table,
    grid: Grid,
    name_of: NameOf,
) -> Iterator[dict[str, Any]]:
    """The rows of `EVIDENCE`, sorted by class, finding, kind and rank.

    Kinds: `evidence`, an image and the patch whose covering costs most; `covered`, an image of the class before and
    after; `pasted`, an image of another class before and after.
    """
    shown = _shown(tested.filter(pc.is_valid(tested["picture"])))
    for k in sorted(located):
        yield from _patches(k, located[k], grid, name_of)
        for finding in sorted(findings.get(k, ()), key=lambda each: each.kind):
            for kind, before, after in (("covered", AS_IT_IS, COVERED), ("pasted", OTHER, PASTED)):
                pairs = [each for each in shown.get((k, finding.kind), ()) if before in each and after in each]
                for rank, pair in enumerate(pairs, 1):
                    boxes = finding.boxes
                    yield {
                        **_head(k, finding.kind, kind, rank, name_of),
                        **(_box(boxes, grid) if boxes else {}),
                        **_change(pair[before], pair[after], name_of),
                    }


def _shown(tested: pa.Table) -> dict[tuple[int, str], list[dict[str, dict[str, Any]]]]:
    """The kept answers by finding, image and change."""
    images: dict[tuple[int, str], dict[tuple[str, int], dict[str, dict[str, Any]]]] = defaultdict(
        lambda: defaultdict(dict)
    )
    for row in tested.to_pylist():
        images[row["class"], row["kind"]][row["shard"], row["index"]].setdefault(row["change"], row)
    return {finding: [own[each] for each in sorted(own)] for finding, own in images.items()}


def _patches(k: int, located: Located, grid: Grid, name_of: NameOf) -> Iterator[dict[str, Any]]:
    rows = located.rows.filter(pc.is_valid(located.rows["pixels"])).to_pylist()
    rows.sort(key=lambda row: (-max(row["drops"]), row["shard"], row["index"]))
    for rank, row in enumerate(rows[:_EVIDENCE], 1):
        window = max(range(len(row["drops"])), key=row["drops"].__getitem__)
        peak = grid.boxes[window]
        pixels = decoded(row["pixels"])
        answer = row["answers"][window]
        yield {
            **_head(k, "look", "evidence", rank, name_of),
            **_box((peak,), grid),
            **{name: row[name] for name in ("shard", "index", "image_id")},
            "target": k,
            "target_name": name_of(k),
            "logit_before": row["logit"],
            "logit_after": row["logit"] - row["drops"][window],
            "probability_before": row["probability"],
            "predicted_before": k,
            "predicted_before_name": name_of(k),
            "predicted_after": answer,
            "predicted_after_name": name_of(answer),
            "before": _image(encoded(pixels, "WEBP", _SIDE)),
            "after": _image(encoded(pixels[peak.slices], "PNG")),
        }


def _head(k: int, finding: str, kind: str, rank: int, name_of: NameOf) -> dict[str, Any]:
    return {"class": k, "class_name": name_of(k), "finding": finding, "kind": kind, "rank": rank}


def _box(boxes: tuple[Box, ...], grid: Grid) -> dict[str, float]:
    return {
        "top": min(box.top for box in boxes) / grid.height,
        "left": min(box.left for box in boxes) / grid.width,
        "bottom": max(box.bottom for box in boxes) / grid.height,
        "right": max(box.right for box in boxes) / grid.width,
    }


def _change(before: Mapping[str, Any], after: Mapping[str, Any], name_of: NameOf) -> dict[str, Any]:
    """The columns about an image before and after. They are about one class only where both answers are."""
    same = before["target"] == after["target"]
    return {
        **{name: before[name] for name in ("shard", "index", "image_id")},
        "target": after["target"],
        "target_name": name_of(after["target"]),
        "logit_before": before["logit"] if same else None,
        "logit_after": after["logit"],
        "probability_before": before["probability"] if same else None,
        "probability_after": after["probability"],
        "predicted_before": before["predicted"],
        "predicted_before_name": name_of(before["predicted"]),
        "predicted_after": after["predicted"],
        "predicted_after_name": name_of(after["predicted"]),
        "before": _image(before["picture"]),
        "after": _image(after["picture"]),
    }


def _image(data: bytes) -> dict[str, Any]:
    return {"bytes": data, "path": None}
