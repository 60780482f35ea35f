"""The output folder: where each file is, and how files are written so that they are complete or absent."""

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
from transforms.output.hugging_face import IMAGE, hugging_face_metadata
from transforms.output.partials import class_block, statistics_from_table, statistics_table
from transforms.output.schemas import PARTIALS, SCHEMA_VERSION
from transforms.statistics import ClassStatistics
from transforms.unit import Receipt, Unit

# The size of a row group in bytes: large enough to compress and scan well, small enough to hold in memory.
_ROW_GROUP_BYTES = 16 << 20

# A temporary file from another machine counts as abandoned after so long without a change.
_ABANDONED_SECONDS = 24 * 3600.0


@dataclasses.dataclass(frozen=True, slots=True)
class Output:
    """A run's output folder, on any file system that Beam knows.

    Attributes:
      path: the folder.
      fingerprint: identifies model, method and map settings. Every Parquet file has it in its metadata.
      run: identifies the run that writes. The names of its temporary files begin with it.
      options: options for Beam's file systems, as on Beam's command line. They are set unless options are already set:
        a worker that a pool starts does not get them from Beam.
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
        """The path of a file in the folder."""
        return FileSystems.join(self.path, *names)

    def part(self, kind: str, unit: Unit) -> str:
        """The path of a unit's part; `kind` is `maps`, `small_maps`, `errors` or `partials`."""
        return self.file(kind, f"{unit.id}.parquet")

    def receipt(self, unit: Unit) -> str:
        """The path of a unit's receipt."""
        return self.file("receipts", f"{unit.id}.json")

    def heartbeat(self, unit: Unit) -> str:
        """The path of the file with the progress of a unit that is being computed."""
        return self.file("tmp", f"{unit.id}.progress")

    def create(self) -> None:
        """Makes the folders. Existing folders are kept."""
        for name in ("receipts", "maps", "small_maps", "partials", "errors", "tmp"):
            with contextlib.suppress(BeamIOError, OSError):  # it exists already, or the store has no folders
                FileSystems.mkdirs(self.file(name))

    def create_temporary(self) -> None:
        """Makes the folder of temporary files, for a few files beside or in another run's output."""
        with contextlib.suppress(BeamIOError, OSError):  # it exists already, or the store has no folders
            FileSystems.mkdirs(self.file("tmp"))

    def temporary(self, name: str) -> str:
        """The path of a temporary file of this run. `clear_temporary` deletes it at the end of the run."""
        return self.file("tmp", f"{self.run}~{name}")

    def clear_temporary(self) -> None:
        """Deletes temporary files that attempts left behind, before this run's first attempt and after its last.

        Another run may still write to the same output, for example one whose launcher was lost. Its files are kept.
        """
        left = [file.path for file in match(self.file("tmp", "*")) if self._is_abandoned(file)]
        if left:
            with contextlib.suppress(BeamIOError):  # another launcher deleted them at the same time
                FileSystems.delete(left)

    def _is_abandoned(self, file: FileMetadata) -> bool:
        """Whether a temporary file is no longer being written.

        That holds for files of this run, of a process on this machine that has ended, and for old files. A heartbeat
        can always be deleted, because it is written again.
        """
        name = posixpath.basename(file.path)
        run, *writer = name.split("~")
        if name.endswith(".progress") or run == self.run:
            return True
        if len(writer) == 4 and writer[0] == socket.gethostname() and not _is_running(int(writer[1])):
            return True
        return 0 < file.last_updated_in_seconds < time.time() - _ABANDONED_SECONDS

    @contextlib.contextmanager
    def writing(self, path: str) -> Iterator[IO[bytes]]:
        """A new file that gets its name when the block ends without an error. After an error nothing is left.

        A file that already has the name is replaced as a whole. If two workers write the same unit, one of two equal
        files remains.
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
        """Writes a JSON file, complete or not at all."""
        with self.writing(path) as sink:
            sink.write(text.encode())

    def delete(self, path: str) -> None:
        """Deletes a file."""
        FileSystems.delete([path])

    def read_json(self, name: str) -> Any | None:
        """The content of a JSON file in the folder; None if there is no such file.

        Raises:
          ValueError: the file is not JSON.
        """
        text = read_bytes(self.file(name))
        try:
            return None if text is None else json.loads(text)
        except ValueError as error:
            raise ValueError(f"{self.file(name)} is no JSON file") from error

    def read_receipt(self, unit: Unit) -> Receipt | None:
        """A unit's receipt; None if the unit is not committed."""
        text = read_bytes(self.receipt(unit))
        return None if text is None else Receipt.from_json(text)

    def read_receipts(self) -> list[Receipt]:
        """All receipts, ordered by shard and record."""
        paths = list_files(self.file("receipts", "*.json"))
        with ThreadPoolExecutor(16) as pool:
            texts = list(pool.map(read_bytes, paths))
        receipts = [Receipt.from_json(text) for text in texts if text is not None]
        return sorted(receipts, key=lambda receipt: (receipt.unit.shard.path, receipt.unit.start))

    def schema(self, schema: pa.Schema) -> pa.Schema:
        """The schema with the metadata that every Parquet file carries."""
        metadata = {"fullgrad.schema_version": SCHEMA_VERSION, "fullgrad.fingerprint": self.fingerprint}
        if IMAGE in schema.types:
            metadata["huggingface"] = hugging_face_metadata(schema)
        return schema.with_metadata(metadata)

    def write_table(self, path: str, table: pa.Table) -> None:
        """Writes a Parquet file, complete or not at all."""
        with self.writing(path) as sink:
            pq.write_table(table.cast(self.schema(table.schema)), sink, compression="zstd")

    @contextlib.contextmanager
    def writing_rows(self, path: str, schema: pa.Schema, row_group_bytes: int | None = None) -> Iterator[RowWriter]:
        """Like `writing`, for a Parquet file whose rows come in batches, with row groups of about `row_group_bytes`."""
        # Dictionaries help only columns with repeated values. For maps and floating-point numbers they would be a
        # waste.
        types = pa.types
        repeating = [each.name for each in schema if types.is_string(each.type) or types.is_integer(each.type)]
        with (
            self.writing(path) as sink,
            pq.ParquetWriter(sink, self.schema(schema), compression="zstd", use_dictionary=repeating) as writer,
        ):
            rows = RowWriter(writer, row_group_bytes or _ROW_GROUP_BYTES)
            yield rows
            rows.flush()

    def write_partials(self, unit: Unit, classes: Mapping[int, ClassStatistics]) -> None:
        """Writes a unit's partial statistics. Each block of classes has its own row groups."""
        with (
            self.writing(self.part("partials", unit)) as sink,
            # Without dictionaries, and without the minimum and maximum of any column but `class`: nothing would use
            # them.
            pq.ParquetWriter(
                sink, self.schema(PARTIALS), compression="zstd", use_dictionary=False, write_statistics=["class"]
            ) as writer,
        ):
            for _, block in itertools.groupby(sorted(classes), class_block):
                writer.write_table(statistics_table({c: classes[c] for c in block}))

    def read_partials(self, unit: Unit, block: int | None = None) -> Iterator[tuple[int, ClassStatistics]]:
        """Yields a unit's classes and their partial statistics; `block` None stands for all blocks of classes."""
        with open_file(self.part("partials", unit)) as source:
            file = pq.ParquetFile(source)
            for group in range(file.num_row_groups):
                classes = file.metadata.row_group(group).column(0).statistics
                if block is None or class_block(classes.min) <= block <= class_block(classes.max):
                    # A thread per column would cost more than the reading.
                    for class_index, statistics in statistics_from_table(file.read_row_group(group, use_threads=False)):
                        if block is None or class_block(class_index) == block:
                            yield class_index, statistics

    def read_blocks(self, unit: Unit) -> list[int]:
        """The blocks of classes for which a unit has partial statistics."""
        with open_file(self.part("partials", unit)) as source:
            file = pq.ParquetFile(source)
            blocks: set[int] = set()
            for group in range(file.num_row_groups):
                classes = file.metadata.row_group(group).column(0).statistics
                ends = {class_block(classes.min), class_block(classes.max)}
                if len(ends) > 1:  # files of earlier versions
                    table = file.read_row_group(group, ["class"], use_threads=False)
                    ends = {class_block(c) for c in table["class"].to_pylist()}
                blocks |= ends
        return sorted(blocks)


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


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's process
        return True
    return True
