"""The interface of a source: how one kind of shard is counted, checked and read, record by record."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from transforms.labels import Label, UnusableLabel, as_label
from transforms.sources.ids import fallback_id as fallback_id
from transforms.unit import Shard

# Where labels are looked for when the configuration does not say: the first of these that is there, and can be a label.
# They are the names in Hugging Face's and TensorFlow's datasets and in tables of Kaggle's; numbers come before names.
LABEL_NAMES = (
    "label",
    "labels",
    "target",
    "targets",
    "class",
    "class_id",
    "class_index",
    "fine_label",
    "image/class/label",
    "category",
    "label_name",
    "class_name",
    "image/class/text",
    "coarse_label",
)


# Records that are looked at before a run to see what is in them; one alone may be without a label.
FIRST_RECORDS = 16


@dataclasses.dataclass(frozen=True, slots=True)
class Fields:
    """Names of the features, columns or members that hold an image, its id and its label.

    None stands for the format's own names. An empty label, `""`, says that labels are not wanted.
    """

    image: str | None = None
    id: str | None = None
    label: str | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Record:
    """One record of a shard, still encoded.

    Attributes:
      index: its place in the shard, from 0.
      image_id: its id, or `<shard's name>#<index>` where it has none; see `sources.ids` for the name.
      image: the encoded image (JPEG, PNG, …), None where the record has none.
      label: a class index, a class name, one number for each class, or None where it is not known.
      problem: why `image` is None, in one sentence; None otherwise.
      error: the kind of problem: `NoImage`, or `AmbiguousSample` where it cannot be told which image or label is meant.
      label_name: what holds the label, in words; None where nothing does.
      label_problem: why there is no telling the class from the label, in one sentence; None otherwise.
    """

    index: int
    image_id: str
    image: bytes | None
    label: Label | None = None
    problem: str | None = None
    error: str = "NoImage"
    label_name: str | None = None
    label_problem: str | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Found:
    """Which fields of a shard hold what, in words.

    Attributes:
      image, id: `column 'image' (binary)`, `the sample's key`.
      label: the same; None where there is none.
      there: where a label was looked for, such as `among the columns 'image: binary', 'width: int64'`; empty where the
        configuration wants none.
    """

    image: str
    id: str
    label: str | None
    there: str

    def sentence(self) -> str:
        """One line for the plan."""
        label = f"label: {self.label}" if self.label else self.no_label()
        return f"image: {self.image}; id: {self.id}; {label}"

    def no_label(self) -> str:
        """Why there is none, and what can be done."""
        return f"no label found {self.there}" if self.there else 'no labels are read, as input.fields.label is ""'


def choice(what: str, others: Sequence[str], key: str) -> str:
    """A field that was chosen by its name, and which others there were to choose from."""
    return what if not others else f"{what}, not {listed(others)} ({key} chooses)"


def label_fields(value: object, name: str) -> dict[str, Any]:
    """What a `Record` says of its label, as keyword arguments.

    Args:
      value: what the shard holds.
      name: what holds it, in words: `column 'label'`.
    """
    try:
        return {"label": as_label(value), "label_name": name}
    except UnusableLabel as error:
        return {"label_name": name, "label_problem": str(error)}


def listed(names: Iterable[str]) -> str:
    """Names for an error message, shortened where there are many."""
    names = list(names)
    shown = ", ".join(repr(name) for name in names[:20])
    return (shown + (f" and {len(names) - 20} more" if len(names) > 20 else "")) or "none"


class DamagedShard(Exception):
    """The shard cannot be read any further; the records before were delivered. `index` is the first one lost."""

    def __init__(self, message: str, index: int):
        super().__init__(message)
        self.index = index

    def concerns(self, start: int, stop: int | None) -> bool:
        """Whether the range [start, stop) holds the first lost record; so only one of several ranges reports it."""
        return start <= self.index and (stop is None or self.index < stop)


class UnreadableInput(ValueError):
    """The input cannot be what the configuration says: one sentence that names the path or field and what is there."""


class Source(abc.ABC):
    """Reads shards of one format. Holds no open file, so it is cheap to pickle."""

    format: str

    def __init__(self, fields: Fields = Fields()):
        self.fields = fields

    @abc.abstractmethod
    def check(self, shard: Shard) -> None:
        """Looks at the first record of a shard.

        Raises:
          UnreadableInput: the shard is not of this format, or a configured field is not in it; the message says which
            names are there. An empty shard is no error here: reading it says so.
        """

    def found(self, shard: Shard) -> Found | None:
        """Which fields hold image, id and label, by the shard's first records; None where it has none to tell by."""
        return None

    @abc.abstractmethod
    def count(self, shard: Shard) -> int:
        """The number of records that can be read, without reading images; where a shard is damaged, those before."""

    @abc.abstractmethod
    def read(self, shard: Shard, start: int = 0, stop: int | None = None) -> Iterator[Record]:
        """Streams records [start, stop) in the shard's order; never holds the shard in memory.

        Raises:
          DamagedShard: after the last record that could be read, if the range reaches the damage.
        """
