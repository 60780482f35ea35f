"""Takes a few records from all over the shards, to try things on before a run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from transforms.sources import DamagedShard, Record, Source
from transforms.sources.names import spread
from transforms.unit import Shard

# Of one shard, records are taken from so many places, because its classes may be sorted.
_PLACES = 8


def sampled_records(source: Source, shards: Sequence[Shard], count: int) -> list[Record]:
    """At most `count` records with an image, evenly from all over the shards.

    A shard that is not on the local file system is read only from its beginning, unless its format counts records
    without reading them.
    """
    chosen = spread(shards, count)
    each = -(-count // len(chosen))
    found: list[Record] = []
    for shard in chosen:
        found.extend(record for record in _of_shard(source, shard, each) if record.image is not None)
    count = min(count, len(found))
    return [found[i * len(found) // count] for i in range(count)]


def _of_shard(source: Source, shard: Shard, count: int) -> Iterator[Record]:
    try:
        if "://" in shard.path and shard.format not in ("parquet", "folder"):
            yield from source.read(shard, 0, count)
            return
        records = source.count(shard)
        places = min(_PLACES, count, max(1, records // count))
        size = -(-count // places)
        for place in range(places):
            start = place * records // places
            yield from source.read(shard, start, start + size)
    except DamagedShard:
        return
