"""Reads, lists, names and removes files on any file system that Beam knows, durably on local ones."""

from __future__ import annotations

import contextlib
import fnmatch
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import IO

from apache_beam.io.filesystem import BeamIOError, CompressionTypes, FileMetadata
from apache_beam.io.filesystems import FileSystems

from transforms.filesystems import STORE_ERRORS


class DamagedOutput(ValueError):
    """A file of an output is not as it was written. One sentence names the file and says what mends it."""


def damaged(path: str, reason: str) -> DamagedOutput:
    """The error for a file that the run writes again."""
    return DamagedOutput(f"{path} is damaged ({reason}); the same fullgrad run into this output mends it")


def is_local(path: str) -> bool:
    """Whether a path is on a local file system, where files can be linked and written through to the disk."""
    return FileSystems.get_scheme(path) is None


def list_files(pattern: str) -> list[str]:
    """The paths that match a pattern; an empty list if the folder does not exist."""
    return [file.path for file in match(pattern)]


def match(pattern: str) -> list[FileMetadata]:
    """The files that match a pattern, whose last part alone may have wildcards; an empty list without the folder.

    Raises:
      OSError: the folder cannot be listed.
    """
    if is_local(pattern):
        return _match_locally(pattern)
    try:
        return FileSystems.match([pattern])[0].metadata_list
    except BeamIOError:
        if not FileSystems.get_filesystem(pattern).has_dirs():
            raise  # an object store has no folders that could be missing
        return []


def _match_locally(pattern: str) -> list[FileMetadata]:
    """Like `match`. Beam would take a folder that may not be listed for an empty one."""
    folder, name = os.path.split(pattern)
    found = []
    try:
        with os.scandir(folder or ".") as entries:
            for entry in entries:
                if fnmatch.fnmatchcase(entry.name, name) and entry.is_file():
                    try:
                        about = entry.stat()
                    except FileNotFoundError:  # another process has just moved it
                        continue
                    found.append(FileMetadata(os.path.join(folder, entry.name), about.st_size, about.st_mtime))
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(found, key=lambda file: file.path)


def size_of(path: str) -> int | None:
    """A file's size in bytes; None if there is no such file."""
    found = match(path)
    return found[0].size_in_bytes if found else None


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
    """Renames a file. It replaces a file that already has the new name.

    Raises:
      OSError: it cannot be renamed, for example as another process has done so.
    """
    if is_local(source):
        return os.replace(source, destination)
    for attempts_left in reversed(range(5)):
        try:
            return FileSystems.rename([source], [destination])
        except BeamIOError:
            if not attempts_left or not FileSystems.exists(source):
                raise
            # hdfs:// does not rename onto an existing file. That file has the same content, so it may be deleted.
            # Another worker may do the same at this moment, so there are several attempts.
            with contextlib.suppress(*STORE_ERRORS):
                remove(destination)


def place_new(source: str, destination: str) -> bool:
    """Gives a whole file a name that no file has yet; the file is deleted if one has it.

    Local file systems decide this at one moment. Beam offers no such operation for stores: there a file that appears
    between the look and the write is replaced, so who needs to know reads the file back.

    Returns:
      Whether the file has the name now.
    """
    if is_local(destination):
        try:
            os.link(source, destination)
        except FileExistsError:
            os.remove(source)
            return False
        except OSError:  # a file system without links
            pass
        else:
            os.remove(source)
            sync_folder(os.path.dirname(destination))
            return True
    if FileSystems.exists(destination):
        remove(source)
        return False
    replace(source, destination)
    sync_folder(os.path.dirname(destination))
    return True


def remove(path: str) -> None:
    """Deletes a file. It may be gone already."""
    try:
        FileSystems.delete([path])
    except STORE_ERRORS:
        if FileSystems.exists(path):
            raise


def sync_file(file: IO[bytes], path: str) -> None:
    """Writes a local file that is open through to the disk. On other file systems, closing a file does that."""
    if is_local(path):
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: str) -> None:
    """Writes the names in a local folder through to the disk."""
    if is_local(folder):
        _sync(folder or ".")


def sync_all(paths: Iterable[str]) -> None:
    """Writes local files and folders through to the disk, all at once: the disk's journal then waits only once."""
    local = [path for path in paths if is_local(path)]
    if local:
        with ThreadPoolExecutor(len(local)) as pool:
            list(pool.map(_sync, local))


def _sync(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
