"""Writes made-up checks, clusters and comparisons into an output, as the commands do."""

from __future__ import annotations

import io
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from pipeline.checks.schemas import CHECKS, EVIDENCE
from pipeline.comparison.schemas import COMPARED_CLASSES, COMPARISON
from transforms.output import CLUSTERS, EXAMPLES

KINDS = ("place", "edge", "border", "surroundings", "look")
PLACES = {"place": "bottom right", "edge": "right edge", "border": "border", "surroundings": "surroundings"}
SIDES = {"A": {"Output": "out/<b>first</b>", "Model": "shapes"}, "B": {"Output": "out/second", "Model": "shapes"}}


def add_check(output: pathlib.Path, names: Sequence[str], seed: int = 0) -> None:
    """Adds `checks.parquet` and `evidence.parquet`: the first class uses its place, all but the last are checked."""
    random = np.random.default_rng(seed)
    rows = [_finding(random, k, names, kind) for k in range(len(names) - 1) for kind in KINDS]
    rows.sort(key=lambda row: (row["verdict"] != "used", row["class"]))
    pq.write_table(pa.Table.from_pylist(rows, CHECKS), output / "checks.parquet")
    evidence = [
        _evidence(random, k, names, finding, kind, rank)
        for k in range(len(names) - 1)
        for finding, kind in (("look", "evidence"), ("place", "covered"), ("place", "pasted"))
        for rank in range(1, 9)
    ]
    pq.write_table(pa.Table.from_pylist(evidence, EVIDENCE), output / "evidence.parquet", row_group_size=20)


def _finding(random: np.random.Generator, k: int, names: Sequence[str], kind: str) -> dict[str, Any]:
    numbers = {
        field.name: float(random.random()) for field in CHECKS if field.type in (pa.float64(), pa.float32())
    }  # every number differs, so that none can stand in another's place
    if kind == "look":  # is not covered
        numbers = {name: None if name.startswith(("logit", "turned")) else value for name, value in numbers.items()}
    used = k == 0 and kind == "place"
    return {
        **numbers,
        "class": k,
        "class_name": names[k],
        "kind": kind,
        "verdict": "used" if used else ("undecided", "salient only")[k % 2],
        "stands_out": used,
        "main": used,
        "sentence": f"Covering the {PLACES.get(kind, 'look')} turns some images of {names[k]!r}.",
        "place": PLACES.get(kind),
        "located_images": 20,
        "images": 100 + k,
        "others": 90 + k,
        "turned_into": 1,
        "turned_into_name": names[1],
    }


def _evidence(
    random: np.random.Generator, k: int, names: Sequence[str], finding: str, kind: str, rank: int
) -> dict[str, Any]:
    other = (k + 1) % len(names)
    return {
        "class": k,
        "class_name": names[k],
        "finding": finding,
        "kind": kind,
        "rank": rank,
        "shard": "data/test.tfrecord-00000-of-00001",
        "index": rank,
        "image_id": f'{names[k]} "{rank}" <i>.png',
        **dict(zip(("top", "left", "bottom", "right"), (0.7, 0.6, 0.9, 0.95), strict=True)),
        "target": k,
        "probability_before": float(random.random()),
        "probability_after": float(random.random()),
        "predicted_before": k,
        "predicted_before_name": names[k],
        "predicted_after": other,
        "predicted_after_name": names[other],
        "before": {"bytes": _picture(40 * k + 10, 24), "path": None},
        "after": {"bytes": _picture(40 * k + rank, 24 if kind != "evidence" else 6), "path": None},
    }


def _picture(level: int, side: int) -> bytes:
    sink = io.BytesIO()
    Image.new("RGB", (side, side), (level % 256, 128, 60)).save(sink, "PNG")
    return sink.getvalue()


def add_clusters(output: pathlib.Path, names: Sequence[str], seed: int = 0) -> None:
    """Adds `clusters.parquet`, and the kind `cluster` to `examples.parquet`: all classes but the last have clusters."""
    random = np.random.default_rng(seed)
    corner = [y * 14 + x for y in (11, 12) for x in (11, 12, 13)]
    rows = [
        {
            "class": k,
            "class_name": names[k],
            "view": view,
            "cluster": cluster,
            "size": (31, 9)[cluster],
            "share": (0.775, 0.225)[cluster],
            "labelled": (30, 0)[cluster],
            "correct": (30 - k, 0)[cluster],
            "accuracy": (1 - k / 30, None)[cluster],
            "separation": float(random.random()),
            "silhouette": float(random.random()),
            "peak": (None, "bottom right")[cluster],
            "cells": ([], corner)[cluster],
            "peak_share": (None, float(random.uniform(0.3, 0.6)))[cluster],
            "peak_others": (None, float(random.uniform(0.01, 0.1)))[cluster],
            "mean_map": random.random(196, np.float32),
        }
        for k in range(len(names) - 1)
        for view in ("channels", "maps")
        for cluster in (0, 1)
    ]
    pq.write_table(pa.Table.from_pylist(rows, CLUSTERS), output / "clusters.parquet", row_group_size=3)
    table = pq.read_table(output / "examples.parquet")
    examples = table.to_pylist()
    examples += [
        {**row, "kind": "cluster", "cluster": ("typical", "unusual").index(row["kind"]), "score": random.random()}
        for row in examples
        if row["kind"] in ("typical", "unusual") and row["class"] < len(names) - 1
    ]
    examples.sort(key=lambda row: (row["class"], row["kind"], row["cluster"] or 0, row["rank"]))
    pq.write_table(pa.Table.from_pylist(examples, EXAMPLES), output / "examples.parquet", row_group_size=50)


def add_comparison(output: pathlib.Path, names: Sequence[str], seed: int = 0) -> None:
    """Adds `comparison.parquet`, with the images of `examples.parquet` and some others, and the file of classes."""
    random = np.random.default_rng(seed)
    columns = ["image_id", "shard", "index", "label", "label_name", "predicted", "predicted_name"]
    examples = {(row["shard"], row["index"]): row for row in pq.read_table(output / "examples.parquet").to_pylist()}
    known = [{name: row[name] for name in columns} for row in list(examples.values())[:60]]
    unknown = [{**row, "shard": f"data/<i>{at}</i>.tfrecord", "label": None} for at, row in enumerate(known)]
    rows = []
    for at, row in enumerate([*known, *unknown]):
        changed = at % 3 == 0
        b = (row["predicted"] + changed) % len(names)
        rows.append(
            {
                **row,
                "predicted_a": row["predicted"],
                "predicted_name_a": row["predicted_name"],
                "predicted_b": b,
                "predicted_name_b": names[b],
                **{f"probability_{side}": float(random.random()) for side in "ab"},
                "changed": changed,
                "cosine": float(random.random()),
                "spearman": None if at == 3 else float(random.uniform(-1, 1)),
            }
        )
    pq.write_table(pa.Table.from_pylist(rows, COMPARISON), output / "comparison.parquet", row_group_size=25)
    classes = []
    for k in range(-1, len(names)):
        numbers = {field.name: float(random.random()) for field in COMPARED_CLASSES if field.type == pa.float64()}
        images = 100 + k
        counts = {"images": images, "changed": 10 + k, "labelled": images - 7, "correct_a": 80 + k, "correct_b": 70 - k}
        classes.append({"class": k, "class_name": names[k] if k >= 0 else None, **counts, **numbers})
    classes[2]["spearman_mean"] = None
    told = COMPARED_CLASSES.with_metadata({"fullgrad.compared": json.dumps(SIDES)})
    pq.write_table(pa.Table.from_pylist(classes, told), output / "comparison_classes.parquet")
