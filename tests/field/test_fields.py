"""Fields as people call them: which one is the image, the id and the label is said before the run."""

from __future__ import annotations

import io
import json
import pathlib
import tarfile
import zlib
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests import shards
from tests.field.colours import IMAGES, RIGHT, colour_config, colour_run, predicted_by_keras
from tests.samples import CLASS_NAMES

ENCODED = [image for _, image, _ in IMAGES]


def parquet(path: pathlib.Path, **columns: Any) -> str:
    pq.write_table(pa.table({"image": ENCODED, **columns}), path)
    return str(path)


def tfrecord(path: pathlib.Path, **features: list[Any]) -> str:
    names = {name.replace("__", "/"): values for name, values in features.items()}
    records = [
        shards.example({"image/encoded": image, **{name: values[i] for name, values in names.items()}})
        for i, image in enumerate(ENCODED)
    ]
    path.write_bytes(b"".join(map(shards.frame, records)))
    return str(path)


def tar(path: pathlib.Path, **members: list[str]) -> str:
    with tarfile.open(path, "w") as archive:
        for i, image in enumerate(ENCODED):
            shards.add_member(archive, f"{i:03d}.png", image)
            for extension, texts in members.items():
                shards.add_member(archive, f"{i:03d}.{extension}", texts[i].encode())
    return str(path)


NAMES = [CLASS_NAMES[label] for label in RIGHT]


@pytest.mark.quick_cases(every=9)
@pytest.mark.parametrize(
    ("column", "labels"),
    [
        ("target", RIGHT),
        ("targets", RIGHT),
        ("class", NAMES),
        ("class_id", RIGHT),
        ("fine_label", RIGHT),
        ("category", NAMES),
        ("class_name", NAMES),
        ("image/class/text", [name.encode() for name in NAMES]),
        ("target", [[int(place == label) for place in range(3)] for label in RIGHT]),
    ],
)
def test_a_column_of_labels_is_found_and_said(
    column: str, labels: Any, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = parquet(tmp_path / "a.parquet", **{column: labels})
    ran = colour_run(capsys, colour_config(tmp_path, source, CLASS_NAMES))
    assert ran.code == 0
    assert f"label: column {column!r} (" in ran.out
    assert [row["label"] for row in ran.rows] == RIGHT == predicted_by_keras(tmp_path / "model.keras")
    assert ran.summary["accuracy"] == 1.0


@pytest.mark.quick_cases(every=2)
@pytest.mark.parametrize(
    ("feature", "labels"),
    [
        ("label", RIGHT),
        ("class", RIGHT),
        ("target", RIGHT),
        ("image__class__text", [name.encode() for name in NAMES]),
    ],
)
def test_a_feature_of_labels_is_found_and_said(
    feature: str, labels: Any, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tfrecord(tmp_path / "a.tfrecord", **{feature: labels})
    ran = colour_run(capsys, colour_config(tmp_path, source, CLASS_NAMES))
    assert f"label: feature {feature.replace('__', '/')!r} (" in ran.out
    assert [row["label"] for row in ran.rows] == RIGHT
    assert ran.summary["accuracy"] == 1.0


@pytest.mark.quick_cases(every=3)
@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({"cls": [str(label) for label in RIGHT]}, "label: member 'cls'"),
        ({"label": NAMES}, "label: member 'label'"),
        ({"json": [json.dumps({"class_id": label}) for label in RIGHT]}, "label: key 'class_id' of the JSON member"),
    ],
)
def test_a_member_of_labels_is_found_and_said(
    members: Any, words: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ran = colour_run(capsys, colour_config(tmp_path, tar(tmp_path / "a.tar", **members), CLASS_NAMES))
    assert f"image: member 'png'; id: the sample's key; {words}" in ran.out
    assert [row["label"] for row in ran.rows] == RIGHT


@pytest.mark.quick_cases(every=4)
@pytest.mark.parametrize("dry_run", [True, False])
@pytest.mark.parametrize("format", ["parquet", "tfrecord", "webdataset", "folder"])
def test_that_no_label_was_found_is_said_with_what_there_is(
    format: str, dry_run: bool, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if format == "parquet":
        source = parquet(tmp_path / "a.parquet", breed=RIGHT, label=[{"x": 1}] * 12)
        words = "no label found among the columns 'image: binary', 'breed: int64', 'label: struct<x: int64>'"
    elif format == "tfrecord":
        source = tfrecord(tmp_path / "a.tfrecord", breed=RIGHT)
        words = "no label found among the features 'breed: int64_list', 'image/encoded: bytes_list'"
    elif format == "webdataset":
        source = tar(tmp_path / "a.tar", txt=NAMES, json=['{"width": 16}'] * 12)
        words = "no label found among the members 'png', 'txt', 'json' and the JSON keys 'width'"
    else:
        source = str(shards.write_folder(tmp_path / "images", IMAGES))
        words = "no label found as the images are in no class folders"
    ran = colour_run(capsys, colour_config(tmp_path, source), dry_run=dry_run)
    assert ran.code == 0
    assert words in ran.out
    assert ran.out.count("\n") == (2 if dry_run else ran.out.count("\n"))
    if not dry_run:
        assert "no accuracy, as no image has a label" in ran.out
        run_json = json.loads((tmp_path / "out" / "run.json").read_text())
        assert words in run_json["plan"]["fields"]


def test_a_caption_is_a_label_where_it_is_asked_for(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As huggingface/pytorch-image-models#2154's people look for the class in a tar's members."""
    source = tar(tmp_path / "a.tar", txt=NAMES)
    config = colour_config(tmp_path, "", CLASS_NAMES, input={"shards": source, "fields": {"label": "txt"}})
    ran = colour_run(capsys, config)
    assert "label: member 'txt'" in ran.out
    assert ran.summary["accuracy"] == 1.0


@pytest.mark.quick_cases(every=2)
@pytest.mark.parametrize("format", ["tfrecord", "webdataset"])
def test_a_first_record_without_its_label_does_not_hide_the_others(
    format: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    samples = [(name, image, label if i > 2 else None) for i, (name, image, label) in enumerate(IMAGES)]
    path = tmp_path / "shard"
    (shards.write_tfrecord if format == "tfrecord" else shards.write_webdataset)(path, samples)
    ran = colour_run(capsys, colour_config(tmp_path, str(path)))
    assert "label: " + ("feature 'image/class/label'" if format == "tfrecord" else "member 'cls'") in ran.out
    assert [row["label"] for row in ran.rows] == [None] * 3 + RIGHT[3:]
    config = colour_config(
        tmp_path,
        str(path),
        explain={"targets": "label"},
        errors={"max_fraction": 0.5},
        output={"path": str(tmp_path / "labels")},
    )
    ran = colour_run(capsys, config)
    assert ran.code == 0
    assert [row["target"] for row in ran.rows] == RIGHT[3:]


def test_of_several_images_of_a_sample_one_has_to_be_chosen(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tar(tmp_path / "a.tar", jpg=["another"] * 12, cls=[str(label) for label in RIGHT])
    ran = colour_run(capsys, colour_config(tmp_path, source))
    assert ran.code == 2
    assert "input.fields.image" in ran.err
    ran = colour_run(capsys, colour_config(tmp_path, source, input={"shards": source, "fields": {"image": "png"}}))
    assert "image: member 'png'" in ran.out
    assert ran.summary["accuracy"] == 1.0


def test_several_fields_that_could_be_the_label_are_said(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """CIFAR-100 has `fine_label` and `coarse_label`."""
    source = parquet(tmp_path / "a.parquet", coarse_label=[0] * 12, fine_label=RIGHT, img=ENCODED)
    ran = colour_run(capsys, colour_config(tmp_path, source))
    assert "label: column 'fine_label' (int64), not 'coarse_label' (input.fields.label chooses)" in ran.out
    assert "image: column 'image' (binary), not 'img' (input.fields.image chooses)" in ran.out
    assert ran.summary["accuracy"] == 1.0


def test_no_labels_are_read_where_none_are_wanted(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = parquet(tmp_path / "a.parquet", label=["teal"] * 12)
    config = colour_config(tmp_path, "", input={"shards": source, "fields": {"label": ""}})
    ran = colour_run(capsys, config)
    assert ran.code == 0
    assert 'no labels are read, as input.fields.label is ""' in ran.out
    assert ran.summary["labelled"] == 0


def test_names_without_a_list_of_them_are_refused(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = parquet(tmp_path / "a.parquet", target=NAMES)
    ran = colour_run(capsys, colour_config(tmp_path, source))
    assert ran.code == 2
    assert "column 'target': the label" in ran.err
    assert "model.class_names must list the classes' names" in ran.err


def test_labels_cannot_be_explained_where_there_are_none(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = parquet(tmp_path / "a.parquet", breed=RIGHT)
    ran = colour_run(capsys, colour_config(tmp_path, source, explain={"targets": "label"}))
    assert ran.code == 2
    assert "explain.targets is label, but in" in ran.err
    assert "no label found among the columns" in ran.err


@pytest.mark.quick_cases(every=3)
@pytest.mark.parametrize(
    ("names", "words"),
    [
        (CLASS_NAMES, "by its name in model.class_names"),
        (("rosso", "verde", "blu"), "counted in sorted order"),
        (None, "counted in sorted order"),
    ],
)
def test_how_class_folders_are_numbered_is_said(
    names: Any, words: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shards.write_folder(tmp_path / "images", IMAGES, CLASS_NAMES)
    ran = colour_run(capsys, colour_config(tmp_path, str(tmp_path / "images"), names))
    assert f"label: the class folder that it is in, {words}" in ran.out
    by_sorting = [sorted(CLASS_NAMES).index(row["image_id"].partition("/")[0]) for row in ran.rows]
    by_name = [CLASS_NAMES.index(row["image_id"].partition("/")[0]) for row in ran.rows]
    assert [row["label"] for row in ran.rows] == (by_name if names == CLASS_NAMES else by_sorting)
    assert (ran.summary["accuracy"] == 1.0) == (names == CLASS_NAMES)


def test_empty_shards_before_the_first_record_say_nothing(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.tfrecord").touch()
    tfrecord(tmp_path / "b.tfrecord", label=RIGHT)
    config = colour_config(tmp_path, str(tmp_path / "*.tfrecord"), errors={"max_fraction": 0.5})
    ran = colour_run(capsys, config)
    assert "label: feature 'label' (int64_list)" in ran.out
    assert ran.summary["accuracy"] == 1.0


# ---- compression: tensorflow/minigo#433 (.tfrecord.zz), tensorflow/tensorflow#6164 and #13463


@pytest.mark.quick_cases(every=3)
@pytest.mark.parametrize("name", ["a.tfrecord", "a.tfrecord.zz", "a-00000-of-00001"])
def test_tensorflow_s_zlib_records_are_read(
    name: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import tensorflow as tf

    options = tf.io.TFRecordOptions(compression_type="ZLIB")
    with tf.io.TFRecordWriter(str(tmp_path / name), options) as writer:
        for image, label in zip(ENCODED, RIGHT, strict=True):
            writer.write(shards.example({"image/encoded": image, "image/class/label": label}))
    ran = colour_run(capsys, colour_config(tmp_path, str(tmp_path / name)))
    assert (ran.code, ran.errors) == (0, [])
    assert [row["label"] for row in ran.rows] == RIGHT == [row["predicted"] for row in ran.rows]


def test_a_cut_zlib_shard_keeps_the_images_before(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    records = pathlib.Path(tfrecord(tmp_path / "plain.tfrecord", label=RIGHT)).read_bytes()
    packed = zlib.compress(records)
    (tmp_path / "a.tfrecord").write_bytes(packed[: len(packed) * 2 // 3])
    config = colour_config(tmp_path, str(tmp_path / "a.tfrecord"), errors={"max_fraction": 0.9})
    ran = colour_run(capsys, config)
    assert 0 < len(ran.rows) < 12
    assert [row["label"] for row in ran.rows] == RIGHT[: len(ran.rows)]
    assert [row["error"] for row in ran.errors] == ["DamagedShard"]


def test_other_compressions_are_named(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    import bz2
    import lzma

    records = pathlib.Path(tfrecord(tmp_path / "plain.tfrecord", label=RIGHT)).read_bytes()
    for name, packed in (("bzip2", bz2.compress(records)), ("xz", lzma.compress(records))):
        (tmp_path / "a.tfrecord").write_bytes(packed)
        ran = colour_run(capsys, colour_config(tmp_path, str(tmp_path / "a.tfrecord")))
        assert ran.code == 2
        assert f"it is compressed with {name}; TFRecords are read plain, or compressed with gzip or zlib" in ran.err


def test_a_tar_whose_first_name_looks_like_zlib_is_a_tar(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert int.from_bytes(b"x^") % 31 == 0
    with tarfile.open(tmp_path / "shard", "w") as archive:
        for i, image in enumerate(ENCODED):
            member = tarfile.TarInfo(f"x^{i:03d}.png")
            member.size = len(image)
            archive.addfile(member, io.BytesIO(image))
    ran = colour_run(capsys, colour_config(tmp_path, str(tmp_path / "shard")))
    assert (ran.code, len(ran.rows)) == (0, 12)
