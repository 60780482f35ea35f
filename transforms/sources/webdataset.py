"""Reads WebDataset tar files, plain or gzip. Consecutive members with the same key are one sample."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import tarfile
from collections.abc import Iterator
from typing import Any, BinaryIO

from transforms.byte_names import as_text
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
from transforms.sources.files import IMAGE_EXTENSIONS, OTHER_IMAGE_EXTENSIONS, open_file
from transforms.sources.limits import TEXT_BYTES, TOO_LARGE, too_large
from transforms.sources.tar import TAR_DAMAGE, check_complete, decompressed, members, read_member
from transforms.sources.texts import ClassText, as_class_text, text_names
from transforms.unit import Shard

# The key is the directory and the base name up to its first dot; the extension is the rest. Hidden files and files
# without a dot do not match.
_MEMBER_NAME = re.compile(r"(?:\./)*((?:.*/)?[^/.]+)\.([^/]+)", re.DOTALL)

LABEL_MEMBERS = ("cls", "label", "class", "target")

# The names of so many members of a sample are kept. Others are read as they come.
_NAMED_MEMBERS = 1_000

# The check searches a sample with exactly one image. It stops after so many samples, and after so many with images.
_CHECKED_SAMPLES = 256
_CHECKED_IMAGES = 16


class WebDatasetSource(Source):
    """Fields are members' extensions (`jpg`, `input.png`, `cls`) or `json.KEY`, a key of the sample's JSON member.

    By default the image is the member with an image's extension, and the id is the sample's key. The label is the first
    member of LABEL_MEMBERS, else the first key of the JSON member among LABEL_NAMES. `txt` is not used, because it is
    more often a caption than a class. A sample with several images, or with a repeated member, is a record without an
    image, because it is unclear which one is meant. A sample whose key occurred earlier in the shard is named by its
    index. Members called `__…__`, such as the index that some writers put first, are WebDataset's notes and not
    samples.
    """

    format = "webdataset"

    def check(self, shard: Shard) -> None:
        with readable(shard.path, None), open_file(shard.path) as raw:
            try:
                for _ in members(decompressed(raw)):
                    break
            except TAR_DAMAGE as error:
                raise UnreadableInput(f"{shard.path} is not a tar file: {error}") from error
        samples: list[_Sample] = []
        with contextlib.suppress(DamagedShard):
            for each in self._samples(shard, 0, _CHECKED_SAMPLES):
                samples.append(each)
                if each.image_extension is not None and not each.ambiguity:
                    break
                if sum(found.image_extension is not None for found in samples) == _CHECKED_IMAGES:
                    break
        if not samples:
            return
        with_images = [each for each in samples if each.image_extension is not None]
        sample = with_images[-1] if with_images else samples[0]
        extensions = listed(sample.extensions)
        if not with_images:
            others = f"; the next {len(samples) - 1} have none either" if len(samples) > 1 else ""
            raise UnreadableInput(
                f"{shard.path}: sample {sample.key!r} has no {self._wanted} member; it has {extensions}{others}"
            )
        if len(with_images) > 1 and all(each.ambiguity for each in with_images):
            raise UnreadableInput(
                f"{shard.path}: {sample.ambiguity}; so it is with each of the first {len(with_images)}"
            )
        for name in filter(None, (self.fields.id, self.fields.label)):
            member, is_key, key = _split_field(name)
            place = f"{shard.path}: sample {sample.key!r}"
            if member not in sample.extensions:
                raise UnreadableInput(f"{place} has no {member!r} member; it has {extensions}")
            if is_key and key not in sample.json():
                raise UnreadableInput(f"{place} has no key {key!r} in its JSON; it has {listed(sample.json())}")

    def found(self, shard: Shard) -> Found | None:
        sample: _Sample | None = None
        labels: list[str] = []
        with contextlib.suppress(DamagedShard):
            for each in self._samples(shard, 0, FIRST_RECORDS):
                labels = self._label_fields(each)
                sample = each if sample is None or labels else sample
                if labels:
                    break
        if sample is None:
            return None
        others = [each for each in sample.extensions if self._is_image(each) and each != sample.image_extension]
        keys = f" and the JSON keys {listed(sample.json())}" if sample.json() else ""
        return Found(
            image=choice(f"member {sample.image_extension!r}", others, "input.fields.image")
            if sample.image_extension
            else "none",
            id="the sample's key" if self.fields.id is None else _in_words(self.fields.id),
            label=choice(_in_words(labels[0]), labels[1:], "input.fields.label") if labels else None,
            there=""
            if self.fields.label == ""
            else f"among the members {listed(sample.extensions)}{keys}; "
            "input.fields.label names the member or json.KEY that holds it",
        )

    def count(self, shard: Shard) -> int:
        count = 0
        try:
            for _ in self._samples(shard, start=None, stop=None):
                count += 1
        except DamagedShard as damage:
            return damage.index
        return count

    def read(self, shard: Shard, start: int = 0, stop: int | None = None) -> Iterator[Record]:
        try:
            for sample in self._samples(shard, start, stop):
                if sample.index >= start:
                    yield self._record(shard, sample)
        except DamagedShard as damage:
            if damage.concerns(start, stop):
                raise

    def _record(self, shard: Shard, sample: _Sample) -> Record:
        own_key = None if sample.is_repeated else sample.key
        given_id = own_key if self.fields.id is None else sample.value(self.fields.id)
        image_id = fallback_id(shard, sample.index) if given_id in (None, "") else as_text(str(given_id))
        image = problem = None
        if sample.ambiguity:
            return Record(sample.index, image_id, None, None, sample.ambiguity, "AmbiguousSample")
        if sample.too_large:
            return Record(sample.index, image_id, None, None, sample.too_large, TOO_LARGE)
        if sample.image_extension is None:
            problem = f"sample {sample.key!r} has no {self._wanted} member; it has {listed(sample.extensions)}"
            if sample.is_repeated:
                problem += ", and others of its members stand earlier in the file; they must stand together"
        else:
            image = sample.contents[sample.image_extension] or None
            if image is None:
                problem = f"the {sample.image_extension!r} member of sample {sample.key!r} is empty"
        return Record(sample.index, image_id, image, problem=problem, **self._label(sample))

    def _label(self, sample: _Sample) -> dict[str, Any]:
        fields = self._label_fields(sample)
        if not fields:
            return {}
        value = sample.value(fields[0])
        if isinstance(value, str) and not _split_field(fields[0])[1]:
            value = _from_text(value)
        return label_fields(value, _in_words(fields[0]))

    def class_texts(self, shard: Shard, start: int = 0, stop: int | None = None) -> Iterator[ClassText]:
        with contextlib.suppress(DamagedShard):
            for sample in self._samples(shard, start, stop):
                fields = self._label_fields(sample)
                if sample.index < start or not fields:
                    continue
                member, is_key, key = _split_field(fields[0])
                # With a number in a member, the JSON's label is the class's name.
                names = text_names(key) if is_key else (*text_names(member), *LABEL_NAMES)
                texts = {name: as_class_text(value) for name, value in sample.json().items() if name in names}
                texts = {name: text for name, text in texts.items() if text is not None and not text.isdecimal()}
                name = min(texts, key=names.index, default="")
                size = sum(map(len, sample.contents.values()))
                label = self._label(sample).get("label")
                yield ClassText(label, texts.get(name), _in_words(f"json.{name}") if name else "", size)

    def _label_fields(self, sample: _Sample) -> list[str]:
        """The fields that can hold the sample's label. The first one is used."""
        if self.fields.label is not None:
            return [self.fields.label] if self.fields.label and sample.value(self.fields.label) is not None else []
        members = [name for name in LABEL_MEMBERS if name in sample.contents]
        keys = sample.json()
        return [*members, *(f"json.{key}" for key in LABEL_NAMES if keys.get(key) is not None)]

    def _samples(self, shard: Shard, start: int | None, stop: int | None) -> Iterator[_Sample]:
        """Yields samples [0, stop). Only headers are read before `start`; if `start` is None, only headers are read at
        all.

        The sample at the damage is delivered if its image is complete, perhaps without its label.

        Raises:
          DamagedShard: raised after the last sample with a complete image.
        """
        sample: _Sample | None = None
        keys: set[int] = set()  # hashes, because a shard may have very many keys
        with readable(shard.path, start or 0), open_file(shard.path) as raw:
            try:
                file = decompressed(raw)
                for member in members(file):
                    name = _MEMBER_NAME.fullmatch(member.name)
                    if name is None or not member.isfile():
                        continue
                    key, extension = name[1], name[2].lower()
                    if _is_note(key) and not self._is_image(extension):
                        continue
                    if sample is None or sample.key != key:
                        index = 0 if sample is None else sample.index + 1
                        if sample is not None:
                            yield sample
                        if stop is not None and index >= stop:
                            return
                        sample = _Sample(index, key, is_repeated=hash(key) in keys)
                        keys.add(hash(key))
                    if len(sample.extensions) < _NAMED_MEMBERS:
                        sample.extensions.append(extension)
                    self._load(sample, extension, file, member, wanted=start is not None and sample.index >= start)
            except TAR_DAMAGE as error:
                index = 0 if sample is None else sample.index
                if sample is not None and sample.image_extension is not None:
                    yield sample
                    index += 1
                raise DamagedShard(f"{shard.path}: {error}, at sample {index}", index) from error
            if sample is not None:
                yield sample

    def _load(self, sample: _Sample, extension: str, file: BinaryIO, member: tarfile.TarInfo, wanted: bool) -> None:
        """Reads a member if it is needed. For the image, it at least checks that the member is complete."""
        if self._is_image(extension):
            # A decodable image replaces one that cannot be decoded, such as a camera's raw file beside its JPEG.
            if extension in OTHER_IMAGE_EXTENSIONS and sample.images and self.fields.image is None:
                return
            if sample.images and sample.images[0] in OTHER_IMAGE_EXTENSIONS and self.fields.image is None:
                sample.contents.pop(sample.images.pop())
            if not sample.images:
                sample.contents[extension] = self._image_of(sample, extension, file, member, wanted)
            sample.images.append(extension)
        elif wanted and extension in self._text_members():
            if extension in sample.contents:
                sample.doubled = extension
            elif member.size > TEXT_BYTES:
                what = f"the {extension!r} member of sample {sample.key!r}"
                sample.too_large = sample.too_large or too_large(what, member.size, TEXT_BYTES, key="")
            else:
                sample.contents[extension] = read_member(file, member)

    def _image_of(
        self, sample: _Sample, extension: str, file: BinaryIO, member: tarfile.TarInfo, wanted: bool
    ) -> bytes:
        """The image's bytes; empty, and only checked to be complete, if it is not wanted or too large."""
        if wanted and member.size <= self.fields.record_bytes:
            return read_member(file, member)
        check_complete(file, member)
        if wanted:
            what = f"the {extension!r} member of sample {sample.key!r}"
            sample.too_large = too_large(what, member.size, self.fields.record_bytes)
        return b""

    def _is_image(self, extension: str) -> bool:
        if self.fields.image is None:
            return extension in IMAGE_EXTENSIONS or extension in OTHER_IMAGE_EXTENSIONS
        return extension == _split_field(self.fields.image)[0]

    @property
    def _wanted(self) -> str:
        return "image" if self.fields.image is None else repr(self.fields.image)

    def _text_members(self) -> set[str]:
        names = {*LABEL_MEMBERS, "json"} if self.fields.label is None else {_split_field(self.fields.label)[0]}
        return names | ({_split_field(self.fields.id)[0]} if self.fields.id else set())


@dataclasses.dataclass(slots=True)
class _Sample:
    """The members with one key.

    Attributes:
      index: its place in the shard, from 0.
      extensions: the extensions of all its members, in the archive's order.
      contents: the members that were read, by extension.
      images: the extensions of its images; a usable sample has exactly one.
      doubled: a member that occurs twice; None if there is none.
      is_repeated: whether an earlier sample of the shard has the same key.
      too_large: why a member was not read, in one sentence; None if all that are needed were.
    """

    index: int
    key: str
    extensions: list[str] = dataclasses.field(default_factory=list)
    contents: dict[str, bytes] = dataclasses.field(default_factory=dict)
    images: list[str] = dataclasses.field(default_factory=list)
    doubled: str | None = None
    is_repeated: bool = False
    too_large: str | None = None

    @property
    def image_extension(self) -> str | None:
        return self.images[0] if self.images else None

    @property
    def ambiguity(self) -> str | None:
        """Why it is unclear which member is meant, in one sentence; None if it is clear."""
        if len(set(self.images)) > 1:
            return (
                f"sample {self.key!r} has {len(self.images)} images ({listed(self.images)}), and nothing says which is "
                "meant; set input.fields.image to one of these, or give each image a key of its own"
            )
        doubled = self.images[0] if len(self.images) > 1 else self.doubled
        return f"sample {self.key!r} has the member {doubled!r} more than once" if doubled else None

    def json(self) -> dict[str, object]:
        """The JSON member; empty if it is missing or not an object. A label that cannot be read is unknown."""
        try:
            value = json.loads(self.contents.get("json", b"{}"))
        except (ValueError, RecursionError):
            return {}
        return value if isinstance(value, dict) else {}

    def value(self, field: str) -> object:
        """The value of a field: a JSON value or a member's text; None if it is missing."""
        member, is_key, key = _split_field(field)
        if is_key:
            return self.json().get(key)
        if member not in self.contents:
            return None
        return self.contents[member].decode("utf-8", errors="replace").strip()


def _is_note(key: str) -> bool:
    name = key.rpartition("/")[2]
    return len(name) > 4 and name.startswith("__") and name.endswith("__")


def _from_text(text: str) -> object:
    """The number or list in a member's text, else the text. In JSON, the types are clear already."""
    with contextlib.suppress(ValueError, RecursionError):
        return json.loads(text) if text.startswith("[") else int(text)
    return text


def _in_words(field: str) -> str:
    member, is_key, key = _split_field(field)
    return f"key {key!r} of the JSON member" if is_key else f"member {member!r}"


def _split_field(field: str) -> tuple[str, bool, str]:
    """The extension in a field's name, whether the field is a key of the JSON member, and that key."""
    field = field.lstrip(".")
    if field.startswith("json."):
        return "json", True, field.removeprefix("json.")
    return field.lower(), False, ""
