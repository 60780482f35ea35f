"""Commits units: their parts wait in `tmp`, and come in place once a receipt says what they are.

A unit has several files, and no file system renames several at once. So the receipt decides alone:

1. The parts are written to `tmp`, where no reader looks, and through to the disk.
2. The receipt is written, with size and checksum of each part, and with the name of the attempt. Now the unit exists.
3. The parts are moved to their folders. Whoever finds a receipt whose parts still wait can move them as well.

What lies in `maps` and beside it has a receipt at every moment. The few parts that have a receipt and still wait are
found there by `Output.open_part`.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from types import TracebackType

import pyarrow as pa
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems

from transforms.output.files import DamagedOutput, damaged, open_file, remove, sync_all
from transforms.output.parquet import CheckedSink
from transforms.output.partials import write_partials_to
from transforms.output.rows import RowWriter, rows_into, write_table_to
from transforms.output.schemas import PARTIALS
from transforms.output.store import KINDS, Output
from transforms.statistics import ClassStatistics
from transforms.unit import Part, Receipt, Unit

_PIECE = 8 << 20


class OtherRun(RuntimeError):
    """A unit was committed with other settings; one sentence that names its receipt."""


class NewParts:
    """The parts of a unit that is being computed, as a context. What is not committed is deleted at its end."""

    def __init__(self, output: Output, unit: Unit):
        self._output = output
        self._unit = unit
        self._attempt = output.new_attempt()
        self._parts: dict[str, Part] = {}
        self._begun: list[str] = []

    def __enter__(self) -> NewParts:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self._begun:
            return
        if kind is not None:
            with contextlib.suppress(Exception):
                # An interrupt may come when the receipt is there already. Then the parts are needed.
                receipt = self._output.read_receipt(self._unit)
                if receipt is not None and receipt.attempt == self._attempt:
                    return
        for path in self._begun:
            with contextlib.suppress(Exception):
                remove(path)

    @contextlib.contextmanager
    def _writing(self, kind: str) -> Iterator[CheckedSink]:
        path = self._output.staged(self._attempt, kind, self._unit.id)
        self._begun.append(path)
        with contextlib.closing(FileSystems.create(path, compression_type=CompressionTypes.UNCOMPRESSED)) as file:
            sink = CheckedSink(file)
            yield sink
        self._parts[kind] = sink.part

    @contextlib.contextmanager
    def writing_rows(self, kind: str, schema: pa.Schema, row_group_bytes: int | None = None) -> Iterator[RowWriter]:
        """A part whose rows come in batches, as with `Output.writing_rows`."""
        with self._writing(kind) as sink, rows_into(sink, self._output.schema(schema), row_group_bytes) as rows:
            yield rows

    def write_table(self, kind: str, table: pa.Table) -> None:
        """Writes a part that is a table."""
        with self._writing(kind) as sink:
            write_table_to(sink, table, self._output.schema(table.schema))

    def write_partials(self, classes: Mapping[int, ClassStatistics]) -> None:
        """Writes the partial statistics, as `Output.write_partials`."""
        with self._writing("partials") as sink:
            write_partials_to(sink, classes, self._output.schema(PARTIALS))

    def copy(self, kind: str, unit: Unit) -> None:
        """Copies a part of a committed unit as it is."""
        with open_file(self._output.find_part(kind, unit)) as source, self._writing(kind) as sink:
            while piece := source.read(_PIECE):
                sink.write(piece)

    def copy_rows(self, kind: str, unit: Unit, shard: str) -> None:
        """Copies a part of a committed unit row group by row group, with another path in the column `shard`."""
        with self._output.open_part(kind, unit) as file:
            schema = file.schema_arrow
            place = schema.names.index("shard")
            with self.writing_rows(kind, schema.remove_metadata()) as rows:
                for group in range(file.num_row_groups):
                    table = file.read_row_group(group, use_threads=False)
                    paths = pa.array([shard] * len(table), schema.types[place])
                    for batch in table.set_column(place, schema.field(place), paths).to_batches():
                        rows.write(batch)
                    rows.flush()

    def flush(self) -> None:
        """Writes the parts through to the disk, if it is a local one."""
        sync_all([*self._begun, self._output.file("tmp")])

    def commit(self, receipt: Receipt) -> Receipt:
        """Commits the unit with the parts written so far.

        Returns:
          The receipt that counts. If another attempt was first, it is that one's, and these parts are deleted.

        Raises:
          OtherRun: the unit was committed with other settings.
        """
        self.flush()
        stored = self._output.write_receipt(
            dataclasses.replace(
                receipt, fingerprint=self._output.fingerprint, parts=dict(self._parts), attempt=self._attempt
            )
        )
        check_fingerprint(stored, self._output)
        if stored.attempt == self._attempt:
            if not self._output.settle(stored):
                raise damaged(self._output.part("maps", self._unit), "its parts were deleted while it was committed")
            self._begun = []
        return stored


def check_fingerprint(receipt: Receipt, output: Output) -> None:
    """Refuses a receipt of other settings. Those of earlier versions do not name them.

    Raises:
      OtherRun: names the receipt.
    """
    if receipt.fingerprint is not None and receipt.fingerprint != output.fingerprint:
        raise OtherRun(
            f"{output.receipt(receipt.unit)} is of a run with other settings (fingerprint {receipt.fingerprint}, where "
            f"this run has {output.fingerprint}); give each configuration an output.path of its own"
        )


def committed(unit: Unit, output: Output) -> Receipt | None:
    """The receipt of a committed unit; None if it is to be computed. Parts of this run that still wait are moved.

    Raises:
      OtherRun: the unit was committed with other settings.
    """
    try:
        receipt = output.read_receipt(unit)
    except DamagedOutput:
        discard(unit.id, output)
        return None
    if receipt is None:
        return None
    check_fingerprint(receipt, output)
    # The launcher has looked at the receipts of earlier runs.
    if receipt.run == output.run and not output.settle(receipt):
        discard(unit.id, output)
        return None
    return receipt


def discard(unit_id: str, output: Output) -> None:
    """Deletes a unit. Its parts go first, so that no part is without a receipt at any moment."""
    for kind in KINDS:
        remove(output.file(kind, f"{unit_id}.parquet"))
    remove(output.file("receipts", f"{unit_id}.json"))
