"""Files of an output, on any file system that Beam knows."""

from __future__ import annotations

import contextlib
from typing import IO

from apache_beam.io.filesystem import BeamIOError, CompressionTypes, FileMetadata
from apache_beam.io.filesystems import FileSystems

from transforms.filesystems import STORE_ERRORS


def list_files(pattern: str) -> list[str]:
    """The paths that match a pattern; none where the folder is not there."""
    return [file.path for file in match(pattern)]


def match(pattern: str) -> list[FileMetadata]:
    """The files that match a pattern; none where the folder is not there."""
    try:
        return FileSystems.match([pattern])[0].metadata_list
    except BeamIOError:
        if not FileSystems.get_filesystem(pattern).has_dirs():
            raise  # an object store has no folder that could be absent
        return []


def read_bytes(path: str) -> bytes | None:
    """A file's content, None where there is no such file."""
    try:
        with open_file(path) as source:
            return source.read()
    except STORE_ERRORS:
        if FileSystems.exists(path):
            raise
        return None


def open_file(path: str) -> IO[bytes]:
    """A file open for reading, its bytes as they are stored."""
    return FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED)


def replace(source: str, destination: str) -> None:
    """Renames a file; a file that already has the new name is replaced."""
    for attempts_left in reversed(range(5)):
        try:
            return FileSystems.rename([source], [destination])
        except BeamIOError:
            if not attempts_left:
                raise
            # hdfs:// does not rename onto a file that is there. Whoever wrote it wrote the same, so it may go; somebody
            # else may be doing just that, which is why it is tried several times.
            with contextlib.suppress(BeamIOError, OSError):
                FileSystems.delete([destination])
