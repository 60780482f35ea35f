"""Lists the images below a folder on any file system. Follows links, and counts what is left out."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterator
from typing import Literal

from apache_beam.io.filesystems import FileSystems

from transforms.sources.files import file_name, is_image_name

# Folders that other programs make beside images: macOS' resource forks and Synology's thumbnails.
_FOREIGN = ("__MACOSX", "@eaDir")


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """A file or folder below a folder.

    Attributes:
      kind: `image`, a file with an image's name; `folder`; or `unreadable`, a folder that cannot be listed.
      path: the path from the listed folder, such as `cat/kaggle/x.png`.
      problem: why the folder cannot be listed; empty otherwise.
    """

    kind: Literal["image", "folder", "unreadable"]
    path: str
    problem: str = ""


class LeftOut:
    """Counts, by kind, what is not an image or is not read."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._examples: dict[str, str] = {}

    def add(self, kind: str, path: str) -> None:
        """Counts one more of a kind. `kind` is in the singular."""
        self._counts[kind] = self._counts.get(kind, 0) + 1
        self._examples.setdefault(kind, path)

    def add_file(self, path: str) -> None:
        """Counts a file without an image's name."""
        name = file_name(path)
        if name.startswith("."):
            self.add("hidden file", path)
        elif "." in name:
            self.add(f".{name.rpartition('.')[2].lower()[:20]} file", path)
        else:
            self.add("file without an extension", path)

    def update(self, other: LeftOut, folder: str) -> None:
        """Adds what was left out in a folder. The other's paths are relative to that folder."""
        for kind, count in other._counts.items():
            self._counts[kind] = self._counts.get(kind, 0) + count
            self._examples.setdefault(kind, f"{folder}/{other._examples[kind]}")

    def __bool__(self) -> bool:
        return bool(self._counts)

    def __str__(self) -> str:
        """Such as `2 hidden files (such as cat/.x), 1 .txt file (cat/notes.txt)`, the most frequent kind first."""
        parts = []
        for kind, count in sorted(self._counts.items(), key=lambda item: -item[1]):
            noun = kind if count == 1 else re.sub(r"\b(file|folder|link|image)\b", r"\1s", kind, count=1)
            parts.append(f"{count:,} {noun} ({'' if count == 1 else 'such as '}{self._examples[kind]})")
        shown = parts[:8]
        return ", ".join(shown) + (f" and {len(parts) - 8} further kinds" if len(parts) > 8 else "")


def walk(folder: str, left_out: LeftOut | None = None) -> Iterator[Entry]:
    """Yields everything below a folder, in no particular order.

    Links are followed, except to a folder above them. Hidden files and folders (`.name`, `__MACOSX`, `@eaDir`) and
    files without an image's name are counted in `left_out`. A broken link with an image's name is an image; reading it
    fails.

    Raises:
      OSError: the folder itself cannot be listed.
    """
    left_out = LeftOut() if left_out is None else left_out
    if FileSystems.get_scheme(folder) is None:
        return _walk_local(folder, "", (_identity(os.stat(folder)),), left_out)
    return _walk_remote(folder, left_out)


def image_entries(folder: str) -> list[Entry]:
    """The images below a folder, and the folders that cannot be listed.

    They come folder by folder, and by name within a folder, as in Keras' `image_dataset_from_directory`.
    """
    try:
        entries = [entry for entry in walk(folder) if entry.kind != "folder"]
    except PermissionError as error:
        return [Entry("unreadable", "", (error.strerror or str(error)).lower())]
    return sorted(entries, key=lambda entry: entry.path.rpartition("/")[::2])


def _walk_local(folder: str, below: str, above: tuple[tuple[int, int], ...], left_out: LeftOut) -> Iterator[Entry]:
    with os.scandir(os.path.join(folder, below)) as scan:
        found = list(scan)
    for file in found:
        path = f"{below}{file.name}"
        if not _is_folder(file):
            yield from _file(file, path, left_out)
        elif is_hidden(file.name):
            left_out.add("hidden folder", path)
        elif (identity := _identity(file.stat())) in above:
            left_out.add("link to a folder above it", path)
        else:
            yield Entry("folder", path)
            try:
                yield from _walk_local(folder, f"{path}/", (*above, identity), left_out)
            except PermissionError as error:
                yield Entry("unreadable", path, (error.strerror or str(error)).lower())


def _is_folder(file: os.DirEntry[str]) -> bool:
    try:
        return file.is_dir()
    except OSError:  # a link to itself, or into a folder without access
        return False


def _file(file: os.DirEntry[str], path: str, left_out: LeftOut) -> Iterator[Entry]:
    # Whether it is a plain file is known without another access to the disk.
    plain = file.is_file(follow_symlinks=False)
    there = plain or os.path.exists(file.path)
    if there and not plain and not os.path.isfile(file.path):
        left_out.add("special file", path)  # such as a pipe; opening it would wait for ever
    elif is_image_name(file.name):
        yield Entry("image", path)
    elif not there:
        left_out.add("link that leads nowhere", path)
    else:
        left_out.add_file(path)


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def is_hidden(name: str) -> bool:
    """Whether a folder is left out because of its name."""
    return name.startswith(".") or name in _FOREIGN


def _walk_remote(folder: str, left_out: LeftOut) -> Iterator[Entry]:
    """`walk` on a store without real folders, where a folder is only a common start of names."""
    # Beam's patterns have no escape. A folder called `a[1]` is searched as `a?1]`, and other matches are dropped.
    pattern = re.sub(r"[\[*?]", "?", folder) + "/**"
    folders: set[str] = set()
    for file in FileSystems.match([pattern])[0].metadata_list:
        if not file.path.startswith(folder + "/"):
            continue
        path = file.path[len(folder) + 1 :]
        *parents, name = path.split("/")
        hidden = next((i for i, parent in enumerate(parents, 1) if is_hidden(parent)), None)
        if hidden is not None:
            left_out.add("file in a hidden folder", path)
            continue
        for depth in range(len(parents), 0, -1):
            parent = "/".join(parents[:depth])
            if parent in folders:
                break
            folders.add(parent)
            yield Entry("folder", parent)
        if not name:  # an object that stands for a folder
            continue
        if is_image_name(name):
            yield Entry("image", path)
        else:
            left_out.add_file(path)
