"""The interface of a source, which checks, counts and reads shards of one format."""

from __future__ import annotations

import abc
import contextlib
import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from transforms.labels import Label, UnusableLabel, as_label
from transforms.sources.files import LASTING_ERRORS
from transforms.sources.ids import fallback_id as fallback_id
from transforms.sources.limits import RECORD_BYTES
from transforms.sources.texts import ClassText
from transforms.unit import Shard

# The fields that are searched for a label if the configuration names none. The first one that exists and can hold a
# label is used. These are the names in datasets of Hugging Face, TensorFlow and Kaggle; numbers come before names.
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


# The number of records that are inspected before a run. A single one may have no label.
FIRST_RECORDS = 16


@dataclasses.dataclass(frozen=True, slots=True)
class Fields:
    """What is read of a record.

    Attributes:
      image, id, label: the names of the features, columns or members that hold an image, its id and its label. None
        stands for the format's default names. The empty label `""` means that labels are not read.
      record_bytes: the most bytes of a record. A larger one is a record without an image.
    """

    image: str | None = None
    id: str | None = None
    label: str | None = None
    record_bytes: int = RECORD_BYTES


@dataclasses.dataclass(frozen=True, slots=True)
class Record:
    """One record of a shard, with its image still encoded.

    Attributes:
      index: its place in the shard, from 0.
      image_id: its id, or `<shard's name>#<index>` if it has none; see `sources.ids` for the shard's name. Bytes that
        are not UTF-8 stand in it as `byte_names.as_text` writes them.
      image: the encoded image (JPEG, PNG, …); None if the record has none.
      label: a class index, a class name, one number per class, or None for an unknown label.
      problem: why `image` is None, in one sentence; None otherwise.
      error: the kind of problem: `NoImage`; `AmbiguousSample` if it is unclear which image or label is meant;
        `TooLarge` if the record is larger than a source reads.
      label_name: the field that holds the label, in words; None if there is no such field.
      label_problem: why the label does not tell the class, in one sentence; None otherwise.
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
    """The fields of a shard that hold image, id and label, in words.

    Attributes:
      image, id: such as `column 'image' (binary)` or `the sample's key`.
      label: the same for the label; None if there is none.
      there: where a label was searched, such as `among the columns 'image: binary', 'width: int64'`; empty if the
        configuration wants no labels.
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
        """Why there is no label, and what the user can do."""
        return f"no label found {self.there}" if self.there else 'no labels are read, as input.fields.label is ""'


def choice(what: str, others: Sequence[str], key: str) -> str:
    """A field that was chosen by its name, with the other fields that could have been chosen."""
    return what if not others else f"{what}, not {listed(others)} ({key} chooses)"


def label_fields(value: object, name: str) -> dict[str, Any]:
    """The fields of a `Record` about its label, as keyword arguments.

    Args:
      value: the value in the shard.
      name: the field that holds it, in words: `column 'label'`.
    """
    try:
        return {"label": as_label(value), "label_name": name}
    except UnusableLabel as error:
        return {"label_name": name, "label_problem": str(error)}


def listed(names: Iterable[str]) -> str:
    """Names for an error message; a long list is shortened."""
    names = list(names)
    shown = ", ".join(repr(name) for name in names[:20])
    return (shown + (f" and {len(names) - 20} more" if len(names) > 20 else "")) or "none"


class DamagedShard(Exception):
    """The shard cannot be read further. Earlier records were delivered; `index` is the first lost record."""

    def __init__(self, message: str, index: int):
        super().__init__(message)
        self.index = index

    def concerns(self, start: int, stop: int | None) -> bool:
        """Whether the range [start, stop) contains the first lost record. So only one of several ranges reports it."""
        return start <= self.index and (stop is None or self.index < stop)


class UnreadableInput(ValueError):
    """The input is not what the configuration says. One sentence names the path or field and what is there."""


@contextlib.contextmanager
def readable(path: str, start: int | None) -> Iterator[None]:
    """Turns errors that do not go away on a retry, such as a file without permission, into one sentence.

    Args:
      path: the shard's.
      start: the first record that is read; None while the shard is checked.

    Raises:
      DamagedShard: the shard cannot be opened or read. Each range of it says so, because none has a record.
      UnreadableInput: the same, if `start` is None.
    """
    try:
        yield
    except OSError as error:
        # A file that is gone may come back, as on a network's file system.
        if error.errno not in LASTING_ERRORS or isinstance(error, FileNotFoundError):
            raise
        sentence = f"{path} cannot be read: {(error.strerror or str(error)).lower()}"
        raise (UnreadableInput(sentence) if start is None else DamagedShard(sentence, start)) from error


class Source(abc.ABC):
    """Reads shards of one format. It holds no open file and is cheap to pickle."""

    format: str

    def __init__(self, fields: Fields = Fields()):
        self.fields = fields

    @abc.abstractmethod
    def check(self, shard: Shard) -> None:
        """Checks the first record of a shard.

        Raises:
          UnreadableInput: the shard is not of this format, or does not have a configured field. The message lists the
            names that exist. An empty shard is not an error here; it is reported when it is read.
        """

    def found(self, shard: Shard) -> Found | None:
        """The fields that hold image, id and label in the shard's first records; None if it has no readable records."""
        return None

    def image_fields(self, shard: Shard) -> tuple[str, ...]:
        """The fields that hold an encoded image in the shard's first record, whatever they are called."""
        return ()

    def class_list(self, shard: Shard) -> tuple[tuple[str, ...], str] | None:
        """The names of all classes that the shard's metadata lists, and where they stand, in words; None without."""
        return None

    def class_texts(self, shard: Shard, start: int = 0, stop: int | None = None) -> Iterator[ClassText]:
        """Yields the classes of records [start, stop), as numbers and as names, as far as the format allows.

        It ends at damage, and leaves out records whose label cannot be read.
        """
        return iter(())

    @abc.abstractmethod
    def count(self, shard: Shard) -> int:
        """The number of readable records, counted without reading images. Counting ends at damage."""

    @abc.abstractmethod
    def read(self, shard: Shard, start: int = 0, stop: int | None = None) -> Iterator[Record]:
        """Yields records [start, stop) in the shard's order. Never holds the shard in memory.

        Raises:
          DamagedShard: raised after the last readable record, if the range reaches the damage.
        """
