"""Names of classes from the data: in the output, in a resumed run, and against a configured list."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import pytest

from tests import shards
from tests.field.colours import IMAGES, RIGHT, Ran, colour_config, colour_run
from tests.samples import CLASS_NAMES
from transforms.output import Output, read_table


def tfrecord(folder: pathlib.Path, texts: Any = CLASS_NAMES, name: str = "a") -> str:
    examples = [
        shards.example({"image/encoded": image, "image/class/label": label, "image/class/text": texts[label].encode()})
        for _, image, label in IMAGES
    ]
    path = folder / f"{name}.tfrecord"
    path.write_bytes(b"".join(map(shards.frame, examples)))
    return str(path)


def run(capsys: Any, folder: pathlib.Path, source: Any, names: Any = None) -> Ran:
    return colour_run(capsys, colour_config(folder, source, names))


def recorded(folder: pathlib.Path) -> Any:
    return Output(str(folder / "out")).read_json("run.json")["class_names"]


def test_names_in_the_data_reach_maps_classes_and_run_json(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ran = run(capsys, tmp_path, tfrecord(tmp_path))
    assert "class names: feature 'image/class/text' of the first 12 records\n" in ran.out
    assert [row["label_name"] for row in ran.rows] == [CLASS_NAMES[label] for label in RIGHT]
    classes = read_table(str(tmp_path / "out" / "classes.parquet")).to_pylist()
    assert {row["class"]: row["class_name"] for row in classes} == {-1: None, **dict(enumerate(CLASS_NAMES))}
    assert recorded(tmp_path)["names"] == list(CLASS_NAMES)


def test_a_configured_list_wins(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    ran = run(capsys, tmp_path, tfrecord(tmp_path), ("rot", "grün", "blau"))
    assert {row["label_name"] for row in ran.rows} == {"rot", "grün", "blau"}
    assert ran.summary["warnings"] == []
    assert "class names: model.class_names (" in ran.out


@pytest.mark.slow
def test_a_resumed_run_keeps_its_names(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, tmp_path, tfrecord(tmp_path))
    more = tfrecord(tmp_path, ("R", "G", "B"), name="0")
    ran = run(capsys, tmp_path, [more, str(tmp_path / "a.tfrecord")])
    assert len(ran.rows) == 2 * len(IMAGES)
    assert {row["label_name"] for row in ran.rows} == set(CLASS_NAMES)


def test_a_reversed_list_is_one_warning_and_exit_0(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    ran = run(capsys, tmp_path, tfrecord(tmp_path), CLASS_NAMES[::-1])
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.count("warning") == 1
    (warning,) = ran.summary["warnings"]
    assert f"warning: {warning}\n" in ran.out
    assert warning.startswith(
        "model.class_names contradicts the data: feature 'image/class/text' calls class 0 'red', not 'blue' and "
        "class 2 'blue', not 'red'"
    )
    assert recorded(tmp_path)["warnings"] == [warning]


def test_a_dry_run_says_so_too(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    ran = colour_run(capsys, colour_config(tmp_path, tfrecord(tmp_path), CLASS_NAMES[::-1]), dry_run=True)
    assert ran.code == 0
    assert "warning: model.class_names contradicts the data" in ran.out


def test_a_class_label_contradicts_a_list_too(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    import pyarrow.parquet as pq

    table = pq.read_table(shards.write_parquet(tmp_path / "a.parquet", IMAGES))
    features = {"label": {"names": list(CLASS_NAMES), "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    pq.write_table(table.replace_schema_metadata(metadata), tmp_path / "a.parquet")
    ran = run(capsys, tmp_path, str(tmp_path / "a.parquet"), ("green", "red", "blue"))
    assert "the ClassLabel of column 'label' calls class 0 'red', not 'green'" in ran.summary["warnings"][0]
