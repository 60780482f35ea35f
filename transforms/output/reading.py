"""Reads an output: its committed maps, and single Parquet files."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from transforms.output.codec import decode_map
from transforms.output.parquet import open_parquet
from transforms.output.schemas import MAP_COLUMNS, MAPS
from transforms.output.store import Output


def read_table(path: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Reads a Parquet file as a table; `columns` None stands for all columns.

    Raises:
      DamagedOutput: the file is not as it was written.
    """
    with open_parquet(path) as file:
        return file.read(list(columns) if columns else None, use_threads=False)


def read_maps(path: str, columns: Iterable[str] | None = None) -> Iterator[dict[str, Any]]:
    """Yields the rows of an output's committed maps parts, one at a time.

    Args:
      path: a run's output folder.
      columns: the columns to read, None for all; docs/output.md lists them. `map` also reads the columns that decoding
        the map needs.

    Yields:
      Rows as mappings from column name to value. `map` is float32 [H, W] (None if maps are not stored), and
      `coarse_map` is float32 [14, 14].

    Raises:
      FileNotFoundError: the folder has no receipts.
      ValueError: there is no such column; the message gives the nearest name.
      DamagedOutput: a receipt or a part is missing or not as it was written; the message names it.
    """
    output = Output(path)
    receipts = output.read_receipts()
    if not receipts:
        raise FileNotFoundError(f"{path} is no output of a run: there is no receipt in {output.file('receipts')}")
    wanted = None if columns is None else list(columns)
    for name in wanted or ():
        if name not in MAPS.names:
            nearest = difflib.get_close_matches(name, MAPS.names, 1)
            meant = f"did you mean {nearest[0]!r}?" if nearest else f"they have {', '.join(MAPS.names)}"
            raise ValueError(f"maps have no column {name!r}; {meant}")
    stored = wanted
    if wanted is not None and "map" in wanted:
        stored = [*wanted, *(name for name in MAP_COLUMNS if name not in wanted)]
    for receipt in receipts:
        with output.open_part("maps", receipt.unit) as file:
            for batch in file.iter_batches(batch_size=64, columns=stored):
                for row in batch.to_pylist():
                    if "map" in row:
                        row["map"] = decode_map(row)
                    if "coarse_map" in row:
                        side = round(len(row["coarse_map"]) ** 0.5)
                        row["coarse_map"] = np.asarray(row["coarse_map"], np.float32).reshape(side, side)
                    yield row if wanted is None else {name: row[name] for name in wanted}
