"""The images below a folder, on any file system: links are followed, and what is left out is counted."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterator
from typing import Literal

from apache_beam.io.filesystems import FileSystems

from transforms.sources.files import file_name, is_image_name

# Folders that other programs make beside images: resource forks of macOS, thumbnails of Synology's servers.
_FOREIGN = ("__MACOSX", "@eaDir")


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """Something below a folder.

    Attributes:
      kind: `image`, a file that is called as images are; `folder`; or `unreadable`, a folder that cannot be listed.
      path: from the folder that is listed, such as `cat/kaggle/x.png`.
      problem: why a folder cannot be listed; empty otherwise.
    """

    kind: Literal["image", "folder", "unreadable"]
    path: str
    problem: str = ""


class LeftOut:
    """What is no image or is not read, counted by kind."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._examples: dict[str, str] = {}

    def add(self, kind: str, path: str) -> None:
        """Counts one more of a kind, which is named in the singular."""
        self._counts[kind] = self._counts.get(kind, 0) + 1
        self._examples.setdefault(kind, path)

    def add_file(self, path: str) -> None:
        """Counts a file that is not called as images are."""
        name = file_name(path)
        if name.startswith("."):
            self.add("hidden file", path)
        elif "." in name:
            self.add(f".{name.rpartition('.')[2].lower()[:20]} file", path)
        else:
            self.add("file without an extension", path)

    def update(self, other: LeftOut, folder: str) -> None:
        """Adds what was left out of a folder, whose paths are from there."""
        for kind, count in other._counts.items():
            self._counts[kind] = self._counts.get(kind, 0) + count
            self._examples.setdefault(kind, f"{folder}/{other._examples[kind]}")

    def __bool__(self) -> bool:
        return bool(self._counts)

    def __str__(self) -> str:
        """`2 hidden files (such as cat/.x), 1 .txt file (cat/notes.txt)`: the most frequent first."""
        parts = []
        for kind, count in sorted(self._counts.items(), key=lambda item: -item[1]):
            noun = kind if count == 1 else re.sub(r"\b(file|folder|link|image)\b", r"\1s", kind, count=1)
            parts.append(f"{count:,} {noun} ({'' if count == 1 else 'such as '}{self._examples[kind]})")
        shown = parts[:8]
        return ", ".join(shown) + (f" and {len(parts) - 8} further kinds" if len(parts) > 8 else "")


def walk(folder: str, left_out: LeftOut | None = None) -> Iterator[Entry]:
    """Everything below a folder, in no order.

    Links are followed, but not one that leads back to a folder above it. Hidden files and folders (`.name`, `__MACOSX`,
    `@eaDir`) and files that are not called as images are counted in `left_out`. A link to an image that is not there is
    an image, whose reading fails.

    Raises:
      OSError: the folder itself cannot be listed.
    """
    left_out = LeftOut() if left_out is None else left_out
    if FileSystems.get_scheme(folder) is None:
        return _walk_local(folder, "", (_identity(os.stat(folder)),), left_out)
    return _walk_remote(folder, left_out)


def image_entries(folder: str) -> list[Entry]:
    """The images below a folder, and the folders that cannot be listed, folder by folder and by name in each: the order
    in which Keras' `image_dataset_from_directory` takes them."""
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
    except OSError:  # a link to itself, or one into a folder that may not be entered
        return False


def _file(file: os.DirEntry[str], path: str, left_out: LeftOut) -> Iterator[Entry]:
    # What is a plain file is known without another look at the disk.
    plain = file.is_file(follow_symlinks=False)
    there = plain or os.path.exists(file.path)
    if there and not plain and not os.path.isfile(file.path):
        left_out.add("special file", path)  # such as a pipe, whose opening would wait for ever
    elif is_image_name(file.name):
        yield Entry("image", path)
    elif not there:
        left_out.add("link that leads nowhere", path)
    else:
        left_out.add_file(path)


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def is_hidden(name: str) -> bool:
    """Whether a folder is not for images, by its name."""
    return name.startswith(".") or name in _FOREIGN


def _walk_remote(folder: str, left_out: LeftOut) -> Iterator[Entry]:
    """The same where names that begin alike are all there is of folders."""
    # Beam's patterns have no escape, so a folder called `a[1]` is looked for as `a?1]` and others are dropped again.
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
