from __future__ import annotations

import dataclasses
import pathlib

import pytest

from tests.shards import write_folder
from tests.transforms.sources.shard_samples import noise_samples
from transforms.sources import Fields, UnreadableInput
from transforms.sources.folder import FolderSource
from transforms.unit import Shard

SAMPLES = noise_samples(6)


def test_images_of_a_class_folder_carry_its_name_and_label(tmp_path: pathlib.Path) -> None:
    write_folder(tmp_path, SAMPLES, ("ant", "bee", "cat"))
    records = list(FolderSource().read(Shard(str(tmp_path / "bee"), "folder", 2, label=7)))
    assert [(record.image_id, record.label) for record in records] == [
        ("bee/image0001.png", 7),
        ("bee/image0004.png", 7),
    ]
    assert [record.image for record in records] == [SAMPLES[1][1], SAMPLES[4][1]]
    without = FolderSource(Fields(label="")).read(Shard(str(tmp_path / "bee"), "folder", 2, label=7))
    assert [(record.image_id, record.label) for record in without] == [
        ("bee/image0001.png", None),
        ("bee/image0004.png", None),
    ]


def test_visible_images_count_at_any_depth(tmp_path: pathlib.Path) -> None:
    write_folder(tmp_path, SAMPLES)
    (tmp_path / ".hidden.png").write_bytes(b"x")
    (tmp_path / "notes.txt").write_bytes(b"x")
    (tmp_path / "deeper").mkdir()
    (tmp_path / "deeper" / "image.png").write_bytes(b"x")
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "image.png").write_bytes(b"x")
    shard = Shard(str(tmp_path), "folder", 7)
    assert FolderSource().count(shard) == 7
    ids = [*(image_id for image_id, _, _ in SAMPLES), "deeper/image.png"]
    assert [record.image_id for record in FolderSource().read(shard)] == ids
    named = dataclasses.replace(shard, name="a/b", label=1)
    assert [record.image_id for record in FolderSource().read(named)] == [f"a/b/{image_id}" for image_id in ids]


def test_an_image_that_cannot_be_read_is_a_problem_of_its_own(tmp_path: pathlib.Path) -> None:
    write_folder(tmp_path, SAMPLES)
    (tmp_path / SAMPLES[2][0]).write_bytes(b"")
    shard = Shard(str(tmp_path), "folder", 6)
    records = FolderSource().read(shard)
    next(records)
    (tmp_path / SAMPLES[4][0]).unlink()
    problems = [record.problem for record in records]
    assert problems == [
        None,
        f"{tmp_path / SAMPLES[2][0]} is empty",
        None,
        f"{tmp_path / SAMPLES[4][0]} cannot be read: No such file or directory",
        None,
    ]


def test_a_folder_called_like_a_pattern_is_taken_by_its_name(tmp_path: pathlib.Path) -> None:
    write_folder(tmp_path / "a[1]*", SAMPLES[:2])
    write_folder(tmp_path / "a_1]x", SAMPLES)
    assert FolderSource().count(Shard(str(tmp_path / "a[1]*"), "folder", 2)) == 2


def test_a_check_refuses_fields_and_folders_without_images(tmp_path: pathlib.Path) -> None:
    write_folder(tmp_path / "images", SAMPLES)
    (tmp_path / "none").mkdir()
    shard = Shard(str(tmp_path / "images"), "folder", 6)
    FolderSource().check(shard)
    with pytest.raises(UnreadableInput, match="'image/class/label'"):
        FolderSource(Fields(label="image/class/label")).check(shard)
    with pytest.raises(UnreadableInput, match="holds no images"):
        FolderSource().check(Shard(str(tmp_path / "none"), "folder", 0))
    with pytest.raises(UnreadableInput, match="is not there"):
        FolderSource().check(Shard(str(tmp_path / "gone"), "folder", 0))
