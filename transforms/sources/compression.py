"""Compressed streams, told by their first bytes and read forwards: gzip, and zlib as TensorFlow's `ZLIB` writes it."""

from __future__ import annotations

import io
import zlib
from typing import BinaryIO, cast

from transforms.sources.files import gunzip, is_gzip

_OTHERS = ((b"BZh", "bzip2"), (b"\x28\xb5\x2f\xfd", "Zstandard"), (b"\xfd7zXZ", "xz"), (b"\x04\x22\x4d\x18", "LZ4"))

_PIECE = 1 << 18


def is_zlib(head: bytes) -> bool:
    """Whether a file that begins with `head` may be a zlib stream; one file in a thousand of others does too."""
    return len(head) >= 2 and head[0] & 0x8F == 0x08 and not head[1] & 0x20 and int.from_bytes(head[:2]) % 31 == 0


def other_compression(head: bytes) -> str | None:
    """What a file that begins with `head` is compressed with, where it is something that is not read."""
    return next((name for magic, name in _OTHERS if head.startswith(magic)), None)


def decompressed(file: BinaryIO, head: bytes) -> BinaryIO:
    """The stream in a file that begins with `head`, which may be plain; raises one of GZIP_DAMAGE where it breaks."""
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
        """Forwards only, by reading."""
        left = offset + (self._position if whence == 1 else 0) - self._position
        if whence == 2 or left < 0:
            raise io.UnsupportedOperation("a compressed stream is read forwards only")
        piece = memoryview(bytearray(min(left, _PIECE)))
        while left and (count := self.readinto(piece[: min(left, _PIECE)])):
            left -= count
        return self._position

    def tell(self) -> int:
        return self._position
