"""Reads and writes the output's Parquet files, with a checksum for every page and for the whole file."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from typing import IO, Any

import google_crc32c
import pyarrow as pa
import pyarrow.parquet as pq

from transforms.output.files import damaged, open_file
from transforms.unit import Part

_PIECE = 8 << 20


class CheckedSink(io.RawIOBase):
    """Passes bytes on to a file, and counts them. `part` is the size and the CRC32C of all bytes so far."""

    def __init__(self, sink: IO[bytes]):
        super().__init__()
        self._sink = sink
        self._checksum = google_crc32c.Checksum()
        self._size = 0

    @property
    def part(self) -> Part:
        return Part(self._size, self._checksum.digest().hex())

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        content = bytes(data)
        self._sink.write(content)
        self._checksum.update(content)
        self._size += len(content)
        return len(content)


def part_of_file(path: str) -> Part:
    """The size and the CRC32C of a file, which is read as a whole."""
    checksum, size = google_crc32c.Checksum(), 0
    with open_file(path) as source:
        while piece := source.read(_PIECE):
            checksum.update(piece)
            size += len(piece)
    return Part(size, checksum.digest().hex())


class ParquetReader(pq.ParquetFile):
    """A Parquet file of an output. Every page that is read is compared with its checksum.

    Raises:
      DamagedOutput: here and from the methods that read, if the file is not as it was written; names it.
    """

    def __init__(self, source: IO[bytes], path: str):
        self._path = path
        with _naming(path):
            super().__init__(source, page_checksum_verification=True)

    def read(self, columns: list[str] | None = None, **named: Any) -> pa.Table:
        with _naming(self._path):
            if not self.num_row_groups:  # which pyarrow 18 cannot read
                empty = self.schema_arrow.empty_table()
                return (
                    empty if columns is None else empty.select([name for name in empty.column_names if name in columns])
                )
            return super().read(columns, **named)

    def read_row_group(self, *arguments: Any, **named: Any) -> pa.Table:
        with _naming(self._path):
            return super().read_row_group(*arguments, **named)

    def iter_batches(self, *arguments: Any, **named: Any) -> Iterator[pa.RecordBatch]:
        with _naming(self._path):
            if self.num_row_groups:
                yield from super().iter_batches(*arguments, **named)


@contextlib.contextmanager
def open_parquet(path: str) -> Iterator[ParquetReader]:
    """Opens a Parquet file of an output.

    Raises:
      DamagedOutput: it is not as it was written.
    """
    with open_file(path) as source:
        yield ParquetReader(source, path)


@contextlib.contextmanager
def _naming(path: str) -> Iterator[None]:
    """Names the file in Arrow's errors about its content. Errors of the file system name it themselves."""
    try:
        yield
    except pa.ArrowException as error:
        raise damaged(path, _first_line(error)) from error
    except OSError as error:
        if type(error) is not OSError or error.errno is not None:
            raise
        raise damaged(path, _first_line(error)) from error


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
