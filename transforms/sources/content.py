"""Tells whether a shard still contains what it contained, without reading all of it."""

from __future__ import annotations

import hashlib

from apache_beam.io.filesystems import FileSystems

from transforms.sources.files import open_file
from transforms.sources.tree import image_entries
from transforms.unit import Shard

# A file's pieces: its beginning, its end and places between. A file of up to 1 MiB is read as a whole.
_PIECES = 16
_PIECE = 64 << 10

# A folder's images of which the beginning is read, spread evenly.
_IMAGES = 64
_BEGINNING = 16 << 10

# Stores whose own checksum covers the content. It takes one request.
_WITH_CHECKSUM = ("gs", "s3")


def content_hash(shard: Shard) -> str:
    """A hash of what a shard contains: the same for a copy elsewhere, another after almost any change.

    For a file on gs:// or s3://, it is the store's own checksum. For other files it covers the size and 16 pieces of
    64 KiB, from the beginning to the end. For a folder it covers the images' names, and the beginnings of 64 of them.
    A change of the same length between the pieces is not seen.

    Raises:
      OSError, or another of `STORE_ERRORS`: the shard cannot be read.
    """
    if shard.format == "folder":
        return _of_folder(shard.path)
    if FileSystems.get_scheme(shard.path) in _WITH_CHECKSUM:
        return f"store:{FileSystems.checksum(shard.path)}"
    return _of_file(shard.path, shard.size)


def _of_file(path: str, size: int) -> str:
    digest = hashlib.blake2b(str(size).encode(), digest_size=16)
    with open_file(path) as file:
        if size <= _PIECES * _PIECE:
            digest.update(file.read(_PIECES * _PIECE))
        else:
            for piece in range(_PIECES):
                file.seek((size - _PIECE) * piece // (_PIECES - 1))
                digest.update(file.read(_PIECE))
    return digest.hexdigest()


def _of_folder(path: str) -> str:
    digest = hashlib.blake2b(digest_size=16)
    images = [entry for entry in image_entries(path) if entry.kind == "image"]
    for entry in images:
        digest.update(entry.path.encode(errors="surrogateescape") + b"\0")
    for number in range(min(_IMAGES, len(images))):
        entry = images[number * len(images) // min(_IMAGES, len(images))]
        try:
            with open_file(f"{path}/{entry.path}") as file:
                digest.update(file.read(_BEGINNING))
        except OSError:  # such as a broken link, which is an error row of its own
            digest.update(b"unreadable")
    return digest.hexdigest()
