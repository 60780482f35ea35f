"""Chooses the images that a check reads again: uniformly, and the same ones each time."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from transforms.output import Output
from transforms.statistics import sample_key
from transforms.unit import Receipt

FEWEST = 8  # images of a class; fewer say nothing

_READ_TOGETHER = 16


@dataclasses.dataclass(frozen=True, slots=True)
class Pool:
    """The N images of an output that have maps.

    Attributes:
      unit: int32 [N], the receipt, by its place in the list.
      index: int64 [N], the image's place in its shard.
      predicted: int32 [N], the class.
      keys: uint64 [N], pseudo-random numbers that depend only on shard and index.
    """

    unit: np.ndarray
    index: np.ndarray
    predicted: np.ndarray
    keys: np.ndarray


@dataclasses.dataclass(frozen=True, slots=True)
class Choice:
    """Which images of a pool are read, by their rows.

    Attributes:
      located: for each checked class, the images of it on which its evidence is located.
      tested: for each checked class, further images of it. What was located on some images is tested on others: the
        largest of many differences is large by chance alone.
      others: for each checked class, images of other classes.
    """

    located: dict[int, np.ndarray]
    tested: dict[int, np.ndarray]
    others: dict[int, np.ndarray]


def read_pool(output: Output, receipts: Sequence[Receipt]) -> Pool:
    """Reads two small columns of all maps."""

    def read(number: int) -> tuple[np.ndarray, ...]:
        unit = receipts[number].unit
        with output.open_part("maps", unit) as file:
            table = file.read(["index", "predicted"], use_threads=False)
        # An image that is explained for several targets has several rows, one after the other.
        index, first = np.unique(table["index"].to_numpy(), return_index=True)
        predicted = table["predicted"].to_numpy()[first].astype(np.int32)
        keys = np.asarray([sample_key(unit.shard.path, i, -1) for i in index.tolist()], np.uint64)
        return np.full(len(index), number, np.int32), index, predicted, keys

    with ThreadPoolExecutor(_READ_TOGETHER) as threads:
        parts = list(threads.map(read, range(len(receipts))))
    return Pool(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def choose(pool: Pool, classes: Sequence[int] | None, images: int, tested: int) -> Choice:
    """Chooses images of classes that have at least `FEWEST`.

    A class with few images gives at most half of them for locating.

    Args:
      pool: all images.
      classes: the classes to check; None for all.
      images: the number of images of a class on which its evidence is located.
      tested: the most images of a class, and of other classes, on which it is tested.
    """
    rows = np.lexsort((pool.keys, pool.predicted))
    found, starts = np.unique(pool.predicted[rows], return_index=True)
    of_class = dict(zip(found.tolist(), np.split(rows, starts[1:]), strict=True))
    located, rest = {}, {}
    for k, own in of_class.items():
        if len(own) >= FEWEST:
            cut = min(images, len(own) // 2)
            located[k], rest[k] = own[:cut], own[cut : cut + tested]
    wanted = sorted(located if classes is None else set(classes) & located.keys())
    common = np.concatenate([*rest.values(), np.zeros(0, np.int64)]).astype(np.int64)
    return Choice(
        {k: located[k] for k in wanted},
        {k: rest[k] for k in wanted},
        {k: _others(pool, common, k, tested) for k in wanted},
    )


def _others(pool: Pool, rows: np.ndarray, own: int, count: int) -> np.ndarray:
    """A uniform sample of the rows that are of other classes."""
    rows = rows[pool.predicted[rows] != own]
    order = np.argsort(_mixed(pool.keys[rows], own), kind="stable")
    return rows[order[:count]]


def _mixed(keys: np.ndarray, number: int) -> np.ndarray:
    """Other pseudo-random numbers from keys [N] uint64, for each number other ones (SplitMix64's finalizer)."""
    with np.errstate(over="ignore"):
        z = keys + np.uint64(number + 1) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))
