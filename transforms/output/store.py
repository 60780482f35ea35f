"""The output folder: where each file is, and how files are written so that they are complete or absent."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import posixpath
import uuid
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import IO, Any

import pyarrow as pa
from apache_beam.io.filesystem import BeamIOError, CompressionTypes
from apache_beam.io.filesystems import FileSystems

from transforms.filesystems import STORE_ERRORS, use_options_if_none_are_set
from transforms.output.files import (
    DamagedOutput,
    damaged,
    is_local,
    list_files,
    match,
    open_file,
    place_new,
    read_bytes,
    remove,
    replace,
    size_of,
    sync_file,
    sync_folder,
)
from transforms.output.hugging_face import IMAGE, hugging_face_metadata
from transforms.output.leftovers import is_abandoned, new_attempt
from transforms.output.parquet import ParquetReader
from transforms.output.partials import blocks_in, partials_in, write_partials_to
from transforms.output.rows import RowWriter, rows_into, write_table_to
from transforms.output.schemas import PARTIALS, SCHEMA_VERSION
from transforms.output.seal import receipt_of, sealed
from transforms.output.uploads import unfinished_uploads
from transforms.statistics import ClassStatistics
from transforms.unit import Receipt, Unit

# The kinds of a unit's parts. A unit without errors has no `errors`.
KINDS = ("maps", "small_maps", "partials", "errors")


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
        for name in ("receipts", *KINDS, "tmp"):
            with contextlib.suppress(BeamIOError, OSError):  # it exists already, or the store has no folders
                FileSystems.mkdirs(self.file(name))

    def create_temporary(self) -> None:
        """Makes the folder of temporary files, for a few files beside or in another run's output."""
        with contextlib.suppress(BeamIOError, OSError):  # it exists already, or the store has no folders
            FileSystems.mkdirs(self.file("tmp"))

    def temporary(self, name: str) -> str:
        """The path of a temporary file of this run. `clear_temporary` deletes it at the end of the run."""
        return self.file("tmp", f"{self.run}~{name}")

    def clear_temporary(self, ended: Collection[str] = ()) -> None:
        """Deletes temporary files and unfinished uploads that attempts left behind.

        A run does so before its first attempt and after its last. Parts whose unit is committed are moved in place.
        Another run may still write to the same output, for example one whose launcher was lost. Its files are kept.

        Args:
          ended: further runs that are known to have ended.
        """
        for file in match(self.file("tmp", "*")):
            if is_abandoned(file, {self.run, *ended}) and not self._settles(file.path):
                remove(file.path)
        for upload in unfinished_uploads(self.file("tmp")):
            if is_abandoned(upload.file, {self.run, *ended}):
                upload.abort()

    def _settles(self, path: str) -> bool:
        """Whether a temporary file was a part of a committed unit, all of whose parts are in place now."""
        *attempt, kind, name = ["", *posixpath.basename(path).split("~")][-6:]
        if len(attempt) != 4 or kind not in KINDS:
            return False
        path = self.file("receipts", f"{name.removesuffix('.part')}.json")
        text = read_bytes(path)
        try:
            receipt = None if text is None else receipt_of(path, text)
        except DamagedOutput:
            return False
        return receipt is not None and receipt.attempt == "~".join(attempt) and self.settle(receipt)

    def settle(self, receipt: Receipt) -> bool:
        """Moves the parts of a committed unit in place, if they wait; says whether all are there with their sizes."""
        whole = True
        for kind, part in (receipt.parts or {}).items():
            path, staged = self.part(kind, receipt.unit), self.staged(receipt.attempt or "", kind, receipt.unit.id)
            try:
                replace(staged, path)
            except STORE_ERRORS:  # it was moved before, or another process has just done so
                whole &= size_of(path) == part.size
        return whole

    def staged(self, attempt: str, kind: str, unit_id: str) -> str:
        """The path of a unit's part until it comes in place."""
        return self.file("tmp", f"{attempt}~{kind}~{unit_id}.part")

    def new_attempt(self) -> str:
        """A name for an attempt to write files. The names of its temporary files begin with it."""
        return new_attempt(self.run, uuid.uuid4().hex[:12])

    @contextlib.contextmanager
    def writing(self, path: str) -> Iterator[IO[bytes]]:
        """A new file that gets its name when the block ends without an error. After an error nothing is left.

        A file that already has the name is replaced as a whole. On a local file system, the file outside `tmp` is on
        the disk before it gets its name.
        """
        temporary = self._unfinished(path)
        lasting = posixpath.dirname(path) != posixpath.dirname(temporary)
        sink = FileSystems.create(temporary, compression_type=CompressionTypes.UNCOMPRESSED)
        try:
            yield sink
            if lasting:
                sync_file(sink, temporary)
            sink.close()
            replace(temporary, path)
            if lasting:
                sync_folder(posixpath.dirname(path))
        except BaseException:
            with contextlib.suppress(Exception):
                sink.close()
            with contextlib.suppress(Exception):
                remove(temporary)
            raise

    def _unfinished(self, path: str) -> str:
        return self.file("tmp", f"{self.new_attempt()}~{posixpath.basename(path)}.part")

    def write_json(self, path: str, text: str) -> None:
        """Writes a JSON file, complete or not at all."""
        with self.writing(path) as sink:
            sink.write(text.encode())

    def write_new_json(self, path: str, text: str) -> bool:
        """Writes a JSON file that must not be there yet; returns False, and writes nothing, if it is.

        Of several processes that do so at once, one succeeds; for stores see `place_new`.
        """
        temporary = self._unfinished(path)
        try:
            sink = FileSystems.create(temporary, compression_type=CompressionTypes.UNCOMPRESSED)
            with contextlib.closing(sink):
                sink.write(text.encode())
                sync_file(sink, temporary)
            return place_new(temporary, path)
        except BaseException:
            with contextlib.suppress(Exception):
                remove(temporary)
            raise

    def delete(self, path: str) -> None:
        """Deletes a file."""
        FileSystems.delete([path])

    def read_json(self, name: str) -> Any | None:
        """The content of a JSON file in the folder; None if there is no such file.

        Raises:
          DamagedOutput: the file is not JSON.
        """
        text = read_bytes(self.file(name))
        try:
            return None if text is None else json.loads(text)
        except (ValueError, RecursionError) as error:
            raise DamagedOutput(f"{self.file(name)} is no JSON file") from error

    def write_receipt(self, receipt: Receipt) -> Receipt:
        """Commits a unit. Returns the receipt that counts: this one, or that of an attempt that was first.

        Raises:
          DamagedOutput: a receipt is in the way that cannot be read.
        """
        path = self.receipt(receipt.unit)
        if self.write_new_json(path, sealed(receipt.to_json())) and is_local(path):
            return receipt
        found = self.read_receipt(receipt.unit)
        if found is None:
            raise DamagedOutput(f"{path} was deleted while its unit was committed; the same fullgrad run goes on")
        return found

    def read_receipt(self, unit: Unit) -> Receipt | None:
        """A unit's receipt; None if the unit is not committed.

        Raises:
          DamagedOutput: the receipt is not as it was written.
        """
        path = self.receipt(unit)
        text = read_bytes(path)
        return None if text is None else receipt_of(path, text)

    def read_receipts(self) -> list[Receipt]:
        """All receipts, ordered by shard and record.

        Raises:
          DamagedOutput: a receipt is not as it was written.
        """
        receipts, unreadable = self.look_at_receipts()
        if unreadable:
            raise next(iter(unreadable.values()))
        return receipts

    def look_at_receipts(self) -> tuple[list[Receipt], dict[str, DamagedOutput]]:
        """The receipts, ordered by shard and record, and for each file that is none any more what is wrong with it."""
        paths = list_files(self.file("receipts", "*.json"))
        with ThreadPoolExecutor(16) as pool:
            texts = list(pool.map(read_bytes, paths))
        receipts, unreadable = [], {}
        for path, text in zip(paths, texts, strict=True):
            try:
                if text is not None:
                    receipts.append(receipt_of(path, text))
            except DamagedOutput as error:
                unreadable[path] = error
        return sorted(receipts, key=lambda receipt: (receipt.unit.shard.path, receipt.unit.start)), unreadable

    @contextlib.contextmanager
    def open_part(self, kind: str, unit: Unit) -> Iterator[ParquetReader]:
        """Opens a part of a committed unit, also if it is not in place yet.

        Raises:
          DamagedOutput: the part is missing or not as it was written.
        """
        path = self.part(kind, unit)
        with self._open_bytes(kind, unit) as source:
            yield ParquetReader(source, path)

    def find_part(self, kind: str, unit: Unit) -> str:
        """The path at which a part of a committed unit lies now: in place, or where it waits."""
        path = self.part(kind, unit)
        if not FileSystems.exists(path):
            receipt = self.read_receipt(unit)
            staged = self.staged(receipt.attempt or "", kind, unit.id) if receipt is not None else path
            if FileSystems.exists(staged):
                return staged
        return path

    def _open_bytes(self, kind: str, unit: Unit) -> IO[bytes]:
        path = self.part(kind, unit)
        try:
            return open_file(path)
        except STORE_ERRORS:
            if FileSystems.exists(path):
                raise
        # The worker that committed the unit is about to move its parts, or was killed before it could.
        receipt = self.read_receipt(unit)
        if receipt is not None and receipt.attempt is not None:
            with contextlib.suppress(*STORE_ERRORS):
                return open_file(self.staged(receipt.attempt, kind, unit.id))
        try:
            return open_file(path)
        except STORE_ERRORS as error:
            if FileSystems.exists(path):
                raise
            raise damaged(path, "it is missing") from error

    def schema(self, schema: pa.Schema) -> pa.Schema:
        """The schema with the metadata that every Parquet file carries."""
        metadata = {"fullgrad.schema_version": SCHEMA_VERSION, "fullgrad.fingerprint": self.fingerprint}
        if IMAGE in schema.types:
            metadata["huggingface"] = hugging_face_metadata(schema)
        return schema.with_metadata(metadata)

    def write_table(self, path: str, table: pa.Table) -> None:
        """Writes a Parquet file, complete or not at all."""
        with self.writing(path) as sink:
            write_table_to(sink, table, self.schema(table.schema))

    @contextlib.contextmanager
    def writing_rows(self, path: str, schema: pa.Schema, row_group_bytes: int | None = None) -> Iterator[RowWriter]:
        """Like `writing`, for a Parquet file whose rows come in batches, with row groups of about `row_group_bytes`."""
        with self.writing(path) as sink, rows_into(sink, self.schema(schema), row_group_bytes) as rows:
            yield rows

    def write_partials(self, unit: Unit, classes: Mapping[int, ClassStatistics]) -> None:
        """Writes a unit's partial statistics. Each block of classes has its own row groups."""
        with self.writing(self.part("partials", unit)) as sink:
            write_partials_to(sink, classes, self.schema(PARTIALS))

    def read_partials(self, unit: Unit, block: int | None = None) -> Iterator[tuple[int, ClassStatistics]]:
        """Yields a unit's classes and their partial statistics; `block` None stands for all blocks of classes."""
        with self.open_part("partials", unit) as file:
            yield from partials_in(file, block)

    def read_blocks(self, unit: Unit) -> list[int]:
        """The blocks of classes for which a unit has partial statistics."""
        with self.open_part("partials", unit) as file:
            return blocks_in(file)
