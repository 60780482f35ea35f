"""The values that travel between stages: shards, units of work and receipts. Small, hashable, stored as JSON."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import re
from collections.abc import Sequence
from typing import Any

from pydantic import TypeAdapter, ValidationError


@dataclasses.dataclass(frozen=True, slots=True)
class Shard:
    """One file or one folder of images.

    Attributes:
      path: its path, on any file system that Beam knows.
      format: `tfrecord`, `webdataset`, `parquet` or `folder`.
      size: the file's bytes, or the number of files in the folder. It shows whether a shard changed between two runs.
      label: the class index of all images in a class folder; None for other shards.
      name: the name that its images' ids begin with, if another shard has the same file name; otherwise None. See
        `sources.ids`.
    """

    path: str
    format: str
    size: int
    label: int | None = None
    name: str | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Unit:
    """A range of one shard's records. It is computed, committed, retried and resumed as a whole.

    Attributes:
      shard: the shard it belongs to.
      start: index of the first record.
      stop: index after the last record; None is the end of the shard, wherever that is. So exactly one unit reports
        damage after the last readable record.
      records: the expected number of records; None if they were not counted. Only for progress.
    """

    shard: Shard
    start: int = 0
    stop: int | None = None
    records: int | None = None

    @property
    def id(self) -> str:
        """A stable, readable file stem. The same range of the same shard has the same id in every run."""
        stem = re.sub(r"[^A-Za-z0-9._-]+", "_", self.shard.path.rstrip("/").rsplit("/", 1)[-1])[-80:]
        key = json.dumps([self.shard.path, self.start, self.stop]).encode()
        return f"{stem}-{self.start:09d}-{hashlib.blake2b(key, digest_size=5).hexdigest()}"

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def to_json(self) -> str:
        """As ASCII: Beam's own coder of text refuses a path that is not UTF-8."""
        return json.dumps(self.to_dict())

    @classmethod
    def from_json(cls, text: str) -> Unit:
        return cls.from_dict(json.loads(text))

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> Unit:
        return cls(**{**value, "shard": Shard(**value["shard"])})


@dataclasses.dataclass(frozen=True, slots=True)
class LabelCounts:
    """Counts of labels and predictions. They reveal labels that number the classes differently from the model.

    Attributes:
      classes: the model's number of classes.
      labelled, correct: the number of images with a label, and of those predicted correctly.
      one_above, one_below: the number of images whose label is the predicted class plus 1, and minus 1.
      beyond: the number of images that failed because their label equals the number of classes.
    """

    classes: int
    labelled: int = 0
    correct: int = 0
    one_above: int = 0
    one_below: int = 0
    beyond: int = 0

    @classmethod
    def sum(cls, counts: Sequence[LabelCounts]) -> LabelCounts:
        """The sum over units, at least one, of the same model."""
        names = [field.name for field in dataclasses.fields(cls) if field.name != "classes"]
        return cls(counts[0].classes, *(sum(getattr(each, name) for each in counts) for name in names))


@dataclasses.dataclass(frozen=True, slots=True)
class Part:
    """What a file must be: its `size` in bytes, and the CRC32C of its content as 8 hexadecimal digits."""

    size: int
    crc32c: str


@dataclasses.dataclass(frozen=True, slots=True)
class Receipt:
    """The commit mark of a unit. A unit without a receipt does not exist for any reader.

    The fields with a default are missing in receipts of earlier versions.

    Attributes:
      unit: the unit that was explained.
      run: identifies the run that computed it (not the configuration).
      images: the number of explained records.
      rows: the number of rows in the maps part, one per explained image and target.
      failures: the number of error rows by kind, for example {"UndecodableImage": 2}.
      started, ended: seconds since the epoch.
      seconds: the time per stage. `compute` is the time of explaining, over all batches that run at once; `idle` is the
        rest of the time. `read`, `decode`, `statistics` and `write` run at the same time and are processor seconds.
        `first_batch` is the time until the first batch was explained; in a process's first unit it includes tracing and
        compiling.
      batch_size: images per pass, at the end.
      labels: how labels and predictions compare.
      worker: the host and process that computed it.
      models_loaded: how many models that process had loaded at the commit; 1 if loading works as intended.
      fingerprint: identifies model, method and map settings.
      content: the hash of what the shard contained; see `sources.content`.
      parts: what each of the unit's parts must be, by kind.
      attempt: identifies the attempt that wrote the parts. Their names begin with it until they are in place.
    """

    unit: Unit
    run: str
    images: int
    rows: int
    failures: dict[str, int]
    started: float
    ended: float
    worker: str
    models_loaded: int
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    batch_size: int | None = None
    labels: LabelCounts | None = None
    fingerprint: str | None = None
    content: str | None = None
    parts: dict[str, Part] | None = None
    attempt: str | None = None

    @property
    def failed(self) -> int:
        return sum(self.failures.values())

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str | bytes) -> Receipt:
        """The receipt in a JSON text; fields that this version does not know are left out.

        Raises:
          ValueError: the text is none of a receipt; says in a few words why.
        """
        try:
            return _receipts().validate_python(json.loads(text))
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"])) or "its content"
            raise ValueError(f"{place}: {first['msg'].lower()}") from None
        except (ValueError, RecursionError):
            raise ValueError("it is not JSON") from None


@functools.cache
def _receipts() -> TypeAdapter[Receipt]:
    return TypeAdapter(Receipt)
