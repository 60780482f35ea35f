"""Samples and shards that the tests of the sources share. Sources do not decode, so the images are noise."""

from __future__ import annotations

import pathlib
import random

from tests.shards import Sample
from transforms.sources import DamagedShard, Record, Source
from transforms.unit import Shard


def noise_samples(count: int, size: int = 300) -> list[Sample]:
    """Images of `size` to 2 · `size` bytes, so that they lie anywhere between a tar file's blocks."""
    generator = random.Random(count)
    return [
        (f"image{i:04d}.png", b"\x89PNG" + generator.randbytes(generator.randrange(size, 2 * size)), i % 3)
        for i in range(count)
    ]


def shard_of(path: pathlib.Path, format: str, label: int | None = None) -> Shard:
    return Shard(str(path), format, path.stat().st_size, label)


def read_until_damage(
    source: Source, shard: Shard, start: int = 0, stop: int | None = None
) -> tuple[list[Record], DamagedShard | None]:
    records: list[Record] = []
    try:
        for record in source.read(shard, start, stop):
            records.append(record)
    except DamagedShard as damage:
        return records, damage
    return records, None


def cut(path: pathlib.Path, size: int) -> None:
    """Leaves the first `size` bytes of a file."""
    path.write_bytes(path.read_bytes()[:size])


def flip(path: pathlib.Path, offset: int) -> None:
    """Inverts one byte of a file."""
    data = bytearray(path.read_bytes())
    data[offset] ^= 0xFF
    path.write_bytes(data)
