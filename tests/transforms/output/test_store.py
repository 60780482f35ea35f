"""What is written is whole or not there, and reads back as it was, also by programs that are not ours."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

import tests.elsewhere  # noqa: F401  knows elsewhere://
from transforms.output import (
    CLASSES,
    ERRORS,
    MAP_DTYPES,
    MAPS,
    Output,
    decode_map,
    encode_maps,
    list_files,
    read_bytes,
    read_maps,
    read_table,
)
from transforms.statistics import FIGURES
from transforms.unit import Receipt, Shard, Unit

LARGEST = float(np.finfo(np.float32).max)


# ---- maps as bytes


def decoded(maps: np.ndarray, map_dtype: str) -> np.ndarray:
    """The maps [N, H, W] after encoding and decoding."""
    encoded = encode_maps(maps, map_dtype)
    rows = [
        {
            "map": data,
            "map_dtype": map_dtype,
            "map_scale": scale,
            "map_offset": offset,
            "map_height": maps.shape[1],
            "map_width": maps.shape[2],
        }
        for data, scale, offset in zip(encoded.data, encoded.scale, encoded.offset, strict=True)
    ]
    found = [decode_map(row) for row in rows]
    assert all(each is not None and each.dtype == np.float32 for each in found)
    return np.stack([each for each in found if each is not None])


def bound(maps: np.ndarray, map_dtype: str) -> np.ndarray:
    """How far each value [N, H, W] may be off: what `encode_maps` promises, and a rounding to float32."""
    exact = maps.astype(np.float64)
    rounding = np.abs(exact) * 2.0**-24 + 2.0**-150
    if map_dtype == "float32":
        return np.zeros_like(exact)
    if map_dtype == "float16":
        largest = np.abs(exact).max(axis=(1, 2), keepdims=True)
        return np.maximum(np.abs(exact) * 2.0**-11, largest * 2.0**-25) * (1 + 1e-6) + rounding
    step = (exact.max(axis=(1, 2), keepdims=True) - exact.min(axis=(1, 2), keepdims=True)) / 255
    return step / 2 * (1 + 1e-6) + rounding


SPECIAL = {
    "zero": np.zeros((1, 3, 4), np.float32),
    "constant": np.full((1, 3, 4), 0.1, np.float32),
    "negative": np.full((1, 3, 4), -7.3, np.float32),
    "signed": np.linspace(-3, 5, 12, dtype=np.float32).reshape(1, 3, 4),
    "huge": np.linspace(0, LARGEST, 12).astype(np.float32).reshape(1, 3, 4),
    "hugely signed": np.linspace(-LARGEST, LARGEST, 12).astype(np.float32).reshape(1, 3, 4),
    "beyond float16": np.linspace(0, 1e6, 12, dtype=np.float32).reshape(1, 3, 4),
    "tiny": np.linspace(0, 1e-44, 12).astype(np.float32).reshape(1, 3, 4),
    "one pixel": np.eye(4, dtype=np.float32)[None] * np.eye(4, dtype=np.float32)[0],
}


@pytest.mark.parametrize("map_dtype", MAP_DTYPES)
@pytest.mark.parametrize("name", SPECIAL)
def test_any_map_reads_back_within_the_bound(name: str, map_dtype: str) -> None:
    maps = SPECIAL[name]
    found = decoded(maps, map_dtype)
    assert np.isfinite(found).all()
    assert (np.abs(found.astype(np.float64) - maps) <= bound(maps, map_dtype)).all()
    if name in ("zero", "constant", "negative"):
        np.testing.assert_array_equal(found, maps)


@settings(deadline=None)
@given(
    maps=arrays.arrays(
        np.float32,
        st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 5)),
        elements=st.floats(-LARGEST, LARGEST, width=32),
    ),
    map_dtype=st.sampled_from(list(MAP_DTYPES)),
)
@example(maps=np.float32([[[LARGEST, -LARGEST, 1e-45]]]), map_dtype="uint8")
def test_no_value_is_off_by_more_than_its_type_allows(maps: np.ndarray, map_dtype: str) -> None:
    found = decoded(maps, map_dtype)
    assert (np.abs(found.astype(np.float64) - maps) <= bound(maps, map_dtype)).all()


@pytest.mark.parametrize("map_dtype", MAP_DTYPES)
def test_each_map_of_a_batch_has_its_own_scale(map_dtype: str) -> None:
    maps = np.float32([[[0, 1], [2, 3]], [[0, 1e-9], [2e-9, 3e-9]], [[-1e9, 0], [0, 1e9]]])
    together = decoded(maps, map_dtype)
    np.testing.assert_array_equal(together, np.concatenate([decoded(each[None], map_dtype) for each in maps]))
    assert (np.abs(together - maps) <= bound(maps, map_dtype)).all()


@pytest.mark.parametrize("map_dtype", [*MAP_DTYPES, "none"])
def test_no_maps_are_none_encoded(map_dtype: str) -> None:
    assert encode_maps(np.zeros((0, 3, 4), np.float32), map_dtype).data == []


def test_maps_that_are_not_stored_are_none() -> None:
    encoded = encode_maps(SPECIAL["signed"], "none")
    assert encoded.data == [None]
    assert decode_map({"map": None}) is None


@pytest.mark.parametrize(("map_dtype", "size"), [("float32", 4), ("float16", 2), ("uint8", 1)])
def test_bytes_are_row_major_and_little_endian(map_dtype: str, size: int) -> None:
    maps = np.arange(12, dtype=np.float32).reshape(1, 3, 4).transpose(0, 2, 1)  # not contiguous
    encoded = encode_maps(maps, map_dtype)
    (data,) = encoded.data
    assert data is not None
    assert len(data) == 12 * size
    stored = np.frombuffer(data, {4: "<f4", 2: "<f2", 1: "u1"}[size]).reshape(4, 3)
    np.testing.assert_allclose(stored * encoded.scale[0] + encoded.offset[0], maps[0], atol=0.025)


# ---- files


@pytest.fixture(params=["", "elsewhere://"], ids=["local", "elsewhere"])
def output(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> Output:
    """An output folder on the local disk, and on a file system that does not rename onto what is there."""
    found = Output(f"{request.param}{tmp_path}/out", fingerprint="0123456789abcdef")
    found.create()
    return found


def files(output: Output) -> list[str]:
    root = pathlib.Path(output.path.removeprefix("elsewhere://"))
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def unit(name: str = "a", start: int = 0) -> Unit:
    return Unit(Shard(f"/data/{name}.tfrecord", "tfrecord", 1), start)


def receipt(of: Unit) -> Receipt:
    return Receipt(of, "run", 1, 1, {}, 0.0, 1.0, "host/1", 1)


def test_a_file_gets_its_name_when_it_is_whole(output: Output) -> None:
    path = output.file("maps", "a.parquet")
    with output.writing(path) as sink:
        sink.write(b"half")
        assert read_bytes(path) is None
        sink.write(b" and half")
    assert read_bytes(path) == b"half and half"
    assert files(output) == ["maps/a.parquet"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_block_that_raises_leaves_nothing(output: Output, error: type[BaseException]) -> None:
    def attempt(path: str) -> None:
        with output.writing(path) as sink:
            sink.write(b"half")
            raise error

    with pytest.raises(error):
        attempt(output.file("maps", "a.parquet"))
    assert files(output) == []


def test_rows_that_end_in_an_error_leave_nothing(output: Output) -> None:
    def attempt() -> None:
        with output.writing_rows(output.file("maps", "a.parquet"), ERRORS) as rows:
            rows.write(pa.RecordBatch.from_pylist([{"image_id": "x"}], ERRORS))
            rows.flush()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        attempt()
    assert files(output) == []


def test_a_file_that_is_there_is_replaced_whole_or_stays(output: Output) -> None:
    path = output.file("run.json")
    output.write_json(path, '{"long": "content"}')
    output.write_json(path, "{}")
    assert read_bytes(path) == b"{}"

    def attempt() -> None:
        with output.writing(path) as sink:
            sink.write(b"something else")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        attempt()
    assert read_bytes(path) == b"{}"
    assert files(output) == ["run.json"]


def test_two_that_write_the_same_unit_leave_one_whole_file(output: Output) -> None:
    path = output.part("maps", unit())
    table = pa.table({"image_id": [f"image{i}" for i in range(2000)]})
    together = threading.Barrier(4)
    errors: list[BaseException] = []

    def write() -> None:
        try:
            for _ in range(10):
                together.wait()
                output.write_table(path, table)
        except BaseException as error:
            errors.append(error)
            together.abort()

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert read_table(path).equals(table)
    assert files(output) == [f"maps/{unit().id}.parquet"]


def test_folders_that_are_there_stay_as_they_are(output: Output) -> None:
    output.write_json(output.receipt(unit()), receipt(unit()).to_json())
    output.create()
    assert output.read_receipts() == [receipt(unit())]


def test_what_interrupted_attempts_left_is_cleared(output: Output) -> None:
    output.write_json(output.heartbeat(unit()), "{}")
    output.write_json(output.file("run.json"), "{}")
    output.clear_temporary()
    output.clear_temporary()
    assert files(output) == ["run.json"]


def test_what_another_run_is_writing_is_not_cleared(output: Output) -> None:
    other = dataclasses.replace(output, run="other")
    with other.writing(output.file("a.json")) as sink:
        sink.write(b"{}")
        output.clear_temporary()
    assert files(output) == ["a.json"]


def test_what_was_left_is_cleared_once_nobody_can_be_writing_it(output: Output) -> None:
    with subprocess.Popen(["true"]) as process:  # has ended behind this, and its id is nobody's
        pass
    here, hour = socket.gethostname(), 3600
    ages = {
        f"other~{here}~{process.pid}~1~ended-process.parquet.part": 0,
        f"other~elsewhere~{os.getpid()}~2~on-another-machine.parquet.part": hour,
        f"other~elsewhere~{os.getpid()}~3~long-ago.parquet.part": 25 * hour,
        "other~classes-000000.parquet": hour,
        f"mine~elsewhere~{os.getpid()}~4~of-this-run.parquet.part": 0,
    }
    for name, age in ages.items():
        path = pathlib.Path(output.file("tmp", name).removeprefix("elsewhere://"))
        path.write_bytes(b"")
        os.utime(path, (time.time() - age,) * 2)
    dataclasses.replace(output, run="mine").clear_temporary()
    left = [pathlib.PurePath(path).name.rpartition("~")[2] for path in files(output)]
    assert sorted(left) == ["classes-000000.parquet", "on-another-machine.parquet.part"]


def test_receipts_come_in_the_order_of_shards_and_records(output: Output) -> None:
    units = [unit("b"), unit("a", 7), unit("a")]
    for each in units:
        output.write_json(output.receipt(each), receipt(each).to_json())
    assert [each.unit for each in output.read_receipts()] == [unit("a"), unit("a", 7), unit("b")]
    assert output.read_receipt(unit("b")) == receipt(unit("b"))
    assert output.read_receipt(unit("c")) is None


def test_what_is_not_there_is_none(tmp_path: pathlib.Path) -> None:
    output = Output(str(tmp_path / "nowhere"))
    assert output.read_json("run.json") is None
    assert output.read_receipts() == []
    assert list_files(output.file("tmp", "*")) == []
    assert not (tmp_path / "nowhere").exists()


def test_a_json_file_that_is_none_is_named(tmp_path: pathlib.Path) -> None:
    (tmp_path / "run.json").write_text("not JSON")
    with pytest.raises(ValueError, match=rf"^{tmp_path}/run\.json is no JSON file$"):
        Output(str(tmp_path)).read_json("run.json")


def test_a_file_that_cannot_be_read_is_an_error_and_not_none(tmp_path: pathlib.Path) -> None:
    (tmp_path / "run.json").mkdir()
    with pytest.raises(OSError, match=r"run\.json"):
        Output(str(tmp_path)).read_json("run.json")


# ---- rows


def map_rows(count: int, map_dtype: str = "float16", prefix: str = "image") -> pa.RecordBatch:
    maps = np.random.default_rng(count).random((count, 4, 6), np.float32)
    encoded = encode_maps(maps, map_dtype)
    columns: dict[str, Any] = {
        "image_id": [f"{prefix}{i}" for i in range(count)],
        "index": list(range(count)),
        "map": encoded.data,
        "map_dtype": [map_dtype] * count,
        "map_scale": encoded.scale,
        "map_offset": encoded.offset,
        "map_height": [4] * count,
        "map_width": [6] * count,
        "coarse_map": list(np.full((count, 196), 1 / 196, np.float32)),
        **{name: np.arange(count, dtype=np.float32) for name in FIGURES},
    }
    arrays_ = [pa.array(columns.get(field.name, [None] * count), field.type) for field in MAPS]
    return pa.RecordBatch.from_arrays(arrays_, schema=MAPS)


def commit(output: Output, of: Unit, *batches: pa.RecordBatch) -> None:
    with output.writing_rows(output.part("maps", of), MAPS) as rows:
        for batch in batches:
            rows.write(batch)
        assert rows.rows == sum(batch.num_rows for batch in batches)
    output.write_json(output.receipt(of), receipt(of).to_json())


def test_rows_of_all_parts_are_read_one_at_a_time(output: Output) -> None:
    commit(output, unit("b"), map_rows(3, prefix="b"))
    commit(output, unit("a"), map_rows(100, prefix="a"), map_rows(2, prefix="aa"))
    rows = list(read_maps(output.path))
    assert [row["image_id"] for row in rows] == [*(f"a{i}" for i in range(100)), "aa0", "aa1", "b0", "b1", "b2"]
    assert set(rows[0]) == set(MAPS.names)
    assert rows[0]["map"].shape == (4, 6)
    assert rows[0]["map"].dtype == np.float32
    assert rows[0]["coarse_map"].shape == (14, 14)
    expected = np.random.default_rng(3).random((3, 4, 6), np.float32)
    np.testing.assert_allclose(np.stack([row["map"] for row in rows[-3:]]), expected, rtol=2**-10)


def test_only_wanted_columns_are_given(output: Output) -> None:
    commit(output, unit(), map_rows(2))
    for columns in (["image_id"], ["map", "image_id"], ("coarse_map", "map_scale"), ["map", "map_dtype"]):
        for row in read_maps(output.path, columns):
            assert list(row) == list(columns)
    [row, _] = read_maps(output.path, iter(["map"]))
    assert row["map"].shape == (4, 6)


def test_a_column_that_is_none_is_refused_with_the_nearest(output: Output) -> None:
    commit(output, unit(), map_rows(2))
    with pytest.raises(ValueError, match=r"^maps have no column 'image_ids'; did you mean 'image_id'\?$"):
        list(read_maps(output.path, ["image_ids"]))


def test_a_part_without_a_receipt_is_not_read(output: Output) -> None:
    commit(output, unit("a"), map_rows(2))
    commit(output, unit("b"), map_rows(3, prefix="b"))
    output.delete(output.receipt(unit("b")))
    assert [row["image_id"] for row in read_maps(output.path)] == ["image0", "image1"]


@pytest.mark.parametrize("make", [pathlib.Path.mkdir, lambda path: None], ids=["empty", "missing"])
def test_a_folder_that_is_no_output_is_refused_in_one_sentence(
    tmp_path: pathlib.Path, make: Callable[[pathlib.Path], None]
) -> None:
    folder = tmp_path / "folder"
    make(folder)
    with pytest.raises(FileNotFoundError) as error:
        list(read_maps(str(folder)))
    assert str(error.value) == f"{folder} is no output of a run: there is no receipt in {folder}/receipts"


# ---- other programs


def class_rows(grid: int = 4) -> pa.Table:
    values = np.arange(grid * grid, dtype=np.float32)
    rows = [
        {"class": -1, "class_name": None, "images": 3, "mean_map": values, "top_logit_ids": ["a", "b"]},
        {"class": 0, "class_name": "ship", "images": 3, "mean_map": values / 2, "wrong_map": None, "top_logit_ids": []},
    ]
    return pa.Table.from_pylist(rows, CLASSES)


def test_duckdb_reads_the_list_columns(tmp_path: pathlib.Path) -> None:
    output = Output(str(tmp_path), fingerprint="0123456789abcdef")
    output.create()
    commit(output, unit("a"), map_rows(2))
    commit(output, unit("b"), map_rows(3))
    output.write_table(output.file("classes.parquet"), class_rows())
    found = duckdb.sql(
        f"SELECT coarse_map, list_sum(coarse_map), map, total FROM '{tmp_path}/maps/*.parquet'"
    ).fetchall()
    assert len(found) == 5
    for coarse, total, data, _ in found:
        assert len(coarse) == 196
        assert total == pytest.approx(1, abs=1e-5)
        assert len(data) == 4 * 6 * 2
    query = (
        f"SELECT class, mean_map, mean_map[2], wrong_map, top_logit_ids FROM '{tmp_path}/classes.parquet' ORDER BY 1"
    )
    whole, ship = duckdb.sql(query).fetchall()
    assert whole == (-1, list(range(16)), 1.0, None, ["a", "b"])
    assert ship == (0, [i / 2 for i in range(16)], 0.5, None, [])


def test_pyarrow_alone_reads_the_list_columns_and_who_wrote_them(tmp_path: pathlib.Path) -> None:
    output = Output(str(tmp_path), fingerprint="0123456789abcdef")
    output.create()
    commit(output, unit(), map_rows(2))
    output.write_table(output.file("classes.parquet"), class_rows())
    table = pq.read_table(output.part("maps", unit()))
    np.testing.assert_allclose(np.stack(table["coarse_map"].to_numpy()).sum(axis=1), 1, atol=1e-5)
    classes = pq.read_table(tmp_path / "classes.parquet")
    assert classes["mean_map"].type == pa.list_(pa.float32())
    assert np.stack(classes["mean_map"].to_numpy()).shape == (2, 16)
    assert classes["wrong_map"].to_pylist() == [None, None]
    for metadata in (table.schema.metadata, classes.schema.metadata):
        assert metadata[b"fullgrad.schema_version"] == b"1"
        assert metadata[b"fullgrad.fingerprint"] == b"0123456789abcdef"


def test_rows_are_gathered_to_row_groups(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = Output(str(tmp_path))
    output.create()
    batches = [map_rows(5) for _ in range(10)]
    monkeypatch.setattr("transforms.output._ROW_GROUP_BYTES", 3 * batches[0].nbytes)
    commit(output, unit(), *batches)
    stored = pq.read_metadata(output.part("maps", unit()))
    assert [stored.row_group(i).num_rows for i in range(stored.num_row_groups)] == [15, 15, 15, 5]
    assert os.listdir(tmp_path / "tmp") == []
