"""The folder that a run writes: where each file is, and files that are whole or not there."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import os
import posixpath
import socket
import time
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam.io.filesystem import BeamIOError, CompressionTypes, FileMetadata
from apache_beam.io.filesystems import FileSystems

from transforms.filesystems import use_options_if_none_are_set
from transforms.output.files import list_files, match, open_file, read_bytes, replace
from transforms.output.partials import class_block, statistics_from_table, statistics_table
from transforms.output.schemas import PARTIALS, SCHEMA_VERSION
from transforms.statistics import ClassStatistics
from transforms.unit import Receipt, Unit

# Rows are gathered to row groups of about this size: large enough to compress and to scan, small enough to hold.
_ROW_GROUP_BYTES = 16 << 20

# A temporary file of another machine that nobody has touched for so long is taken for one that was left behind.
_ABANDONED_SECONDS = 24 * 3600.0


@dataclasses.dataclass(frozen=True, slots=True)
class Output:
    """The folder that a run writes, on any file system that Beam knows.

    Attributes:
      path: the folder.
      fingerprint: what identifies model, method and map settings; stands in the metadata of every Parquet file.
      run: the run that writes; stands in the names of its temporary files.
      options: options for Beam's file systems, as on Beam's command line. They are put to use where nobody has done so:
        a worker that a pool starts is not told them.
    """

    path: str
    fingerprint: str = ""
    run: str = ""
    options: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        use_options_if_none_are_set(self.options)

    def __reduce__(self) -> tuple[type[Output], tuple[Any, ...]]:
        return Output, (self.path, self.fingerprint, self.run, self.options)

    def file(self, *names: str) -> str:
        return FileSystems.join(self.path, *names)

    def part(self, kind: str, unit: Unit) -> str:
        """The file of a unit: kind is `maps`, `errors` or `partials`."""
        return self.file(kind, f"{unit.id}.parquet")

    def receipt(self, unit: Unit) -> str:
        return self.file("receipts", f"{unit.id}.json")

    def heartbeat(self, unit: Unit) -> str:
        """The file that says how far a unit under way is."""
        return self.file("tmp", f"{unit.id}.progress")

    def create(self) -> None:
        """Makes the folders; those that are there stay as they are."""
        for name in ("receipts", "maps", "partials", "errors", "tmp"):
            with contextlib.suppress(BeamIOError, OSError):  # there already, or a store without folders
                FileSystems.mkdirs(self.file(name))

    def temporary(self, name: str) -> str:
        """A file of this run that `clear_temporary` deletes at the run's end."""
        return self.file("tmp", f"{self.run}~{name}")

    def clear_temporary(self) -> None:
        """Deletes what attempts left behind, before this run's first attempt and after its last.

        Another run may be at work on the same output, as one that its launcher lost sight of: what it is writing stays.
        """
        left = [file.path for file in match(self.file("tmp", "*")) if self._is_left(file)]
        if left:
            with contextlib.suppress(BeamIOError):  # another launcher cleared them at the same time
                FileSystems.delete(left)

    def _is_left(self, file: FileMetadata) -> bool:
        """Whether nobody is writing a temporary file any more: it is of this run, of a process of this machine that has
        ended, or old. A heartbeat may always go: it comes again."""
        name = posixpath.basename(file.path)
        run, *writer = name.split("~")
        if name.endswith(".progress") or run == self.run:
            return True
        if len(writer) == 4 and writer[0] == socket.gethostname() and not _is_running(int(writer[1])):
            return True
        return 0 < file.last_updated_in_seconds < time.time() - _ABANDONED_SECONDS

    @contextlib.contextmanager
    def writing(self, path: str) -> Iterator[IO[bytes]]:
        """A file that gets its name when the block ends well; otherwise nothing stays.

        What had the name before is replaced whole: two that write the same unit leave one of two equal files.
        """
        writer = f"{socket.gethostname()}~{os.getpid()}~{uuid.uuid4().hex[:12]}"
        temporary = self.temporary(f"{writer}~{posixpath.basename(path)}.part")
        sink = FileSystems.create(temporary, compression_type=CompressionTypes.UNCOMPRESSED)
        try:
            yield sink
            sink.close()
            replace(temporary, path)
        except BaseException:
            with contextlib.suppress(Exception):
                sink.close()
            with contextlib.suppress(Exception):
                FileSystems.delete([temporary])
            raise

    def write_json(self, path: str, text: str) -> None:
        with self.writing(path) as sink:
            sink.write(text.encode())

    def delete(self, path: str) -> None:
        FileSystems.delete([path])

    def read_json(self, name: str) -> Any | None:
        """The content of a JSON file in the folder, None where there is none.

        Raises:
          ValueError: the file is not JSON.
        """
        text = read_bytes(self.file(name))
        try:
            return None if text is None else json.loads(text)
        except ValueError as error:
            raise ValueError(f"{self.file(name)} is no JSON file") from error

    def read_receipt(self, unit: Unit) -> Receipt | None:
        text = read_bytes(self.receipt(unit))
        return None if text is None else Receipt.from_json(text)

    def read_receipts(self) -> list[Receipt]:
        """All receipts, in the order of shards and records."""
        paths = list_files(self.file("receipts", "*.json"))
        with ThreadPoolExecutor(16) as pool:
            texts = list(pool.map(read_bytes, paths))
        receipts = [Receipt.from_json(text) for text in texts if text is not None]
        return sorted(receipts, key=lambda receipt: (receipt.unit.shard.path, receipt.unit.start))

    def schema(self, schema: pa.Schema) -> pa.Schema:
        return schema.with_metadata(
            {"fullgrad.schema_version": SCHEMA_VERSION, "fullgrad.fingerprint": self.fingerprint}
        )

    def write_table(self, path: str, table: pa.Table) -> None:
        with self.writing(path) as sink:
            pq.write_table(table.cast(self.schema(table.schema)), sink, compression="zstd")

    @contextlib.contextmanager
    def writing_rows(self, path: str, schema: pa.Schema) -> Iterator[RowWriter]:
        """Like `writing`, for rows that come batch by batch."""
        # A dictionary is for what comes again: of maps and numbers it would be all of them, and written in vain.
        types = pa.types
        repeating = [each.name for each in schema if types.is_string(each.type) or types.is_integer(each.type)]
        with (
            self.writing(path) as sink,
            pq.ParquetWriter(sink, self.schema(schema), compression="zstd", use_dictionary=repeating) as writer,
        ):
            rows = RowWriter(writer)
            yield rows
            rows.flush()

    def write_partials(self, unit: Unit, classes: Mapping[int, ClassStatistics]) -> None:
        """Writes a unit's partial statistics, each block of classes as row groups of its own."""
        with (
            self.writing(self.part("partials", unit)) as sink,
            # Without what nobody would use: dictionaries of numbers, and the ends of all columns but the first.
            pq.ParquetWriter(
                sink, self.schema(PARTIALS), compression="zstd", use_dictionary=False, write_statistics=["class"]
            ) as writer,
        ):
            for _, block in itertools.groupby(sorted(classes), class_block):
                writer.write_table(statistics_table({c: classes[c] for c in block}))

    def read_partials(self, unit: Unit, block: int | None = None) -> Iterator[tuple[int, ClassStatistics]]:
        """The classes that a unit has partial statistics of, and these; of one block of classes, None for all."""
        with open_file(self.part("partials", unit)) as source:
            file = pq.ParquetFile(source)
            for group in range(file.num_row_groups):
                classes = file.metadata.row_group(group).column(0).statistics
                if block is None or class_block(classes.min) <= block <= class_block(classes.max):
                    # A thread for each column would cost more than reading them does.
                    for class_index, statistics in statistics_from_table(file.read_row_group(group, use_threads=False)):
                        if block is None or class_block(class_index) == block:
                            yield class_index, statistics

    def read_blocks(self, unit: Unit) -> list[int]:
        """The blocks of classes that a unit has partial statistics of."""
        with open_file(self.part("partials", unit)) as source:
            file = pq.ParquetFile(source)
            blocks: set[int] = set()
            for group in range(file.num_row_groups):
                classes = file.metadata.row_group(group).column(0).statistics
                ends = {class_block(classes.min), class_block(classes.max)}
                if len(ends) > 1:  # as earlier versions wrote them
                    table = file.read_row_group(group, ["class"], use_threads=False)
                    ends = {class_block(c) for c in table["class"].to_pylist()}
                blocks |= ends
        return sorted(blocks)


class RowWriter:
    """Gathers batches of rows to row groups. `rows` counts them."""

    def __init__(self, writer: pq.ParquetWriter):
        self._writer = writer
        self._batches: list[pa.RecordBatch] = []
        self._bytes = 0
        self.rows = 0

    def write(self, batch: pa.RecordBatch) -> None:
        self.rows += batch.num_rows
        self._batches.append(batch)
        self._bytes += batch.nbytes
        if self._bytes >= _ROW_GROUP_BYTES:
            self.flush()

    def flush(self) -> None:
        if self._batches:
            self._writer.write_table(pa.Table.from_batches(self._batches))
            self._batches, self._bytes = [], 0


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        return True
    return True
