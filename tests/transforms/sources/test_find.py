from __future__ import annotations

import pathlib
import shutil

import pytest

from tests.shards import write_folder, write_parquet, write_tfrecord, write_webdataset
from tests.transforms.sources.shard_samples import noise_samples
from transforms.sources import LeftOut, UnreadableInput, find_shards
from transforms.unit import Shard

SAMPLES = noise_samples(6)
CLASSES = ("ant", "bee", "cat")


def _paths(shards: list[Shard]) -> list[str]:
    return [pathlib.Path(shard.path).name for shard in shards]


def _labels(shards: list[Shard]) -> dict[str, int | None]:
    return {pathlib.Path(shard.path).name: shard.label for shard in shards}


@pytest.fixture
def records(tmp_path: pathlib.Path) -> pathlib.Path:
    for i in (2, 0, 1):
        write_tfrecord(tmp_path / f"x.tfrecord-0000{i}-of-00003", SAMPLES)
    return tmp_path


@pytest.fixture
def classes(tmp_path: pathlib.Path) -> pathlib.Path:
    return write_folder(tmp_path / "classes", SAMPLES, CLASSES)


def test_a_glob_is_sorted_and_a_path_given_twice_is_one_shard(records: pathlib.Path) -> None:
    last = str(records / "x.tfrecord-00002-of-00003")
    shards = find_shards([last, str(records / "x.tfrecord-*"), last])
    assert _paths(shards) == [f"x.tfrecord-0000{i}-of-00003" for i in (2, 0, 1)]
    assert {shard.format for shard in shards} == {"tfrecord"}
    assert shards[0].size == pathlib.Path(last).stat().st_size


@pytest.mark.parametrize("pattern", ["x.tfrecord-*", "./x.tfrecord-*", "*", ".", "./"])
def test_relative_patterns_give_absolute_paths(
    records: pathlib.Path, monkeypatch: pytest.MonkeyPatch, pattern: str
) -> None:
    monkeypatch.chdir(records)
    shards = find_shards(pattern)
    assert [shard.path for shard in shards] == [str(records / f"x.tfrecord-0000{i}-of-00003") for i in range(3)]


def test_relative_folders_are_found_with_and_without_a_slash(
    classes: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(classes.parent)
    assert find_shards("classes") == find_shards("classes/") == find_shards("./classes") == find_shards(str(classes))


def test_nothing_found_names_the_pattern(tmp_path: pathlib.Path) -> None:
    for pattern in ("none-*.tar", "none.tar", "none"):
        with pytest.raises(
            UnreadableInput, match=f"no file or folder matches '.*{pattern}'".replace("*.tar", r"\*\.tar")
        ):
            find_shards(str(tmp_path / pattern))
    with pytest.raises(UnreadableInput, match="empty"):
        find_shards([])
    with pytest.raises(UnreadableInput, match="nowhere://x"):
        find_shards("nowhere://x/*.tar")


@pytest.mark.parametrize(
    ("name", "format"),
    [
        ("a.tfrecord", "tfrecord"),
        ("a.tfrecords", "tfrecord"),
        ("a.tfrec", "tfrecord"),
        ("a.tfrecord.gz", "tfrecord"),
        ("a.tfrecord-00001-of-00002", "tfrecord"),
        ("a.tar", "webdataset"),
        ("a.tar.gz", "webdataset"),
        ("a.TGZ", "webdataset"),
        ("a.parquet", "parquet"),
        ("a.snappy.parquet", "parquet"),
    ],
)
def test_a_name_tells_the_format(tmp_path: pathlib.Path, name: str, format: str) -> None:
    (tmp_path / name).touch()
    assert [shard.format for shard in find_shards(str(tmp_path / name))] == [format]


def test_the_first_bytes_tell_the_format_where_the_name_does_not(tmp_path: pathlib.Path) -> None:
    expected = {
        write_tfrecord(tmp_path / "a-of-1", SAMPLES): "tfrecord",
        write_tfrecord(tmp_path / "b-of-1", SAMPLES, gzip=True): "tfrecord",
        write_webdataset(tmp_path / "c-of-1", SAMPLES): "webdataset",
        write_webdataset(tmp_path / "d-of-1", SAMPLES, gzip=True): "webdataset",
        write_parquet(tmp_path / "e-of-1", SAMPLES): "parquet",
    }
    assert {path: find_shards(str(path))[0].format for path in expected} == expected


def test_a_file_of_no_known_format_is_refused_unless_the_format_is_given(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "unknown"
    path.write_bytes(b"hello")
    with pytest.raises(UnreadableInput, match="unknown looks like no TFRecord, tar or Parquet file"):
        find_shards(str(path))
    assert find_shards(str(path), "tfrecord")[0].format == "tfrecord"
    path.write_bytes(b"")
    with pytest.raises(UnreadableInput, match="unknown is empty"):
        find_shards(str(path))
    with pytest.raises(UnreadableInput, match="'hdf5' is not one of"):
        find_shards(str(path), "hdf5")


def test_a_single_image_is_refused_with_what_would_be_right(tmp_path: pathlib.Path) -> None:
    write_folder(tmp_path, SAMPLES)
    with pytest.raises(UnreadableInput, match="is a single image; give the folder it is in"):
        find_shards(str(tmp_path / "*.png"))


def test_mixed_formats_are_refused(records: pathlib.Path) -> None:
    write_parquet(records / "x.parquet", SAMPLES)
    with pytest.raises(UnreadableInput, match=r"several formats, parquet \(.*x.parquet\), tfrecord \(.*00000-of"):
        find_shards(str(records / "*"))
    assert len(find_shards(str(records), "tfrecord")) == 3


def test_a_folder_of_shards_stands_for_them(records: pathlib.Path) -> None:
    (records / "dataset_info.json").write_text("{}")
    (records / ".hidden.tar").touch()
    assert len(find_shards(str(records))) == 3


def test_a_flat_folder_is_one_shard_without_a_label(tmp_path: pathlib.Path) -> None:
    write_folder(tmp_path / "flat", SAMPLES)
    (tmp_path / "flat" / "notes.txt").touch()
    assert find_shards(str(tmp_path / "flat")) == [Shard(str(tmp_path / "flat"), "folder", 6)]


def test_class_folders_are_shards_labelled_in_sorted_order(classes: pathlib.Path) -> None:
    (classes / ".cache").mkdir()
    (classes / ".cache" / "thumbnail.png").touch()
    (classes / "docs").mkdir()
    (classes / "docs" / "readme.txt").touch()
    shards = find_shards(str(classes), outputs=3)
    assert shards == [Shard(str(classes / name), "folder", 2, label) for label, name in enumerate(CLASSES)]


def test_class_names_give_the_labels(classes: pathlib.Path) -> None:
    shards = find_shards(str(classes), class_names=["zebra", "cat", "bee", "ant"], outputs=4)
    assert _labels(shards) == {"ant": 3, "bee": 2, "cat": 1}


def test_class_names_of_another_language_leave_the_sorted_order(classes: pathlib.Path) -> None:
    shards = find_shards(str(classes), class_names=["Ameise", "Biene", "Katze"], outputs=3)
    assert _labels(shards) == {"ant": 0, "bee": 1, "cat": 2}


def test_a_class_folder_that_alone_has_no_class_name_is_refused(classes: pathlib.Path) -> None:
    with pytest.raises(UnreadableInput, match=r"'bee' are not among the model\.class_names"):
        find_shards(str(classes), class_names=["cat", "ant", "wasp"], outputs=3)


def test_another_number_of_class_folders_than_classes_is_refused_with_both_numbers(classes: pathlib.Path) -> None:
    with pytest.raises(UnreadableInput, match=r"3 class folders .* 1000 classes; give model\.class_names"):
        find_shards(str(classes), outputs=1000)


def test_folders_of_several_roots_share_their_labels(classes: pathlib.Path) -> None:
    more = shutil.copytree(classes, classes.parent / "more")
    shutil.rmtree(more / "ant")
    shards = find_shards([str(more), str(classes)])
    assert [(shard.path, shard.label) for shard in shards[:2]] == [(str(more / "bee"), 1), (str(more / "cat"), 2)]
    assert [shard.label for shard in shards[2:]] == [0, 1, 2]


def test_images_beside_class_folders_are_refused(classes: pathlib.Path) -> None:
    write_folder(classes, SAMPLES[:1])
    with pytest.raises(UnreadableInput, match="1 images itself and others in 3 sub-folders"):
        find_shards(str(classes))


def test_images_beside_class_folders_are_taken_where_labels_are_not_wanted(classes: pathlib.Path) -> None:
    write_folder(classes, SAMPLES[:1])
    assert find_shards(str(classes), labelled=False) == [Shard(str(classes), "folder", 7)]


def test_a_folder_above_the_class_folders_is_refused_with_what_would_be_right(classes: pathlib.Path) -> None:
    with pytest.raises(
        UnreadableInput, match=r"1 class folders .* 3 classes; .* or give '.*/classes' instead, .* 3 fold"
    ):
        find_shards(str(classes.parent), outputs=3)
    with pytest.raises(UnreadableInput, match=r"'classes' are not among the model.class_names, but those in them are"):
        find_shards(str(classes.parent), class_names=CLASSES, outputs=3)


def test_parts_of_a_dataset_are_no_classes(classes: pathlib.Path) -> None:
    for part in ("train", "Test"):
        shutil.copytree(classes, classes.parent / "parts" / part)
    parts = classes.parent / "parts"
    with pytest.raises(UnreadableInput, match=r"'Test', 'train' are called as parts of a dataset .* give '.*/Test', "):
        find_shards(str(parts), outputs=2)
    assert [shard.label for shard in find_shards(str(parts), class_names=["train", "Test"], outputs=2)] == [1, 0]
    assert len(find_shards(str(parts), labelled=False)) == 2
    assert [shard.label for shard in find_shards(str(parts / "*"), outputs=3)] == [0, 1, 2, 0, 1, 2]
    for part in ("train", "Test"):
        write_folder(classes.parent / "flat_parts" / part, SAMPLES)
    with pytest.raises(UnreadableInput, match=r"'Test', 'train' are called as parts of a dataset .* give '.*/Test', "):
        find_shards(str(classes.parent / "flat_parts"), outputs=2)
    assert [shard.label for shard in find_shards(str(classes.parent / "flat_parts" / "*"), outputs=2)] == [None, None]


def test_a_glob_of_class_folders_stands_for_them(classes: pathlib.Path) -> None:
    left_out = LeftOut()
    write_folder(classes, SAMPLES[:1])
    (classes / "notes.txt").touch()
    for pattern in ("*", "*/", "[abc]*"):
        assert find_shards(str(classes / pattern), outputs=3, left_out=left_out) == [
            Shard(str(classes / name), "folder", 2, label) for label, name in enumerate(CLASSES)
        ]
    assert f"2 images beside the folders (such as {classes}/image0000.png)" in str(left_out)
    assert f"2 .txt files (such as {classes}/notes.txt)" in str(left_out)
    with pytest.raises(UnreadableInput, match=r"2 class folders \('ant', 'bee'\) but the model has 3"):
        find_shards(str(classes / "[ab]*"), outputs=3)
    labels = _labels(find_shards(str(classes / "[bc]*"), class_names=CLASSES, outputs=3))
    assert labels == {"bee": 1, "cat": 2}


def test_a_glob_of_everything_below_is_the_folder(classes: pathlib.Path) -> None:
    assert find_shards(str(classes / "**"), outputs=3) == find_shards(str(classes), outputs=3)


def test_shards_beside_folders_of_images_are_refused_unless_the_format_is_given(classes: pathlib.Path) -> None:
    write_tfrecord(classes / "x.tfrecord", SAMPLES)
    with pytest.raises(UnreadableInput, match=r"has shards itself \(.*x.tfrecord\) and images in 3 sub-folders"):
        find_shards(str(classes), outputs=3)
    assert _paths(find_shards(str(classes), "tfrecord", outputs=3)) == ["x.tfrecord"]
    assert len(find_shards(str(classes), "folder", outputs=3)) == 3


def test_a_folder_without_images_or_shards_is_refused_with_what_is_there(tmp_path: pathlib.Path) -> None:
    (tmp_path / "there" / "cat").mkdir(parents=True)
    (tmp_path / "there" / "cat" / "x.npy").touch()
    with pytest.raises(
        UnreadableInput, match=r"no images or shards; there is 1 .npy file \(cat/x.npy\), 1 folder without"
    ):
        find_shards(str(tmp_path / "there"))


def test_an_empty_folder_is_refused(tmp_path: pathlib.Path) -> None:
    (tmp_path / "empty").mkdir()
    for format in ("auto", "folder"):
        with pytest.raises(UnreadableInput, match="empty"):
            find_shards(str(tmp_path / "empty"), format)


def test_a_path_with_brackets_is_itself_before_it_is_a_glob(tmp_path: pathlib.Path) -> None:
    write_tfrecord(tmp_path / "x[1].tfrecord", SAMPLES)
    write_tfrecord(tmp_path / "x1.tfrecord", SAMPLES)
    write_folder(tmp_path / "images[2]", SAMPLES)
    assert _paths(find_shards(str(tmp_path / "x[1].tfrecord"))) == ["x[1].tfrecord"]
    assert _paths(find_shards(str(tmp_path / "x[0-9].tfrecord"))) == ["x1.tfrecord"]
    assert find_shards(str(tmp_path / "images[2]"))[0].format == "folder"
