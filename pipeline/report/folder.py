"""Writes the report's folder: whole, or not at all."""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
import uuid
from collections.abc import Iterator
from typing import Protocol

from apache_beam.io.filesystem import BeamIOError, CompressionTypes
from apache_beam.io.filesystems import FileSystems

from transforms.output import is_running, list_files, read_bytes

PAGE = "index.html"

# What a page says of itself. A folder whose page does not say it is not replaced.
GENERATOR = '<meta name="generator" content="fullgrad report">'


class UnusableFolder(ValueError):
    """The report cannot be written to a folder. One sentence says what would be right."""


class Folder(Protocol):
    """Takes the files of a report. `PAGE` comes last. Several threads may write at once."""

    def write(self, name: str, content: bytes) -> None:
        """Writes a file; `name` is its path in the folder, with slashes."""


@contextlib.contextmanager
def writing_report(path: str) -> Iterator[Folder]:
    """A folder for the files of a report, on any file system that Beam knows.

    A local folder gets its name when the block ends without an error. Until then an earlier report stays. In a store,
    an earlier page is deleted first and the new one written last. So a build that fails leaves a whole report or none.

    Raises:
      UnusableFolder: something other than a report is there.
    """
    _check(path)
    if FileSystems.get_scheme(path) is None:
        with _local(pathlib.Path(path)) as folder:
            yield folder
    else:
        store = StoreFolder(path)
        yield store
        store.clear()


def _check(path: str) -> None:
    page = read_bytes(FileSystems.join(path, PAGE))
    if page is not None:
        if GENERATOR.encode() not in page[:4096]:
            raise UnusableFolder(f"{path} has an {PAGE} that is no report; name another folder with --to")
    elif os.path.lexists(path) and not (os.path.isdir(path) and not os.listdir(path)):
        raise UnusableFolder(f"{path} is not empty and holds no report; name another folder with --to")


class _Local:
    """A local folder that is being built beside its place."""

    def __init__(self, path: pathlib.Path):
        self._path = path

    def write(self, name: str, content: bytes) -> None:
        file = self._path.joinpath(*name.split("/"))
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)


@contextlib.contextmanager
def _local(path: pathlib.Path) -> Iterator[_Local]:
    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    _clear_abandoned(path)
    own = f"{os.getpid()}~{uuid.uuid4().hex[:8]}"
    building, earlier = (path.parent / f".{path.name}~{own}~{what}" for what in ("new", "old"))
    building.mkdir()
    try:
        yield _Local(building)
        if path.exists():
            path.rename(earlier)
        building.rename(path)
    finally:
        for left in (building, earlier):
            shutil.rmtree(left, ignore_errors=True)


def _clear_abandoned(path: pathlib.Path) -> None:
    """Deletes what killed builds of the same folder left beside it."""
    for left in path.parent.glob(f".{path.name}~*~*~*"):
        process = left.name.split("~")[-3]
        if process.isdigit() and not is_running(int(process)):
            shutil.rmtree(left, ignore_errors=True)


class StoreFolder:
    """A folder in a store, which cannot be renamed: an earlier page goes before anything else."""

    def __init__(self, path: str):
        self._path = path
        self._written: set[str] = set()
        page = FileSystems.join(path, PAGE)
        if FileSystems.exists(page):
            FileSystems.delete([page])

    def write(self, name: str, content: bytes) -> None:
        path = FileSystems.join(self._path, *name.split("/"))
        with contextlib.suppress(BeamIOError, OSError):  # it exists already, or the store has no folders
            FileSystems.mkdirs(path.rpartition("/")[0])
        with FileSystems.create(path, compression_type=CompressionTypes.UNCOMPRESSED) as sink:
            sink.write(content)
        self._written.add(path)

    def clear(self) -> None:
        """Deletes the files of an earlier report that the new one does not have."""
        there = [file for name in ("data", "thumbs") for file in list_files(FileSystems.join(self._path, name, "*"))]
        if left := [file for file in there if file not in self._written]:
            FileSystems.delete(left)
