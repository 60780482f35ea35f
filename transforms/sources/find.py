"""Finds the shards for paths and globs: their files or folders, formats, and the labels of class folders."""

from __future__ import annotations

import dataclasses
import glob
import os
import re
from collections.abc import Sequence

from apache_beam.io.filesystem import BeamIOError, FileMetadata
from apache_beam.io.filesystems import FileSystems

from transforms.sources.base import UnreadableInput
from transforms.sources.class_folders import ClassFolders, Contents, is_split
from transforms.sources.compression import decompressed
from transforms.sources.files import (
    GZIP_DAMAGE,
    file_name,
    is_image_name,
    is_special,
    list_folder,
    open_file,
    read_up_to,
)
from transforms.sources.tfrecord import is_frame_header
from transforms.sources.tree import LeftOut, is_hidden
from transforms.unit import Shard

FORMATS = ("tfrecord", "webdataset", "parquet", "folder")

_GLOB = re.compile(r"[*?\[]")

_NAMES = (
    # Includes `x.tfrecord-00000-of-00008`, as TensorFlow's writers name shards, and Kaggle's `.tfrec`.
    ("tfrecord", re.compile(r"\.tfrec(ords?)?([.-]|$)", re.IGNORECASE)),
    ("webdataset", re.compile(r"\.(tar|tar\.gz|tgz)$", re.IGNORECASE)),
    ("parquet", re.compile(r"\.(parquet|pq)$", re.IGNORECASE)),
)


def find_shards(
    patterns: str | Sequence[str],
    format: str = "auto",
    class_names: Sequence[str | None] | None = None,
    outputs: int | None = None,
    *,
    labelled: bool = True,
    left_out: LeftOut | None = None,
) -> list[Shard]:
    """Finds the shards for patterns.

    A folder gives one shard per sub-folder with images; the sub-folder is its class. If all images are in the folder
    itself, it gives one shard without a label. Class folders are searched to any depth, and links are followed. Their
    order is that of Keras' `image_dataset_from_directory`. A folder without images stands for the shard files in it. A
    glob that matches folders of images, such as `data/*`, stands for these class folders.

    Args:
      patterns: one or several paths or globs on any file system that Beam knows. Local paths are made absolute, because
        workers have other working directories.
      format: one of FORMATS, or `auto`, which uses the name, else the first bytes.
      class_names: the names of the model's classes. If all class folders have such names, these give their labels.
      outputs: the model's number of classes. Class folders with other names are labelled in sorted order if there are
        as many as classes. Leave out `class_names` and `outputs` if labels are not wanted.
      labelled: whether labels are wanted. Without labels, a folder may have images both in itself and in sub-folders.
      left_out: gets what was found in folders and is not read.

    Returns:
      The shards in the order of the patterns, each once. Those of one pattern are sorted by path.

    Raises:
      UnreadableInput: nothing matches, the format is unknown, there are several formats, or class folders cannot be
        labelled.
    """
    if format not in ("auto", *FORMATS):
        raise UnreadableInput(f"format {format!r} is not one of auto, {', '.join(FORMATS)}")
    search = _Search(_Detection(format), labelled, LeftOut() if left_out is None else left_out)
    shards: dict[str, Shard] = {}
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        try:
            found = search.shards_of(pattern)
        except OSError as error:  # Beam's own errors are OSErrors too; they wrap the errors that tell why
            reasons = getattr(error, "exception_details", None) or {pattern: error}
            raise UnreadableInput(f"{pattern!r} cannot be read: {'; '.join(map(str, reasons.values()))}") from error
        for shard in found:
            shards.setdefault(shard.path, shard)
    if not shards:
        raise UnreadableInput("the list of shards is empty")
    examples = {shard.format: shard.path for shard in reversed(shards.values())}
    if len(examples) > 1:
        listing = ", ".join(f"{kind} ({path})" for kind, path in sorted(examples.items()))
        raise UnreadableInput(f"the shards are of several formats, {listing}; give those of one")
    labels = search.classes.labels(class_names, outputs)
    return [
        dataclasses.replace(shard, label=labels[shard.path]) if shard.path in labels else shard
        for shard in shards.values()
    ]


class _Detection:
    """Detects a file's format by its name, else by its content."""

    def __init__(self, format: str):
        self.configured = format
        self._by_name_shape: dict[str, str | None] = {}

    def __call__(self, path: str) -> str | None:
        """The format, `image` for a single image, or None if it is unknown."""
        format = _format_of_name(file_name(path))
        if format is not None:
            return format
        # Opening each of a thousand files `train-00000-of-01024` on a remote file system would take minutes.
        shape = re.sub(r"\d+", "0", path)
        if shape not in self._by_name_shape:
            self._by_name_shape[shape] = _format_of_content(path)
        return self._by_name_shape[shape]


class _Search:
    """Searches the shards for patterns. Collects the class folders among them, and what is left out."""

    def __init__(self, detect: _Detection, labelled: bool, left_out: LeftOut):
        self.classes = ClassFolders()
        self._detect = detect
        self._labelled = labelled
        self._left_out = left_out

    def shards_of(self, pattern: str) -> list[Shard]:
        path = _normalised(pattern)
        # A name with brackets is not a glob if a file or folder has that name.
        if _GLOB.search(path) and not FileSystems.exists(path):
            return self._of_glob(path, pattern)
        if _is_folder(path):
            return self._in_folder(path)
        files = [file for file in FileSystems.match([_GLOB.sub("?", path)])[0].metadata_list if file.path == path]
        if not files:
            raise UnreadableInput(f"no file or folder matches {pattern!r}")
        return [self._of_file(file) for file in files]

    def _of_glob(self, path: str, pattern: str) -> list[Shard]:
        files = sorted(FileSystems.match([path])[0].metadata_list, key=lambda file: file.path)
        named = [_format_of_name(file_name(file.path)) for file in files]
        if self._detect.configured in ("auto", "folder") and not set(named) & set(FORMATS):
            if path.endswith("/**") and _is_folder(path[:-3]) and "image" in named:
                return self._in_folder(path[:-3])
            folders = _matching_folders(path)
            contents = {folder: Contents.of(folder) for folder in folders if not is_hidden(file_name(folder))}
            if any(each.own or each.nested for each in contents.values()):
                for file in files:
                    if is_image_name(file_name(file.path)):
                        self._left_out.add("image beside the folders", file.path)
                    else:
                        self._left_out.add_file(file.path)
                for folder in folders:
                    if folder not in contents:
                        self._left_out.add("hidden folder", folder)
                return self._of_folders(contents)
        if not files:
            raise UnreadableInput(f"no file or folder matches {pattern!r}")
        plain = [file for file in files if not is_special(file.path)]
        for file in files:
            if is_special(file.path):
                self._left_out.add("special file", file.path)
        if not plain:
            raise UnreadableInput(f"{pattern!r} matches only pipes, sockets or devices; it must match files")
        return [self._of_file(file) for file in plain]

    def _of_folders(self, contents: dict[str, Contents]) -> list[Shard]:
        """The shards of folders that a glob matches. Each folder is a class, unless all have names of dataset parts."""
        if all(is_split(file_name(folder)) for folder in contents):
            return [
                shard
                for folder, each in contents.items()
                if each.own or each.nested
                for shard in self._in_folder(folder)
            ]
        shards = []
        for folder, each in contents.items():
            self._left_out.update(each.left_out, folder)
            images = each.own + each.nested
            self.classes.add(folder, images, each.with_images)
            if images:
                shards.append(Shard(folder, "folder", images))
            else:
                self._left_out.add("folder without images", folder)
        return shards

    def _of_file(self, file: FileMetadata) -> Shard:
        configured = self._detect.configured
        if is_special(file.path):
            raise UnreadableInput(f"{file.path} is a pipe, a socket or a device; it must be a file or a folder")
        if configured == "folder":
            raise UnreadableInput(f"{file.path} is not a folder with images in it")
        format = configured if configured != "auto" else self._detect(file.path)
        if format == "image":
            raise UnreadableInput(f"{file.path} is a single image; give the folder it is in")
        if format is None:
            what = "is empty" if file.size_in_bytes == 0 else "looks like no TFRecord, tar or Parquet file"
            raise UnreadableInput(f"{file.path} {what}; set input.format to say what it is")
        return Shard(file.path, format, file.size_in_bytes)

    def _in_folder(self, folder: str) -> list[Shard]:
        configured = self._detect.configured
        contents = Contents.of(folder) if configured in ("auto", "folder") else None
        if contents is not None and (contents.own or contents.nested):
            return self._of_images(folder, contents)
        shards = []
        left_out = LeftOut()
        for file in list_folder(folder):
            if is_special(file.path):
                left_out.add("special file", file_name(file.path))
                continue
            format = self._detect(file.path)
            if format is not None and format in (FORMATS if configured == "auto" else (configured,)):
                shards.append(Shard(file.path, format, file.size_in_bytes))
            else:
                left_out.add_file(file_name(file.path))
        if not shards:
            sought = {"auto": "images or shards", "folder": "images"}.get(configured, f"{configured} shards")
            there = left_out if contents is None else contents.left_out
            raise UnreadableInput(f"{folder} holds no {sought}{f'; there is {there}' if there else ', it is empty'}")
        self._left_out.update(left_out, folder)
        return shards

    def _of_images(self, folder: str, contents: Contents) -> list[Shard]:
        """The shards of a folder with images at any depth."""
        self._left_out.update(contents.left_out, folder)
        if not contents.nested:
            return [Shard(folder, "folder", contents.own)]
        if contents.own and not self._labelled:
            return [Shard(folder, "folder", contents.own + contents.nested)]
        with_images = contents.with_images
        if contents.own:
            raise UnreadableInput(
                f"{folder} has {contents.own} images itself and others in {len(with_images)} sub-folders; move them "
                f"into a folder of their own, give {folder}/* for the sub-folders alone, or set input.fields.label to "
                "'' to take all of them without labels"
            )
        if self._detect.configured == "auto":
            for file in list_folder(folder):
                format = _format_of_name(file_name(file.path))
                if format in ("tfrecord", "webdataset"):
                    raise UnreadableInput(
                        f"{folder} has shards itself ({file.path}) and images in {len(with_images)} sub-folders; set "
                        f"input.format to {format} or to folder to say which are meant"
                    )
        for name in sorted(contents.below):
            self.classes.add(f"{folder}/{name}", contents.below[name], contents.inner.get(name, ()))
        return [Shard(f"{folder}/{name}", "folder", contents.below[name]) for name in sorted(with_images)]


def _format_of_name(name: str) -> str | None:
    """The format by a file's name, `image` for a single image, or None."""
    found = next((format for format, pattern in _NAMES if pattern.search(name)), None)
    return "image" if found is None and is_image_name(name) else found


def _matching_folders(pattern: str) -> list[str]:
    """The folders that match a glob, sorted by path."""
    if FileSystems.get_scheme(pattern) is None:
        found = {path for path in glob.glob(pattern) if os.path.isdir(path)}
    elif "**" in pattern:
        return []
    else:
        depth = pattern.count("/") + 1
        inside = FileSystems.match([f"{pattern}/**"])[0].metadata_list
        found = {"/".join(file.path.split("/")[:depth]) for file in inside}
    return sorted(found)


def _normalised(pattern: str) -> str:
    """The pattern without a slash at the end; a local one is made absolute."""
    try:
        scheme = FileSystems.get_scheme(pattern)
        FileSystems.get_filesystem(pattern)
    except (ValueError, BeamIOError) as error:
        raise UnreadableInput(f"{pattern!r} is on no file system that is installed here: {error}") from error
    return os.path.abspath(pattern) if scheme is None else pattern.rstrip("/")


def _is_folder(path: str) -> bool:
    """Whether a path is a folder. In an object store, a path is a folder if files are below it."""
    if FileSystems.get_scheme(path) is None:
        return os.path.isdir(path)
    pattern = _GLOB.sub("?", path) + "/**"
    limit = None if _GLOB.search(path) else 1
    return any(file.path.startswith(path + "/") for file in FileSystems.match([pattern], [limit])[0].metadata_list)


def _format_of_content(path: str) -> str | None:
    with open_file(path) as file:
        head = file.read(512)
        if (format := _format_of_head(head)) is not None:
            return format
        file.seek(0)
        try:
            return _format_of_head(read_up_to(decompressed(file, head), 512))
        except GZIP_DAMAGE:
            return None


def _format_of_head(head: bytes) -> str | None:
    if is_frame_header(head):
        return "tfrecord"
    if head[257:262] == b"ustar":
        return "webdataset"
    return "parquet" if head[:4] == b"PAR1" else None
