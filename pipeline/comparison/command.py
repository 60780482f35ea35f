"""`fullgrad compare A B`: how the maps and predictions of two outputs differ, image by image and class by class."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.table import Table

from pipeline.comparison.classes import ComparedClasses
from pipeline.comparison.pairs import Pairs, find_pairs, shards_of
from pipeline.comparison.schemas import COMPARED_CLASSES, COMPARISON
from pipeline.terminal import out
from transforms.output import Output
from transforms.statistics import DATASET
from transforms.statistics.similarity import cosines, rank_correlations

# So many classes are printed; the file has all.
_SHOWN = 10


class CannotCompare(ValueError):
    """The outputs cannot be compared; one sentence that names them."""


def compare(args: argparse.Namespace) -> int:
    """`fullgrad compare`; returns the exit code.

    Raises:
      CannotCompare: an output is none, is not finished, or they have no image in common.
    """
    classes = write_comparison(args.output, args.other, args.to or args.other)
    _print(classes, args.output, args.other)
    out.print(f"written to {args.to or args.other}: comparison.parquet, comparison_classes.parquet")
    return 0


def write_comparison(a: str, b: str, to: str) -> ComparedClasses:
    """Writes `comparison.parquet`, one row an image that both outputs have, and `comparison_classes.parquet`.

    Args:
      a, b: the folders of two outputs, on any file system that Beam knows.
      to: the folder that is written; it may be one of the two.

    Raises:
      CannotCompare: an output is none, or they have no image in common.
    """
    first, second = _opened(a), _opened(b)
    written = Output(to, second.fingerprint, run="comparison", options=second.options)
    written.create_temporary()
    classes = ComparedClasses()
    with written.writing_rows(written.file("comparison.parquet"), COMPARISON) as rows:
        for pairs in find_pairs(first, second):
            cosine, spearman = cosines(pairs.maps_a, pairs.maps_b), rank_correlations(pairs.maps_a, pairs.maps_b)
            classes.add(pairs, cosine, spearman)
            rows.write(_rows(pairs, cosine, spearman))
        if not classes.of:
            raise CannotCompare(_nothing_in_common(first, second))
    table = [classes.of[index].row(index) for index in sorted(classes.of)]
    # Read later beside one output alone, the file says what the two were.
    sides = {side: _told(output) for side, output in (("A", first), ("B", second))}
    schema = written.schema(COMPARED_CLASSES)
    schema = schema.with_metadata({**schema.metadata, "fullgrad.compared": json.dumps(sides)})
    with written.writing(written.file("comparison_classes.parquet")) as sink:
        pq.write_table(pa.Table.from_pylist(table, schema), sink, compression="zstd", write_page_checksum=True)
    return classes


def _told(output: Output) -> dict[str, str]:
    """What an output is, by names in words."""
    run = output.read_json("run.json") or {}
    model, explain = run.get("model", {}), run.get("configuration", {}).get("explain", {})
    facts = {
        "Output": output.path,
        "Model": model.get("name"),
        "Method": ", ".join(str(explain[name]) for name in ("method", "maps") if name in explain),
        "Run": run.get("run"),
        "Fingerprint": output.fingerprint,
    }
    return {name: str(text) for name, text in facts.items() if text}


def _opened(path: str) -> Output:
    output = Output(path)
    run = output.read_json("run.json")
    if not isinstance(run, dict) or "fingerprint" not in run:
        raise CannotCompare(f"{path} is no output of a run: there is no run.json of fullgrad in it")
    if output.read_json("summary.json") is None:
        raise CannotCompare(f"{path} is not finished: there is no summary.json in it; the command of its run goes on")
    return Output(path, run["fingerprint"])


def _nothing_in_common(a: Output, b: Output) -> str:
    shards = [shards_of(output.read_receipts()) for output in (a, b)]
    if set(shards[0]) & set(shards[1]):
        return f"{a.path} and {b.path} have no image in common"
    return (
        f"{a.path} and {b.path} have no shard in common: the first has {shards[0][0]}, the second {shards[1][0]}; "
        "explain the same shards, by the same paths"
    )


def _rows(pairs: Pairs, cosine: np.ndarray, spearman: np.ndarray) -> pa.RecordBatch:
    columns: dict[str, Any] = {"cosine": cosine, "spearman": spearman}
    for name in ("image_id", "shard", "index", "label", "label_name"):
        columns[name] = pairs.a[name]
    for which, table in (("a", pairs.a), ("b", pairs.b)):
        for name in ("predicted", "predicted_name", "target", "target_name", "logit", "probability"):
            columns[f"{name}_{which}"] = table[name]
    columns["changed"] = pairs.a["predicted"].to_numpy() != pairs.b["predicted"].to_numpy()
    arrays = []
    for field in COMPARISON:
        column = columns[field.name]
        if isinstance(column, pa.ChunkedArray):
            arrays.append(column.combine_chunks())
        else:
            arrays.append(pa.array(column, field.type, mask=np.isnan(column) if column.dtype.kind == "f" else None))
    return pa.RecordBatch.from_arrays(arrays, schema=COMPARISON)


def _print(classes: ComparedClasses, a: str, b: str) -> None:
    whole = classes.of[DATASET].row(DATASET)
    out.print(
        f"{whole['images']:,} images are in both {a} and {b}; {whole['changed']:,} predictions "
        f"({whole['changed'] / whole['images']:.1%}) changed"
    )
    if whole["labelled"]:
        out.print(
            f"accuracy {whole['correct_a'] / whole['labelled']:.1%} → {whole['correct_b'] / whole['labelled']:.1%}"
        )
    table = Table("class", "images", "changed", "cosine", "rank correlation", "probability", box=None, pad_edge=False)
    for row in [whole, *_most_changed(classes)]:
        name = "all" if row["class"] == DATASET else row["class_name"] or str(row["class"])
        table.add_row(
            name,
            f"{row['images']:,}",
            f"{row['changed'] / row['images']:.1%}",
            *(_with_interval(row, column) for column in ("cosine", "spearman", "probability_shift")),
        )
    out.print(table)


def _most_changed(classes: ComparedClasses) -> Iterator[dict[str, Any]]:
    """The classes whose maps are least alike, by the upper end of the interval of the mean."""
    rows = [classes.of[index].row(index) for index in classes.of if index != DATASET]

    def likeness(row: dict[str, Any]) -> float:
        ends = (row["spearman_high"], row["spearman_mean"])
        return next((end for end in ends if end is not None), np.inf)

    yield from sorted(rows, key=likeness)[:_SHOWN]


def _with_interval(row: dict[str, Any], name: str) -> str:
    mean, low, high = (row[f"{name}_{what}"] for what in ("mean", "low", "high"))
    if mean is None:
        return "–"
    sign = "+" if name.endswith("shift") else ""
    return f"{mean:{sign}.3f}" + ("" if low is None else f" ± {(high - low) / 2:.3f}")
