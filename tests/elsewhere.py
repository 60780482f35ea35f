"""The local disk as a file system of another kind: `elsewhere:///tmp/x` is /tmp/x, reached through Beam alone."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

from apache_beam.io.filesystem import BeamIOError, FileMetadata, FileSystem
from apache_beam.io.localfilesystem import LocalFileSystem

_SCHEME = "elsewhere://"


def _local(path: str) -> str:
    assert path.startswith(_SCHEME), f"{path} is not elsewhere"
    return path.removeprefix(_SCHEME)


class Elsewhere(FileSystem):
    """Beam looks file systems up among the subclasses, so that defining this one is all that it needs.

    As hdfs:// does, it refuses to rename onto a file that is there.
    """

    def __init__(self, pipeline_options: Any):
        super().__init__(pipeline_options)
        self._disk = LocalFileSystem(pipeline_options)

    @classmethod
    def scheme(cls) -> str:
        return "elsewhere"

    def join(self, basepath: str, *paths: str) -> str:
        return "/".join([basepath.rstrip("/"), *paths])

    def split(self, path: str) -> tuple[str, str]:
        head, _, tail = path.rpartition("/")
        return head, tail

    def mkdirs(self, path: str) -> None:
        self._disk.mkdirs(_local(path))

    def has_dirs(self) -> bool:
        return True

    def _list(self, dir_or_prefix: str) -> Iterator[FileMetadata]:
        for found in self._disk._list(_local(dir_or_prefix)):
            yield FileMetadata(_SCHEME + found.path, found.size_in_bytes, found.last_updated_in_seconds)

    def create(self, path: str, *arguments: Any, **named: Any) -> Any:
        return self._disk.create(_local(path), *arguments, **named)

    def open(self, path: str, *arguments: Any, **named: Any) -> Any:
        return self._disk.open(_local(path), *arguments, **named)

    def rename(self, source_file_names: Sequence[str], destination_file_names: Sequence[str]) -> None:
        sources, destinations = map(_local, source_file_names), [_local(path) for path in destination_file_names]
        there = [path for path in destinations if os.path.exists(path)]
        if there:
            raise BeamIOError("Rename operation failed", {path: FileExistsError(path) for path in there})
        self._disk.rename(list(sources), destinations)

    def exists(self, path: str) -> bool:
        return self._disk.exists(_local(path))

    def size(self, path: str) -> int:
        return self._disk.size(_local(path))

    def metadata(self, path: str) -> FileMetadata:
        return FileMetadata(path, self.size(path))

    def delete(self, paths: Sequence[str]) -> None:
        self._disk.delete([_local(path) for path in paths])

    def _unused(self, *_: object) -> None:
        raise NotImplementedError

    copy = last_updated = checksum = _unused
