"""Reads Parquet files with encoded images in a column: Hugging Face datasets and plain tables."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from transforms.byte_names import as_text
from transforms.sources.base import (
    LABEL_NAMES,
    DamagedShard,
    Found,
    Record,
    Source,
    UnreadableInput,
    choice,
    fallback_id,
    label_fields,
    listed,
    readable,
)
from transforms.sources.files import is_image, open_file
from transforms.sources.limits import TOO_LARGE, too_large
from transforms.sources.pages import LARGE_PAGE, TooLargePage, largest_page
from transforms.sources.texts import ClassText, as_class_text, text_names
from transforms.unit import Shard

# If the configuration names no column, the first of these that exists and has a fitting type is used.
IMAGE_COLUMNS = ("image", "img", "image/encoded", "image_bytes")
ID_COLUMNS = ("id", "image_id", "filename", "key", "image/filename")

# The number of rows that are decoded at once. A batch should be small even with images of several megabytes.
_BATCH_ROWS = 16
# A file that claims more rows for each of its bytes is counted by reading it: its footer may be wrong.
_ROWS_PER_BYTE = 16
# With a buffer, Parquet reads page by page. By default it reads all images of a row group at once.
_BUFFER_BYTES = 1 << 20


class ParquetSource(Source):
    """Fields are columns. The image is a binary column or, as Hugging Face writes it, a struct with `bytes`, `path`.

    The default columns are the first fitting ones of IMAGE_COLUMNS, ID_COLUMNS (else the struct's path), LABEL_NAMES.
    """

    format = "parquet"

    def check(self, shard: Shard) -> None:
        try:
            with readable(shard.path, None), _opened(shard) as table:
                schema = None if table is None else table.schema_arrow
        except DamagedShard as damage:
            raise UnreadableInput(f"{shard.path} is not a readable Parquet file: {damage.__cause__}") from damage
        if schema is None:
            return
        there = _listed_columns(schema)
        wanted = (
            (self.fields.image, _holds_images, "binary or struct<bytes, path>"),
            (self.fields.id, _holds_names, "strings or integers"),
            (self.fields.label, _holds_labels, "integers or strings, or lists with a number for each class"),
        )
        for name, fits, kinds in wanted:
            if name and name not in schema.names:
                raise UnreadableInput(f"{shard.path} has no column {name!r}; its columns are {there}")
            if name and not fits(schema.field(name).type):
                raise UnreadableInput(f"{shard.path}: column {name!r} is {schema.field(name).type}, not {kinds}")
        if self._columns(schema).image is None:
            raise UnreadableInput(
                f"{shard.path} has no column of images called {listed(IMAGE_COLUMNS)}; its columns are {there}"
            )

    def found(self, shard: Shard) -> Found | None:
        try:
            with _opened(shard) as table:
                schema = None if table is None else table.schema_arrow
        except DamagedShard:
            return None
        if schema is None:
            return None
        columns = self._columns(schema)

        def chosen(name: str, key: str, defaults: tuple[str, ...], fits: Callable[[pa.DataType], bool]) -> str:
            configured = getattr(self.fields, key) is not None
            others = [] if configured else [other for other in _fitting(schema, defaults, fits) if other != name]
            return choice(f"column {name!r} ({schema.field(name).type})", others, f"input.fields.{key}")

        return Found(
            image=chosen(columns.image, "image", IMAGE_COLUMNS, _holds_images) if columns.image else "none",
            id=(
                chosen(columns.id, "id", ID_COLUMNS, _holds_names)
                if columns.id
                else f"the image's path in column {columns.image!r}"
                if "path" in columns.struct
                else "the shard's name and the row"
            ),
            label=chosen(columns.label, "label", LABEL_NAMES, _holds_labels) if columns.label else None,
            there=""
            if self.fields.label == ""
            else f"among the columns {_listed_columns(schema)}; input.fields.label names the column that holds it",
        )

    def count(self, shard: Shard) -> int:
        try:
            with readable(shard.path, 0), _opened(shard) as table:
                if table is None:
                    return 0
                if table.metadata.num_rows <= _most_rows(shard):
                    return int(table.metadata.num_rows)
                schema = table.schema_arrow
                column = (self._columns(schema).paths() or schema.names)[-1:]
                return sum(1 for _ in _rows(table, shard, column, 0, None, self._limit))
        except DamagedShard as damage:
            return damage.index

    def read(self, shard: Shard, start: int = 0, stop: int | None = None) -> Iterator[Record]:
        try:
            with readable(shard.path, start), _opened(shard) as table:
                if table is not None:
                    columns = self._columns(table.schema_arrow)
                    for index, row in _rows(table, shard, columns.paths(), start, stop, self._limit):
                        yield columns.record(shard, index, row)
        except DamagedShard as damage:
            if damage.concerns(start, stop):
                raise

    def image_fields(self, shard: Shard) -> tuple[str, ...]:
        with contextlib.suppress(DamagedShard), _opened(shard) as table:
            if table is None:
                return ()
            names = [column.name for column in table.schema_arrow if _holds_images(column.type)]
            row: Any = next((row for _, row in _rows(table, shard, names, 0, 1, self._limit)), {}) if names else {}
            row = {} if isinstance(row, _Oversized) else row
            cells = {name: row.get(name) for name in names}
            images = {name: cell.get("bytes") if isinstance(cell, dict) else cell for name, cell in cells.items()}
            return tuple(name for name in names if is_image(images[name]))
        return ()

    def class_list(self, shard: Shard) -> tuple[tuple[str, ...], str] | None:
        """The names of Hugging Face's ClassLabel, if the label's column has one."""
        try:
            with _opened(shard) as table:
                schema = None if table is None else table.schema_arrow
        except DamagedShard:
            return None
        label = None if schema is None else self._columns(schema).label
        if schema is None or label is None:
            return None
        names = _class_label(schema, label)
        return None if names is None else (names, f"the ClassLabel of column {label!r}")

    def class_texts(self, shard: Shard, start: int = 0, stop: int | None = None) -> Iterator[ClassText]:
        with contextlib.suppress(DamagedShard), _opened(shard) as table:
            label = None if table is None else self._columns(table.schema_arrow).label
            if table is None or label is None:
                return
            schema = table.schema_arrow
            name = next(
                iter(_fitting(schema, text_names(label), lambda kind: _is_text(kind) or _is_binary(kind))), None
            )
            names = [label] if name is None else [label, name]
            for _, row in _rows(table, shard, names, start, stop, self._limit):
                if isinstance(row, _Oversized):
                    continue
                text = None if name is None else as_class_text(row[name])
                field = "" if name is None else f"column {name!r}"
                yield ClassText(label_fields(row[label], label).get("label"), text, field, 16)

    @property
    def _limit(self) -> int:
        return self.fields.record_bytes

    def _columns(self, schema: pa.Schema) -> _Columns:
        """The columns to read: the configured ones, else the defaults that exist and fit."""

        def first(configured: str | None, defaults: tuple[str, ...], fits: Callable[[pa.DataType], bool]) -> str | None:
            return next(iter(_fitting(schema, defaults if configured is None else (configured,), fits)), None)

        image = first(self.fields.image, IMAGE_COLUMNS, _holds_images)
        return _Columns(
            image=image,
            struct=() if image is None else tuple(_struct_fields(schema.field(image).type)),
            id=first(self.fields.id, ID_COLUMNS, _holds_names),
            label=first(self.fields.label, LABEL_NAMES, _holds_labels),
        )


@dataclasses.dataclass(frozen=True, slots=True)
class _Columns:
    """The columns of one shard that make a record. `struct` has the fields of the image column to read."""

    image: str | None
    struct: tuple[str, ...]
    id: str | None
    label: str | None

    def paths(self) -> list[str]:
        """The columns and fields to read. A column that is not read costs nothing."""
        image = [f"{self.image}.{field}" for field in self.struct]
        names = (*image, None if image else self.image, self.id, self.label)
        return list(dict.fromkeys(name for name in names if name))

    def record(self, shard: Shard, index: int, row: dict[str, Any] | _Oversized) -> Record:
        if isinstance(row, _Oversized):
            large = too_large(f"row {index}", row.size, row.limit)
            return Record(index, fallback_id(shard, index), None, problem=large, error=TOO_LARGE)
        cell = row[self.image] if self.image else None
        image = cell.get("bytes") if isinstance(cell, dict) else cell
        path = cell.get("path") if isinstance(cell, dict) else None
        given_id = row[self.id] if self.id else path
        problem = None
        if self.image is None:
            problem = "the table has no column of images"
        elif image is None and path:
            problem = f"column {self.image!r} holds no bytes, only the path {path!r}"
        elif not image:
            problem = f"column {self.image!r} is {'null' if image is None else 'empty'}"
        if isinstance(given_id, bytes):
            given_id = as_text(given_id)
        return Record(
            index,
            fallback_id(shard, index) if given_id in (None, "") else str(given_id),
            image or None,
            problem=problem,
            **(label_fields(row[self.label], f"column {self.label!r}") if self.label else {}),
        )


@contextlib.contextmanager
def _opened(shard: Shard) -> Iterator[pq.ParquetFile | None]:
    """Opens the table; None for an empty file, which is not a Parquet file.

    Raises:
      DamagedShard: the footer, which has the table's structure, cannot be read.
    """
    with open_file(shard.path) as file:
        if not file.read(1):
            yield None
            return
        with _damage_at(shard, 0):
            table = pq.ParquetFile(file, pre_buffer=False, buffer_size=_BUFFER_BYTES, page_checksum_verification=True)
        yield table


@dataclasses.dataclass(frozen=True, slots=True)
class _Oversized:
    """A row that is larger than is read, in bytes."""

    size: int
    limit: int


def _most_rows(shard: Shard) -> int:
    return max(1, shard.size) * _ROWS_PER_BYTE


def _rows(
    table: pq.ParquetFile, shard: Shard, paths: list[str], start: int, stop: int | None, limit: int
) -> Iterator[tuple[int, Any]]:
    """Yields rows [start, stop) with their indices, as dicts or `_Oversized`. Other row groups are not read.

    Raises:
      DamagedShard: a batch cannot be decoded. Batches begin at the start of their row group. So the batch, and its
        first lost row, are the same for every range.
    """
    group_start = 0
    for group in range(table.num_row_groups):
        with _damage_at(shard, group_start):
            count = table.metadata.row_group(group).num_rows
            if count < 0:
                raise ValueError(f"the row group claims {count} rows")
        group_stop = group_start + count
        if stop is not None and stop <= group_start:
            return
        if start < group_stop:
            index = group_start
            with _damage_at(shard, group_start):
                at_once = _rows_at_once(table, shard, group, paths, limit)
            batches = table.iter_batches(at_once, row_groups=[group], columns=paths, use_threads=False)
            while index < group_stop and (stop is None or index < stop):
                with _damage_at(shard, index):
                    if index > _most_rows(shard):
                        raise ValueError(f"the footer claims more than {_ROWS_PER_BYTE} rows for each byte of the file")
                    batch = next(batches, None)
                    if batch is None or not batch.num_rows:
                        raise ValueError("the row group ends before it")
                first = min(max(start - index, 0), batch.num_rows)
                values = _values(batch.slice(first), limit)
                for place in range(index + first, index + batch.num_rows):
                    if stop is not None and place >= stop:
                        return
                    with _damage_at(shard, index):
                        row = next(values)
                    yield place, row
                index += batch.num_rows
        group_start = group_stop


def _rows_at_once(table: pq.ParquetFile, shard: Shard, group: int, paths: list[str], limit: int) -> int:
    """The number of rows of a batch of a row group; the same for every range of rows.

    Raises:
      TooLargePage: a page is larger than is read.
    """
    if "://" in shard.path:  # each header would be a request
        return _BATCH_ROWS
    names = set(paths)
    schema = table.schema
    repeated = {
        column.path
        for column in map(schema.column, range(len(schema)))
        if column.max_repetition_level and column.path.partition(".")[0] in names
    }
    found = table.metadata.row_group(group)
    # pyarrow ends the process at some damaged metadata of columns, so nobody looks at them without need: pages are no
    # larger than all that their row group claims. Lists of equal numbers take nothing there.
    if found.total_byte_size <= LARGE_PAGE and not repeated:
        return _BATCH_ROWS
    with open_file(shard.path) as file:
        largest = largest_page(file, found, names, repeated, limit)
    return 1 if largest > LARGE_PAGE else _BATCH_ROWS


def _values(batch: pa.RecordBatch, limit: int) -> Iterator[dict[str, Any] | _Oversized]:
    """The rows of a batch as Python's values. Text that is not UTF-8 is given as bytes."""
    if batch.nbytes <= limit:
        try:
            yield from batch.to_pylist()
            return
        except UnicodeDecodeError:
            batch = pa.RecordBatch.from_arrays([_as_bytes(column) for column in batch.columns], batch.schema.names)
    for place in range(batch.num_rows):
        row = batch.slice(place, 1)
        if row.nbytes > limit:
            yield _Oversized(row.nbytes, limit)
        else:
            try:
                yield row.to_pylist()[0]
            except UnicodeDecodeError:
                row = pa.RecordBatch.from_arrays([_as_bytes(column) for column in row.columns], row.schema.names)
                yield row.to_pylist()[0]


def _as_bytes(column: pa.Array) -> pa.Array:
    """A column with all text as bytes."""
    kind = column.type
    if isinstance(kind, pa.BaseExtensionType):
        return _as_bytes(column.storage)
    if pa.types.is_dictionary(kind):
        return _as_bytes(column.dictionary_decode())
    if pa.types.is_struct(kind):
        parts = [_as_bytes(part) for part in column.flatten()]
        return pa.StructArray.from_arrays(parts, [field.name for field in kind], mask=column.is_null())
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return column.cast(pa.large_binary())
    if pa.types.is_string_view(kind):
        return column.cast(pa.binary_view())
    return column


@contextlib.contextmanager
def _damage_at(shard: Shard, index: int) -> Iterator[None]:
    """Turns pyarrow's errors for corrupt data into DamagedShard. Errors of the file system are not changed."""
    try:
        yield
    except TooLargePage as error:
        raise DamagedShard(f"{shard.path}: the row group from row {index} on cannot be read: {error}", index) from error
    # What pyarrow raises for numbers that no file has.
    except (pa.ArrowException, ValueError, ArithmeticError, MemoryError, LookupError, TypeError) as error:
        raise DamagedShard(f"{shard.path}: row {index} cannot be read: {error}", index) from error
    except OSError as error:
        # pyarrow raises a plain OSError for corrupt pages. A file system's error has a subclass or an errno.
        if type(error) is not OSError or error.errno is not None:
            raise
        raise DamagedShard(f"{shard.path}: row {index} cannot be read: {error}", index) from error


def _class_label(schema: pa.Schema, column: str) -> tuple[str, ...] | None:
    """The names in Hugging Face's metadata of a column; None if it is no ClassLabel."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        names = features[column]["names"]
    except (KeyError, TypeError, ValueError):
        return None
    if not isinstance(names, list) or not names or not all(isinstance(name, str) and name for name in names):
        return None
    return tuple(names)


def _fitting(schema: pa.Schema, names: tuple[str, ...], fits: Callable[[pa.DataType], bool]) -> list[str]:
    """The names that are columns of a fitting type."""
    return [name for name in names if name in schema.names and fits(schema.field(name).type)]


def _listed_columns(schema: pa.Schema) -> str:
    return listed(f"{column.name}: {column.type}" for column in schema)


def _holds_images(kind: pa.DataType) -> bool:
    return _is_binary(kind) or "bytes" in _struct_fields(kind)


def _holds_names(kind: pa.DataType) -> bool:
    """Whether a column can hold ids. pandas turns integers into floats if some are missing."""
    kind = _of_values(kind)
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind)) or _is_text(kind) or _is_binary(kind)


def _holds_labels(kind: pa.DataType) -> bool:
    """Whether a column can hold labels: the types of ids, booleans, or a list with one number per class."""
    kind = _of_values(kind)
    if any(is_list(kind) for is_list in _LISTS):
        kind = _of_values(kind.value_type)
    others = (pa.types.is_boolean, pa.types.is_decimal, pa.types.is_null)
    return _holds_names(kind) or any(is_kind(kind) for is_kind in others)


_LISTS = (
    pa.types.is_list,
    pa.types.is_large_list,
    pa.types.is_fixed_size_list,
    pa.types.is_list_view,
    pa.types.is_large_list_view,
)


def _of_values(kind: pa.DataType) -> pa.DataType:
    """The type of the values inside an encoding: a dictionary, run-end encoding or an extension type."""
    while True:
        if pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
            kind = kind.value_type
        elif isinstance(kind, pa.BaseExtensionType):
            kind = kind.storage_type
        else:
            return kind


def _struct_fields(kind: pa.DataType) -> list[str]:
    """Which of the fields `bytes` and `path` an image struct has; none if the column is not a struct with bytes."""
    if not pa.types.is_struct(kind) or "bytes" not in kind.names or not _is_binary(kind.field("bytes").type):
        return []
    return [name for name in ("bytes", "path") if name in kind.names]


def _is_binary(kind: pa.DataType) -> bool:
    kinds = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view, pa.types.is_fixed_size_binary)
    return any(is_kind(_of_values(kind)) for is_kind in kinds)


def _is_text(kind: pa.DataType) -> bool:
    kinds = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    return any(is_kind(_of_values(kind)) for is_kind in kinds)
