"""Finds shards that changed, moved or are gone since they were explained, and decides what becomes of their results."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

from pipeline.plan import ChangedShard, check_overlaps
from transforms.sources import content_hash
from transforms.sources.ids import name_of
from transforms.unit import Receipt, Shard

Changed = Literal["refuse", "recompute", "adopt"]

_NAMED = 3


@dataclasses.dataclass(frozen=True, slots=True)
class Moved:
    """A unit whose shard has another path now: its receipt, and the receipt that it gets."""

    then: Receipt
    now: Receipt


@dataclasses.dataclass(frozen=True, slots=True)
class Changes:
    """What becomes of an output's units.

    Attributes:
      kept: the receipts that stay, with those of moved shards as they will be.
      dropped: the receipts whose units no longer count.
      moved: the units that are taken over.
      notes: one sentence for each kind of change.
    """

    kept: tuple[Receipt, ...]
    dropped: tuple[Receipt, ...] = ()
    moved: tuple[Moved, ...] = ()
    notes: tuple[str, ...] = ()


def find_changes(shards: Sequence[Shard], receipts: Sequence[Receipt], changed: Changed) -> Changes:
    """Compares the shards with those that were explained, by size and content.

    Args:
      shards: as they are now.
      receipts: of the output so far. Those of earlier versions tell only the size.
      changed: `input.changed`.

    Raises:
      ChangedShard: a shard changed, moved or is gone, and `changed` is `refuse`.
    """
    if changed == "refuse":
        check_overlaps(shards, (receipt.unit.shard for receipt in receipts))
    now = {shard.path: shard for shard in shards}
    begun: dict[str, list[Receipt]] = {}
    for receipt in receipts:
        begun.setdefault(receipt.unit.shard.path, []).append(receipt)
    hashes = _hashes(now[path] for path in begun if path in now and any(each.content for each in begun[path]))
    other = [path for path in begun if path in now and _differs(now[path], begun[path], hashes.get(path))]
    gone = [path for path in begun if path not in now]
    new_places = _new_places(gone, begun, [shard for shard in shards if shard.path not in begun])
    removed = [path for path in gone if path not in new_places]
    if not (other or gone):
        return Changes(tuple(receipts))
    said = _sentences(other, new_places, removed, begun, now)
    if changed == "refuse":
        raise ChangedShard(
            f"{'; '.join(said)}; set input.changed to recompute, which explains anew what changed or moved and drops "
            "what is gone, or to adopt, which keeps the results of what moved or is gone, or choose another output.path"
        )
    adopted = new_places if changed == "adopt" else {}
    stays = set(removed) if changed == "adopt" else set()
    moved = tuple(
        Moved(receipt, _at(receipt, adopted[path])) for path in gone if path in adopted for receipt in begun[path]
    )
    lost = {*other, *(path for path in gone if path not in adopted and path not in stays)}
    kept = [receipt for receipt in receipts if receipt.unit.shard.path not in lost | adopted.keys()]
    does = {
        "changed": "is explained anew",
        "moved": "results are taken over" if changed == "adopt" else "is explained anew",
        "gone": "results are kept" if changed == "adopt" else "results no longer count",
    }
    notes = tuple(
        f"{sentence} (input.changed: {changed}; {does[kind]})"
        for kind, sentence in zip(_kinds(other, new_places, removed), said, strict=True)
    )
    return Changes(
        (*kept, *(each.now for each in moved)),
        tuple(receipt for path in begun if path in lost for receipt in begun[path]),
        moved,
        notes,
    )


def _differs(shard: Shard, receipts: Sequence[Receipt], content: str | None) -> bool:
    return any(
        receipt.unit.shard.size != shard.size or (receipt.content is not None and receipt.content != content)
        for receipt in receipts
    )


def _new_places(gone: Sequence[str], begun: dict[str, list[Receipt]], unknown: Sequence[Shard]) -> dict[str, Shard]:
    """For each path that is gone, the new shard with the same content. Only shards of the same size are read."""
    sought: dict[str, str] = {}
    for path in gone:
        first = begun[path][0]
        contents = {receipt.content for receipt in begun[path]}
        if len(contents) == 1 and first.content is not None:
            sought[path] = first.content
    kinds = {_kind(begun[path][0].unit.shard) for path in sought}
    hashes = _hashes(shard for shard in unknown if _kind(shard) in kinds)
    free = {shard.path: shard for shard in unknown if shard.path in hashes}
    found = {}
    for path, content in sought.items():
        kind = _kind(begun[path][0].unit.shard)
        place = next((s for s in free.values() if hashes[s.path] == content and _kind(s) == kind), None)
        if place is not None:
            found[path] = free.pop(place.path)
    return found


def _kind(shard: Shard) -> tuple[str, int, int | None]:
    return shard.format, shard.size, shard.label


def _hashes(shards: Iterable[Shard]) -> dict[str, str]:
    listed = list(shards)
    with ThreadPoolExecutor(16) as pool:
        return dict(zip((shard.path for shard in listed), pool.map(content_hash, listed), strict=True))


def _at(receipt: Receipt, shard: Shard) -> Receipt:
    """The receipt of a unit at its shard's new path. The images' ids stay, so the shard keeps its name."""
    unit = dataclasses.replace(receipt.unit, shard=dataclasses.replace(shard, name=name_of(receipt.unit.shard)))
    return dataclasses.replace(receipt, unit=unit)


def _kinds(other: Sequence[str], moved: dict[str, Shard], removed: Sequence[str]) -> list[str]:
    return [name for name, found in (("changed", other), ("moved", moved), ("gone", removed)) if found]


def _sentences(
    other: Sequence[str],
    moved: dict[str, Shard],
    removed: Sequence[str],
    begun: dict[str, list[Receipt]],
    now: dict[str, Shard],
) -> list[str]:
    """One for each kind of change that there is, in the order of `_kinds`."""

    def change(path: str) -> str:
        then, size = begun[path][0].unit.shard.size, now[path].size
        same = then == size
        return f"{path} has changed since it was explained: " + (
            f"its size is still {size}, but not its content" if same else f"its size was {then} and is {size}"
        )

    return [
        *([some([change(path) for path in other])] if other else []),
        *([some([f"{path} has moved to {shard.path}" for path, shard in moved.items()])] if moved else []),
        *(
            [some([f"{path}, which was explained, is no longer in input.shards" for path in removed])]
            if removed
            else []
        ),
    ]


def some(texts: Sequence[str]) -> str:
    """The texts with commas, at most three of them, and how many more there are."""
    more = f" and {len(texts) - _NAMED:,} more" if len(texts) > _NAMED else ""
    return ", ".join(texts[:_NAMED]) + more
