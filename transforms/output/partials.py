"""Writes and reads partial statistics as table rows, in blocks of classes."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from transforms.output.parquet import CheckedSink
from transforms.output.schemas import MOMENTS, PARTIALS
from transforms.statistics import FIGURES, SHARES, ClassStatistics, Moments, Ranking, Sample

# The number of classes in a block. Statistics are merged and finished block by block, so that a thousand classes need
# no more memory than one block. A class takes 110 KB at a grid of 56.
_CLASSES_TOGETHER = 32


def class_block(class_index: int) -> int:
    """The block that a class belongs to. The dataset is in the first block, so that few classes make one block."""
    return max(class_index, 0) // _CLASSES_TOGETHER


def statistics_table(classes: Mapping[int, ClassStatistics]) -> pa.Table:
    """Partial statistics as a table with the columns `PARTIALS`, one row per class."""
    return pa.Table.from_pylist([_statistics_row(c, classes[c]) for c in sorted(classes)], PARTIALS)


def _statistics_row(class_index: int, statistics: ClassStatistics) -> dict[str, Any]:
    row = {
        "class": class_index,
        "labelled": statistics.labelled,
        "correct": statistics.correct,
        "predicted_classes": list(statistics.predictions),
        "predicted_images": list(statistics.predictions.values()),
        "sample_size": statistics.sample.size,
        "sample_keys": statistics.sample.keys,
        "sample_rows": statistics.sample.rows.ravel(),
        "cells_size": statistics.cells.size,
        "cells_keys": statistics.cells.keys,
        "cells_rows": statistics.cells.rows.ravel(),
        "largest_error": statistics.largest_error,
    }
    for name in MOMENTS:
        moments: Moments = getattr(statistics, name)
        row[f"{name}_count"] = moments.count
        row[f"{name}_mean"], row[f"{name}_squares"] = moments.mean.ravel(), moments.squares.ravel()
    for end in ("top", "bottom"):
        pairs = getattr(statistics.by_logit, end)
        row[f"{end}_scores"], row[f"{end}_ids"] = [s for s, _ in pairs], [i for _, i in pairs]
    return row


def statistics_from_table(table: pa.Table) -> Iterator[tuple[int, ClassStatistics]]:
    """Yields the classes and their partial statistics in a table that `statistics_table` made, one at a time."""
    for batch in table.to_batches(max_chunksize=16):
        for i in range(batch.num_rows):
            yield _statistics_of(batch, i)


def _statistics_of(batch: pa.RecordBatch, i: int) -> tuple[int, ClassStatistics]:
    def scalar(name: str) -> Any:
        return batch.column(name)[i].as_py()

    def array(name: str) -> np.ndarray:
        return batch.column(name)[i].values.to_numpy(zero_copy_only=False)

    def moments(name: str) -> Moments:
        mean, squares = array(f"{name}_mean"), array(f"{name}_squares")
        side = round(len(mean) ** 0.5)
        shape = {"logit": (), "probability": (), "figures": (len(FIGURES),)}.get(name, (side, side))
        return Moments(scalar(f"{name}_count"), mean.reshape(shape), squares.reshape(shape))

    def ends(end: str) -> list[tuple[float, str]]:
        return list(zip(scalar(f"{end}_scores"), scalar(f"{end}_ids"), strict=True))

    rows = array("sample_rows").reshape(-1, len(FIGURES) + 1)
    return scalar("class"), ClassStatistics(
        labelled=scalar("labelled"),
        correct=scalar("correct"),
        predictions=Counter(dict(zip(scalar("predicted_classes"), scalar("predicted_images"), strict=True))),
        **{name: moments(name) for name in MOMENTS},
        sample=Sample(scalar("sample_size"), array("sample_keys"), rows),
        cells=Sample(scalar("cells_size"), array("cells_keys"), array("cells_rows").reshape(-1, 1 + SHARES)),
        largest_error=scalar("largest_error"),
        by_logit=Ranking(ends("top"), ends("bottom")),
    )


def write_partials_to(sink: IO[bytes] | CheckedSink, classes: Mapping[int, ClassStatistics], schema: pa.Schema) -> None:
    """Writes a Parquet file of partial statistics. Each block of classes has its own row groups."""
    # Without dictionaries, and without the minimum and maximum of any column but `class`: nothing would use them.
    with pq.ParquetWriter(
        sink,
        schema,
        compression="zstd",
        use_dictionary=False,
        write_statistics=["class"],
        write_page_checksum=True,
    ) as writer:
        for _, block in itertools.groupby(sorted(classes), class_block):
            writer.write_table(statistics_table({c: classes[c] for c in block}))


def partials_in(file: pq.ParquetFile, block: int | None = None) -> Iterator[tuple[int, ClassStatistics]]:
    """Yields the classes of a file and their partial statistics; `block` None stands for all blocks of classes."""
    for group in range(file.num_row_groups):
        classes = file.metadata.row_group(group).column(0).statistics
        if block is None or class_block(classes.min) <= block <= class_block(classes.max):
            # A thread per column would cost more than the reading.
            for class_index, statistics in statistics_from_table(file.read_row_group(group, use_threads=False)):
                if block is None or class_block(class_index) == block:
                    yield class_index, statistics


def blocks_in(file: pq.ParquetFile) -> list[int]:
    """The blocks of classes for which a file has partial statistics."""
    blocks: set[int] = set()
    for group in range(file.num_row_groups):
        classes = file.metadata.row_group(group).column(0).statistics
        ends = {class_block(classes.min), class_block(classes.max)}
        if len(ends) > 1:  # files of earlier versions
            table = file.read_row_group(group, columns=["class"], use_threads=False)
            ends = {class_block(c) for c in table["class"].to_pylist()}
        blocks |= ends
    return sorted(blocks)
