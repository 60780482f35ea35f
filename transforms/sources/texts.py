"""Which fields of a record hold the class's name beside its number."""

from __future__ import annotations

import dataclasses

from transforms.labels import Label

# Names of fields that hold the name of the class whose number is in another field.
TEXT_NAMES = ("image/class/text", "label_name", "class_name", "label_text", "class_text", "label_str", "category_name")


@dataclasses.dataclass(frozen=True, slots=True)
class ClassText:
    """The class of one record as its number and as its name.

    Attributes:
      label: the label, usually a class index; None if it is unknown.
      text: the class's name; None if the record has none.
      field: the field that holds the name, in words; empty if there is none.
      size: the bytes that were read for the record.
    """

    label: Label | None
    text: str | None
    field: str
    size: int


def text_names(label: str) -> tuple[str, ...]:
    """The names under which a class's name is looked for, if its number is in the field `label`, the likeliest first.

    A coarse label is named only by a field of its own, because the usual ones name the fine label.
    """
    own = [f"{label}_{end}" for end in ("name", "text", "str")]
    if label.endswith("label"):
        own.append(f"{label.removesuffix('label')}text")
    usual = () if label.startswith("coarse") else TEXT_NAMES
    return tuple(name for name in dict.fromkeys([*own, *usual]) if name != label)


def as_class_text(value: object) -> str | None:
    """The name in a value from a shard; None if it is empty or no text."""
    if isinstance(value, list | tuple):
        value = value[0] if len(value) == 1 else None
    if isinstance(value, bytes):
        value = value.decode("utf-8", errors="replace")
    return (value.strip("\0 \t\r\n") or None) if isinstance(value, str) else None
