"""Reads, lists and replaces files on any file system that Beam knows."""

from __future__ import annotations

import contextlib
from typing import IO

from apache_beam.io.filesystem import BeamIOError, CompressionTypes, FileMetadata
from apache_beam.io.filesystems import FileSystems

from transforms.filesystems import STORE_ERRORS


def list_files(pattern: str) -> list[str]:
    """The paths that match a pattern; an empty list if the folder does not exist."""
    return [file.path for file in match(pattern)]


def match(pattern: str) -> list[FileMetadata]:
    """The files that match a pattern; an empty list if the folder does not exist."""
    try:
        return FileSystems.match([pattern])[0].metadata_list
    except BeamIOError:
        if not FileSystems.get_filesystem(pattern).has_dirs():
            raise  # an object store has no folders that could be missing
        return []


def read_bytes(path: str) -> bytes | None:
    """A file's content; None if there is no such file."""
    try:
        with open_file(path) as source:
            return source.read()
    except STORE_ERRORS:
        if FileSystems.exists(path):
            raise
        return None


def open_file(path: str) -> IO[bytes]:
    """Opens a file to read its bytes as they are stored."""
    return FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED)


def replace(source: str, destination: str) -> None:
    """Renames a file. It replaces a file that already has the new name."""
    for attempts_left in reversed(range(5)):
        try:
            return FileSystems.rename([source], [destination])
        except BeamIOError:
            if not attempts_left:
                raise
            # hdfs:// does not rename onto an existing file. That file has the same content, so it may be deleted.
            # Another worker may do the same at this moment, so there are several attempts.
            with contextlib.suppress(BeamIOError, OSError):
                FileSystems.delete([destination])
