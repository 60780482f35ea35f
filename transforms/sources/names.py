"""Finds the names of classes in the data: class folders, Hugging Face's ClassLabel, or the records' own texts."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from transforms.byte_names import as_text
from transforms.sources.base import FIRST_RECORDS, Source
from transforms.sources.files import file_name
from transforms.sources.texts import ClassText
from transforms.unit import Shard

# How much is read at most in search of names. The search ends earlier if every class has one, or if the first records
# have none.
_SHARDS = 32
_LISTED_SHARDS = 3
_RECORDS = 16_384
_LOCAL_BYTES, _REMOTE_BYTES = 512 << 20, 64 << 20


@dataclasses.dataclass(frozen=True, slots=True)
class NamesInData:
    """The names that the data give to classes.

    Attributes:
      names: by class index; classes whose name was not seen are missing.
      source: where the names stand, in words.
      records: how many records were read for them; 0 if they stand elsewhere.
    """

    names: Mapping[int, str]
    source: str
    records: int = 0


def names_in_data(source: Source, shards: Sequence[Shard], classes: int) -> NamesInData | None:
    """The names of classes in the shards, from a bounded number of records; None if they have none.

    The records' own texts are used only if they are names: each class has one text, and most classes have different
    ones. A list in the metadata is used only if it has a name for each of the model's classes.

    Args:
      source: reads the shards.
      shards: all shards.
      classes: the model's number of classes.
    """
    folders = {shard.label: as_text(file_name(shard.path)) for shard in shards if shard.label is not None}
    if folders:
        return NamesInData(folders, "the class folders")
    if source.fields.label == "":
        return None
    listed = next(filter(None, map(source.class_list, spread(shards, _LISTED_SHARDS))), None)
    if listed is not None and len(listed[0]) == classes:
        return NamesInData(dict(enumerate(listed[0])), listed[1])
    return _from_texts(source, shards, classes)


def _from_texts(source: Source, shards: Sequence[Shard], classes: int) -> NamesInData | None:
    seen: dict[int, Counter[str]] = {}
    records = 0
    field = ""
    for record in sampled_texts(source, shards):
        records += 1
        if isinstance(record.label, int) and 0 <= record.label < classes and record.text is not None:
            seen.setdefault(record.label, Counter())[record.text] += 1
            field = field or record.field
        if records == FIRST_RECORDS and not seen:
            return None
        # Classes that are all named are looked at a little longer, to notice texts that are no names.
        if len(seen) == classes and records >= max(2 * FIRST_RECORDS, 4 * classes):
            break
    names = {label: texts.most_common(1)[0][0] for label, texts in sorted(seen.items())}
    if not names or any(len(texts) > 1 for texts in seen.values()):
        return None
    if len(names) > 1 and len(set(names.values())) <= len(names) / 2:
        return None
    return NamesInData(names, field, records)


def sampled_texts(source: Source, shards: Sequence[Shard]) -> Iterator[ClassText]:
    """Records from shards all over the list, first few of each and then more, within the bounds above."""
    chosen = spread(shards, _SHARDS)
    left = _REMOTE_BYTES if "://" in shards[0].path else _LOCAL_BYTES
    start, count = 0, FIRST_RECORDS
    records = 0
    while chosen:
        following = []
        for shard in chosen:
            got = 0
            for record in source.class_texts(shard, start, start + count):
                got += 1
                records += 1
                left -= record.size
                yield record
                if records >= _RECORDS or left <= 0:
                    return
            if got:
                following.append(shard)
        chosen = following
        start, count = start + count, 4 * count


def spread(items: Sequence[Shard], count: int) -> list[Shard]:
    """At most `count` of the items, evenly from all over the list, the first one included."""
    count = min(count, len(items))
    return [items[i * len(items) // count] for i in range(count)]


def normalised(name: str) -> str:
    """A name without the differences that mean nothing: case, spaces, underscores and hyphens."""
    return " ".join(re.split(r"[\s_\-]+", name.casefold())).strip()


def _words(name: str) -> set[str]:
    """The name and its synonyms, as in `tench, Tinca tinca`."""
    return {normalised(name), *map(normalised, name.split(","))}


@dataclasses.dataclass(frozen=True, slots=True)
class Contradiction:
    """A class whose records call it by the configured name of another class."""

    index: int
    configured: str
    text: str


def contradictions(names: Sequence[str | None], texts: Mapping[int, str]) -> list[Contradiction]:
    """The classes whose own text in the data is the name of another class: the list of names is in another order.

    A text that is only worded differently, such as a WordNet id or a synonym, contradicts nothing. Neither does a text
    that two classes share, such as ImageNet's `crane`. A single class is no other order, so there are at least two.

    Args:
      names: the configured names, in the order of the classes.
      texts: the names in the data, by class index.
    """
    places: dict[str, int] = {}
    for index, name in enumerate(names):
        if name is not None:
            places.setdefault(normalised(name), index)
    agrees = {
        index
        for index, text in texts.items()
        if index < len(names) and (name := names[index]) is not None and _words(name) & _words(text)
    }
    found = []
    for index, text in sorted(texts.items()):
        name = names[index] if index < len(names) else None
        if name is None or index in agrees:
            continue
        first = normalised(text.split(",")[0])
        other = places.get(normalised(text), places.get(first))
        if other is not None and other != index and other not in agrees:
            found.append(Contradiction(index, name, text))
    return found if len(found) > 1 else []
