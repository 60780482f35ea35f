"""What images are called whose records do not say it: names that no two shards of an output share."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

from transforms.unit import Shard


def fallback_id(shard: Shard, index: int) -> str:
    """The id of a record that brings none: `test.tfrecord#17`."""
    return f"{name_of(shard)}#{index}"


def id_prefix(shard: Shard) -> str:
    """What the ids of a folder's images begin with: `cat/` for a class, nothing for a flat folder."""
    name = name_of(shard)
    return f"{name}/" if name else ""


def name_of(shard: Shard) -> str:
    """The name that a shard was given, or else its own: a file's or a class folder's, and nothing for a flat folder."""
    return shard.name if shard.name is not None else _end_of(shard.path, _own_length(shard))


def with_distinct_names(shards: Sequence[Shard], begun: Iterable[Shard] = ()) -> list[Shard]:
    """The shards, those whose own names are alike with longer ones: as much of their paths as tells them apart.

    A shard that was begun keeps its name, so that its ids are the same when a run is gone on with and has got others.

    Args:
      shards: of the run.
      begun: of the output so far.
    """
    begun = list(begun)
    names = {shard.path: name_of(shard) for shard in begun}
    alike: dict[str, set[str]] = {}
    for shard in (*shards, *begun):
        alike.setdefault(_end_of(shard.path, _own_length(shard)), set()).add(shard.path)
    lengths: dict[str, int | None] = {}
    taken = set(names.values())

    def named(shard: Shard) -> Shard:
        own = _end_of(shard.path, _own_length(shard))
        if shard.path in names:
            name = names[shard.path]
        elif len(alike[own]) == 1:
            name = own
        else:
            if own not in lengths:
                lengths[own] = _distinct_length(alike[own], _own_length(shard), taken)
            length = lengths[own]
            name = shard.path if length is None else _end_of(shard.path, length)
        return shard if name == own else dataclasses.replace(shard, name=name)

    return [named(shard) for shard in shards]


def _own_length(shard: Shard) -> int:
    """How many parts of its path a shard's own name has."""
    return 0 if shard.format == "folder" and shard.label is None else 1


def _distinct_length(paths: Iterable[str], length: int, taken: set[str]) -> int | None:
    """How many parts of the paths tell them apart, and from the names that are taken; None where only all does."""
    longest = max(len(_parts(path)) for path in paths)
    for each in range(length + 1, longest + 1):
        ends = {_end_of(path, each) for path in paths}
        if len(ends) == len(set(paths)) and not ends & taken:
            return each
    return None


def _end_of(path: str, length: int) -> str:
    return "/".join(_parts(path)[-length:]) if length else ""


def _parts(path: str) -> list[str]:
    return [part for part in path.rpartition("://")[2].split("/") if part]
