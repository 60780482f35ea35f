"""Makes ids for images whose records have none. No two shards of an output share a name."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

from transforms.byte_names import as_text
from transforms.unit import Shard


def fallback_id(shard: Shard, index: int) -> str:
    """The id of a record without one: `test.tfrecord#17`."""
    return as_text(f"{name_of(shard)}#{index}")


def id_prefix(shard: Shard) -> str:
    """The start of the ids of a folder's images: `cat/` for a class, empty for a flat folder."""
    name = name_of(shard)
    return f"{name}/" if name else ""


def name_of(shard: Shard) -> str:
    """The name that a shard was given, else its own: the file's or class folder's name, empty for a flat folder."""
    return shard.name if shard.name is not None else _end_of(shard.path, _own_length(shard))


def with_distinct_names(shards: Sequence[Shard], begun: Iterable[Shard] = ()) -> list[Shard]:
    """The shards with distinct names. Shards with the same own name get longer names: as much of their paths as is
    needed.

    A shard that an earlier run has begun keeps its name. So its ids stay the same when the run resumes with more
    shards.

    Args:
      shards: the run's shards.
      begun: the shards in the output so far.
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
    """The number of path parts in a shard's own name."""
    return 0 if shard.format == "folder" and shard.label is None else 1


def _distinct_length(paths: Iterable[str], length: int, taken: set[str]) -> int | None:
    """How many path parts tell the paths apart, and from the taken names; None if only the whole paths do."""
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
