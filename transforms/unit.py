"""What travels between stages: shards, units of work and receipts. Small, hashable, and JSON on disk."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Sequence
from typing import Any


@dataclasses.dataclass(frozen=True, slots=True)
class Shard:
    """One file of images, or one folder of them.

    Attributes:
      path: where it is, on any file system that Beam knows.
      format: `tfrecord`, `webdataset`, `parquet` or `folder`.
      size: bytes in the file, or files in the folder; tells when a shard changed between two runs.
      label: the class index that every image of a class folder has; None elsewhere.
      name: what its images are called by, where its own name is not the only one: see `sources.ids`; None elsewhere.
    """

    path: str
    format: str
    size: int
    label: int | None = None
    name: str | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Unit:
    """A range of one shard's records: what is computed, committed, retried and resumed as one.

    Attributes:
      shard: the shard it belongs to.
      start: index of the first record.
      stop: index after the last record; None means to the end of the shard, whatever follows there, so that damage
        behind the last readable record is reported by exactly one unit.
      records: how many records are expected, None where nobody counted them. For progress only.
    """

    shard: Shard
    start: int = 0
    stop: int | None = None
    records: int | None = None

    @property
    def id(self) -> str:
        """A stable, readable file stem: the same range of the same shard has the same id in every run."""
        stem = re.sub(r"[^A-Za-z0-9._-]+", "_", self.shard.path.rstrip("/").rsplit("/", 1)[-1])[-80:]
        key = json.dumps([self.shard.path, self.start, self.stop]).encode()
        return f"{stem}-{self.start:09d}-{hashlib.blake2b(key, digest_size=5).hexdigest()}"

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> Unit:
        return cls(**{**value, "shard": Shard(**value["shard"])})


@dataclasses.dataclass(frozen=True, slots=True)
class LabelCounts:
    """How labels compare with predictions, to notice labels that number the classes differently.

    Attributes:
      classes: how many the model has.
      labelled, correct: images that have a label, and those predicted so.
      one_above, one_below: images whose label is the predicted class plus 1, and minus 1.
      beyond: images that failed because their label is the number of classes.
    """

    classes: int
    labelled: int = 0
    correct: int = 0
    one_above: int = 0
    one_below: int = 0
    beyond: int = 0

    @classmethod
    def sum(cls, counts: Sequence[LabelCounts]) -> LabelCounts:
        """Of several units, at least one, of a model."""
        names = [field.name for field in dataclasses.fields(cls) if field.name != "classes"]
        return cls(counts[0].classes, *(sum(getattr(each, name) for each in counts) for name in names))


@dataclasses.dataclass(frozen=True, slots=True)
class Receipt:
    """The commit mark of a unit: what has no receipt does not exist.

    Attributes:
      unit: the unit that was explained.
      run: identifies the run (not the configuration) that computed it.
      images: records that were explained.
      rows: rows in the maps part, one per explained image and target.
      failures: error rows by kind, for example {"UndecodableImage": 2}.
      started, ended: seconds since the epoch.
      seconds: where they went. `compute`: explaining, by all the batches that may go on at once, and `idle`: the rest.
        The others go on at the same time, and are counted in seconds of a processor: `read`, `decode`, `statistics` and
        `write`. `first_batch`: from the start until the first batch was explained; of a process's first unit, with
        tracing and compiling.
      batch_size: images a pass, at the end.
      labels: how labels and predictions compare.
      worker: host and process that computed it.
      models_loaded: how often that process had loaded a model when it committed; 1 where loading works as meant.
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
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)  # receipts of earlier versions have none
    batch_size: int | None = None
    labels: LabelCounts | None = None

    @property
    def failed(self) -> int:
        return sum(self.failures.values())

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str | bytes) -> Receipt:
        value = json.loads(text)
        labels = value.get("labels")
        return cls(
            **{
                **value,
                "unit": Unit.from_dict(value["unit"]),
                "labels": None if labels is None else LabelCounts(**labels),
            }
        )
