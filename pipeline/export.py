"""`fullgrad export`: rows of an output as a table of figures, as arrays, or as pictures."""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
import re
import zipfile
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO, cast

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from transforms.output import Output

_ROWS_AT_ONCE = 64
# A longer name may not fit beside its ending in the 255 bytes of a file's name.
_LONGEST_NAME = 120
# What some file system does not allow in a name, or a shell would not take without quotes.
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")


def add_arguments(commands: Any) -> None:
    """Adds the command and its arguments."""
    export = commands.add_parser(
        "export",
        help="write maps and figures for papers and sheets",
        description="Writes the rows of an output in another form. FILE.csv gets all figures of all rows, without "
        "maps. FILE.npz gets the maps as float32 [N, H, W], with ids, targets, labels and figures. A folder gets two "
        "pictures for each row, ID.map.png and ID.overlay.png, of the size of the model's input.",
    )
    export.add_argument("output", metavar="OUTPUT", help="a run's output.path")
    export.add_argument("--to", metavar="FILE.csv|FILE.npz|DIR", required=True, help="what to write")
    export.add_argument("--class", dest="target", metavar="CLASS", help="only maps of this class, by name or index")
    export.add_argument("--ids", metavar="FILE", help="only the images whose ids this file lists, one a line")
    export.add_argument("--limit", metavar="N", type=int, help="only the first N rows")


def export(args: argparse.Namespace) -> int:
    """`fullgrad export`; returns the exit code."""
    from pipeline.terminal import err, out
    from transforms.filesystems import STORE_ERRORS

    try:
        rows = _export(args)
    except (ValueError, FileNotFoundError) as error:
        err.print(f"fullgrad: {error}", style="red")
        return 2
    except STORE_ERRORS as error:
        err.print(f"fullgrad: {args.output} cannot be read: {error}", style="red")
        return 2
    out.print(f"{rows:,} rows written to {args.to}")
    return 0


def _export(args: argparse.Namespace) -> int:
    from pipeline.local_files import writing
    from transforms.output import Output

    kind = pathlib.PurePath(args.to).suffix.lower()
    # A folder may have a dot in its name, but a file that is called .parquet is a misunderstanding.
    if kind not in (".csv", ".npz") and kind[1:].isalpha() and not pathlib.Path(args.to).is_dir():
        raise ValueError(f"--to: {args.to} is not a .csv or .npz file, nor a folder")
    if args.limit is not None and args.limit < 1:
        raise ValueError(f"--limit: {args.limit} is no number of rows; it must be 1 or more")
    selection = _Selection.of(Output(args.output), args.target, args.ids, args.limit)
    with writing(args.to, folder=kind not in (".csv", ".npz")) as path:
        if kind == ".csv":
            return _write_csv(selection, path)
        return _write_npz(selection, path) if kind == ".npz" else _write_pictures(selection, path)


@dataclasses.dataclass(frozen=True, slots=True)
class _Selection:
    """Rows of `maps` that are exported, always in the same order.

    Attributes:
      output: the run's output.
      target: only rows that explain this class; None for all.
      ids: only rows about these images; None for all.
      limit: only the first so many; None for all.
      columns: the columns that the parts have.
    """

    output: Output
    target: int | None
    ids: frozenset[str] | None
    limit: int | None
    columns: pa.Schema

    @classmethod
    def of(cls, output: Output, target: str | None, ids: str | None, limit: int | None) -> _Selection:
        """Rows by what the command line says.

        Raises:
          ValueError: there is no such class or file, or no row is left.
        """
        units = [each.unit for each in output.read_receipts() if each.rows]
        if not units:
            raise FileNotFoundError(f"{output.path} has no maps: no unit of a run is complete in it")
        with output.open_part("maps", units[0]) as file:
            schema = file.schema_arrow
        wanted = None
        if ids is not None:
            try:
                lines = pathlib.Path(ids).read_text(encoding="utf-8").splitlines()
            except (OSError, UnicodeDecodeError) as error:
                raise ValueError(f"--ids: {ids} cannot be read as text: {error}") from error
            wanted = frozenset(line.strip() for line in lines if line.strip())
        selection = cls(output, None if target is None else _class_index(output, target), wanted, limit, schema)
        first = next(selection.batches(["image_id"]), None)
        if first is None:
            which = [f"of class {target!r}"] * (target is not None) + [f"with an id from {ids}"] * (ids is not None)
            raise ValueError(f"{output.path} has no rows {' and '.join(which)}")
        return selection

    def batches(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """The rows in small tables with some of the columns."""
        import pyarrow as pa
        import pyarrow.compute as pc

        left = self.limit
        read = list(columns) + ["target"] * (self.target is not None) + ["image_id"] * (self.ids is not None)
        wanted = None if self.ids is None else pa.array(sorted(self.ids), pa.string())
        for receipt in self.output.read_receipts():
            if not receipt.rows:
                continue
            with self.output.open_part("maps", receipt.unit) as file:
                for batch in file.iter_batches(_ROWS_AT_ONCE, columns=list(dict.fromkeys(read))):
                    table = pa.Table.from_batches([batch])
                    if self.target is not None:
                        table = table.filter(pc.equal(table["target"], self.target))
                    if wanted is not None:
                        table = table.filter(pc.is_in(table["image_id"], wanted))
                    table = table.select(list(columns)).slice(0, left)
                    if table.num_rows:
                        yield table
                    if left is not None:
                        left -= table.num_rows
                        if not left:
                            return


def _class_index(output: Output, target: str) -> int:
    """The index of a class given by its name or index.

    Raises:
      ValueError: no class has the name, or several have it; the message gives the nearest names.
    """
    import difflib

    from transforms.output import read_table

    table = read_table(output.file("classes.parquet"), ["class", "class_name"])
    rows = [row for row in table.to_pylist() if row["class"] >= 0]
    found = [row["class"] for row in rows if row["class_name"] == target]
    if len(found) > 1:
        raise ValueError(f"--class: several classes are called {target!r}; give one of the indices {found}")
    if found:
        return int(found[0])
    if target.isdecimal() and int(target) in {row["class"] for row in rows}:
        return int(target)
    names = [row["class_name"] for row in rows if row["class_name"] is not None]
    nearest = difflib.get_close_matches(target, names, 3) or names[:3] or [str(row["class"]) for row in rows[:3]]
    raise ValueError(f"--class: {output.path} has no class {target!r}; the nearest are {', '.join(map(repr, nearest))}")


# ---- forms


def _write_csv(selection: _Selection, path: pathlib.Path) -> int:
    """Writes all columns that a cell of a table can hold."""
    import pyarrow as pa
    import pyarrow.csv

    columns = [field.name for field in selection.columns if not _is_map(field) and not pa.types.is_nested(field.type)]
    schema = pa.schema([selection.columns.field(name) for name in columns])
    rows = 0
    with pyarrow.csv.CSVWriter(str(path), schema) as writer:
        for table in selection.batches(columns):
            writer.write_table(table.cast(schema))
            rows += table.num_rows
    return rows


def _is_map(field: pa.Field) -> bool:
    import pyarrow as pa

    return pa.types.is_binary(field.type) or field.name.startswith("map_")


def _write_npz(selection: _Selection, path: pathlib.Path) -> int:
    """Writes arrays as `numpy.load` reads them: `maps` float32 [N, H, W], and one [N] for each other column.

    A missing number is NaN, or −1 for a class. Each array is written in a pass of its own, so that memory holds only a
    few rows.

    Raises:
      ValueError: there are no maps, or their sizes differ.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    from transforms.output import decode_map

    strings = [field.name for field in selection.columns if pa.types.is_string(field.type) and not _is_map(field)]
    numbers = [
        field.name
        for field in selection.columns
        if not (_is_map(field) or pa.types.is_nested(field.type) or field.name in strings)
    ]
    count, sizes, longest = 0, set(), dict.fromkeys(strings, 1)
    for table in selection.batches([*strings, "map_dtype", "map_height", "map_width"]):
        count += table.num_rows
        if "none" in table["map_dtype"].to_pylist():
            raise ValueError(f"{selection.output.path} has no maps, as output.map_dtype is none; export it as .csv")
        sizes |= set(zip(table["map_height"].to_pylist(), table["map_width"].to_pylist(), strict=True))
        for name in strings:
            longest[name] = max(longest[name], pc.max(pc.utf8_length(table[name])).as_py() or 0)
    if len(sizes) > 1:
        raise ValueError(f"the maps have several sizes, {sorted(sizes)[:5]}; an array holds those of one: use --ids")

    def column(name: str, dtype: Any) -> Iterator[np.ndarray]:
        for table in selection.batches([name]):
            values = table[name]
            missing: Any = {"U": "", "f": np.nan, "b": False}.get(dtype.kind, -1)
            yield np.asarray([missing if each is None else each for each in values.to_pylist()], dtype)

    def maps() -> Iterator[np.ndarray]:
        for table in selection.batches(["map", "map_dtype", "map_scale", "map_offset", "map_height", "map_width"]):
            yield np.stack([cast("np.ndarray", decode_map(row)) for row in table.to_pylist()])

    # Not compressed: noise-like numbers hardly shrink, and it would take most of the time.
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        _write_array(archive, "maps", np.dtype(np.float32), (count, *sizes.pop()), maps())
        for name in strings:
            text = np.dtype(f"<U{longest[name]}")
            _write_array(archive, name, text, (count,), column(name, text))
        for name in numbers:
            kind = selection.columns.field(name).type
            # PyArrow's own translation would need pandas. `correct` is a number, −1 if it is not known.
            number = np.dtype({"bool": "int8", "float": "float32", "double": "float64"}.get(str(kind), str(kind)))
            _write_array(archive, name, number, (count,), column(name, number))
    return count


def _write_array(
    archive: zipfile.ZipFile, name: str, dtype: np.dtype[Any], shape: tuple[int, ...], pieces: Iterator[np.ndarray]
) -> None:
    """Writes an array of known shape from pieces, which follow each other along its first axis."""
    import numpy as np

    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    with archive.open(f"{name}.npy", "w", force_zip64=True) as sink:
        np.lib.format.write_array_header_1_0(cast(BinaryIO, sink), header)
        for piece in pieces:
            sink.write(np.ascontiguousarray(piece, dtype).tobytes())


def _write_pictures(selection: _Selection, folder: pathlib.Path) -> int:
    """Writes the map and the overlay of each row, of the size of the model's input.

    Raises:
      ValueError: an image or a map is missing.
    """
    from transforms.output import NoOriginal, Originals, decode_map
    from transforms.pictures import Scale, draw_map, draw_overlay

    originals = Originals.of(selection.output.path)
    columns = ["image_id", "shard", "index", "target", "target_name", "map"]
    columns += ["map_dtype", "map_scale", "map_offset", "map_height", "map_width"]
    names: dict[str, int] = {}
    count = 0
    for table in selection.batches(columns):
        rows = table.to_pylist()
        for row, image in zip(rows, originals.read(rows, "model"), strict=True):
            if isinstance(image, NoOriginal):
                raise image
            values = decode_map(row)
            if values is None:
                raise ValueError(f"{selection.output.path} has no maps, as output.map_dtype is none; export it as .csv")
            scale = Scale.of(values)
            name = _file_name(row["image_id"], names)
            draw_map(values, scale, (image.height, image.width)).save(folder / f"{name}.map.png")
            draw_overlay(image, values, scale).save(folder / f"{name}.overlay.png")
            count += 1
    return count


def _file_name(image_id: str, used: dict[str, int]) -> str:
    """An id as a file's name that no earlier one has, not even with other capitals; `used` remembers the names."""
    safe = _UNSAFE.sub("_", image_id).strip("._")[-_LONGEST_NAME:] or "image"
    key = safe.lower()
    used[key] = used.get(key, 0) + 1
    if used[key] == 1:
        return safe
    return _file_name(f"{safe}-{used[key]}", used)
