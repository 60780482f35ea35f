"""Opens, lists and reads files on any file system that Beam knows."""

from __future__ import annotations

import errno
import gzip
import os
import re
import stat
import zlib
from typing import BinaryIO, cast

from apache_beam.io.filesystem import CompressionTypes, FileMetadata
from apache_beam.io.filesystems import FileSystems

# The extensions of the formats in `images.decode.FORMATS`.
IMAGE_EXTENSIONS = frozenset(
    "jpg jpeg jpe jfif jif mpo png apng webp bmp dib gif tif tiff ppm pgm pbm pnm pfm "
    "jp2 j2k j2c jpc jpf jpx avif avifs".split()
)
# Images that cannot be decoded here. Each becomes an error row, so that none is lost silently.
OTHER_IMAGE_EXTENSIONS = frozenset(
    "heic heif hif jxl svg psd xcf ico tga exr pcx qoi dds dng cr2 cr3 nef arw orf rw2 raf dcm".split()
)
_ALL_IMAGE_EXTENSIONS = IMAGE_EXTENSIONS | OTHER_IMAGE_EXTENSIONS

# The errors of a truncated or corrupted gzip stream.
GZIP_DAMAGE = (EOFError, zlib.error, gzip.BadGzipFile)

# JPEG, PNG, GIF, BMP, TIFF in either order of bytes, JPEG 2000.
_IMAGE_BEGINNINGS = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"\0\0\0\x0cjP")

_PIECE = 16 << 20

# No file is longer. Offsets beyond 2^63 are no integers of the file system's.
_LONGEST_FILE = 1 << 60


# Errors of a single file that do not go away on a retry.
LASTING_ERRORS = (
    errno.ENOENT,
    errno.EACCES,
    errno.EPERM,
    errno.EISDIR,
    errno.ENOTDIR,
    errno.ELOOP,
    errno.ENAMETOOLONG,
    errno.EINVAL,
)


class NotAFile(OSError):
    """The path is a pipe, a socket or a device. Opening it could wait for ever, or never come to an end."""

    def __init__(self, path: str):
        super().__init__(errno.EINVAL, "it is a pipe, a socket or a device, and not a file", path)


def open_file(path: str) -> BinaryIO:
    """Opens a file to read its bytes as they are stored. Beam would otherwise decompress by name and could not seek.

    Raises:
      NotAFile: the path is neither a file nor a folder.
      OSError: it cannot be opened.
    """
    if is_special(path):
        raise NotAFile(path)
    return cast(BinaryIO, FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED))


def file_name(path: str) -> str:
    """The last part of a path or URL."""
    return path.rstrip("/").rsplit("/", 1)[-1]


def is_special(path: str) -> bool:
    """Whether a local path is a pipe, a socket or a device. A link is what it leads to."""
    if "://" in path:
        return False
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):  # opening it says why
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


def is_image(data: object) -> bool:
    """Whether bytes begin as a file of one of the usual formats of images does."""
    if not isinstance(data, bytes):
        return False
    return data.startswith(_IMAGE_BEGINNINGS) or data[4:12] in (b"ftypavif", b"ftypheic") or data[8:12] == b"WEBP"


def is_image_name(name: str) -> bool:
    """Whether a file's name is that of an image and not hidden."""
    stem, _, extension = name.rpartition(".")
    return bool(stem) and not name.startswith(".") and extension.lower() in _ALL_IMAGE_EXTENSIONS


def list_folder(folder: str, below: str = "*") -> list[FileMetadata]:
    """Files in a folder that match the pattern `below`, sorted by path; hidden ones (`.name`) are left out."""
    # Beam's patterns have no escape, so a folder called `a[1]` is looked for as `a?1]` and others are dropped again.
    pattern = re.sub(r"[\[*?]", "?", folder) + "/" + below
    found = FileSystems.match([pattern])[0].metadata_list
    inside = [file for file in found if file.path.startswith(folder + "/") and not file_name(file.path).startswith(".")]
    return sorted(inside, key=lambda file: file.path)


def is_gzip(head: bytes) -> bool:
    """Whether a file that begins with `head` is gzip with deflate, its only method."""
    return head[:3] == b"\x1f\x8b\x08"


def gunzip(file: BinaryIO) -> BinaryIO:
    """The decompressed stream of all members of a gzip file. Reading it raises one of GZIP_DAMAGE at damage."""
    return cast(BinaryIO, gzip.GzipFile(fileobj=file))


def read_up_to(file: BinaryIO, length: int) -> bytes:
    """Reads the next `length` bytes, or fewer if the file ends.

    It reads in pieces, because a damaged header may claim a length that cannot be allocated.
    """
    data = file.read(min(length, _PIECE))
    if len(data) == length:
        return data
    pieces = [data]
    missing = length - len(data)
    while missing and pieces[-1]:
        pieces.append(file.read(min(missing, _PIECE)))
        missing -= len(pieces[-1])
    return b"".join(pieces)


def skip(file: BinaryIO, length: int) -> bool:
    """Skips `length` bytes, without reading them if the file can seek. False if the file ends before."""
    if length == 0:
        return True
    if length > _LONGEST_FILE:
        return False
    # Seeking past the end is not an error, but reading there gives nothing.
    file.seek(length - 1, 1)
    return len(file.read(1)) == 1
