"""What is written: where, with which columns, atomically; and how it is read back."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import itertools
import json
import os
import posixpath
import socket
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam.io.filesystem import BeamIOError, CompressionTypes, FileMetadata
from apache_beam.io.filesystems import FileSystems

from transforms.filesystems import STORE_ERRORS, use_options_if_none_are_set
from transforms.statistics import FIGURES, ClassStatistics, Moments, Ranking, Sample
from transforms.unit import Receipt, Unit

SCHEMA_VERSION = "2"
_FLOATS = pa.list_(pa.float32())
_DOUBLES = pa.list_(pa.float64())
_STRINGS = pa.list_(pa.string())

# Rows are gathered to row groups of about this size: large enough to compress and to scan, small enough to hold.
_ROW_GROUP_BYTES = 16 << 20

# A temporary file of another machine that nobody has touched for so long is taken for one that was left behind.
_ABANDONED_SECONDS = 24 * 3600.0

MAPS = pa.schema(
    [
        ("image_id", pa.string()),
        ("shard", pa.string()),
        ("index", pa.int64()),
        ("label", pa.int32()),
        ("label_name", pa.string()),
        ("predicted", pa.int32()),
        ("predicted_name", pa.string()),
        ("correct", pa.bool_()),
        ("target", pa.int32()),
        ("target_name", pa.string()),
        ("target_rank", pa.int32()),
        ("logit", pa.float32()),
        ("probability", pa.float32()),
        ("explained", pa.float32()),
        ("contrast_class", pa.int32()),
        ("input_term", pa.float32()),
        ("bias_term", pa.float32()),
        ("unlocated_term", pa.float32()),
        ("completeness_error", pa.float32()),
        ("map", pa.binary()),
        ("map_dtype", pa.string()),
        ("map_scale", pa.float64()),
        ("map_offset", pa.float64()),
        ("map_height", pa.int32()),
        ("map_width", pa.int32()),
        ("coarse_map", _FLOATS),
        *((name, pa.float32()) for name in FIGURES),
    ]
)

ERRORS = pa.schema(
    [
        ("image_id", pa.string()),
        ("shard", pa.string()),
        ("index", pa.int64()),
        ("stage", pa.string()),
        ("error", pa.string()),
        ("message", pa.string()),
    ]
)

_MOMENTS = ("logit", "probability", "map", "coarse", "wrong", "figures")
_MOMENT_FIELDS = tuple(f.name for f in dataclasses.fields(Moments))

PARTIALS = pa.schema(
    [
        ("class", pa.int32()),
        ("labelled", pa.int64()),
        ("correct", pa.int64()),
        *(
            (f"{name}_{field}", pa.int64() if field == "count" else _DOUBLES)
            for name in _MOMENTS
            for field in _MOMENT_FIELDS
        ),
        ("sample_size", pa.int64()),
        ("sample_keys", pa.list_(pa.uint64())),
        ("sample_rows", _FLOATS),
        ("largest_error", pa.float64()),
        ("top_scores", _DOUBLES),
        ("top_ids", _STRINGS),
        ("bottom_scores", _DOUBLES),
        ("bottom_ids", _STRINGS),
    ]
)

CLASSES = pa.schema(
    [
        ("class", pa.int32()),
        ("class_name", pa.string()),
        ("images", pa.int64()),
        ("labelled", pa.int64()),
        ("correct", pa.int64()),
        ("mean_logit", pa.float64()),
        ("mean_probability", pa.float64()),
        ("mean_map", _FLOATS),
        ("std_map", _FLOATS),
        ("contrast_map", _FLOATS),
        ("wrong_map", _FLOATS),
        *((f"{name}_{what}", pa.float64()) for name in FIGURES for what in ("mean", "std", "p05", "p50", "p95")),
        ("similarity", pa.float64()),
        ("border_mass_z", pa.float64()),
        ("corner_mass_z", pa.float64()),
        ("top_logit_ids", _STRINGS),
        ("bottom_logit_ids", _STRINGS),
        ("top_similarity_ids", _STRINGS),
        ("bottom_similarity_ids", _STRINGS),
        ("completeness_error_p50", pa.float64()),
        ("completeness_error_p95", pa.float64()),
        ("completeness_error_max", pa.float64()),
    ]
)


# ---- one map as bytes

MAP_DTYPES: dict[str, np.dtype[Any]] = {"float32": np.dtype("<f4"), "float16": np.dtype("<f2"), "uint8": np.dtype("u1")}


@dataclasses.dataclass(frozen=True, slots=True)
class EncodedMaps:
    """Maps as they are stored: value = stored · scale + offset.

    Attributes:
      data: for each map its bytes, row-major and little-endian; None where maps are not stored.
      scale, offset: float64 [N].
    """

    data: list[bytes | None]
    scale: np.ndarray
    offset: np.ndarray


def encode_maps(maps: np.ndarray, map_dtype: str) -> EncodedMaps:
    """Encodes maps float32 [N, H, W] as `float32`, `float16`, `uint8` or `none`.

    float16 is of the map over its largest absolute value, so that none overflows and the error is at most 2⁻¹¹ of a
    value, or 2⁻²⁵ of the largest one where that is more; uint8 has 256 even steps from the smallest value to the
    largest.
    """
    count = len(maps)
    scale, offset = np.ones(count), np.zeros(count)
    if map_dtype == "none":
        return EncodedMaps([None] * count, scale, offset)
    stored = maps
    if map_dtype != "float32" and count:
        low = maps.min(axis=(1, 2)).astype(np.float64)
        high = maps.max(axis=(1, 2)).astype(np.float64)
        if map_dtype == "float16":
            scale = np.maximum(np.abs(low), np.abs(high))
        else:
            scale, offset = (high - low) / 255, low
        scale[scale == 0] = 1.0
        stored = (maps - offset[:, None, None]) / scale[:, None, None]
        if map_dtype == "uint8":
            stored = np.rint(stored)
    stored = np.ascontiguousarray(stored.astype(MAP_DTYPES[map_dtype]))
    return EncodedMaps([each.tobytes() for each in stored], scale, offset)


def decode_map(row: Mapping[str, Any]) -> np.ndarray | None:
    """The map of one row of a `maps` part as float32 [H, W]; None where maps were not stored."""
    if row["map"] is None:
        return None
    stored = np.frombuffer(row["map"], MAP_DTYPES[row["map_dtype"]])
    values = stored.astype(np.float64) * row["map_scale"] + row["map_offset"]
    return values.reshape(row["map_height"], row["map_width"]).astype(np.float32)


# ---- partial statistics as rows

# Statistics are merged, and finished, a block of so many classes at a time, so that a thousand classes take no more
# memory than these: one takes 110 KB at a grid of 56.
_CLASSES_TOGETHER = 32


def class_block(class_index: int) -> int:
    """The block of classes that a class belongs to; the dataset is in the first, so that few classes are one block."""
    return max(class_index, 0) // _CLASSES_TOGETHER


def statistics_table(classes: Mapping[int, ClassStatistics]) -> pa.Table:
    """Partial statistics as a table of `PARTIALS`, one row a class."""
    return pa.Table.from_pylist([_statistics_row(c, classes[c]) for c in sorted(classes)], PARTIALS)


def _statistics_row(class_index: int, statistics: ClassStatistics) -> dict[str, Any]:
    row = {
        "class": class_index,
        "labelled": statistics.labelled,
        "correct": statistics.correct,
        "sample_size": statistics.sample.size,
        "sample_keys": statistics.sample.keys,
        "sample_rows": statistics.sample.rows.ravel(),
        "largest_error": statistics.largest_error,
    }
    for name in _MOMENTS:
        moments: Moments = getattr(statistics, name)
        row[f"{name}_count"] = moments.count
        row[f"{name}_mean"], row[f"{name}_squares"] = moments.mean.ravel(), moments.squares.ravel()
    for end in ("top", "bottom"):
        pairs = getattr(statistics.by_logit, end)
        row[f"{end}_scores"], row[f"{end}_ids"] = [s for s, _ in pairs], [i for _, i in pairs]
    return row


def statistics_from_table(table: pa.Table) -> Iterator[tuple[int, ClassStatistics]]:
    """The classes and their partial statistics, as `statistics_table` wrote them; one at a time."""
    for batch in table.to_batches(max_chunksize=16):
        for i in range(batch.num_rows):
            yield _statistics_of(batch, i)


def _statistics_of(batch: pa.RecordBatch, i: int) -> tuple[int, ClassStatistics]:
    def scalar(name: str) -> Any:
        return batch.column(name)[i].as_py()

    def array(name: str) -> np.ndarray:
        return batch.column(name)[i].values.to_numpy(zero_copy_only=False)

    def moments(name: str) -> Moments:
        mean, squares = array(f"{name}_mean"), array(f"{name}_squares")
        side = round(len(mean) ** 0.5)
        shape = {"logit": (), "probability": (), "figures": (len(FIGURES),)}.get(name, (side, side))
        return Moments(scalar(f"{name}_count"), mean.reshape(shape), squares.reshape(shape))

    def ends(end: str) -> list[tuple[float, str]]:
        return list(zip(scalar(f"{end}_scores"), scalar(f"{end}_ids"), strict=True))

    rows = array("sample_rows").reshape(-1, len(FIGURES) + 1)
    return scalar("class"), ClassStatistics(
        labelled=scalar("labelled"),
        correct=scalar("correct"),
        **{name: moments(name) for name in _MOMENTS},
        sample=Sample(scalar("sample_size"), array("sample_keys"), rows),
        largest_error=scalar("largest_error"),
        by_logit=Ranking(ends("top"), ends("bottom")),
    )


# ---- files


@dataclasses.dataclass(frozen=True, slots=True)
class Output:
    """The folder that a run writes, on any file system that Beam knows.

    Attributes:
      path: the folder.
      fingerprint: what identifies model, method and map settings; stands in the metadata of every Parquet file.
      run: the run that writes; stands in the names of its temporary files.
      options: options for Beam's file systems, as on Beam's command line. They are put to use where nobody has done so:
        a worker that a pool starts is not told them.
    """

    path: str
    fingerprint: str = ""
    run: str = ""
    options: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        use_options_if_none_are_set(self.options)

    def __reduce__(self) -> tuple[type[Output], tuple[Any, ...]]:
        return Output, (self.path, self.fingerprint, self.run, self.options)

    def file(self, *names: str) -> str:
        return FileSystems.join(self.path, *names)

    def part(self, kind: str, unit: Unit) -> str:
        """The file of a unit: kind is `maps`, `errors` or `partials`."""
        return self.file(kind, f"{unit.id}.parquet")

    def receipt(self, unit: Unit) -> str:
        return self.file("receipts", f"{unit.id}.json")

    def heartbeat(self, unit: Unit) -> str:
        """The file that says how far a unit under way is."""
        return self.file("tmp", f"{unit.id}.progress")

    def create(self) -> None:
        """Makes the folders; those that are there stay as they are."""
        for name in ("receipts", "maps", "partials", "errors", "tmp"):
            with contextlib.suppress(BeamIOError, OSError):  # there already, or a store without folders
                FileSystems.mkdirs(self.file(name))

    def temporary(self, name: str) -> str:
        """A file of this run that `clear_temporary` deletes at the run's end."""
        return self.file("tmp", f"{self.run}~{name}")

    def clear_temporary(self) -> None:
        """Deletes what attempts left behind, before this run's first attempt and after its last.

        Another run may be at work on the same output, as one that its launcher lost sight of: what it is writing stays.
        """
        left = [file.path for file in _match(self.file("tmp", "*")) if self._is_left(file)]
        if left:
            with contextlib.suppress(BeamIOError):  # another launcher cleared them at the same time
                FileSystems.delete(left)

    def _is_left(self, file: FileMetadata) -> bool:
        """Whether nobody is writing a temporary file any more: it is of this run, of a process of this machine that has
        ended, or old. A heartbeat may always go: it comes again."""
        name = posixpath.basename(file.path)
        run, *writer = name.split("~")
        if name.endswith(".progress") or run == self.run:
            return True
        if len(writer) == 4 and writer[0] == socket.gethostname() and not _is_running(int(writer[1])):
            return True
        return 0 < file.last_updated_in_seconds < time.time() - _ABANDONED_SECONDS

    @contextlib.contextmanager
    def writing(self, path: str) -> Iterator[IO[bytes]]:
        """A file that gets its name when the block ends well; otherwise nothing stays.

        What had the name before is replaced whole: two that write the same unit leave one of two equal files.
        """
        writer = f"{socket.gethostname()}~{os.getpid()}~{uuid.uuid4().hex[:12]}"
        temporary = self.temporary(f"{writer}~{posixpath.basename(path)}.part")
        sink = FileSystems.create(temporary, compression_type=CompressionTypes.UNCOMPRESSED)
        try:
            yield sink
            sink.close()
            _replace(temporary, path)
        except BaseException:
            with contextlib.suppress(Exception):
                sink.close()
            with contextlib.suppress(Exception):
                FileSystems.delete([temporary])
            raise

    def write_json(self, path: str, text: str) -> None:
        with self.writing(path) as sink:
            sink.write(text.encode())

    def delete(self, path: str) -> None:
        FileSystems.delete([path])

    def read_json(self, name: str) -> Any | None:
        """The content of a JSON file in the folder, None where there is none.

        Raises:
          ValueError: the file is not JSON.
        """
        text = read_bytes(self.file(name))
        try:
            return None if text is None else json.loads(text)
        except ValueError as error:
            raise ValueError(f"{self.file(name)} is no JSON file") from error

    def read_receipt(self, unit: Unit) -> Receipt | None:
        text = read_bytes(self.receipt(unit))
        return None if text is None else Receipt.from_json(text)

    def read_receipts(self) -> list[Receipt]:
        """All receipts, in the order of shards and records."""
        paths = list_files(self.file("receipts", "*.json"))
        with ThreadPoolExecutor(16) as pool:
            texts = list(pool.map(read_bytes, paths))
        receipts = [Receipt.from_json(text) for text in texts if text is not None]
        return sorted(receipts, key=lambda receipt: (receipt.unit.shard.path, receipt.unit.start))

    def schema(self, schema: pa.Schema) -> pa.Schema:
        return schema.with_metadata(
            {"fullgrad.schema_version": SCHEMA_VERSION, "fullgrad.fingerprint": self.fingerprint}
        )

    def write_table(self, path: str, table: pa.Table) -> None:
        with self.writing(path) as sink:
            pq.write_table(table.cast(self.schema(table.schema)), sink, compression="zstd")

    @contextlib.contextmanager
    def writing_rows(self, path: str, schema: pa.Schema) -> Iterator[RowWriter]:
        """Like `writing`, for rows that come batch by batch."""
        # A dictionary is for what comes again: of maps and numbers it would be all of them, and written in vain.
        types = pa.types
        repeating = [each.name for each in schema if types.is_string(each.type) or types.is_integer(each.type)]
        with (
            self.writing(path) as sink,
            pq.ParquetWriter(sink, self.schema(schema), compression="zstd", use_dictionary=repeating) as writer,
        ):
            rows = RowWriter(writer)
            yield rows
            rows.flush()

    def write_partials(self, unit: Unit, classes: Mapping[int, ClassStatistics]) -> None:
        """Writes a unit's partial statistics, each block of classes as row groups of its own."""
        with (
            self.writing(self.part("partials", unit)) as sink,
            # Without what nobody would use: dictionaries of numbers, and the ends of all columns but the first.
            pq.ParquetWriter(
                sink, self.schema(PARTIALS), compression="zstd", use_dictionary=False, write_statistics=["class"]
            ) as writer,
        ):
            for _, block in itertools.groupby(sorted(classes), class_block):
                writer.write_table(statistics_table({c: classes[c] for c in block}))

    def read_partials(self, unit: Unit, block: int | None = None) -> Iterator[tuple[int, ClassStatistics]]:
        """The classes that a unit has partial statistics of, and these; of one block of classes, None for all."""
        with _open(self.part("partials", unit)) as source:
            file = pq.ParquetFile(source)
            for group in range(file.num_row_groups):
                classes = file.metadata.row_group(group).column(0).statistics
                if block is None or class_block(classes.min) <= block <= class_block(classes.max):
                    # A thread for each column would cost more than reading them does.
                    for class_index, statistics in statistics_from_table(file.read_row_group(group, use_threads=False)):
                        if block is None or class_block(class_index) == block:
                            yield class_index, statistics

    def read_blocks(self, unit: Unit) -> list[int]:
        """The blocks of classes that a unit has partial statistics of."""
        with _open(self.part("partials", unit)) as source:
            file = pq.ParquetFile(source)
            blocks: set[int] = set()
            for group in range(file.num_row_groups):
                classes = file.metadata.row_group(group).column(0).statistics
                ends = {class_block(classes.min), class_block(classes.max)}
                if len(ends) > 1:  # as earlier versions wrote them
                    table = file.read_row_group(group, ["class"], use_threads=False)
                    ends = {class_block(c) for c in table["class"].to_pylist()}
                blocks |= ends
        return sorted(blocks)


class RowWriter:
    """Gathers batches of rows to row groups. `rows` counts them."""

    def __init__(self, writer: pq.ParquetWriter):
        self._writer = writer
        self._batches: list[pa.RecordBatch] = []
        self._bytes = 0
        self.rows = 0

    def write(self, batch: pa.RecordBatch) -> None:
        self.rows += batch.num_rows
        self._batches.append(batch)
        self._bytes += batch.nbytes
        if self._bytes >= _ROW_GROUP_BYTES:
            self.flush()

    def flush(self) -> None:
        if self._batches:
            self._writer.write_table(pa.Table.from_batches(self._batches))
            self._batches, self._bytes = [], 0


def _replace(source: str, destination: str) -> None:
    for attempts_left in reversed(range(5)):
        try:
            return FileSystems.rename([source], [destination])
        except BeamIOError:
            if not attempts_left:
                raise
            # hdfs:// does not rename onto a file that is there. Whoever wrote it wrote the same, so it may go; somebody
            # else may be doing just that, which is why it is tried several times.
            with contextlib.suppress(BeamIOError, OSError):
                FileSystems.delete([destination])


def list_files(pattern: str) -> list[str]:
    """The paths that match a pattern; none where the folder is not there."""
    return [file.path for file in _match(pattern)]


def _match(pattern: str) -> list[FileMetadata]:
    try:
        return FileSystems.match([pattern])[0].metadata_list
    except BeamIOError:
        if not FileSystems.get_filesystem(pattern).has_dirs():
            raise  # an object store has no folder that could be absent
        return []


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        return True
    return True


def read_bytes(path: str) -> bytes | None:
    """A file's content, None where there is no such file."""
    try:
        with _open(path) as source:
            return source.read()
    except STORE_ERRORS:
        if FileSystems.exists(path):
            raise
        return None


def _open(path: str) -> IO[bytes]:
    return FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED)


def read_table(path: str, columns: Sequence[str] | None = None) -> pa.Table:
    """A Parquet file as a table."""
    with _open(path) as source:
        return pq.ParquetFile(source).read(list(columns) if columns else None, use_threads=False)


def read_maps(path: str, columns: Iterable[str] | None = None) -> Iterator[dict[str, Any]]:
    """The rows of an output folder's committed maps parts, one at a time.

    Args:
      path: the output folder of a run.
      columns: the columns that are wanted, None for all; see DESIGN and README for their names. `map` stands for the
        map and what it takes to decode it.

    Yields:
      Rows as mappings from column name to value, with `map` as float32 [H, W] (None where maps were not stored) and
      `coarse_map` as float32 [14, 14].

    Raises:
      FileNotFoundError: there are no receipts in the folder.
      ValueError: there is no such column.
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
        extra = ["map_dtype", "map_scale", "map_offset", "map_height", "map_width"]
        stored = [*wanted, *(name for name in extra if name not in wanted)]
    for receipt in receipts:
        with _open(output.part("maps", receipt.unit)) as source:
            for batch in pq.ParquetFile(source).iter_batches(batch_size=64, columns=stored):
                for row in batch.to_pylist():
                    if "map" in row:
                        row["map"] = decode_map(row)
                    if "coarse_map" in row:
                        side = round(len(row["coarse_map"]) ** 0.5)
                        row["coarse_map"] = np.asarray(row["coarse_map"], np.float32).reshape(side, side)
                    yield row if wanted is None else {name: row[name] for name in wanted}
