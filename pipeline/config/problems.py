"""Puts what is wrong with a configuration into sentences: the key, what it must be, and what was probably meant.

The schema is a pydantic class: a class is a section, a field is a key. `Values` says what a key takes if its type alone
does not.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, PydanticCustomError

_UNKNOWN = ("extra_forbidden", "invalid_key")
_MOST_TOLD = 30
_LARGE = 10_000  # a bound from here up is said only to those who exceed it


class ConfigError(ValueError):
    """The configuration cannot be used; the message is one sentence for the user."""


@dataclasses.dataclass(frozen=True, slots=True)
class Values:
    """What a key takes, for error messages.

    Attributes:
      text: what would be right; it follows "must be" in a sentence.
      choices: the words that are accepted; the nearest one is suggested.
      items: what one entry must be, if the value is a mapping with free keys.
      empty: whether empty text is a value with a meaning of its own.
    """

    text: str
    choices: tuple[str, ...] = ()
    items: str = ""
    empty: bool = False


def refusal(sentence: str, *keys: str) -> PydanticCustomError:
    """An error for a validator to raise, with a complete sentence and the keys that it is about."""
    return PydanticCustomError("refusal", "{sentence}", {"sentence": sentence, "keys": keys or ("",)})


@dataclasses.dataclass(frozen=True, slots=True)
class Problem:
    """A sentence about one or more keys.

    Attributes:
      unknown: the sentence is about a key that does not exist; `meant` is the key that the user probably meant, or "".
      from_absence: the problem is dropped if an unknown key was probably meant as its first key.
    """

    sentence: str
    keys: tuple[str, ...]
    unknown: bool = False
    from_absence: bool = False
    meant: str = ""


def problems_of(error: ValidationError, value: Mapping[str, Any], schema: type[BaseModel]) -> list[Problem]:
    """One problem a key, unknown keys first, as the others often follow from them."""
    by_key: dict[tuple[str, ...], Problem] = {}
    details = error.errors(include_url=False, include_input=False)
    # Of a key with several types, an exceeded bound says more than the other types. Only the first problems are told:
    # putting thousands into words would take minutes.
    for detail in sorted(details, key=_rank)[:_MOST_TOLD]:
        problem = _problem(detail, value, schema)
        by_key.setdefault(problem.keys, problem)
    meant = {problem.meant for problem in by_key.values() if problem.meant}
    problems = [
        problem
        for problem in by_key.values()
        if not (problem.from_absence and any(within(problem.keys[0], key) for key in meant))
    ]
    return sorted(problems, key=lambda problem: not problem.unknown)


def _rank(detail: ErrorDetails) -> int:
    return 0 if detail["type"] in _UNKNOWN else 1 if detail["type"] == "less_than_equal" else 2


def _problem(detail: ErrorDetails, value: Mapping[str, Any], schema: type[BaseModel]) -> Problem:
    location = detail["loc"]
    if detail["type"] == "refusal":
        keys = tuple(detail["ctx"]["keys"])
        return Problem(detail["ctx"]["sentence"], keys, from_absence=True)
    if detail["type"] in _UNKNOWN:
        names, _ = _located(location[:-1], value, schema)
        return _unknown_key(".".join(names), str(location[-1]), schema)

    names, field = _located(location, value, schema)
    assert field is not None, f"a problem without a key: {detail}"
    key, given = ".".join(names), _at(names, value)
    if not is_leaf(field):
        keys_within = enumerated(field.annotation.model_fields)  # type: ignore[union-attr]
        return Problem(f"`{key}` must be a section with the keys {keys_within}, not {show(given)}", (key,))
    values = _values_of(field)
    needs = values.text if key in dict(keys_of(schema)) else values.items
    if detail["type"] == "missing" and location[-1] == names[-1]:
        return Problem(f"the required key `{key}` is missing, which must be {needs}", (key,), from_absence=True)
    nearest = _nearest(given, values.choices) if isinstance(given, str) else None
    hint = f"; did you mean {nearest}?" if nearest else ""
    if detail["type"] == "less_than_equal" and detail["ctx"]["le"] >= _LARGE:
        hint = f"; at most {detail['ctx']['le']:,} is taken"
    return Problem(f"`{shortened(key)}` must be {needs}, not {show(given)}{hint}", (key,))


def _located(
    location: Sequence[int | str], value: Mapping[str, Any], schema: type[BaseModel]
) -> tuple[list[str], FieldInfo | None]:
    """The names of the key that an error's location is about, and its field.

    A location also holds positions in a list, names of a union's members, and entries of a mapping. Of these, only the
    name of an entry is kept.
    """
    section: type[BaseModel] | None = schema
    field: FieldInfo | None = None
    names: list[str] = []
    for part in location:
        if section is not None and part in section.model_fields:
            field = section.model_fields[str(part)]
            section = _section_in(field.annotation)
            names.append(str(part))
        elif section is None:
            entries = _at(names, value)
            if isinstance(entries, Mapping) and part in entries:
                names.append(str(part))
            break
    return names, field


def _unknown_key(section: str, name: str, schema: type[BaseModel]) -> Problem:
    """An unknown key in a section (dotted; "" for the top level), with the key that was probably meant."""
    key = f"{section}.{name}" if section else name
    shown = shortened(key)
    every = [each for each, _ in keys_of(schema)]
    siblings = {each.rpartition(".")[2]: each for each in every if each.rpartition(".")[0] == section}
    homes = [each for each in every if each.rpartition(".")[2] == name]
    nearest = _nearest(name, tuple(siblings))
    if key in every:  # a dotted name in the file
        home, _, leaf = key.rpartition(".")
        return Problem(f"`{key}` must be written as `{leaf}` within the section {home}", (key,), True, meant=key)
    # `output.image` is rather `output.images`, although there is an `input.fields.image`.
    if homes and _nearest(name, tuple(siblings), cutoff=0.9) is None:
        sections = enumerated([each.rpartition(".")[0] or "the top level" for each in homes], "or")
        return Problem(f"unknown key `{shown}`; `{name}` belongs to {sections}", (key,), unknown=True, meant=homes[0])
    if nearest is None:
        elsewhere = {each.rpartition(".")[2]: each for each in every}
        distant = _nearest(name, tuple(elsewhere), cutoff=0.8)
        meant = elsewhere[distant] if distant else ""
    else:
        meant = siblings[nearest]
    if meant:
        return Problem(f"unknown key `{shown}`; did you mean `{meant}`?", (key,), unknown=True, meant=meant)
    place = f"the keys of {section}" if section else "the sections"
    return Problem(f"unknown key `{shown}`; {place} are {enumerated(siblings)}", (key,), unknown=True)


# Questions to the schema about its keys.


def keys_of(section: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every key and section by its dotted name, in the order of the file."""
    for name, field in section.model_fields.items():
        yield prefix + name, field
        inner = _section_in(field.annotation)
        if inner is not None:
            yield from keys_of(inner, f"{prefix}{name}.")


def _section_in(annotation: Any) -> type[BaseModel] | None:
    """The section that a value of this type is or may be; None if it cannot be one."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_section_in, get_args(annotation))), None)


def is_leaf(field: FieldInfo) -> bool:
    """Whether a key takes a value other than a section, perhaps besides one."""
    return _section_in(field.annotation) is not field.annotation


def takes_mapping(field: FieldInfo) -> bool:
    """Whether the value of a key is or may be a mapping."""
    return _section_in(field.annotation) is not None or get_origin(field.annotation) is dict


def takes_empty_text(field: FieldInfo) -> bool:
    """Whether empty text is a value of a key with a meaning of its own."""
    return any(each.empty for each in field.metadata if isinstance(each, Values))


def _values_of(field: FieldInfo) -> Values:
    """What a key takes, from its `Values`, or from its type if it has none."""
    for each in field.metadata:
        if isinstance(each, Values):
            return each
    if field.annotation is bool:
        return Values("true or false")
    choices = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
    if not choices:
        raise TypeError(f"a key of type {field.annotation} needs Values")
    return Values(enumerated(choices, "or"), choices)


def within(key: str, section: str) -> bool:
    """Whether a dotted key is the section or lies below it."""
    return f"{key}.".startswith(f"{section}.")


def _at(names: Sequence[str], value: Any) -> Any:
    """The value below the names, one inside the other; None if there is none."""
    for name in names:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


# Words.


def _nearest(word: str, words: Sequence[str], cutoff: float = 0.6) -> str | None:
    lowered = {each.lower(): each for each in words}
    found = difflib.get_close_matches(word.lower(), lowered, n=1, cutoff=cutoff)
    return lowered[found[0]] if found else None


def enumerated(words: Any, conjunction: str = "and") -> str:
    """The words as a list in a sentence, such as: one, two and three."""
    *first, last = words
    return f"{', '.join(first)} {conjunction} {last}" if first else str(last)


def show(value: object) -> str:
    """A value as YAML may have it, on one line of at most 120 characters."""
    try:
        text = json.dumps(value, ensure_ascii=False, default=str)
    except (TypeError, ValueError, RecursionError):  # keys that are no text, or a value that contains itself
        text = str(value)
    return shortened(text)


def shortened(text: str) -> str:
    """The text on one line of at most 120 characters, with escapes for those that a terminal would not show."""
    text = " ".join(text.split())
    text = text if len(text) <= 120 else f"{text[:119]}…"
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)
