"""Reads what the report shows: the small files of an output, never its maps."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.io.filesystems import FileSystems

from pipeline.report.checked import read_checks
from pipeline.report.compared import Comparison, read_comparison
from pipeline.report.unusable import UnusableResults
from transforms.filesystems import STORE_ERRORS
from transforms.output import DamagedOutput, Output, open_parquet, read_table
from transforms.statistics import DATASET, FIGURES, QUANTILES
from transforms.unit import Receipt

MAPS = ("mean", "std", "contrast", "wrong")

# How many examples of a kind of failure the report shows, and in how many units it looks for them.
_FAILURE_EXAMPLES = 5
_FAILURE_UNITS = 20

# The columns of examples.parquet that an example takes over under their own names.
_PLAIN = (
    "image_id shard index label label_name predicted predicted_name target target_rank logit probability explained "
    "contrast_class input_term bias_term unlocated_term completeness_error similarity"
).split()


@dataclasses.dataclass(frozen=True, slots=True)
class ClassTable:
    """The rows of classes.parquet, ordered by class, without the row of the dataset. All arrays have n rows.

    Attributes:
      index: int64 [n].
      names: n names; None for a class without a name.
      images, labelled, correct: int64 [n].
      probability, similarity: float64 [n].
      mean, std: float64 [n, len(FIGURES)].
      quantiles: float64 [n, len(FIGURES), 5], in the order of `QUANTILES`; NaN if the run wrote none.
      errors: float64 [n, 3]: p50, p95 and the maximum of the completeness error.
      maps: by the names in `MAPS`: for each class float32 [grid, grid], or None.

    What does not exist, such as the mean of no images, is NaN.
    """

    index: np.ndarray
    names: list[str | None]
    images: np.ndarray
    labelled: np.ndarray
    correct: np.ndarray
    probability: np.ndarray
    similarity: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    quantiles: np.ndarray
    errors: np.ndarray
    maps: dict[str, list[np.ndarray | None]]

    @classmethod
    def of(cls, table: pa.Table) -> ClassTable:
        """The table from rows of classes.parquet."""

        def floats(name: str) -> np.ndarray:
            if name not in table.column_names:
                return np.full(table.num_rows, np.nan)
            return table[name].to_numpy().astype(np.float64)

        def figures(what: str) -> np.ndarray:
            return np.stack([floats(f"{name}_{what}") for name in FIGURES], axis=1)

        return cls(
            index=table["class"].to_numpy().astype(np.int64),
            names=table["class_name"].to_pylist(),
            images=table["images"].to_numpy(),
            labelled=table["labelled"].to_numpy(),
            correct=table["correct"].to_numpy(),
            probability=floats("mean_probability"),
            similarity=floats("similarity"),
            mean=figures("mean"),
            std=figures("std"),
            quantiles=np.stack([figures(name) for name in QUANTILES], axis=2),
            errors=np.stack([floats(f"completeness_error_{name}") for name in ("p50", "p95", "max")], axis=1),
            maps={name: [_square(value) for value in table[f"{name}_map"]] for name in MAPS},
        )


@dataclasses.dataclass(frozen=True, slots=True)
class Pair:
    """How many images of one label have one prediction: a row of confusion.parquet."""

    label: int
    label_name: str | None
    predicted: int
    predicted_name: str | None
    images: int


@dataclasses.dataclass(frozen=True, slots=True)
class FailedImage:
    """A row of errors/; `image_id` and `index` are None if the row is about a shard."""

    image_id: str | None
    shard: str
    index: int | None
    stage: str
    message: str


@dataclasses.dataclass(frozen=True, slots=True)
class FailureKind:
    """All failures of one kind: how many, and a few examples."""

    error: str
    count: int
    examples: tuple[FailedImage, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Example:
    """An image that stands for its class: a row of examples.parquet, which docs/output.md describes.

    Attributes:
      map: uint8 codes, row by row; value = code · map_scale + map_offset. None if there is no map.
      figures: in the order of `FIGURES`; NaN for a map without mass.
      image: the encoded image; None if the run kept none.
    """

    image_id: str
    shard: str
    index: int
    label: int | None
    label_name: str | None
    predicted: int
    predicted_name: str | None
    target: int
    target_rank: int
    logit: float | None
    probability: float | None
    explained: float | None
    contrast_class: int | None
    input_term: float | None
    bias_term: float | None
    unlocated_term: float | None
    completeness_error: float | None
    similarity: float | None
    map: bytes | None
    map_scale: float
    map_offset: float
    map_height: int
    map_width: int
    figures: tuple[float | None, ...]
    image: bytes | None

    @property
    def place(self) -> tuple[str, int]:
        """Shard and index: they tell the images of an output apart."""
        return self.shard, self.index


@dataclasses.dataclass(frozen=True, slots=True)
class Choice:
    """An example under one of its kinds: its number in `ClassExamples.examples`, and what it was ranked by."""

    number: int
    score: float | None


@dataclasses.dataclass(frozen=True, slots=True)
class ClassExamples:
    """The examples of one class.

    Attributes:
      examples: each image once.
      kinds: the choices of each kind, first rank first; `cluster-0` and so on for the kind `cluster`.
    """

    class_index: int
    examples: tuple[Example, ...] = ()
    kinds: dict[str, tuple[Choice, ...]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, slots=True)
class Results:
    """What the report shows, apart from the examples.

    Attributes:
      output: the output that was read.
      run: run.json.
      summary: summary.json.
      classes: the classes.
      dataset: one row, of all images; None if the output has none.
      pairs: labels and predictions; None if the output has no confusion.parquet.
      failures: the most frequent kind first.
      checks: the findings of each class, by the columns of checks.parquet; None without a check.
      comparison: None if the output was not compared.
    """

    output: Output
    run: dict[str, Any]
    summary: dict[str, Any]
    classes: ClassTable
    dataset: ClassTable | None
    pairs: tuple[Pair, ...] | None
    failures: tuple[FailureKind, ...]
    checks: dict[int, list[dict[str, Any]]] | None
    comparison: Comparison | None


def read_results(path: str) -> Results:
    """Reads an output, apart from its examples.

    Raises:
      UnusableResults: the folder has no results of a finished run, or one of its files cannot be read.
    """
    output = Output(path)
    try:
        run, summary = output.read_json("run.json"), output.read_json("summary.json")
        if run is None:
            raise UnusableResults(f"{path} is no output of a run: there is no run.json in it")
        if summary is None:
            raise UnusableResults(f"{path} has no summary.json: no run into it has ended yet; `fullgrad run` goes on")
        if not isinstance(summary, dict) or "notable" not in summary:
            path = output.file("summary.json")
            raise UnusableResults(f"{path} is not as a run wrote it; the same fullgrad run into this output mends it")
        table = _read(output, "classes.parquet")
        if table is None:
            raise UnusableResults(f"{path} has no classes.parquet; `fullgrad run` with its configuration writes it")
        # Sorted here, so that nothing depends on the order in which a run wrote the rows.
        table = table.sort_by("class")
        whole = table.filter(pc.equal(table["class"], DATASET))
        pairs = _read(output, "confusion.parquet")
        return Results(
            output=output,
            run=run,
            summary=summary,
            classes=ClassTable.of(table.filter(pc.not_equal(table["class"], DATASET))),
            dataset=ClassTable.of(whole) if whole.num_rows else None,
            pairs=None if pairs is None else tuple(Pair(**row) for row in pairs.to_pylist()),
            failures=tuple(_failures(output)),
            checks=read_checks(output),
            comparison=read_comparison(output),
        )
    except UnusableResults:
        raise
    except STORE_ERRORS as error:
        raise UnusableResults(f"{path} cannot be read: {error}") from error
    except DamagedOutput as error:
        raise UnusableResults(str(error)) from error
    except (pa.ArrowException, KeyError, TypeError, ValueError) as error:
        raise UnusableResults(f"{path} has files that no run of fullgrad wrote: {error}") from error


def read_examples(output: Output) -> Iterator[ClassExamples]:
    """Yields the examples of one class after another; nothing if the output has no examples.parquet.

    Only one row group is in memory at a time, and the class that it shares with the next one.
    """
    path = output.file("examples.parquet")
    if not FileSystems.exists(path):
        return
    with open_parquet(path) as file:
        waiting: list[dict[str, Any]] = []
        for group in range(file.num_row_groups):
            for row in file.read_row_group(group, use_threads=False).to_pylist():
                if waiting and waiting[0]["class"] != row["class"]:
                    yield _class_examples(waiting)
                    waiting = []
                waiting.append(row)
        if waiting:
            yield _class_examples(waiting)


def _read(output: Output, name: str) -> pa.Table | None:
    path = output.file(name)
    return read_table(path) if FileSystems.exists(path) else None


def _square(value: pa.ListScalar) -> np.ndarray | None:
    if not value.is_valid:
        return None
    flat = value.values.to_numpy(zero_copy_only=False)
    side = round(len(flat) ** 0.5)
    return flat.reshape(side, side)


def _failures(output: Output) -> Iterator[FailureKind]:
    receipts = [receipt for receipt in output.read_receipts() if receipt.failures]
    counts = sum((Counter(receipt.failures) for receipt in receipts), Counter[str]())
    looked_into = _units_with_all_kinds(receipts)
    with ThreadPoolExecutor(8) as pool:
        parts = pool.map(lambda receipt: read_table(output.find_part("errors", receipt.unit)), looked_into)
        rows = [row for part in parts for row in part.to_pylist()]
    for error, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        examples = [row for row in rows if row["error"] == error][:_FAILURE_EXAMPLES]
        yield FailureKind(error, count, tuple(_failed_image(row) for row in examples))


def _failed_image(row: dict[str, Any]) -> FailedImage:
    return FailedImage(row["image_id"], row["shard"], row["index"], row["stage"], row["message"])


def _units_with_all_kinds(receipts: Sequence[Receipt]) -> list[Receipt]:
    """The first receipts that have enough examples of each kind; not more than `_FAILURE_UNITS` for one kind."""
    chosen = []
    found, units = Counter[str](), Counter[str]()
    for receipt in receipts:
        if any(found[kind] < _FAILURE_EXAMPLES and units[kind] < _FAILURE_UNITS for kind in receipt.failures):
            chosen.append(receipt)
            found.update(receipt.failures)
            units.update(receipt.failures.keys())
    return chosen


def _class_examples(rows: Sequence[dict[str, Any]]) -> ClassExamples:
    examples: list[Example] = []
    numbers: dict[tuple[str, int], int] = {}
    kinds: dict[str, list[tuple[int, Choice]]] = {}
    for row in rows:
        number = numbers.setdefault((row["shard"], row["index"]), len(examples))
        if number == len(examples):
            examples.append(_example(row))
        # Each cluster is a kind of its own.
        kind = row["kind"] if row.get("cluster") is None else f"{row['kind']}-{row['cluster']}"
        kinds.setdefault(kind, []).append((row["rank"], Choice(number, row["score"])))
    ordered = {
        kind: tuple(choice for _, choice in sorted(choices, key=lambda each: each[0]))
        for kind, choices in kinds.items()
    }
    return ClassExamples(rows[0]["class"], tuple(examples), ordered)


def _example(row: dict[str, Any]) -> Example:
    image = row.get("image")
    return Example(
        **{name: row[name] for name in _PLAIN},
        **{name: row[name] for name in ("map", "map_scale", "map_offset", "map_height", "map_width")},
        figures=tuple(row[name] for name in FIGURES),
        image=image["bytes"] if image else None,
    )
