"""Writes rows to Parquet files: as a table, or in batches that are collected into row groups."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

from transforms.output.parquet import CheckedSink

# The size of a row group in bytes: large enough to compress and scan well, small enough to hold in memory.
_ROW_GROUP_BYTES = 16 << 20


class RowWriter:
    """Collects batches of rows into row groups. `rows` is the number of rows so far."""

    def __init__(self, writer: pq.ParquetWriter, row_group_bytes: int):
        self._writer = writer
        self._row_group_bytes = row_group_bytes
        self._batches: list[pa.RecordBatch] = []
        self._bytes = 0
        self.rows = 0

    def write(self, batch: pa.RecordBatch) -> None:
        """Adds a batch of rows."""
        self.rows += batch.num_rows
        self._batches.append(batch)
        self._bytes += batch.nbytes
        if self._bytes >= self._row_group_bytes:
            self.flush()

    def flush(self) -> None:
        """Writes the collected rows as a row group."""
        if self._batches:
            self._writer.write_table(pa.Table.from_batches(self._batches))
            self._batches, self._bytes = [], 0


@contextlib.contextmanager
def rows_into(
    sink: IO[bytes] | CheckedSink, schema: pa.Schema, row_group_bytes: int | None = None
) -> Iterator[RowWriter]:
    """A Parquet file whose rows come in batches, with row groups of about `row_group_bytes`."""
    # Dictionaries help only columns with repeated values. For maps and floating-point numbers they would be a waste.
    types = pa.types
    repeating = [each.name for each in schema if types.is_string(each.type) or types.is_integer(each.type)]
    with pq.ParquetWriter(
        sink, schema, compression="zstd", use_dictionary=repeating, write_page_checksum=True
    ) as writer:
        rows = RowWriter(writer, row_group_bytes or _ROW_GROUP_BYTES)
        yield rows
        rows.flush()


def write_table_to(sink: IO[bytes] | CheckedSink, table: pa.Table, schema: pa.Schema) -> None:
    """Writes a table as a Parquet file with a schema that has the table's columns."""
    pq.write_table(table.cast(schema), sink, compression="zstd", write_page_checksum=True)
