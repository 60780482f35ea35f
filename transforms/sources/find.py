"""Finds shards: from paths and globs to files and folders, their formats, and the labels of class folders."""

from __future__ import annotations

import dataclasses
import os
import re
from collections import Counter
from collections.abc import Sequence

from apache_beam.io.filesystem import BeamIOError, FileMetadata
from apache_beam.io.filesystems import FileSystems

from transforms.labels import places_of
from transforms.sources.base import UnreadableInput, listed
from transforms.sources.compression import decompressed
from transforms.sources.files import (
    GZIP_DAMAGE,
    file_name,
    is_image_name,
    list_folder,
    open_file,
    read_up_to,
)
from transforms.sources.tfrecord import is_frame_header
from transforms.unit import Shard

FORMATS = ("tfrecord", "webdataset", "parquet", "folder")

_GLOB = re.compile(r"[*?\[]")

_NAMES = (
    # Also `x.tfrecord-00000-of-00008`, as TensorFlow's writers name shards, and Kaggle's `.tfrec`.
    ("tfrecord", re.compile(r"\.tfrec(ords?)?([.-]|$)", re.IGNORECASE)),
    ("webdataset", re.compile(r"\.(tar|tar\.gz|tgz)$", re.IGNORECASE)),
    ("parquet", re.compile(r"\.(parquet|pq)$", re.IGNORECASE)),
)


def find_shards(
    patterns: str | Sequence[str],
    format: str = "auto",
    class_names: Sequence[str] | None = None,
    outputs: int | None = None,
) -> list[Shard]:
    """Finds the shards that patterns stand for.

    A folder is one shard per sub-folder with images, its class, or one without a label where the images are in the
    folder itself; nothing nested deeper is searched. A folder without images stands for the shard files in it.

    Args:
      patterns: a path or glob, or several, on any file system that Beam knows. Local paths are made absolute: workers
        have other working directories.
      format: one of FORMATS, or `auto`: by name, else by the first bytes.
      class_names: of the model's outputs. Class folders that are all called by these names get their places as labels.
      outputs: how many classes the model has. Class folders with other names are labelled in sorted order if there
        are that many of them. Leave both out where labels are not wanted.

    Returns:
      The shards, in the order of the patterns, those of one pattern sorted by path, each once.

    Raises:
      UnreadableInput: nothing is there, it is of no known format or of several, or class folders cannot be labelled.
    """
    if format not in ("auto", *FORMATS):
        raise UnreadableInput(f"format {format!r} is not one of auto, {', '.join(FORMATS)}")
    shards: dict[str, Shard] = {}
    classes: dict[str, str] = {}
    detect = _Detection(format)
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        try:
            found = _shards_of(pattern, detect, classes)
        except OSError as error:  # Beam's own errors are of this kind too, around those that tell why
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
    labels = _labels(sorted(set(classes.values())), class_names, outputs) if classes else {}
    return [
        dataclasses.replace(shard, label=labels[classes[shard.path]]) if shard.path in classes else shard
        for shard in shards.values()
    ]


class _Detection:
    """Tells a file's format, looking into files only where the names do not tell."""

    def __init__(self, format: str):
        self.configured = format
        self._by_name_shape: dict[str, str | None] = {}

    def __call__(self, path: str) -> str | None:
        """The format, or `image` for a single image, or None where it is none that is known."""
        name = file_name(path)
        for format, pattern in _NAMES:
            if pattern.search(name):
                return format
        if is_image_name(name):
            return "image"
        # Looking into each of a thousand `train-00000-of-01024` on a remote file system would take minutes.
        shape = re.sub(r"\d+", "0", path)
        if shape not in self._by_name_shape:
            self._by_name_shape[shape] = _format_of_content(path)
        return self._by_name_shape[shape]


def _shards_of(pattern: str, detect: _Detection, classes: dict[str, str]) -> list[Shard]:
    """The shards of one pattern; notes for each class folder among them what its class is called."""
    path = _normalised(pattern)
    # A name with brackets in it is no glob if there is something of that name.
    if _GLOB.search(path) and not FileSystems.exists(path):
        files = FileSystems.match([path])[0].metadata_list
    elif _is_folder(path):
        return _shards_in_folder(path, detect, classes)
    else:
        files = [file for file in FileSystems.match([_GLOB.sub("?", path)])[0].metadata_list if file.path == path]
    if not files:
        raise UnreadableInput(f"no file or folder matches {pattern!r}")
    return [_shard_of_file(file, detect) for file in sorted(files, key=lambda file: file.path)]


def _shard_of_file(file: FileMetadata, detect: _Detection) -> Shard:
    if detect.configured == "folder":
        raise UnreadableInput(f"{file.path} is not a folder with images in it")
    format = detect.configured if detect.configured != "auto" else detect(file.path)
    if format == "image":
        raise UnreadableInput(f"{file.path} is a single image; give the folder it is in")
    if format is None:
        what = "is empty" if file.size_in_bytes == 0 else "looks like no TFRecord, tar or Parquet file"
        raise UnreadableInput(f"{file.path} {what}; input.format says what it is where this cannot be seen")
    return Shard(file.path, format, file.size_in_bytes)


def _shards_in_folder(folder: str, detect: _Detection, classes: dict[str, str]) -> list[Shard]:
    files = list_folder(folder)
    flat = sum(is_image_name(file_name(file.path)) for file in files)
    if detect.configured in ("auto", "folder"):
        counts: Counter[str] = Counter()
        for file in list_folder(folder, "*/*"):
            parent, _, name = file.path.rpartition("/")
            if is_image_name(name) and not file_name(parent).startswith("."):
                counts[parent] += 1
        if flat and counts:
            raise UnreadableInput(
                f"{folder} has {flat} images itself and others in {len(counts)} sub-folders; give one kind of them, "
                "the class folders' parent or a flat folder"
            )
        if flat:
            return [Shard(folder, "folder", flat)]
        if counts:
            classes.update((parent, file_name(parent)) for parent in counts)
            return [Shard(parent, "folder", counts[parent]) for parent in sorted(counts)]
    shards = []
    for file in files:
        format = detect(file.path)
        if format is not None and format in (FORMATS if detect.configured == "auto" else (detect.configured,)):
            shards.append(Shard(file.path, format, file.size_in_bytes))
    if not shards:
        sought = {"auto": "images or shards", "folder": "images"}.get(detect.configured, f"{detect.configured} shards")
        raise UnreadableInput(f"{folder} holds no {sought}; folders deeper than its sub-folders are not searched")
    return shards


def _labels(folders: list[str], class_names: Sequence[str] | None, outputs: int | None) -> dict[str, int]:
    """Class indices for the names of class folders.

    Raises:
      UnreadableInput: there is no telling which class a folder is.
    """
    places = places_of(class_names or ())
    unknown = [name for name in folders if name not in places]
    if shared := [name for name in folders if len(places.get(name, ())) > 1]:
        raise UnreadableInput(
            f"the class folders {listed(shared)} are called as several classes are in model.class_names each; give "
            "every class a name of its own there, or set input.fields.label to '' to go without labels"
        )
    if not unknown:
        return {name: places[name][0] for name in folders}
    if class_names and len(unknown) < len(folders):
        # Counting would label the others by their sorted order, which need not be that of the class names.
        raise UnreadableInput(
            f"the class folders {listed(unknown)} are not among the model.class_names, while others are; rename them, "
            "or set input.fields.label to '' to go without labels"
        )
    if outputs is not None and outputs != len(folders):
        raise UnreadableInput(
            f"there are {len(folders)} class folders ({listed(folders)}) but the model has {outputs} classes; give "
            "model.class_names in which these folders' names are, or set input.fields.label to '' to go without labels"
        )
    return {name: place for place, name in enumerate(folders)}


def _normalised(pattern: str) -> str:
    """Absolute where it is local, without a slash at the end."""
    try:
        scheme = FileSystems.get_scheme(pattern)
        FileSystems.get_filesystem(pattern)
    except (ValueError, BeamIOError) as error:
        raise UnreadableInput(f"{pattern!r} is on no file system that is installed here: {error}") from error
    return os.path.abspath(pattern) if scheme is None else pattern.rstrip("/")


def _is_folder(path: str) -> bool:
    """Whether a path is a folder; in an object store that is any path that files are under."""
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
