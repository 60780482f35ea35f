"""Rows are found by id or by shard and index, and of a big output little is read."""

from __future__ import annotations

import pathlib

import pytest

from tests.transforms.output.samples import commit, map_rows, unit
from transforms.output import DamagedOutput, Output, UnknownId, find_rows


def found(output: Output, *ids: str) -> list[tuple[str, int, int | None]]:
    return [(row["image_id"], row["index"], row["target"]) for row in find_rows(output, ids)]


def test_all_maps_of_an_image_are_found_in_the_order_of_the_ids(small_output: pathlib.Path) -> None:
    output = Output(str(small_output))
    rows = find_rows(output, ["image0025.png", "image0003.png"])
    assert [row["image_id"] for row in rows] == ["image0025.png"] * 2 + ["image0003.png"] * 2
    assert [row["target_rank"] for row in rows] == [0, 1, 0, 1]
    assert rows[0]["map"].shape == (16, 16)


def test_an_id_that_repeats_stands_for_all_its_images(small_output: pathlib.Path) -> None:
    rows = find_rows(Output(str(small_output)), ["image0020.png"])
    assert [(row["shard"].rpartition("/")[2], row["index"]) for row in rows[::2]] == [
        ("b.tfrecord", 0),
        ("b.tfrecord", 12),
    ]


def test_an_image_is_found_by_its_shard_and_index(small_output: pathlib.Path) -> None:
    output = Output(str(small_output))
    expected = found(output, "image0022.png")
    assert found(output, "b.tfrecord#2") == expected
    assert found(output, f"{small_output.parent}/b.tfrecord#2") == expected
    assert len(find_rows(output, ["b.tfrecord#12"])) == 2, "of the two images with one id"


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("imag0003.png", "image0003.png"), ("image0099.png", "image0009.png"), ("b.tfrecord#13", None), ("x#", None)],
)
def test_an_unknown_id_is_refused_with_the_nearest(small_output: pathlib.Path, name: str, nearest: str | None) -> None:
    with pytest.raises(UnknownId) as error:
        find_rows(Output(str(small_output)), ["image0001.png", name])
    said = str(error.value)
    assert said.startswith(f"{small_output} has no image {name!r}; the nearest ids are 'image00")
    assert said.count("'") == 8
    assert nearest is None or f"{nearest!r}" in said


def test_a_row_group_that_cannot_hold_the_id_is_not_read(output: Output) -> None:
    commit(output, unit("a"), map_rows(3, prefix="a"))
    commit(output, unit("b"), map_rows(3, prefix="b"))
    # What is damaged behind the footer is noticed only by what reads it.
    path = output.part("maps", unit("a"))
    local = pathlib.Path(path.removeprefix("elsewhere://"))
    data = local.read_bytes()
    local.write_bytes(b"PAR1" + bytes(200) + data[204:])
    assert found(output, "b1") == [("b1", 1, None)]
    with pytest.raises(DamagedOutput, match=r"\.parquet is damaged \("):
        find_rows(output, ["a1"])


def test_an_output_without_receipts_is_refused(output: Output) -> None:
    with pytest.raises(FileNotFoundError, match="is no output of a run"):
        find_rows(output, ["a1"])
