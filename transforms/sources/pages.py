"""Reads the sizes in the headers of Parquet's pages, because pyarrow allocates what they claim."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, BinaryIO

# A page whose data is compressed more than this is no page of images: JPEG and PNG files are compressed already.
_MOST_COMPRESSED = 20

# A row group of photographs may be one page. It may have as many times the bytes of a record.
_PAGE_RECORDS = 4

# The most values of a page of lists. Lists of equal numbers take no space in the file, and eight bytes each in memory.
_MOST_LISTED = 1 << 24

# With a larger page, rows are read one by one: a page with a dictionary stands for many times its size.
LARGE_PAGE = 16 << 20

# Headers have some 30 bytes, but may repeat the smallest and the largest value of their page.
_HEADER_BYTES = (256, 1 << 14, 1 << 22)


@dataclasses.dataclass(frozen=True, slots=True)
class Page:
    """What the header of a page claims: the page's bytes, compressed and not, and its number of values."""

    compressed: int
    uncompressed: int
    values: int


class TooLargePage(ValueError):
    """A page would take more memory than a page of images does. One sentence."""


def largest_page(file: BinaryIO, group: Any, columns: set[str], repeated: set[str], record_bytes: int) -> int:
    """The bytes of the largest page that must be decompressed for some columns of a row group; 0 without any.

    Args:
      file: the Parquet file.
      group: the row group's metadata.
      columns: the columns that are read, by their names in the table, or with a struct's field: `image.bytes`.
      repeated: the columns of them that hold lists.
      record_bytes: the most bytes of a record.

    Raises:
      TooLargePage: a page has more than `record_bytes` and is compressed as no images are, or has four times as much,
        or more values in lists than any model has classes.
    """
    largest = 0
    for place in range(group.num_columns):
        column = group.column(place)
        path = column.path_in_schema
        if not any(path == name or path.startswith(f"{name}.") for name in columns):
            continue
        lists = any(path == name or path.startswith(f"{name}.") for name in repeated)
        packed = column.compression != "UNCOMPRESSED"
        if not packed and not lists:
            continue
        for page in _pages(file, column):
            if lists and page.values > _MOST_LISTED:
                raise TooLargePage(f"a page of column {path!r} claims {page.values:,} values")
            if not packed:
                continue
            largest = max(largest, page.uncompressed)
            bomb = page.uncompressed > _MOST_COMPRESSED * max(1, page.compressed)
            if page.uncompressed > record_bytes * (1 if bomb else _PAGE_RECORDS):
                raise TooLargePage(
                    f"a page of column {path!r} has {page.uncompressed:,} bytes, stored in {page.compressed:,}, "
                    "more than are read (input.record_mib sets the limit)"
                )
    return largest


def _pages(file: BinaryIO, column: Any) -> Iterator[Page]:
    """The pages of a column chunk, as far as their headers can be read. pyarrow says what is wrong with others."""
    offset = column.data_page_offset
    if column.has_dictionary_page and column.dictionary_page_offset:
        offset = min(offset, column.dictionary_page_offset)
    end = offset + column.total_compressed_size
    while 0 <= offset < end < 1 << 60:
        for size in _HEADER_BYTES:
            file.seek(offset)
            reader = _Compact(file.read(size))
            try:
                header = reader.struct()
                break
            except (IndexError, ValueError):
                continue
        else:
            return
        compressed, uncompressed = header.get(3), header.get(2)
        if not isinstance(compressed, int) or not isinstance(uncompressed, int) or min(compressed, uncompressed) < 0:
            return
        of_data = header.get(5) or header.get(8) or header.get(7)
        values = of_data.get(1) if isinstance(of_data, dict) else 0
        yield Page(compressed, uncompressed, values if isinstance(values, int) else 0)
        offset += reader.place + compressed


class _Compact:
    """Reads structs of Thrift's compact protocol from bytes. IndexError: the bytes end. ValueError: they are none."""

    # The types of fields, as in Thrift's specification of the protocol.
    _TRUE, _FALSE, _I8, _I16, _I32, _I64, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = range(1, 13)

    def __init__(self, data: bytes):
        self._data = data
        self.place = 0

    def struct(self, depth: int = 0) -> dict[int, Any]:
        """The integers and structs of a struct by their fields' numbers. Other values are skipped."""
        if depth > 8:
            raise ValueError("structs are nested too deeply")
        fields: dict[int, Any] = {}
        number = 0
        while head := self._byte():
            delta, kind = head >> 4, head & 15
            number = number + delta if delta else self._integer()
            fields[number] = self._value(kind, depth)
        return fields

    def _value(self, kind: int, depth: int) -> Any:
        if kind in (self._TRUE, self._FALSE):
            return None
        if kind == self._I8:
            return self._byte()
        if kind in (self._I16, self._I32, self._I64):
            return self._integer()
        if kind == self._STRUCT:
            return self.struct(depth + 1)
        if kind in (self._DOUBLE, self._BINARY):
            self.place += 8 if kind == self._DOUBLE else self._varint()
            if self.place > len(self._data):
                raise IndexError
            return None
        raise ValueError("page headers have no values of this type")

    def _byte(self) -> int:
        byte = self._data[self.place]
        self.place += 1
        return byte

    def _varint(self) -> int:
        value = 0
        for shift in range(0, 70, 7):
            byte = self._byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
        raise ValueError("the number is too long")

    def _integer(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)
