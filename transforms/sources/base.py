"""The interface of a source: how one kind of shard is counted, checked and read, record by record."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Iterable, Iterator

from transforms.sources.ids import fallback_id as fallback_id
from transforms.unit import Shard


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
      label: a class index, a class name, or None where it is not known.
      problem: why `image` is None, in one sentence; None otherwise.
      error: the kind of problem: `NoImage`, or `AmbiguousSample` where it cannot be told which image or label is meant.
    """

    index: int
    image_id: str
    image: bytes | None
    label: int | str | None = None
    problem: str | None = None
    error: str = "NoImage"


def as_label(value: object) -> int | str | None:
    """A label as a class index or a class name; None where it is absent, negative (the usual mark of "unknown") or
    nothing that could name a class."""
    if isinstance(value, bytes):
        value = value.decode("utf-8", errors="replace")
    if isinstance(value, str):
        return value.strip() or None
    # A column of integers with gaps comes back from pandas as floats.
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return value if value >= 0 else None
    return None


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

    @abc.abstractmethod
    def count(self, shard: Shard) -> int:
        """The number of records that can be read, without reading images; where a shard is damaged, those before."""

    @abc.abstractmethod
    def read(self, shard: Shard, start: int = 0, stop: int | None = None) -> Iterator[Record]:
        """Streams records [start, stop) in the shard's order; never holds the shard in memory.

        Raises:
          DamagedShard: after the last record that could be read, if the range reaches the damage.
        """
