"""Finds the rows of images by their ids, without reading more of a big output than their ids."""

from __future__ import annotations

import dataclasses
import difflib
import heapq
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from transforms.byte_names import from_text
from transforms.output.codec import decode_map
from transforms.output.parquet import open_parquet
from transforms.output.store import Output
from transforms.unit import Receipt

_READ_AT_ONCE = 8
# How many ids are compared letter by letter for the nearest of them.
_COMPARED = 2_000


class UnknownId(LookupError):
    """There is no image with this id. One sentence gives the nearest ids."""

    def __str__(self) -> str:
        return str(self.args[0])


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """Where a row is: the path of a maps part, the row group in it, and the row's place in the group."""

    part: str
    group: int
    row: int


def find_rows(output: Output, ids: Sequence[str], *, limit: int | None = None) -> list[dict[str, Any]]:
    """The rows of `maps` about some images, all of each, in the order of the ids.

    Of all parts it reads the ids, and of these only the row groups whose range of ids may hold one. Only the row groups
    that hold a wanted row are read whole.

    Args:
      output: the run's output.
      ids: each is an `image_id`, or `SHARD#INDEX` with the shard's path or the end of it, such as its name. An id that
        repeats in the data stands for all its images.
      limit: the most rows.

    Returns:
      The rows as mappings from column name to value; `map` is float32 [H, W], None if maps are not stored.

    Raises:
      UnknownId: for the first id that no image has.
      FileNotFoundError: the folder has no receipts.
    """
    receipts = _receipts(output)
    wanted = list(dict.fromkeys(ids))
    found: dict[str, list[Place]] = {each: [] for each in wanted}
    with ThreadPoolExecutor(_READ_AT_ONCE) as pool:
        units = [receipt.unit for receipt in receipts if receipt.rows]
        for of_part in pool.map(lambda unit: _places_of_ids(output.find_part("maps", unit), wanted), units):
            for each, place in of_part:
                found[each].append(place)
    for each in wanted:
        if not found[each]:
            found[each] = _places_of_index(output, receipts, each)
        if not found[each]:
            raise UnknownId(_unknown(output, receipts, each))
    places = [place for each in wanted for place in found[each]]
    return _read(places if limit is None else places[:limit])


def _receipts(output: Output) -> list[Receipt]:
    receipts = output.read_receipts()
    if not receipts:
        raise FileNotFoundError(
            f"{output.path} is no output of a run: there is no receipt in {output.file('receipts')}"
        )
    return receipts


def _places_of_ids(part: str, wanted: Sequence[str]) -> list[tuple[str, Place]]:
    """Where in a part rows have one of the ids."""
    found = []
    values = pa.array(wanted, pa.string())
    with open_parquet(part) as file:
        column = file.schema_arrow.names.index("image_id")
        for group in range(file.num_row_groups):
            statistics = file.metadata.row_group(group).column(column).statistics
            if statistics is not None and statistics.has_min_max:
                low, high = statistics.min, statistics.max
                if not any(low <= each <= high for each in wanted):
                    continue
            ids = file.read_row_group(group, ["image_id"], use_threads=False)["image_id"]
            for row in np.flatnonzero(pc.is_in(ids, values).to_numpy()):
                found.append((ids[int(row)].as_py(), Place(part, group, int(row))))
    return found


def _places_of_index(output: Output, receipts: Sequence[Receipt], name: str) -> list[Place]:
    """Where rows are about an image named `SHARD#INDEX`; none if the name has another form or there is no such row."""
    shard, mark, digits = name.rpartition("#")
    if not (mark and shard and digits.isascii() and digits.isdigit()):
        return []
    index = int(digits)
    shard = from_text(shard)
    found = []
    for receipt in receipts:
        unit = receipt.unit
        if not (unit.shard.path == shard or unit.shard.path.endswith("/" + shard.lstrip("/"))) or not receipt.rows:
            continue
        if unit.start <= index and (unit.stop is None or index < unit.stop):
            part = output.find_part("maps", unit)
            with open_parquet(part) as file:
                for group in range(file.num_row_groups):
                    indices = file.read_row_group(group, ["index"], use_threads=False)["index"].to_numpy()
                    found += [Place(part, group, int(row)) for row in np.flatnonzero(indices == index)]
    return found


def _read(places: Sequence[Place]) -> list[dict[str, Any]]:
    """The rows at some places, in their order. Each row group is read once."""
    rows: dict[Place, dict[str, Any]] = {}
    for part in dict.fromkeys(place.part for place in places):
        with open_parquet(part) as file:
            here = [place for place in places if place.part == part]
            for group in sorted({place.group for place in here}):
                of_group = sorted({place for place in here if place.group == group}, key=lambda place: place.row)
                table = file.read_row_group(group, use_threads=False)
                for place, row in zip(of_group, table.take([p.row for p in of_group]).to_pylist(), strict=True):
                    rows[place] = {**row, "map": decode_map(row)}
    return [rows[place] for place in places]


def _ids(output: Output, receipts: Sequence[Receipt]) -> Iterator[str]:
    """All ids, as often as they have rows."""
    for receipt in receipts:
        if receipt.rows:
            with output.open_part("maps", receipt.unit) as file:
                for batch in file.iter_batches(columns=["image_id"]):
                    yield from batch.column(0).to_pylist()


def _unknown(output: Output, receipts: Sequence[Receipt], name: str) -> str:
    """What is said of an id that no image has."""
    # difflib takes 0.1 ms for each id, which is too long for all ids of a big output.
    likely = heapq.nlargest(_COMPARED, set(_ids(output, receipts)), key=lambda each: _alike(each, name))
    nearest = difflib.get_close_matches(name, likely, 3) or likely[:3]
    return f"{output.path} has no image {name!r}; the nearest ids are {', '.join(repr(each) for each in nearest)}"


def _alike(one: str, other: str) -> tuple[int, int]:
    """A quick measure of how alike two ids are: how much of their beginnings and ends is equal; nearer lengths."""
    equal = _equal_beginning(one, other) + _equal_beginning(one[::-1], other[::-1])
    return min(equal, len(one)), -abs(len(one) - len(other))


def _equal_beginning(one: str, other: str) -> int:
    """The number of characters up to the first that differs."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
