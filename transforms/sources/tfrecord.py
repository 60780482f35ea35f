"""Reads TFRecords of `tf.train.Example`, plain, gzip or zlib, without tf.data: only damaged records are lost."""

from __future__ import annotations

import contextlib
import dataclasses
import struct
import sys
from collections.abc import Iterator
from typing import Any, BinaryIO

import google_crc32c

from transforms.byte_names import as_text
from transforms.labels import UnusableLabel, as_label
from transforms.sources.base import (
    FIRST_RECORDS,
    LABEL_NAMES,
    DamagedShard,
    Found,
    Record,
    Source,
    UnreadableInput,
    choice,
    fallback_id,
    label_fields,
    listed,
    readable,
)
from transforms.sources.compression import decompressed, other_compression
from transforms.sources.example import example_class
from transforms.sources.files import GZIP_DAMAGE, is_image, open_file, read_up_to, skip
from transforms.sources.limits import TOO_LARGE, too_large
from transforms.sources.texts import ClassText, as_class_text, text_names
from transforms.unit import Shard

_LABEL_FEATURES = ("image/class/label", *(name for name in LABEL_NAMES if name != "image/class/label"))

# A frame: length (8 bytes), masked CRC32C of the length (4), data, masked CRC32C of the data (4); little-endian.
_HEADER = struct.Struct("<QI")
_CHECKSUM = struct.Struct("<I")

# No message of Protocol Buffers is longer, so no record is. A longer one is not skipped: its length is not one.
_LONGEST_RECORD = (1 << 31) - 1


def masked_crc32c(data: bytes) -> int:
    """The CRC32C as TFRecord stores it: rotated right by 15 bits, plus a constant.

    A plain CRC would be weak for data that contains CRCs.
    """
    checksum = google_crc32c.value(data)
    return ((checksum >> 15 | checksum << 17) + 0xA282EAD8) & 0xFFFFFFFF


def is_frame_header(head: bytes) -> bool:
    """Whether a file that begins with `head` is an uncompressed TFRecord file."""
    if len(head) < _HEADER.size:
        return False
    _, checksum = _HEADER.unpack_from(head)
    return bool(masked_crc32c(head[:8]) == checksum)


class TFRecordSource(Source):
    """The default fields are `image/encoded`, `image/filename`, `image/class/label`, as the ImageNet scripts write
    them.

    A label is also searched under the other LABEL_NAMES. A list of several numbers has one number per class.
    """

    format = "tfrecord"

    def check(self, shard: Shard) -> None:
        with readable(shard.path, None), open_file(shard.path) as raw:
            try:
                file = _decompressed(raw)
                head = file.read(_HEADER.size)
            except GZIP_DAMAGE as error:
                raise UnreadableInput(f"{shard.path} is not a TFRecord file: {error}") from error
            if head and not is_frame_header(head):
                packed = other_compression(head)
                why = (
                    f"it is compressed with {packed}; TFRecords are read plain, or compressed with gzip or zlib"
                    if packed
                    else "its first bytes are not a length with a valid checksum"
                )
                raise UnreadableInput(f"{shard.path} is not a TFRecord file: {why}")
        frame = self._first_frame(shard.path)
        if frame is None or frame.data is None:
            return
        features = _features(frame.data)
        if features is None:
            raise UnreadableInput(f"{shard.path} is a TFRecord file, but its first record is not a tf.train.Example")
        wanted: list[tuple[str, tuple[str, ...]]] = [(self._image_name, ("bytes_list",))]
        if self.fields.id is not None:
            wanted.append((self.fields.id, ("bytes_list", "int64_list")))
        if self.fields.label:
            wanted.append((self.fields.label, ("bytes_list", "int64_list", "float_list")))
        for name, kinds in wanted:
            if name not in features:
                raise UnreadableInput(
                    f"{shard.path} has no feature {name!r}; its features are {listed(sorted(features))}"
                )
            kind = features[name].WhichOneof("kind")
            if kind not in kinds:
                raise UnreadableInput(f"{shard.path}: feature {name!r} is {kind or 'empty'}, not {' or '.join(kinds)}")
            if kind == "float_list":
                try:
                    as_label(_values(features[name]))
                except UnusableLabel as error:
                    raise UnreadableInput(f"{shard.path}: feature {name!r} is {kind}, and {error}") from error

    def found(self, shard: Shard) -> Found | None:
        features: Any = None
        labels: list[str] = []
        with contextlib.suppress(DamagedShard):
            for frame in self._frames(shard.path, 0, FIRST_RECORDS):
                of_frame = None if frame.data is None else _features(frame.data)
                labels = [] if of_frame is None else [name for name, _ in self._labels(of_frame)]
                features = of_frame if features is None or labels else features
                if labels:
                    break
        if features is None:
            return None

        def named(name: str) -> str:
            return f"feature {name!r} ({features[name].WhichOneof('kind')})"

        id_name = self.fields.id or "image/filename"
        return Found(
            image=named(self._image_name) if self._image_name in features else "none",
            id=named(id_name) if id_name in features else "the shard's name and the record",
            label=choice(named(labels[0]), labels[1:], "input.fields.label") if labels else None,
            there=""
            if self.fields.label == ""
            else f"among the features {_listed_features(features)}; input.fields.label names the feature that holds it",
        )

    def count(self, shard: Shard) -> int:
        count = 0
        try:
            for _ in self._frames(shard.path, start=sys.maxsize):
                count += 1
        except DamagedShard as damage:
            return damage.index
        return count

    def read(self, shard: Shard, start: int = 0, stop: int | None = None) -> Iterator[Record]:
        try:
            for frame in self._frames(shard.path, start, stop):
                if frame.index >= start:
                    yield self._record(shard, frame)
        except DamagedShard as damage:
            if damage.concerns(start, stop):
                raise

    def image_fields(self, shard: Shard) -> tuple[str, ...]:
        frame = self._first_frame(shard.path)
        features = None if frame is None or frame.data is None else _features(frame.data)
        names = () if features is None else sorted(features)
        return tuple(name for name in names if features is not None and is_image(_first_value(features[name])))

    def class_texts(self, shard: Shard, start: int = 0, stop: int | None = None) -> Iterator[ClassText]:
        with contextlib.suppress(DamagedShard):
            for frame in self._frames(shard.path, start, stop):
                features = _features(frame.data) if frame.data is not None and frame.index >= start else None
                if features is None or (found := next(self._labels(features), None)) is None:
                    continue
                label = label_fields(found[1], found[0]).get("label")
                texts = {
                    name: as_class_text(_values(features[name])) for name in text_names(found[0]) if name in features
                }
                name = next((name for name, text in texts.items() if text is not None), "")
                yield ClassText(label, texts.get(name), f"feature {name!r}" if name else "", len(frame.data or b""))

    def _frames(self, path: str, start: int = 0, stop: int | None = None) -> Iterator[_Frame]:
        return _frames(path, start, stop, self.fields.record_bytes)

    def _first_frame(self, path: str) -> _Frame | None:
        try:
            return next(self._frames(path), None)
        except DamagedShard:
            return None

    @property
    def _image_name(self) -> str:
        return self.fields.image or "image/encoded"

    def _record(self, shard: Shard, frame: _Frame) -> Record:
        image_id = fallback_id(shard, frame.index)
        place = f"record {frame.index} at byte {frame.offset}"
        if frame.length > self.fields.record_bytes:
            large = too_large(place, frame.length, self.fields.record_bytes)
            return Record(frame.index, image_id, None, problem=large, error=TOO_LARGE)
        if frame.data is None:
            return Record(frame.index, image_id, None, problem=f"{place} is corrupt: its checksum does not hold")
        features = _features(frame.data)
        if features is None:
            return Record(frame.index, image_id, None, problem=f"{place} is not a tf.train.Example")
        name = self.fields.id or "image/filename"
        given_id = _first_value(features[name]) if name in features else None
        if isinstance(given_id, bytes):
            given_id = as_text(given_id)
        if given_id is not None and given_id != "":
            image_id = str(given_id)
        name, values = next(self._labels(features), ("", []))
        label = label_fields(values, f"feature {name!r}") if name else {}
        image, problem = self._image(features)
        return Record(frame.index, image_id, image, problem=problem, **label)

    def _labels(self, features: Any) -> Iterator[tuple[str, list[Any]]]:
        """Yields the features that can hold the label, with their values. The first one is used."""
        names = _LABEL_FEATURES if self.fields.label is None else (self.fields.label,)
        for name in names:
            if name in features and (values := _values(features[name])):
                yield name, values

    def _image(self, features: Any) -> tuple[bytes | None, str | None]:
        """The encoded image, or None and the reason."""
        name = self._image_name
        if name not in features:
            return None, f"the record has no feature {name!r}; its features are {listed(sorted(features))}"
        image = _first_value(features[name])
        if not isinstance(image, bytes):
            return (
                None,
                f"feature {name!r} is {features[name].WhichOneof('kind') or 'empty'}, not bytes_list with a value",
            )
        if not image:
            return None, f"feature {name!r} is empty"
        return image, None


@dataclasses.dataclass(slots=True)
class _Frame:
    """One frame. `data` is None if it was skipped, is too large, or its checksum is wrong.

    It is not frozen: that would double the time that making one takes.
    """

    index: int
    offset: int
    length: int
    data: bytes | None


def _frames(path: str, start: int, stop: int | None, longest: int) -> Iterator[_Frame]:
    """Yields frames [0, stop). The data before `start`, and data of more than `longest` bytes, are skipped.

    Skipping does not read an uncompressed file.

    Raises:
      DamagedShard: the next frame is truncated, or its length is corrupt, so that the start of the following frame is
        unknown.
    """
    index = offset = 0

    def damage(reason: str) -> DamagedShard:
        return DamagedShard(f"{path}: {reason} in record {index} at byte {offset}", index)

    with readable(path, 0 if start == sys.maxsize else start), open_file(path) as raw:
        try:
            file = _decompressed(raw)
            while stop is None or index < stop:
                header = file.read(_HEADER.size)
                if not header:
                    return
                if len(header) < _HEADER.size:
                    raise damage("the file ends")
                if not is_frame_header(header):
                    raise damage("the length is corrupt")
                length, _ = _HEADER.unpack(header)
                if length > _LONGEST_RECORD:
                    raise damage(f"a length of {length:,} bytes, more than a tf.train.Example can have,")
                data = None
                if index >= start and length <= longest:
                    data = read_up_to(file, length)
                    checksum = file.read(_CHECKSUM.size)
                    if len(data) < length or len(checksum) < _CHECKSUM.size:
                        raise damage("the file ends")
                    if masked_crc32c(data) != _CHECKSUM.unpack(checksum)[0]:
                        data = None
                elif not skip(file, length + _CHECKSUM.size):
                    raise damage("the file ends")
                yield _Frame(index, offset, length, data)
                index += 1
                offset += _HEADER.size + length + _CHECKSUM.size
        except GZIP_DAMAGE as error:
            raise damage(f"the compressed stream breaks ({error}; bytes are counted uncompressed)") from error


def _decompressed(file: BinaryIO) -> BinaryIO:
    head = file.read(_HEADER.size)
    file.seek(0)
    # A plain file's first length may look like gzip or zlib, but then its checksum is right.
    return file if is_frame_header(head) else decompressed(file, head)


def _features(data: bytes) -> Any | None:
    """The Example's mapping from name to feature; None if `data` is not an Example."""
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        return example_class().FromString(data).features.feature
    except DecodeError:
        return None


def _listed_features(features: Any) -> str:
    return listed(f"{name}: {features[name].WhichOneof('kind') or 'empty'}" for name in sorted(features))


def _values(feature: Any) -> list[Any]:
    kind = feature.WhichOneof("kind")
    return list(getattr(feature, kind).value) if kind else []


def _first_value(feature: Any) -> Any | None:
    kind = feature.WhichOneof("kind")
    values = getattr(feature, kind).value if kind else ()
    return values[0] if values else None
