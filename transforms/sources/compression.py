"""Decompresses streams: gzip, and zlib as TensorFlow's `ZLIB` writes it. The first bytes tell which."""

from __future__ import annotations

import io
import zlib
from typing import BinaryIO, cast

from transforms.sources.files import gunzip, is_gzip

_OTHERS = ((b"BZh", "bzip2"), (b"\x28\xb5\x2f\xfd", "Zstandard"), (b"\xfd7zXZ", "xz"), (b"\x04\x22\x4d\x18", "LZ4"))

_PIECE = 1 << 18


def is_zlib(head: bytes) -> bool:
    """Whether a file that begins with `head` may be a zlib stream. One in a thousand other files also passes."""
    return len(head) >= 2 and head[0] & 0x8F == 0x08 and not head[1] & 0x20 and int.from_bytes(head[:2]) % 31 == 0


def other_compression(head: bytes) -> str | None:
    """The name of a compression that is not supported, if a file that begins with `head` has one."""
    return next((name for magic, name in _OTHERS if head.startswith(magic)), None)


def decompressed(file: BinaryIO, head: bytes) -> BinaryIO:
    """The decompressed stream of a file that begins with `head`; the file itself if it is not compressed.

    Reading the stream raises one of GZIP_DAMAGE where the file is damaged.
    """
    if is_gzip(head):
        return gunzip(file)
    return cast(BinaryIO, io.BufferedReader(_Zlib(file), _PIECE)) if is_zlib(head) else file


class _Zlib(io.RawIOBase):
    """Decompresses zlib streams, one after the other."""

    def __init__(self, file: BinaryIO):
        self._file = file
        self._stream = zlib.decompressobj()
        self._packed = b""
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while True:
            self._packed = self._packed or self._file.read(_PIECE)
            if self._stream.eof:
                if not self._packed:
                    return 0
                self._stream = zlib.decompressobj()
            ended = not self._packed
            data = self._stream.decompress(self._packed, len(buffer))
            self._packed = self._stream.unused_data if self._stream.eof else self._stream.unconsumed_tail
            if data:
                buffer[: len(data)] = data
                self._position += len(data)
                return len(data)
            if ended and not self._stream.eof:
                raise EOFError("the file ends before the stream does")

    def seek(self, offset: int, whence: int = 0) -> int:
        """Seeks forwards, by reading."""
        left = offset + (self._position if whence == 1 else 0) - self._position
        if whence == 2 or left < 0:
            raise io.UnsupportedOperation("a compressed stream is read forwards only")
        piece = memoryview(bytearray(min(left, _PIECE)))
        while left and (count := self.readinto(piece[: min(left, _PIECE)])):
            left -= count
        return self._position

    def tell(self) -> int:
        return self._position
