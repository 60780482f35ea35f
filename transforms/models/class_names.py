"""Reads the names of a model's classes from the kinds of files that people have."""

from __future__ import annotations

import ast
import contextlib
import csv
import json
import re
from collections.abc import Iterable, Sequence

# A number, a separator and a name: `0 tench`, `0: tench`, `0, tench`; not `3D printer`, `0.5 litre`.
_NUMBERED = re.compile(r"([0-9]{1,7})(?:\s*[:,;=|)]\s*|\.\s+|\s+-\s+|\s+)(\S.*)", re.ASCII)
_WORDNET = re.compile(r"n[0-9]{8}(?:\s*[,;]\s*|\s+)(\S.*)", re.ASCII)
_NUMBER = re.compile(r"[0-9]{1,7}", re.ASCII)

# Names of columns that hold class names, the most certain first.
_NAME_COLUMNS = ("class_name", "name", "label_name", "classname", "class_names", "names", "text", "label", "class")
_OTHER_COLUMNS = (
    "index",
    "idx",
    "id",
    "class_id",
    "class_index",
    "label_id",
    "wnid",
    "synset",
    "synset_id",
    "number",
    "",
)

_RIGHT = "one name a line in the order of the model's classes, or a JSON list of names, would be right"


class UnreadableNames(ValueError):
    """A file of names cannot be read. The message ends a sentence that begins with the file's path."""


def class_names(text: str) -> tuple[str, ...]:
    """The names in a file's text, in the order of the classes.

    The text has one of these forms:
      One name a line. A number from 0 up (`0 tench`) or a WordNet id may come before each name.
      A table with a header. One column numbers the classes, or the rows are in order.
      JSON: a list of names, names by number (`{"0": "tench"}`, also Keras' `{"0": ["n01440764", "tench"]}`), or numbers
      by name.
    Empty lines at the start and the end are ignored.

    Raises:
      UnreadableNames: there are no names, or some number from 0 up has no name.
    """
    text = text.strip("\r\n \t")
    if not text.strip():
        raise UnreadableNames("is empty, where one name a line was expected")
    try:
        return tuple(_names(text))
    except _Refused as error:
        raise UnreadableNames(f"{error}; {_RIGHT}") from error


class _Refused(ValueError):
    """The text cannot be read; the message says why, but not what would be right."""


def _names(text: str) -> list[str]:
    if _is_json(text):
        return _from_json(text)
    lines = [line.strip() for line in text.splitlines()]
    return _from_table(lines) or _from_numbered(lines) or _behind_wordnet_ids(lines) or lines


# ---- JSON


def _is_json(text: str) -> bool:
    """Whether the text is meant as JSON, or as a printed Python dictionary or list. A name may begin with `[`."""
    if re.match(r"\{|\[\s*([\"'\[{\]]|$)", text, re.MULTILINE):
        return True
    with contextlib.suppress(ValueError):
        return isinstance(json.loads(text), list)
    return False


def _from_json(text: str) -> list[str]:
    try:
        value = json.loads(text, object_pairs_hook=_Pairs)
    except ValueError:
        try:
            value = _with_pairs(ast.parse(text, mode="eval").body)
        except (SyntaxError, ValueError, RecursionError):
            raise _Refused("begins like JSON and cannot be read as JSON") from None
    if isinstance(value, _Pairs):
        # A Hugging Face model's configuration has the names in one of its many keys.
        inner = next((each for key, each in value if key == "id2label"), None)
        return _from_pairs(inner if isinstance(inner, _Pairs) else value)
    if not isinstance(value, list):
        raise _Refused("holds no list and no mapping of names")
    if value and all(isinstance(each, _Pairs) for each in value):  # [{"id": 0, "name": "tench"}, …]
        records = [dict(each) for each in value]
        keys = list(dict.fromkeys(key for record in records for key in record))
        return _from_columns(keys, [[str(record.get(key, "")) for key in keys] for record in records])
    if not value:
        raise _Refused("has no names in it")
    return [_name_of(each) for each in value]


class _Pairs(list[tuple[str, object]]):
    """A JSON object with all its keys, including repeated ones."""


def _with_pairs(node: ast.expr) -> object:
    """The value of a Python literal, with `_Pairs` for dictionaries."""
    if isinstance(node, ast.Dict):
        keys = [None if key is None else ast.literal_eval(key) for key in node.keys]
        return _Pairs((str(key), _with_pairs(value)) for key, value in zip(keys, node.values, strict=True))
    if isinstance(node, ast.List | ast.Tuple):
        return [_with_pairs(each) for each in node.elts]
    return ast.literal_eval(node)


def _from_pairs(pairs: _Pairs) -> list[str]:
    if not pairs:
        raise _Refused("has no names in it")
    numbers = [value for _, value in pairs]
    if all(isinstance(value, int) and not isinstance(value, bool) for value in numbers):
        return _in_order([(str(value), key) for key, value in pairs])
    if all(_NUMBER.fullmatch(key) for key, _ in pairs):
        return _in_order([(key, _name_of(value)) for key, value in pairs])
    if all(isinstance(value, str) and _NUMBER.fullmatch(value) for value in numbers):
        return _in_order([(str(value), key) for key, value in pairs])
    raise _Refused(f"is a mapping that does not number the names, as by {pairs[0][0]!r}")


def _name_of(value: object) -> str:
    """The name in a JSON value: a string, or a WordNet id and a name, as in Keras' `imagenet_class_index.json`."""
    if isinstance(value, list) and len(value) == 2 and all(isinstance(each, str) for each in value):
        value = value[1]
    if not isinstance(value, str) or not value.strip():
        raise _Refused(f"has {_shown(value)} where a name should be")
    return value.strip()


# ---- tables


def _from_table(lines: Sequence[str]) -> list[str] | None:
    """The names in a table separated by commas, tabs or semicolons; None if the lines are not a table."""
    for delimiter in ",\t;":
        rows = [[cell.strip() for cell in row] for row in _rows(lines, delimiter)]
        if len(rows) < 2 or len(rows[0]) < 2 or len({len(row) for row in rows}) > 1:
            continue
        header = [cell.strip('"').lower().replace(" ", "_") for cell in rows[0]]
        known = [cell for cell in header if cell in _NAME_COLUMNS or cell in _OTHER_COLUMNS]
        if len(known) == len(header) or (known and _numbers(rows[1:]) and not _numbers(rows)):
            return _from_columns(header, rows[1:])
        # Without a header, only quotes (`"tench, Tinca tinca"`) tell a table from names with commas.
        if len(header) == 2 and _numbers(rows) and (_numbers(rows) != [0] or any('"' in line for line in lines)):
            return _from_columns(["", ""], rows)
    return None


def _rows(lines: Sequence[str], delimiter: str) -> list[list[str]]:
    try:
        return [row for row in csv.reader(lines, delimiter=delimiter, skipinitialspace=True, strict=True) if row]
    except csv.Error:
        return []


def _numbers(rows: Iterable[Sequence[str]]) -> list[int]:
    """The columns that hold only whole numbers."""
    return [i for i, cells in enumerate(zip(*rows, strict=True)) if all(_NUMBER.fullmatch(cell) for cell in cells)]


def _from_columns(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    columns = list(zip(*rows, strict=True))
    numbers = _numbers(rows)
    whole = [i for i in numbers if sorted(map(int, columns[i])) == list(range(len(rows)))]
    number = min(whole or numbers, key=lambda i: header[i].lower() not in _OTHER_COLUMNS, default=None)
    others = [i for i in range(len(header)) if i != number]
    texts = [i for i in others if i not in numbers] or others  # names may be digits
    known = [i for name in _NAME_COLUMNS for i in texts if header[i].lower() == name]
    if len(texts) != 1 and not known:
        raise _Refused(f"has the columns {', '.join(map(repr, header))}, of which none is called class_name or name")
    names = [_name_of(name) for name in columns[known[0] if known else texts[0]]]
    return names if number is None else _in_order(list(zip(columns[number], names, strict=True)))


# ---- lines


def _from_numbered(lines: Sequence[str]) -> list[str] | None:
    """The names after the numbers that begin every line; None without numbers, or if they count things (`5 euros`)."""
    parts = [_NUMBERED.fullmatch(line) for line in lines if line]
    pairs = [(part[1], part[2]) for part in parts if part is not None]
    if len(pairs) < len(parts):
        return None
    numbers = sorted(int(number) for number, _ in pairs)
    counting = numbers == list(range(1, len(pairs) + 1))
    if numbers[0] != 0 and not counting:
        return None
    if len({name for _, name in pairs}) == 1 < len(pairs):  # `0 faults`, `1 faults`: the numbers are the names
        return None
    return _in_order(pairs)


def _behind_wordnet_ids(lines: Sequence[str]) -> list[str] | None:
    """The names after the WordNet ids that begin every line (`n01440764 tench`); None if lines do not."""
    parts = [_WORDNET.fullmatch(line) for line in lines]
    names = [part[1] for part in parts if part is not None]
    return names if len(names) == len(lines) else None


def _in_order(pairs: Sequence[tuple[str, str]]) -> list[str]:
    """The names sorted by their numbers, which must count from 0.

    Raises:
      _Refused: a number is missing or repeated, or the numbers begin at 1.
    """
    by_number: dict[int, str] = {}
    for number, name in pairs:
        if int(number) in by_number:
            raise _Refused(f"has the number {int(number)} twice")
        by_number[int(number)] = name
    if sorted(by_number) == list(range(1, len(pairs) + 1)):
        raise _Refused(f"numbers its classes from 1 to {len(pairs)}, and the model's begin at 0")
    missing = next((number for number in range(len(pairs)) if number not in by_number), None)
    if missing is not None:
        raise _Refused(f"numbers its classes up to {max(by_number)}, but has none with the number {missing}")
    if empty := next((number for number, name in sorted(by_number.items()) if not name.strip()), None):
        raise _Refused(f"has no name for the class {empty}")
    return [by_number[number].strip() for number in range(len(pairs))]


def _shown(value: object) -> str:
    text = repr(dict(value) if isinstance(value, _Pairs) else value)
    return text if len(text) <= 40 else f"{text[:40]}…"
