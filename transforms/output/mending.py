"""Finds and removes what does not belong to an output: damaged units, and parts without a receipt."""

from __future__ import annotations

import dataclasses
import posixpath
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from apache_beam.io.filesystems import FileSystems

from transforms.output.committing import discard
from transforms.output.files import DamagedOutput, list_files, match, read_bytes, remove, size_of
from transforms.output.parquet import open_parquet, part_of_file
from transforms.output.seal import receipt_of
from transforms.output.store import KINDS, Output
from transforms.unit import Receipt

# The names of units' files, as `Unit.id` makes them. Other files in the folders are somebody's own.
_UNIT_ID = re.compile(r".*-\d{9,}-[0-9a-f]{10}")

# The tables that every output has at its end.
TABLES = ("classes.parquet", "confusion.parquet", "examples.parquet")
_TABLES_OF_CLUSTERS = ("clusters.parquet", "cluster_members.parquet")


@dataclasses.dataclass(frozen=True, slots=True)
class Damage:
    """A committed unit that is not as its receipt says.

    Attributes:
      unit_id: the unit's id.
      path: the file that is missing or damaged.
      reason: in a few words.
    """

    unit_id: str
    path: str
    reason: str


def damages(receipts: Sequence[Receipt], output: Output) -> list[Damage]:
    """The units of which a part is missing or has another size than its receipt says. One listing, no reading."""
    sizes = {file.path: file.size_in_bytes for kind in KINDS for file in match(output.file(kind, "*.parquet"))}
    found = []
    for receipt in receipts:
        for path, expected, staged in _expected(receipt, output):
            # What is not in place may still wait, or was moved since the listing.
            size = sizes.get(path)
            if size != expected or size is None:
                size = size_of(staged) if staged is not None else None
                size = size_of(path) if size is None else size
            if size is None:
                found.append(Damage(receipt.unit.id, path, "it is missing"))
            elif size == 0 or expected not in (None, size):
                should = "" if expected is None else f", where its receipt says {expected:,}"
                found.append(Damage(receipt.unit.id, path, f"it has {size:,} bytes{should}"))
            else:
                continue
            break
    return found


def _expected(receipt: Receipt, output: Output) -> Iterator[tuple[str, int | None, str | None]]:
    """Path, size and waiting path of a unit's parts; receipts of earlier versions do not tell the last two."""
    if receipt.parts is None:
        for kind in ("maps", "partials"):
            yield output.part(kind, receipt.unit), None, None
        return
    for kind, part in receipt.parts.items():
        yield output.part(kind, receipt.unit), part.size, output.staged(receipt.attempt or "", kind, receipt.unit.id)


def settle_all(receipts: Sequence[Receipt], output: Output) -> None:
    """Moves the parts of committed units in place that still wait, as their worker was killed."""
    there = {path for kind in KINDS for path in list_files(output.file(kind, "*.parquet"))}
    for receipt in receipts:
        if not {output.part(kind, receipt.unit) for kind in receipt.parts or {}} <= there:
            output.settle(receipt)


def verify(receipts: Sequence[Receipt], output: Output) -> list[Damage]:
    """Reads all files of the units, and the tables of the output; what is not as it was written."""
    found = damages(receipts, output)
    known = {damage.path for damage in found}
    parts = [
        (receipt, kind, part)
        for receipt in receipts
        for kind, part in (receipt.parts or {}).items()
        if output.part(kind, receipt.unit) not in known
    ]

    def check(each: tuple[Receipt, str, object]) -> Damage | None:
        receipt, kind, part = each
        path = output.part(kind, receipt.unit)
        if size_of(path) is None:  # it still waits
            path = output.staged(receipt.attempt or "", kind, receipt.unit.id)
        same = part_of_file(path) == part
        return None if same else Damage(receipt.unit.id, path, "its content does not match its receipt's checksum")

    with ThreadPoolExecutor(4) as pool:
        found += [damage for damage in pool.map(check, parts) if damage is not None]
    return found


def damaged_tables(output: Output) -> list[Damage]:
    """The tables that a run writes and that cannot be read, with the checksums of their pages."""
    found = []
    for path in (output.file(name) for name in (*TABLES, *_TABLES_OF_CLUSTERS)):
        if not FileSystems.exists(path):
            continue
        try:
            with open_parquet(path) as file:
                for _ in file.iter_batches():
                    pass
        except DamagedOutput as error:
            found.append(Damage("", path, str(error).partition("(")[2].rpartition(")")[0]))
    return found


def orphans(output: Output) -> dict[str, list[str]]:
    """The parts without a receipt, by their unit's id.

    No run of this version leaves any. A run may commit at the same time, so the parts are listed before the receipts.
    """
    parts: dict[str, list[str]] = {}
    for kind in KINDS:
        for path in list_files(output.file(kind, "*.parquet")):
            parts.setdefault(_stem(path), []).append(path)
    there = {_stem(path) for path in list_files(output.file("receipts", "*.json"))}
    return {name: paths for name, paths in parts.items() if name not in there and _UNIT_ID.fullmatch(name)}


def remove_orphans(output: Output) -> None:
    """Deletes the parts without a receipt, which readers of `maps/*.parquet` would take for data."""
    for paths in orphans(output).values():
        for path in paths:
            remove(path)


def discard_if_unchanged(unit_id: str, planned: Receipt | None, output: Output) -> None:
    """Deletes a unit, unless another run has committed it anew since `planned` was read (None if it was unreadable)."""
    path = output.file("receipts", f"{unit_id}.json")
    text = read_bytes(path)
    try:
        now = None if text is None else receipt_of(path, text)
    except DamagedOutput:
        now = None
    if now is None or now == planned:
        discard(unit_id, output)


def _stem(path: str) -> str:
    return posixpath.basename(path).rpartition(".")[0]
