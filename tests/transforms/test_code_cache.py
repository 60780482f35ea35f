"""Compiled code on disk: it is found again, and only where nobody else could have put it."""

from __future__ import annotations

import os
import pathlib
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from transforms import code_cache

KEY = code_cache.key_of(["a version"])
CODE = bytes(range(256)) * 100


@pytest.fixture
def cache(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """The folder of the cache; there is no second one among the temporary files."""
    monkeypatch.setenv("FULLGRAD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("tempfile.tempdir", os.devnull)
    return tmp_path / "cache"


def test_what_was_written_is_read_and_nothing_else(cache: pathlib.Path) -> None:
    assert code_cache.read(KEY, "kernel") is None
    assert code_cache.write(KEY, "kernel", CODE)
    assert code_cache.read(KEY, "kernel") == CODE
    assert code_cache.read(KEY, "other") is None
    assert code_cache.read(code_cache.key_of(["another version"]), "kernel") is None


@pytest.mark.parametrize("damage", ["truncated", "changed", "empty"])
def test_a_damaged_file_is_not_read_and_is_replaced(cache: pathlib.Path, damage: str) -> None:
    code_cache.write(KEY, "kernel", CODE)
    file = cache / KEY / "kernel"
    whole = file.read_bytes()
    file.write_bytes({"truncated": whole[:-1], "changed": whole[:-1] + b"x", "empty": b""}[damage])
    assert code_cache.read(KEY, "kernel") is None
    assert code_cache.write(KEY, "kernel", CODE)
    assert code_cache.read(KEY, "kernel") == CODE


@pytest.mark.parametrize("part", ["", KEY, f"{KEY}/kernel"])
@pytest.mark.parametrize("mode", [0o020, 0o002], ids=["group", "others"])
def test_code_that_others_may_write_is_refused(cache: pathlib.Path, part: str, mode: int) -> None:
    code_cache.write(KEY, "kernel", CODE)
    path = cache / part
    path.chmod(path.stat().st_mode | mode)
    assert code_cache.read(KEY, "kernel") is None


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a file to somebody else")
@pytest.mark.parametrize("part", ["", KEY, f"{KEY}/kernel"])
def test_code_of_somebody_else_is_refused(cache: pathlib.Path, part: str) -> None:
    code_cache.write(KEY, "kernel", CODE)
    os.chown(cache / part, 12345, -1)
    assert code_cache.read(KEY, "kernel") is None


def test_a_link_is_not_followed(cache: pathlib.Path, tmp_path: pathlib.Path) -> None:
    code_cache.write(KEY, "kernel", CODE)
    (cache / KEY / "kernel").rename(tmp_path / "elsewhere")
    (cache / KEY / "kernel").symlink_to(tmp_path / "elsewhere")
    assert code_cache.read(KEY, "kernel") is None


def test_a_folder_that_cannot_be_made_is_no_error(cache: pathlib.Path) -> None:
    cache.write_text("a file where the folder should be")
    assert not code_cache.write(KEY, "kernel", CODE)
    assert code_cache.read(KEY, "kernel") is None


def test_where_the_named_folder_cannot_be_used_there_is_one_among_the_temporary_files(
    cache: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.write_text("a file where the folder should be")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert code_cache.write(KEY, "kernel", CODE)
    assert code_cache.read(KEY, "kernel") == CODE


def test_off_keeps_nothing(cache: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code_cache.write(KEY, "kernel", CODE)
    monkeypatch.setenv("FULLGRAD_CACHE", "off")
    assert code_cache.read(KEY, "kernel") is None
    assert not code_cache.write(KEY, "kernel", CODE)


def test_many_writers_leave_one_whole_file(cache: pathlib.Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(lambda _: code_cache.write(KEY, "kernel", CODE), range(64)))
    assert os.listdir(cache / KEY) == ["kernel"]
    assert code_cache.read(KEY, "kernel") == CODE


def test_keys_that_were_not_used_for_long_are_removed(cache: pathlib.Path) -> None:
    code_cache.write(KEY, "kernel", CODE)
    old = time.time() - 91 * 24 * 3600
    os.utime(cache / KEY, (old, old))
    newer = code_cache.key_of(["a newer version"])
    code_cache.write(newer, "kernel", CODE)
    assert os.listdir(cache) == [newer]


def test_the_number_of_keys_is_bounded(cache: pathlib.Path) -> None:
    for i in range(40):
        code_cache.write(code_cache.key_of([str(i)]), "kernel", CODE)
    assert len(os.listdir(cache)) == 32
