"""Reads labels and finds the class that each one means, by the same rules for every format of shards."""

from __future__ import annotations

import decimal
import math
import re
from collections.abc import Sequence

# A class index, a class name, or one number for each class.
Label = int | str | tuple[float, ...]

# A number written as text. pandas writes integers as `3.0` if some are missing.
_INDEX = re.compile(r"(-?[0-9]{1,18})(?:\.0*)?", re.ASCII)

# The sum of probabilities may differ from 1 by this much. A thousand of them in float16 differ by less.
_SUM_TOLERANCE = 0.01

_RIGHT = (
    "a label must be a class index, a class name, or one number for each class that says which one it is "
    "(one-hot, or probabilities)"
)


class UnusableLabel(ValueError):
    """A label does not tell the class. One sentence says what would be right."""


def as_label(value: object) -> Label | None:
    """The label in a value from a shard.

    Text is stripped; bytes are UTF-8 text. Whole floats are indices. A list of one value is that value, because
    TFRecords store every number in a list.

    Returns:
      A class index, a class name, a tuple of floats for a list of numbers, or None for an unknown label: an absent or
      empty one, NaN, or a negative number, which usually marks "unknown".

    Raises:
      UnusableLabel: the value cannot be a label.
    """
    if isinstance(value, str | bytes):
        return _as_text(value)
    if value is None or isinstance(value, int):
        return None if value is None or value < 0 else int(value)
    if isinstance(value, float | decimal.Decimal):
        return _as_index(value)
    if hasattr(value, "tolist"):  # NumPy's arrays and scalars
        return as_label(value.tolist())
    if not isinstance(value, list | tuple):
        raise UnusableLabel(f"the label is of the type {type(value).__name__}; {_RIGHT}")
    if len(value) <= 1:
        return as_label(value[0]) if value else None
    if all(isinstance(each, int | float | decimal.Decimal) for each in value):
        return tuple(map(float, value))
    raise UnusableLabel(f"the label is a list of {len(value)} values that are not all numbers; {_RIGHT}")


def _as_text(value: str | bytes) -> str | None:
    if isinstance(value, bytes):
        try:
            value = value.decode("utf-8")
        except UnicodeDecodeError:
            raise UnusableLabel(f"the label is bytes that are no text in UTF-8, {_shown(value)}; {_RIGHT}") from None
    return value.strip("\0 \t\r\n\v\f") or None  # NumPy and fixed-size columns pad text with zeros


def _as_index(value: float | decimal.Decimal) -> int | None:
    if math.isnan(value) or (value < 0 and value == math.floor(value)):
        return None
    if math.isinf(value) or value != math.floor(value):
        raise UnusableLabel(f"the label {value} is no whole number; {_RIGHT}")
    return int(value)


class Classes:
    """The classes of a model. It finds the class that a label means.

    Attributes:
      count: the number of classes.
      names: their names in the order of the logits, None for a class without a name; None if there are none.
    """

    def __init__(self, count: int, names: Sequence[str | None] | None = None):
        self.count = count
        self.names = names
        self._places = places_of(names or ())

    def index_of(self, label: Label | None) -> int | None:
        """The class index of a label; None for an unknown label.

        Raises:
          UnusableLabel: no class or several classes have the name, the index is beyond the classes, or a list does not
            tell a single class.
        """
        if isinstance(label, tuple):
            return self._likeliest(label)
        index = self._named(label) if isinstance(label, str) else label
        if index is not None and index >= self.count:
            hint = "; do the labels begin at 1?" if index == self.count else ""
            raise UnusableLabel(
                f"the label {index} is beyond the model's {self.count} classes, which are 0 to {self.count - 1}{hint}"
            )
        return index

    def _named(self, name: str) -> int | None:
        number = _INDEX.fullmatch(name)
        index = None if number is None else int(number[1])
        places = self._places.get(name, ())
        if len(places) > 1:
            raise UnusableLabel(
                f"the label {name!r} is the name of the classes {_enumerated(places)}; label by class index, or give "
                "each class a name of its own in model.class_names"
            )
        if places and index is not None and places[0] != index < self.count:
            raise UnusableLabel(
                f"the label {name!r} is text and may mean class {index} or class {places[0]}, which has that name; "
                "label by whole numbers, or leave model.class_names out"
            )
        if places:
            return places[0]
        if index is not None:
            return index if index >= 0 else None
        if self.names is None:
            raise UnusableLabel(f"the label {name!r} is a name; model.class_names must list the classes' names")
        raise UnusableLabel(f"the label {name!r} is not among model.class_names")

    def _likeliest(self, values: tuple[float, ...]) -> int:
        """The class of a one-hot label, or the class with the largest probability."""
        if len(values) != self.count:
            raise UnusableLabel(
                f"the label is a list of {len(values)} numbers, and the model has {self.count} classes; {_RIGHT}"
            )
        wrong = next((value for value in values if not 0 <= value < math.inf), None)
        if wrong is not None:
            raise UnusableLabel(f"the label is a list with {wrong:g} in it; {_RIGHT}")
        total, largest = math.fsum(values), max(values)
        if abs(total - 1) > _SUM_TOLERANCE:
            ones = values.count(1.0)
            what = (
                f"marks {ones} classes, and an image has one here"
                if ones > 1 and set(values) <= {0.0, 1.0}
                else f"is a list of numbers that add up to {total:g}, not 1"
            )
            raise UnusableLabel(f"the label {what}; {_RIGHT}")
        if values.count(largest) > 1:
            places = [place for place, value in enumerate(values) if value == largest]
            raise UnusableLabel(f"the label has its largest number, {largest:g}, for the classes {_enumerated(places)}")
        return values.index(largest)


def places_of(names: Sequence[str | None]) -> dict[str, tuple[int, ...]]:
    """The class indices of each name. A repeated name, such as ImageNet's `crane`, has several."""
    places: dict[str, tuple[int, ...]] = {}
    for place, name in enumerate(names):
        if name is None:
            continue
        places[name] = (*places.get(name, ()), place)
    return places


def _enumerated(numbers: Sequence[int]) -> str:
    shown = [str(number) for number in numbers[:5]]
    if len(numbers) > 5:
        return f"{', '.join(shown)} and {len(numbers) - 5} more"
    return f"{', '.join(shown[:-1])} and {shown[-1]}"


def _shown(value: bytes | str) -> str:
    return repr(value) if len(value) <= 20 else f"{value[:20]!r}…"
