"""Keys in tar files and ids of images: which repeat, which are missing, and what becomes of them."""

from __future__ import annotations

import dataclasses
import pathlib
import tarfile
from typing import Any

import pytest

from pipeline.cli import main
from pipeline.config import Config
from pipeline.run import launch, prepare
from pipeline.summary import Summary
from tests.samples import configuration, encoded_images, save_model
from tests.shards import add_member, example, frame, write_folder, write_parquet, write_tfrecord
from transforms.output import Output, read_maps, read_table
from transforms.sources import Fields, Record, UnreadableInput, source_for, with_distinct_names
from transforms.sources.ids import name_of
from transforms.unit import Shard

SAMPLES = encoded_images(12)
IMAGES = [image for _, image, _ in SAMPLES]


def _tar(path: pathlib.Path, *members: tuple[str, bytes]) -> pathlib.Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            add_member(archive, name, data)
    return path


def _read(path: pathlib.Path, fields: Fields | None = None) -> list[Record]:
    shard = Shard(str(path), "webdataset", path.stat().st_size)
    source = source_for("webdataset", fields or Fields())
    source.check(shard)
    records = list(source.read(shard))
    assert source.count(shard) == len(records)
    assert records == [*source.read(shard, 0, 2), *source.read(shard, 2)]
    return records


def _run(value: dict[str, Any], shards: Any) -> Summary:
    return launch(prepare(Config.from_dict({**value, "input": {**value["input"], "shards": shards}})))


def _ids(value: dict[str, Any]) -> list[str]:
    return [row["image_id"] for row in read_maps(value["output"]["path"], columns=["image_id"])]


def _errors(value: dict[str, Any]) -> list[dict[str, Any]]:
    output = Output(value["output"]["path"])
    failed = [receipt.unit for receipt in output.read_receipts() if receipt.failed]
    return [row for unit in failed for row in read_table(output.part("errors", unit)).to_pylist()]


def _numbered(count: int = 4) -> list[tuple[str, bytes]]:
    return [
        member
        for i in range(count)
        for member in ((f"{i:04d}.png", IMAGES[i]), (f"{i:04d}.cls", b"%d" % SAMPLES[i][2]))
    ]


# ---- keys of a tar file


@pytest.mark.parametrize("name", ["__index__.json", "data/__meta__.json", "__keys__.txt"])
def test_notes_at_the_head_of_a_tar_are_no_sample(tmp_path: pathlib.Path, name: str) -> None:
    """webdataset leaves names in double underscores to itself (`__key__`, `__url__`): webdataset/webdataset#185."""
    records = _read(_tar(tmp_path / "x.tar", (name, b"{}"), *_numbered(), (f"more/{name}", b"{}")))
    assert [(record.image_id, record.problem) for record in records] == [(f"{i:04d}", None) for i in range(4)]


def test_other_members_without_an_image_are_error_rows_wherever_they_stand(tmp_path: pathlib.Path) -> None:
    path = _tar(
        tmp_path / "x.tar", ("dataset.json", b"{}"), *_numbered(), ("README.md", b"x"), ("._0001.png", b"resource fork")
    )
    value = configuration(tmp_path, str(path))
    summary = _run(value, str(path))
    assert (summary.images, summary.failures) == (4, {"NoImage": 2})
    assert summary.labelled == 4
    assert sorted((row["image_id"], row["index"], row["message"]) for row in _errors(value)) == [
        ("README", 5, "sample 'README' has no image member; it has 'md'"),
        ("dataset", 0, "sample 'dataset' has no image member; it has 'json'"),
    ]


def test_a_tar_without_any_image_is_refused_with_what_is_there(tmp_path: pathlib.Path) -> None:
    with pytest.raises(
        UnreadableInput, match=r"sample '0' has no image member; it has 'npy'; the next 2 have none either"
    ):
        _read(_tar(tmp_path / "x.tar", *((f"{i}.npy", b"x") for i in range(3))))


def test_two_images_with_one_key_are_an_error_row(tmp_path: pathlib.Path) -> None:
    """webdataset/webdataset#157 and #286: a sample that has a member twice is an error there, and the read stops."""
    path = _tar(
        tmp_path / "x.tar",
        ("0.jpg", IMAGES[0]),
        ("0.png", IMAGES[1]),
        ("1.png", IMAGES[2]),
        ("2.PNG", IMAGES[3]),
        ("2.png", IMAGES[4]),
        ("3.png", IMAGES[5]),
        ("3.cls", b"1"),
        ("3.cls", b"2"),
        ("4.png", IMAGES[6]),
        ("4.seg.png", IMAGES[7]),
        ("5.dng", b"raw"),
        ("5.png", IMAGES[8]),
    )
    value = configuration(tmp_path, str(path))
    summary = _run(value, str(path))
    assert (summary.images, summary.failures) == (3, {"AmbiguousSample": 3})
    assert sorted(_ids(value)) == ["1", "4", "5"]
    errors = {row["image_id"]: row["message"] for row in _errors(value)}
    assert errors == {
        "0": "sample '0' has 2 images ('jpg', 'png'), and nothing says which is meant; set input.fields.image to one "
        "of these, or give each image a key of its own",
        "2": "sample '2' has the member 'png' more than once",
        "3": "sample '3' has the member 'cls' more than once",
    }
    chosen = _read(path, Fields(image="png"))
    assert [record.image for record in chosen] == [IMAGES[1], IMAGES[2], None, None, IMAGES[6], IMAGES[8]]


def test_a_tar_of_pairs_of_images_is_refused_until_one_is_chosen(tmp_path: pathlib.Path) -> None:
    pairs = [(f"{i}.{kind}", IMAGES[i]) for i in range(3) for kind in ("jpg", "png")]
    path = _tar(tmp_path / "x.tar", *pairs)
    with pytest.raises(UnreadableInput, match=r"has 2 images \('jpg', 'png'\), .*; so it is with each of the first 3"):
        _read(path)
    assert [record.image for record in _read(path, Fields(image="jpg"))] == IMAGES[:3]


def test_samples_whose_members_do_not_stand_together(tmp_path: pathlib.Path) -> None:
    """ray-project/ray#65044 and webdataset/webdataset#407: tar sorted by extension; keys repeat, labels are missing."""
    path = _tar(
        tmp_path / "x.tar",
        ("a.png", IMAGES[0]),
        ("b.png", IMAGES[1]),
        ("a.cls", b"1"),
        ("b.cls", b"2"),
        ("a.png", IMAGES[2]),
    )
    records = _read(path)
    assert [record.image_id for record in records] == ["a", "b", "x.tar#2", "x.tar#3", "x.tar#4"]
    assert [record.image for record in records] == [IMAGES[0], IMAGES[1], None, None, IMAGES[2]]
    for record in records[2:4]:
        assert record.problem is not None
        assert "others of its members stand earlier in the file; they must stand together" in record.problem


# ---- ids


def _without_ids(path: pathlib.Path, count: int) -> pathlib.Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    records = (example({"image/encoded": image, "image/class/label": 0}) for image in IMAGES[:count])
    path.write_bytes(b"".join(frame(record) for record in records))
    return path


@pytest.mark.slow
def test_shards_called_alike_in_several_folders_have_ids_of_their_own(tmp_path: pathlib.Path) -> None:
    for name in ("a/test", "b/test", "x/a/test", "a/other"):
        _without_ids(tmp_path / "data" / f"{name}.tfrecord", 2)
    value = configuration(tmp_path, "")
    _run(value, [str(tmp_path / "data" / "*" / "*.tfrecord"), str(tmp_path / "data" / "x" / "a" / "test.tfrecord")])
    assert sorted(_ids(value)) == sorted(
        f"{name}#{i}"
        for name in ("data/a/test.tfrecord", "data/b/test.tfrecord", "x/a/test.tfrecord", "other.tfrecord")
        for i in range(2)
    )


@pytest.mark.slow
def test_ids_stay_when_a_run_goes_on_with_further_shards(tmp_path: pathlib.Path) -> None:
    value = configuration(tmp_path, "", input={"images_per_unit": 2})
    first = str(_without_ids(tmp_path / "a" / "test.tfrecord", 6))
    _run({**value, "input": {**value["input"], "limit": 2}}, first)
    assert sorted(_ids(value)) == ["test.tfrecord#0", "test.tfrecord#1"]
    second = str(_without_ids(tmp_path / "b" / "test.tfrecord", 3))
    _run(value, [second, first])
    assert sorted(_ids(value)) == sorted(
        [*(f"test.tfrecord#{i}" for i in range(6)), *(f"b/test.tfrecord#{i}" for i in range(3))]
    )
    third = str(_without_ids(tmp_path / "c" / "b" / "test.tfrecord", 1))
    _run({**value, "input": {**value["input"], "changed": "adopt"}}, third)
    assert "c/b/test.tfrecord#0" in _ids(value)
    assert len(set(_ids(value))) == 10


@pytest.mark.quick_cases(every=2)
@pytest.mark.parametrize("flat", [True, False])
def test_folders_with_files_called_alike_have_ids_of_their_own(tmp_path: pathlib.Path, flat: bool) -> None:
    for part, count in (("train", 6), ("val", 3)):
        write_folder(tmp_path / part, SAMPLES[:count], None if flat else ("red", "green", "blue"))
    value = configuration(tmp_path, "")
    _run(value, [str(tmp_path / "train"), str(tmp_path / "val")])
    ids = _ids(value)
    assert len(set(ids)) == len(ids) == 9
    assert {image_id.split("/")[0] for image_id in ids} >= {"train", "val"}
    if flat:
        assert f"val/{SAMPLES[0][0]}" in ids


def test_names_are_as_short_as_tells_them_apart() -> None:
    def names(*paths: str, begun: tuple[Shard, ...] = (), **fields: Any) -> list[str]:
        shards = [Shard(path, fields.get("format", "parquet"), 1, fields.get("label")) for path in paths]
        return [name_of(shard) for shard in with_distinct_names(shards, begun)]

    assert names("/x/a.parquet", "/x/b.parquet") == ["a.parquet", "b.parquet"]
    assert names("gs://x/a.parquet", "gs://y/a.parquet") == ["x/a.parquet", "y/a.parquet"]
    assert names("/x/v/a", "/y/v/a", "/v/a") == ["x/v/a", "y/v/a", "v/a"]
    assert names("/x", "/y", format="folder") == ["x", "y"]
    assert names("/x", format="folder") == [""]
    assert names("/t/cat", "/v/cat", "/v/dog", format="folder", label=0) == ["t/cat", "v/cat", "dog"]
    begun = Shard("/x/a", "parquet", 1)
    assert names("/y/a", "/x/a", begun=(begun,)) == ["y/a", "a"]
    assert names("/y/a", begun=(begun,)) == ["y/a"]
    named = dataclasses.replace(begun, path="/z/y/a", name="y/a")
    assert names("/w/y/a", "/z/y/a", begun=(begun, named)) == ["w/y/a", "y/a"]
    assert names("/y/a", begun=(begun, named)) == ["/y/a"]
    assert names("gs://x/a", "s3://x/a") == ["gs://x/a", "s3://x/a"]


@pytest.mark.slow
def test_ids_that_records_bring_are_kept_and_counted_where_they_repeat(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """webdataset/webdataset#327: file names that repeat across shards."""
    write_tfrecord(tmp_path / "a.tfrecord", SAMPLES[:4])
    write_tfrecord(tmp_path / "b.tfrecord", [*SAMPLES[2:4], SAMPLES[2], *SAMPLES[5:7]])
    value = configuration(tmp_path, str(tmp_path / "*.tfrecord"))
    summary = _run(value, str(tmp_path / "*.tfrecord"))
    assert summary.images == 9
    assert sorted(_ids(value)) == sorted(
        [*(name for name, _, _ in SAMPLES[:4]), *(SAMPLES[i][0] for i in (2, 3, 2, 5, 6))]
    )
    assert summary.repeated_ids == 5, "of three images and two, 5 share their id with another"
    path = tmp_path / "run.yaml"
    save_model(tmp_path / "m.keras")
    path.write_text(
        f"input: {{shards: '{tmp_path}/*.tfrecord'}}\nmodel: {{path: {tmp_path}/m.keras}}\n"
        f"output: {{path: {tmp_path}/again}}\n"
    )
    assert main(["run", str(path)]) == 0
    assert "5 images share their image_id with another; shard and index tell them apart" in capsys.readouterr().out


@pytest.mark.slow
def test_an_image_explained_for_several_classes_does_not_repeat_its_id(tmp_path: pathlib.Path) -> None:
    write_parquet(tmp_path / "a.parquet", SAMPLES[:5])
    value = configuration(tmp_path, "", explain={"targets": "top-3"})
    summary = _run(value, str(tmp_path / "a.parquet"))
    assert (summary.rows, summary.repeated_ids) == (15, 0)
