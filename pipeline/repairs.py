"""Finds what is to be mended in an output before a run continues it, and mends it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from pipeline.changes import Changed, Moved, find_changes, some
from pipeline.identity import check_receipts
from transforms.output import Output
from transforms.output.committing import NewParts, discard
from transforms.output.mending import damages, discard_if_unchanged, remove_orphans, settle_all, verify
from transforms.unit import Receipt, Shard


@dataclasses.dataclass(frozen=True, slots=True)
class Repairs:
    """What is to be mended.

    Attributes:
      kept: the receipts that count from now on.
      dropped: units that are deleted: their ids, and their receipts (None if these cannot be read).
      moved: units whose shard has another path now, and whose results are taken over.
      notes: what is done and why, one sentence each.
    """

    kept: tuple[Receipt, ...]
    dropped: tuple[tuple[str, Receipt | None], ...]
    moved: tuple[Moved, ...]
    notes: tuple[str, ...]


def find_repairs(shards: Sequence[Shard], output: Output, changed: Changed) -> Repairs:
    """Looks at the receipts, at the sizes of the parts and at the shards. Writes nothing.

    Raises:
      ChangedShard: a shard changed, moved or is gone, and `changed` is `refuse`.
      UnusableOutput: a receipt is of a run with other settings.
    """
    receipts, unreadable = output.look_at_receipts()
    check_receipts(receipts, output)
    notes = []
    damaged = {each.unit_id: each for each in damages(receipts, output)}
    reasons = [*map(str, unreadable.values()), *(f"{each.path} ({each.reason})" for each in damaged.values())]
    if reasons:
        what = "its files are" if len(reasons) == 1 else "their files are"
        names = [reason.partition("; the same")[0].replace(" is damaged (", " (") for reason in reasons]
        notes.append(f"{_units(len(reasons))} computed again, as {what} damaged: {some(names)}")
    whole = [receipt for receipt in receipts if receipt.unit.id not in damaged]
    changes = find_changes(shards, whole, changed)
    notes += changes.notes
    old = sum(receipt.parts is None for receipt in changes.kept)
    if old:
        notes.append(
            f"{_units(old)} kept that an earlier version of fullgrad wrote; they have no checksums, so only whether "
            "their files are there is checked"
        )
    dropped: list[tuple[str, Receipt | None]] = [
        (path.rpartition("/")[2].removesuffix(".json"), None) for path in unreadable
    ]
    dropped += [(receipt.unit.id, receipt) for receipt in receipts if receipt.unit.id in damaged]
    dropped += [(receipt.unit.id, receipt) for receipt in changes.dropped]
    return Repairs(changes.kept, tuple(dropped), changes.moved, tuple(notes))


def repair(repairs: Repairs, output: Output) -> None:
    """Deletes the units that no longer count, takes over those that moved, and removes parts without a receipt."""
    for unit_id, receipt in repairs.dropped:
        discard_if_unchanged(unit_id, receipt, output)
    for moved in repairs.moved:
        _take_over(moved, output)
    remove_orphans(output)
    settle_all(repairs.kept, output)


def drop_damaged(output: Output) -> None:
    """Reads everything, and deletes the units that are not as they were written, so that they are computed again."""
    receipts, _ = output.look_at_receipts()
    for damage in verify(receipts, output):
        discard(damage.unit_id, output)


def _take_over(moved: Moved, output: Output) -> None:
    """Writes a unit's files anew, with the new path of its shard. An interrupt may lose the unit, but never doubles
    it."""
    then, now = moved.then.unit, moved.now.unit
    if output.read_receipt(then) is None:
        return  # a run that was interrupted has deleted it, and it is computed
    with NewParts(output, now) as parts:
        for kind in ("maps", "errors") if moved.then.failures else ("maps",):
            parts.copy_rows(kind, then, now.shard.path)
        for kind in ("small_maps", "partials"):
            parts.copy(kind, then)
        parts.flush()
        discard(then.id, output)
        parts.commit(moved.now)


def _units(count: int) -> str:
    return "1 unit is" if count == 1 else f"{count:,} units are"
