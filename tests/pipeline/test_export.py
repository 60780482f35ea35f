"""`fullgrad export`: tables, arrays and pictures that other programs read, complete or not at all."""

from __future__ import annotations

import pathlib
import shutil

import duckdb
import numpy as np
import pyarrow.csv
import pytest
from PIL import Image

from pipeline.cli import main
from pipeline.export import _file_name
from tests import shards
from tests.runs import run
from tests.samples import encoded_images
from transforms.output import MAPS, read_image, read_maps
from transforms.pictures import Scale, draw_map, draw_overlay


def exported(*arguments: object) -> int:
    return main(["export", *map(str, arguments)])


def test_a_table_has_every_figure_of_every_row(small_output: pathlib.Path, tmp_path: pathlib.Path) -> None:
    to = tmp_path / "x.csv"
    assert exported(small_output, "--to", to) == 0
    table = pyarrow.csv.read_csv(to)
    left_out = {
        "map",
        "map_dtype",
        "map_scale",
        "map_offset",
        "map_height",
        "map_width",
        "coarse_map",
        "evidence_map",
        "channel_terms",
        "image",
    }
    assert table.column_names == [name for name in MAPS.names if name not in left_out]
    for row, expected in zip(table.to_pylist(), read_maps(str(small_output), table.column_names), strict=True):
        for name, value in expected.items():
            assert row[name] == (value if not isinstance(value, float) else pytest.approx(value, rel=1e-6)), name


def test_arrays_have_the_maps_and_what_belongs_to_them(small_output: pathlib.Path, tmp_path: pathlib.Path) -> None:
    to = tmp_path / "x.npz"
    assert exported(small_output, "--to", to) == 0
    rows = list(read_maps(str(small_output)))
    with np.load(to, allow_pickle=False) as arrays:
        assert arrays["maps"].dtype == np.float32
        np.testing.assert_array_equal(arrays["maps"], np.stack([row["map"] for row in rows]))
        for name in ("image_id", "target", "target_name", "label", "index"):
            assert arrays[name].tolist() == [row[name] for row in rows]
        assert arrays["correct"].tolist() == [int(row["correct"]) for row in rows]
        expected = [np.nan if row["entropy"] is None else row["entropy"] for row in rows]
        assert np.isnan(expected).any(), "one map has no mass"
        np.testing.assert_array_equal(arrays["entropy"], np.asarray(expected, np.float32))
        assert set(arrays["contrast_class"].tolist()) == {-1}


def test_pictures_have_the_maps_and_overlays_at_the_size_of_the_input(
    small_output: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    to = tmp_path / "pictures"
    assert exported(small_output, "--to", to, "--limit", 3) == 0
    names = ["image0000.png", "image0000.png-2", "image0001.png"]
    assert {path.name for path in to.iterdir()} == {f"{n}.{kind}.png" for n in names for kind in ("map", "overlay")}
    row = next(read_maps(str(small_output)))
    scale = Scale.of(row["map"])
    image = read_image(row, str(small_output))
    for kind, expected in (
        ("map", draw_map(row["map"], scale, (16, 16))),
        ("overlay", draw_overlay(image, row["map"], scale)),
    ):
        written = Image.open(to / f"image0000.png.{kind}.png")
        np.testing.assert_array_equal(np.asarray(written), np.asarray(expected))


@pytest.mark.parametrize(
    ("options", "condition"),
    [
        (["--class", "green"], "target_name = 'green'"),
        (["--class", "2"], "target = 2"),
        (
            ["--class", "blue", "--ids", "ids.txt"],
            "target_name = 'blue' AND image_id IN ('image0003.png', 'image0020.png')",
        ),
    ],
)
def test_rows_are_chosen_by_class_and_id(
    options: list[str],
    condition: str,
    small_output: pathlib.Path,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    pathlib.Path("ids.txt").write_text("image0020.png\n\nimage0003.png\nnone.png\n")
    assert exported(small_output, "--to", "x.csv", *options) == 0
    chosen = duckdb.sql(f"SELECT image_id, target FROM '{small_output}/maps/*.parquet' WHERE {condition} ORDER BY ALL")
    written = duckdb.sql("SELECT image_id, target FROM 'x.csv' ORDER BY ALL")
    assert written.fetchall() == chosen.fetchall() != []


def test_names_of_files_are_safe_and_differ() -> None:
    used: dict[str, int] = {}
    ids = [
        "a/b.png",
        "a_b.png",
        "A/B.png",
        "../../etc/passwd",
        "",
        "…",
        "x" * 300,
        "y" + "x" * 300,
        "..",
        "a b\n<script>",
    ]
    names = [_file_name(each, used) for each in ids]
    assert names[:4] == ["a_b.png", "a_b.png-2", "A_B.png-3", "etc_passwd"]
    assert len({name.lower() for name in names}) == len(ids)
    for name in names:
        assert name not in ("", ".", "..")
        assert "/" not in name
        assert name.isascii()
        assert name.isprintable()
        assert len(name) < 200


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--to", "x.parquet"], "--to: x.parquet is not a .csv or .npz file, nor a folder"),
        (["--to", "x.csv", "--class", "gren"], "has no class 'gren'; the nearest are 'green'"),
        (["--to", "x.csv", "--limit", "0"], "--limit: 0 is no number of rows"),
        (["--to", "x.csv", "--ids", "none.txt"], "--ids: none.txt cannot be read"),
        (["--to", "x.csv", "--ids", "ids.txt"], "has no rows with an id from ids.txt"),
        (["--to", "none/x.npz"], "none/x.npz cannot be written: no such file or directory"),
        (["--to", "s3://bucket/x.npz"], "is not on this machine"),
        (["--to", "."], "exists and is not empty"),
    ],
)
def test_what_cannot_be_exported_is_refused_in_one_sentence(
    options: list[str],
    said: str,
    small_output: pathlib.Path,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    pathlib.Path("ids.txt").write_text("none.png\n")
    assert exported(small_output, *options) == 2
    written = capsys.readouterr().err
    assert said in written
    assert written.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["ids.txt"]


def test_nothing_half_written_stays_if_a_part_is_damaged(
    small_output: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "out"
    shutil.copytree(small_output, folder)
    last = max((folder / "maps").iterdir())
    data = last.read_bytes()
    last.write_bytes(data[:4] + bytes(len(data) // 2) + data[len(data) // 2 + 4 :])
    for name in ("x.csv", "x.npz", "pictures"):
        assert exported(folder, "--to", tmp_path / name) == 2
        assert "is damaged" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_maps_that_are_not_stored_are_exported_as_figures_only(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shards.write_tfrecord(tmp_path / "s.tfrecord", encoded_images(3))
    output = run(tmp_path, str(tmp_path / "s.tfrecord"), output={"map_dtype": "none"})
    for name in ("x.npz", "pictures"):
        assert exported(output, "--to", tmp_path / name) == 2
        assert "has no maps, as output.map_dtype is none; export it as .csv" in capsys.readouterr().err
    assert exported(output, "--to", tmp_path / "x.csv") == 0
    assert main(["show", str(output), "image0000.png", "--to", str(tmp_path / "x.png")]) == 0, "the coarse map"
