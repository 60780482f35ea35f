"""Chooses examples and writes `examples.parquet`: unit by unit, then block by block of classes, then as one file.

Rows travel through files, not through the runner. It gets only their places: `Candidates`, `Chosen` and `Written`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam.transforms.combiners import ToList

from transforms.output import (
    EXAMPLES,
    MAP_COLUMNS,
    MAPS,
    SMALL_MAPS,
    Output,
    class_block,
    decode_map,
    encode_maps,
    open_file,
    open_parquet,
)
from transforms.statistics import NAMES, Candidates, MergeCandidates, resample
from transforms.unit import Unit

# So many examples of a unit are read and written at once. Only a very large unit has more.
_ROWS_TOGETHER = 2_048

# Whole classes are put together to row groups of at least this size: small enough to read one class, large enough to
# scan all.
_ROW_GROUP_BYTES = 4 << 20

# The columns of examples that are read from `maps`.
_STORED = [name for name in EXAMPLES.names if name in MAPS.names and name not in MAP_COLUMNS]


class WriteExamples(beam.PTransform):
    """Writes `examples.parquet`.

    It takes (block of classes, `Candidates`) of all units, several of a block for each unit or none.

    Args:
      output: the output folder, with the units' maps and small maps.
      grid: the side of the maps of examples.
    """

    def __init__(self, output: Output, grid: int):
        super().__init__()
        self._output = output
        self._grid = grid

    def expand(self, candidates: beam.PCollection) -> beam.PCollection:
        return (
            candidates
            | "Choose" >> beam.CombinePerKey(MergeCandidates())
            | "ByUnit" >> beam.FlatMap(_by_unit)
            | "OfUnit" >> beam.GroupByKey()
            | "WriteUnits" >> beam.FlatMap(_write_unit, self._output, self._grid)
            | "OfBlock" >> beam.GroupByKey()
            | "WriteBlocks" >> beam.Map(_write_block, self._output)
            | "WrittenBlocks" >> ToList()
            | "WriteFile" >> beam.Map(_write_file, self._output)
        )


@dataclasses.dataclass(frozen=True, slots=True)
class Chosen:
    """The examples of a block of classes that are images of one unit.

    Attributes:
      unit: the unit.
      block: the block of classes.
      rows: [n] of `candidates.ROW`; its field `unit` has no meaning here.
      ranks: int32 [n], each row's rank in its class, kind and cluster, from 1.
    """

    unit: Unit
    block: int
    rows: np.ndarray
    ranks: np.ndarray


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class Written:
    """Where a unit's examples of one block of classes are.

    Attributes:
      path: a temporary Arrow file with the columns `EXAMPLES`.
      batch: the number of the record batch in it.
    """

    path: str
    batch: int


def by_block(candidates: Candidates) -> Iterator[tuple[int, Candidates]]:
    """Splits candidates by the block of their class."""
    classes, places = np.unique(candidates.rows["class"], return_inverse=True)
    blocks = np.asarray([class_block(c) for c in classes.tolist()], np.int64)[places]
    for block in np.unique(blocks).tolist():
        yield block, candidates.select(blocks == block)


def _by_unit(element: tuple[int, Candidates]) -> Iterator[tuple[str, Chosen]]:
    """Splits the chosen examples of a block by their unit. The key is the unit's id."""
    block, candidates = element
    ranks = candidates.ranks()
    for number, unit in enumerate(candidates.units):
        own = candidates.rows["unit"] == number
        yield unit.id, Chosen(unit, block, candidates.rows[own], ranks[own])


def _write_unit(element: tuple[str, Iterable[Chosen]], output: Output, grid: int) -> Iterator[tuple[int, Written]]:
    """Writes the examples that are images of one unit to a temporary file, each block as a record batch.

    Yields:
      (block of classes, where its examples are).

    Raises:
      ValueError: the unit's files do not have the rows that were chosen from them.
    """
    unit_id, elements = element
    blocks = sorted(elements, key=lambda chosen: chosen.block)
    path = output.temporary(f"examples-{unit_id}.arrow")
    with output.writing(path) as sink, pa.ipc.new_file(sink, EXAMPLES) as file:
        for together in _together(blocks):
            rows = np.concatenate([chosen.rows for chosen in together])
            ranks = np.concatenate([chosen.ranks for chosen in together])
            table = _examples(together[0].unit, rows, ranks, output, grid)
            start = 0
            for chosen in together:
                file.write_table(table.slice(start, len(chosen.rows)))
                start += len(chosen.rows)
    for number, chosen in enumerate(blocks):
        yield chosen.block, Written(path, number)


def _together(blocks: Sequence[Chosen]) -> Iterator[list[Chosen]]:
    """Lists of blocks with about `_ROWS_TOGETHER` rows."""
    together: list[Chosen] = []
    for chosen in blocks:
        if together and sum(len(each.rows) for each in [*together, chosen]) > _ROWS_TOGETHER:
            yield together
            together = []
        together.append(chosen)
    if together:
        yield together


def _examples(unit: Unit, rows: np.ndarray, ranks: np.ndarray, output: Output, grid: int) -> pa.Table:
    """Examples as one record batch with the columns `EXAMPLES`, in the order of the rows."""
    stored = _rows_of(output.find_part("maps", unit), _STORED, rows)
    small = _rows_of(output.find_part("small_maps", unit), SMALL_MAPS.names, rows)
    columns = {name: stored[name] for name in _STORED} | _maps_on_grid(small, grid)
    columns["class"] = pa.array(rows["class"])
    columns["class_name"] = stored["target_name"]
    columns["kind"] = pa.array([NAMES[kind] for kind in rows["kind"].tolist()], pa.string())
    columns["cluster"] = pa.array(rows["cluster"], mask=rows["cluster"] < 0)
    columns["rank"] = pa.array(ranks, pa.int32())
    columns["score"] = pa.array(rows["score"])
    columns["similarity"] = pa.array(rows["similarity"], mask=np.isnan(rows["similarity"]))
    return pa.table([columns[name] for name in EXAMPLES.names], EXAMPLES).combine_chunks()


def _rows_of(path: str, columns: Sequence[str], rows: np.ndarray) -> pa.Table:
    """The rows of a unit's file with the indices and classes of `rows`, in their order, repeated where they repeat.

    Reads only the row groups in which they may be. Records are in order in a unit, so few row groups have an index.
    """
    indices = np.unique(rows["index"])
    found = []
    with open_parquet(path) as file:
        for group in range(file.num_row_groups):
            statistics = _statistics_of_index(file.metadata.row_group(group))
            first, end = np.searchsorted(indices, [statistics.min, statistics.max + 1])
            if first < end:
                table = file.read_row_group(group, list(columns), use_threads=False)
                found.append(table.filter(pa.array(np.isin(table["index"].to_numpy(), indices))))
    table = pa.concat_tables(found) if found else None
    keys = [] if table is None else zip(table["index"].to_pylist(), table["target"].to_pylist(), strict=True)
    places = {key: place for place, key in enumerate(keys)}
    try:
        order = [places[key] for key in zip(rows["index"].tolist(), rows["class"].tolist(), strict=True)]
    except KeyError as error:
        raise ValueError(
            f"{path} has no row for the index and target {error}, which the unit's maps had before; delete the unit's "
            "receipt and start the run again"
        ) from None
    assert table is not None
    return table.take(order)


def _statistics_of_index(group: pq.RowGroupMetaData) -> pq.Statistics:
    columns = (group.column(i) for i in range(group.num_columns))
    return next(column.statistics for column in columns if column.path_in_schema == "index")


def _maps_on_grid(small: pa.Table, grid: int) -> dict[str, pa.Array]:
    """The columns `MAP_COLUMNS` with maps of `grid`² cells, from rows of `SMALL_MAPS`. All have one size."""
    if set(small["map_height"].unique().to_pylist()) | set(small["map_width"].unique().to_pylist()) == {grid}:
        return {name: small[name] for name in MAP_COLUMNS}
    count = small.num_rows
    decoded = (decode_map(row) for row in small.select(MAP_COLUMNS).to_pylist())
    maps = np.stack([each for each in decoded if each is not None])  # small maps are always stored
    encoded = encode_maps(resample(maps, (grid, grid)), "uint8")
    columns = {
        "map": encoded.data,
        "map_dtype": ["uint8"] * count,
        "map_scale": encoded.scale,
        "map_offset": encoded.offset,
        "map_height": [grid] * count,
        "map_width": [grid] * count,
    }
    return {name: pa.array(columns[name], EXAMPLES.field(name).type) for name in MAP_COLUMNS}


def _write_block(element: tuple[int, Iterable[Written]], output: Output) -> tuple[int, str]:
    """Writes the examples of a block of classes to a temporary file, in order, each class as a record batch.

    Returns:
      The block and the file.
    """
    block, written = element
    table = pa.concat_tables([_read_batch(each) for each in sorted(written)])
    table = table.sort_by([(name, "ascending") for name in ("class", "kind", "cluster", "rank")])
    _, starts = np.unique(table["class"].to_numpy(), return_index=True)
    path = output.temporary(f"examples-{block:06d}.arrow")
    with output.writing(path) as sink, pa.ipc.new_file(sink, EXAMPLES) as file:
        for start, stop in zip(starts.tolist(), [*starts.tolist()[1:], table.num_rows], strict=True):
            file.write_table(table.slice(start, stop - start).combine_chunks())
    return block, path


def _read_batch(written: Written) -> pa.Table:
    with open_file(written.path) as source:
        return pa.Table.from_batches([pa.ipc.open_file(source).get_batch(written.batch)])


def _write_file(blocks: Sequence[tuple[int, str]], output: Output) -> None:
    """Writes `examples.parquet` from the files of all blocks, in the order of the classes."""
    with output.writing_rows(output.file("examples.parquet"), EXAMPLES, _ROW_GROUP_BYTES) as rows:
        for _, path in sorted(blocks):
            with open_file(path) as source:
                file = pa.ipc.open_file(source)
                for number in range(file.num_record_batches):
                    rows.write(file.get_batch(number))
