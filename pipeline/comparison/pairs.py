"""Finds the same images in two outputs and puts their rows side by side, unit by unit."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from transforms.output import SMALL_MAPS, Output, decode_map, read_table
from transforms.statistics import COARSE, FIGURES
from transforms.unit import Receipt, Unit

_COLUMNS = (
    "image_id",
    "shard",
    "index",
    "label",
    "label_name",
    "predicted",
    "predicted_name",
    "target",
    "target_name",
    "target_rank",
    "logit",
    "probability",
    "coarse_map",
    *FIGURES,
)


@dataclasses.dataclass(frozen=True, slots=True)
class Pairs:
    """N images of both outputs, each with one explanation of either.

    Attributes:
      a, b: tables of N rows with the columns of `maps`, without the maps.
      maps_a, maps_b: float32 [N, h, w], of the same size.
      coarse_a, coarse_b: float32 [N, 14, 14].
    """

    a: pa.Table
    b: pa.Table
    maps_a: np.ndarray
    maps_b: np.ndarray
    coarse_a: np.ndarray
    coarse_b: np.ndarray


def find_pairs(a: Output, b: Output) -> Iterator[Pairs]:
    """Yields the images that both outputs have, in the order of a's units, about a unit at a time.

    An image is the same if shard and index are. If both explain it for the same class, these explanations are
    compared; otherwise that of the class with the largest logit in either output.
    """
    of_shard: dict[str, list[Unit]] = {}
    for receipt in b.read_receipts():
        of_shard.setdefault(receipt.unit.shard.path, []).append(receipt.unit)
    for receipt in a.read_receipts():
        rows_a = _rows(a, receipt.unit)
        for unit in of_shard.get(receipt.unit.shard.path, ()):
            if _overlap(receipt.unit, unit):
                rows_b = _rows(b, unit)
                at_a, at_b = _matches(rows_a, rows_b)
                if len(at_a):
                    yield _paired(a, receipt.unit, rows_a.take(at_a), b, unit, rows_b.take(at_b))


def _overlap(a: Unit, b: Unit) -> bool:
    ends = [float("inf") if unit.stop is None else unit.stop for unit in (a, b)]
    return a.start < ends[1] and b.start < ends[0]


def _rows(output: Output, unit: Unit) -> pa.Table:
    return read_table(output.find_part("maps", unit), _COLUMNS)


def _matches(a: pa.Table, b: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """The rows of a and of b that belong together: int64 [N] each, in the order of the images."""
    of_b: dict[int, list[int]] = {}
    indices, targets_b, ranks_b = (b[name].to_pylist() for name in ("index", "target", "target_rank"))
    for row, index in enumerate(indices):
        of_b.setdefault(index, []).append(row)
    chosen: dict[int, tuple[tuple[bool, int, int], int, int]] = {}
    for row_a, (index, target, rank) in enumerate(
        zip(*(a[name].to_pylist() for name in ("index", "target", "target_rank")), strict=True)
    ):
        for row_b in of_b.get(index, ()):
            # The same class first, then the largest logit.
            order = (targets_b[row_b] != target, rank, ranks_b[row_b])
            if index not in chosen or order < chosen[index][0]:
                chosen[index] = (order, row_a, row_b)
    pairs = [chosen[index][1:] for index in sorted(chosen)]
    both = np.asarray(pairs, np.int64).reshape(-1, 2)
    return both[:, 0], both[:, 1]


def _paired(a: Output, unit_a: Unit, rows_a: pa.Table, b: Output, unit_b: Unit, rows_b: pa.Table) -> Pairs:
    coarse_a, coarse_b = _coarse(rows_a), _coarse(rows_b)
    maps_a, maps_b = _small_maps(a, unit_a, rows_a), _small_maps(b, unit_b, rows_b)
    if maps_a is None or maps_b is None or maps_a.shape != maps_b.shape:
        maps_a, maps_b = coarse_a, coarse_b
    return Pairs(
        rows_a.drop_columns(["coarse_map"]), rows_b.drop_columns(["coarse_map"]), maps_a, maps_b, coarse_a, coarse_b
    )


def _coarse(rows: pa.Table) -> np.ndarray:
    flat = rows["coarse_map"].combine_chunks().flatten().to_numpy()
    return flat.reshape(len(rows), COARSE, COARSE)


def _small_maps(output: Output, unit: Unit, rows: pa.Table) -> np.ndarray | None:
    """The maps of the rows on the output's grid, float32 [N, h, w]; None if they are of several sizes."""
    table = read_table(output.find_part("small_maps", unit), SMALL_MAPS.names)
    places = {key: i for i, key in enumerate(zip(table["index"].to_pylist(), table["target"].to_pylist(), strict=True))}
    wanted = zip(rows["index"].to_pylist(), rows["target"].to_pylist(), strict=True)
    found = [decode_map(row) for row in table.take([places[key] for key in wanted]).to_pylist()]
    sizes = {each.shape for each in found if each is not None}
    return np.stack([each for each in found if each is not None]) if len(sizes) == 1 else None


def shards_of(receipts: Sequence[Receipt]) -> list[str]:
    """The paths of the receipts' shards, each once, in order."""
    return list(dict.fromkeys(receipt.unit.shard.path for receipt in receipts))
