"""What is written reads back as it was, also by programs that are not ours."""

from __future__ import annotations

import pathlib
from collections.abc import Callable

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.transforms.output.samples import commit, map_rows, unit
from transforms.output import CLASSES, MAPS, Output, read_maps


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
        assert metadata[b"fullgrad.schema_version"] == b"3"
        assert metadata[b"fullgrad.fingerprint"] == b"0123456789abcdef"
