"""Labels as people store them: lists, numbers as text, names that two classes share, numbers that begin at 1."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests import shards
from tests.field.colours import IMAGES, RIGHT, Ran, colour_config, colour_run, predicted_by_keras, save_colour_model
from tests.pages import code_blocks
from tests.samples import CLASS_NAMES

ONE_HOT = [[int(place == label) for place in range(3)] for label in RIGHT]
SMOOTHED = [[0.9 if one else 0.05 for one in row] for row in ONE_HOT]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return save_colour_model(tmp_path_factory.mktemp("colours") / "model.keras")


def parquet(path: pathlib.Path, labels: Any, name: str = "label") -> str:
    columns = {"image": [image for _, image, _ in IMAGES], "id": [name for name, _, _ in IMAGES], name: labels}
    pq.write_table(pa.table(columns), path)
    return str(path)


def tfrecord(path: pathlib.Path, labels: Any, name: str = "image/class/label") -> str:
    records = [
        shards.example({"image/encoded": image, "image/filename": name_.encode(), name: label})
        for (name_, image, _), label in zip(IMAGES, labels, strict=True)
    ]
    path.write_bytes(b"".join(map(shards.frame, records)))
    return str(path)


def webdataset(path: pathlib.Path, labels: Any, member: str = "json") -> str:
    import tarfile

    with tarfile.open(path, "w") as archive:
        for (image_id, image, _), label in zip(IMAGES, labels, strict=True):
            key = image_id.partition(".")[0]
            shards.add_member(archive, f"{key}.png", image)
            text = json.dumps({"label": label}) if member == "json" else str(label)
            shards.add_member(archive, f"{key}.{member}", text.encode())
    return str(path)


def run(capsys: Any, folder: pathlib.Path, source: str, model: pathlib.Path, names: Any = None, **keys: Any) -> Ran:
    keys = {"model": {"path": str(model)}, **keys}
    return colour_run(capsys, colour_config(folder, source, names, **keys))


def assert_right(ran: Ran) -> None:
    assert (ran.code, ran.err, ran.errors) == (0, "", [])
    assert [row["label"] for row in ran.rows] == RIGHT
    assert ran.summary["accuracy"] == 1.0
    assert ran.summary["warnings"] == []


def test_the_images_are_what_keras_predicts(model: pathlib.Path) -> None:
    assert predicted_by_keras(model) == RIGHT
    assert set(RIGHT) == {0, 1, 2}


# ---- lists: ray-project/raydp#51 and lisa-lab/pylearn2#496 are about labels that are one-hot

LISTS = {
    "integers": pa.array(ONE_HOT),
    "floats": pa.array(ONE_HOT, pa.list_(pa.float32())),
    "halves": pa.array([[np.float16(each) for each in row] for row in SMOOTHED], pa.list_(pa.float16())),
    "fixed size": pa.array(ONE_HOT, pa.list_(pa.int8(), 3)),
    "large": pa.array(ONE_HOT, pa.large_list(pa.uint8())),
    "yes and no": pa.array([[bool(each) for each in row] for row in ONE_HOT]),
    "smoothed": pa.array(SMOOTHED),
    "tensor": pa.ExtensionArray.from_storage(
        pa.fixed_shape_tensor(pa.float32(), [3]), pa.array(ONE_HOT, pa.list_(pa.float32(), 3))
    ),
    "of one": pa.array([[label] for label in RIGHT]),
}


@pytest.mark.quick_cases(every=9)
@pytest.mark.parametrize("kind", LISTS)
def test_a_one_hot_column_is_its_class(
    kind: str, tmp_path: pathlib.Path, model: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert_right(run(capsys, tmp_path, parquet(tmp_path / "a.parquet", LISTS[kind]), model))


@pytest.mark.quick_cases(every=3)
@pytest.mark.parametrize("labels", [ONE_HOT, [[float(each) for each in row] for row in ONE_HOT], SMOOTHED])
def test_a_one_hot_feature_is_its_class(
    labels: Any, tmp_path: pathlib.Path, model: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert_right(run(capsys, tmp_path, tfrecord(tmp_path / "a.tfrecord", labels), model))


@pytest.mark.quick_cases(every=3)
@pytest.mark.parametrize(("labels", "member"), [(ONE_HOT, "json"), (SMOOTHED, "json"), (ONE_HOT, "cls")])
def test_a_one_hot_member_is_its_class(
    labels: Any, member: str, tmp_path: pathlib.Path, model: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert_right(run(capsys, tmp_path, webdataset(tmp_path / "a.tar", labels, member), model))


@pytest.mark.quick_cases(every=8)
@pytest.mark.parametrize(
    ("label", "words"),
    [
        ([0, 1, 1], "the label marks 2 classes"),
        ([1, 1, 1], "the label marks 3 classes"),
        ([0, 0, 0], "add up to 0, not 1"),
        ([0, 1], "is a list of 2 numbers, and the model has 3 classes"),
        ([0, 1, 0, 0], "is a list of 4 numbers, and the model has 3 classes"),
        ([0.4, 0.4, 0.2], "has its largest number, 0.4, for the classes 0 and 1"),
        ([float("nan"), 1.0, 0.0], "a list with nan in it"),
        ([-1.0, 2.0, 0.0], "a list with -1 in it"),
        ([3.0, 1.0, 0.5], "add up to 4.5, not 1"),
        (["red", "blue"], "a list of 2 values that are not all numbers"),
        (3.5, "the label 3.5 is no whole number"),
        (float("inf"), "the label inf is no whole number"),
        (b"\xff\xfe", "bytes that are no text in UTF-8"),
        ("teal", "the label 'teal' is not among model.class_names"),
        (7, "the label 7 is beyond the model's 3 classes"),
    ],
)
def test_what_says_no_class_is_refused_by_name_or_is_an_error_row(
    label: Any, words: str, tmp_path: pathlib.Path, model: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused = run(capsys, tmp_path, parquet(tmp_path / "a.parquet", [label] * 12), model, CLASS_NAMES)
    assert refused.code == 2
    assert refused.out == ""
    assert "a.parquet: column 'label': the label" in refused.err
    assert words in refused.err
    assert refused.err.count("\n") == 1
    # One odd label among others costs its image only.
    kinds = {list: [[1, 0, 0], [1.0, 0.0, 0.0]], float: [0.0], int: [0], str: ["red"], bytes: [b"red"]}[type(label)]
    first = ["red"] if isinstance(label, list) and isinstance(label[0], str) else kinds[0]
    ran = run(
        capsys,
        tmp_path,
        parquet(tmp_path / "a.parquet", [first] * 11 + [label]),
        model,
        CLASS_NAMES,
        errors={"max_fraction": 0.5},
    )
    assert ran.code == 0
    assert [(row["index"], row["error"], row["stage"]) for row in ran.errors] == [(11, "UnusableLabel", "read")]
    assert ran.errors[0]["message"].startswith("column 'label': the label")
    assert words in ran.errors[0]["message"]


@pytest.mark.quick_cases(every=3)
@pytest.mark.parametrize("label", [None, -1, float("nan"), "", []])
def test_unknown_labels_are_none_and_the_run_says_how_many(
    label: Any, tmp_path: pathlib.Path, model: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known: list[Any] = [[int(place == each) for place in range(3)] for each in RIGHT[1:]] if label == [] else RIGHT[1:]
    if isinstance(label, str):
        known = [CLASS_NAMES[each] for each in RIGHT[1:]]
    ran = run(capsys, tmp_path, parquet(tmp_path / "a.parquet", [label, *known]), model, CLASS_NAMES)
    assert ran.code == 0
    assert [row["label"] for row in ran.rows] == [None, *RIGHT[1:]]
    assert "accuracy 100.0% on 11 labelled images; 1 has no label" in ran.out


# ---- one value, written in many ways

VALUES = {
    "floats": pa.array(RIGHT, pa.float64()),
    "halves": pa.array([np.float16(each) for each in RIGHT], pa.float16()),
    "decimals": pa.array(RIGHT).cast(pa.decimal128(19, 0)),
    "digits": pa.array([str(label) for label in RIGHT]),
    "floats as text": pa.array([f"{label}.0" for label in RIGHT]),
    "bytes": pa.array([CLASS_NAMES[label].encode() for label in RIGHT]),
    "digits in bytes": pa.array([str(label).encode() for label in RIGHT]),
    "padded bytes": pa.array([CLASS_NAMES[label].encode().ljust(6, b"\0") for label in RIGHT], pa.binary(6)),
    "dictionary": pa.array([CLASS_NAMES[label] for label in RIGHT]).dictionary_encode(),
    "dictionary of numbers": pa.array(RIGHT).dictionary_encode(),
    "names": pa.array([f" {CLASS_NAMES[label]}\n" for label in RIGHT]),
}


@pytest.mark.quick_cases(every=11)
@pytest.mark.parametrize("kind", VALUES)
@pytest.mark.parametrize("field", [None, "label"])
def test_a_column_of_any_kind_is_read_alike_by_default_and_by_name(
    kind: str, field: str | None, tmp_path: pathlib.Path, model: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = parquet(tmp_path / "a.parquet", VALUES[kind])
    ran = run(capsys, tmp_path, source, model, CLASS_NAMES, input={"shards": source, "fields": {"label": field}})
    assert_right(ran)


@pytest.mark.parametrize("field", [None, "image/class/label"])
def test_a_float_feature_is_read_alike_by_default_and_by_name(
    field: str | None, tmp_path: pathlib.Path, model: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tfrecord(tmp_path / "a.tfrecord", [float(label) for label in RIGHT])
    assert_right(run(capsys, tmp_path, source, model, input={"shards": source, "fields": {"label": field}}))


def test_yes_and_no_are_the_two_classes(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    two = save_colour_model(tmp_path / "model.keras", classes=2)
    expected = predicted_by_keras(two)
    ran = run(capsys, tmp_path, parquet(tmp_path / "a.parquet", [bool(label) for label in expected]), two)
    assert [row["label"] for row in ran.rows] == expected
    assert ran.summary["accuracy"] == 1.0


def test_digits_that_are_names_and_numbers_of_different_classes_are_refused(
    tmp_path: pathlib.Path, model: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As where class folders `0`, `10`, `2` were sorted by name (keras-team/keras' class_indices do so)."""
    source = parquet(tmp_path / "a.parquet", [["2", "0", "1"][label] for label in RIGHT])
    ran = run(capsys, tmp_path, source, model, ["2", "0", "1"])
    assert ran.code == 2
    assert "is text and may mean class" in ran.err
    source = parquet(tmp_path / "a.parquet", [["7", "0x", "1x"][label] for label in RIGHT])
    assert_right(run(capsys, tmp_path, source, model, ["7", "0x", "1x"]))


# ---- names that several classes have: pytorch/vision#1734, nottombrown/imagenet-stubs#2 (crane, maillot),
# openai/CLIP#235 (missile, sunglasses), sarahpratt/CuPL#2 (accuracy 0 for the second one)

TWICE = ("crane", "tench", "crane")


def test_a_label_that_two_classes_are_called_is_an_error_row(
    tmp_path: pathlib.Path, model: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = parquet(tmp_path / "a.parquet", ["tench" if label == 1 else "crane" for label in RIGHT])
    ran = run(capsys, tmp_path, source, model, TWICE)
    assert ran.code == 1
    assert [row["label"] for row in ran.rows] == [1] * RIGHT.count(1)
    assert ran.summary["accuracy"] == 1.0
    assert ran.summary["failures"] == {"UnusableLabel": 12 - RIGHT.count(1)}
    assert "the label 'crane' is the name of the classes 0 and 2" in ran.errors[0]["message"]


def test_labels_that_are_all_such_names_are_refused(
    tmp_path: pathlib.Path, model: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ran = run(capsys, tmp_path, parquet(tmp_path / "a.parquet", ["crane"] * 12), model, TWICE)
    assert ran.code == 2
    assert "the label 'crane' is the name of the classes 0 and 2; label by class index" in ran.err


def test_class_folders_with_such_a_name_are_refused(
    tmp_path: pathlib.Path, model: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("crane", "tench"):
        shards.write_folder(tmp_path / "images" / name, IMAGES[:2])
    ran = run(capsys, tmp_path, str(tmp_path / "images"), model, TWICE)
    assert ran.code == 2
    assert "'crane'" in ran.err
    assert "give every class a name of its own" in ran.err
    assert (
        run(
            capsys, tmp_path, "", model, TWICE, input={"shards": str(tmp_path / "images"), "fields": {"label": ""}}
        ).code
        == 0
    )


def test_the_readme_s_query_keeps_two_classes_of_one_name_apart(
    tmp_path: pathlib.Path, model: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert_right(run(capsys, tmp_path, parquet(tmp_path / "a.parquet", RIGHT), model, TWICE))
    query = code_blocks("README.md", "sql")[0].replace("out/cifar10", str(tmp_path / "out"))
    rows = duckdb.sql(query).fetchall()
    assert sorted(rows) == sorted((TWICE[place], 1.0, RIGHT.count(place)) for place in range(3))


# ---- labels that do not fit the model


def test_labels_that_begin_at_1_are_said(
    tmp_path: pathlib.Path, model: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """tensorflow/models#1247: build_image_data.py labels from 1 up, and nothing says so."""
    source = tfrecord(tmp_path / "a.tfrecord", [label + 1 for label in RIGHT])
    ran = run(capsys, tmp_path, source, model, errors={"max_fraction": 0.9})
    assert ran.code == 0
    (warning,) = ran.summary["warnings"]
    assert f"{RIGHT.count(2)} images are labelled 3, and the classes are 0 to 2" in warning
    assert "the labels seem to begin at 1" in warning
    assert f"warning: {warning}" in ran.out
    assert "do the labels begin at 1?" in ran.errors[0]["message"]


def test_labels_that_begin_at_1_are_said_where_the_last_class_is_not_there(
    tmp_path: pathlib.Path, model: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    samples = [(name, image, label + 1) for name, image, label in IMAGES if label < 2]
    shards.write_tfrecord(tmp_path / "a.tfrecord", samples)
    ran = run(capsys, tmp_path, str(tmp_path / "a.tfrecord"), model)
    assert ran.code == 0
    (warning,) = ran.summary["warnings"]
    assert f"on {len(samples)} of {len(samples)} images the label is the predicted class plus 1" in warning


def test_a_model_with_a_background_class_is_said(
    tmp_path: pathlib.Path, model: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """tensorflow/hub#574, mlcommons/inference#550: the model's class 0 is the background, and the labels begin at 0."""
    samples = [(name, image, label - 1) for name, image, label in IMAGES if label]
    shards.write_tfrecord(tmp_path / "a.tfrecord", samples)
    (warning,) = run(capsys, tmp_path, str(tmp_path / "a.tfrecord"), model).summary["warnings"]
    assert "the label is the predicted class minus 1" in warning
    assert "background" in warning


@pytest.mark.parametrize(
    "labels", [[(label + 1) % 3 for label in RIGHT], [0] * 12, [i % 3 for i in range(12)]], ids=["turned", "one", "any"]
)
def test_labels_in_another_order_are_said(
    labels: list[int], tmp_path: pathlib.Path, model: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ran = run(capsys, tmp_path, parquet(tmp_path / "a.parquet", labels), model)
    correct = sum(label == right for label, right in zip(labels, RIGHT, strict=True))
    assert ran.code == 0
    assert ran.summary["accuracy"] == pytest.approx(correct / 12)
    assert len(ran.summary["warnings"]) == (correct <= 5)
    assert ("is no better than guessing among 3 classes" in ran.out) == (correct <= 5)
