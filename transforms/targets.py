"""The classes that are explained for each image."""

from __future__ import annotations

import dataclasses
import re
from typing import Literal


@dataclasses.dataclass(frozen=True, slots=True)
class Targets:
    """The classes that are explained for each image.

    Attributes:
      kind: `predicted` or `label`, one class per image; `top`, the `ranks` classes with the largest logits; or `list`,
        the same `classes` for every image.
      ranks: the number of classes, largest logit first; 1 unless kind is `top`.
      classes: the class indices; empty unless kind is `list`.
    """

    kind: Literal["predicted", "label", "top", "list"] = "predicted"
    ranks: int = 1
    classes: tuple[int, ...] = ()

    @property
    def per_image(self) -> int:
        """The number of classes that are explained per image. An image gives as many rows."""
        return len(self.classes) if self.kind == "list" else self.ranks

    def requests(self, label: int | None) -> list[int]:
        """One image's targets as `full_gradients` takes them: class indices, or −1 − r for the class of rank r.

        Raises:
          ValueError: the targets are the labels, and this image has none.
        """
        if self.kind == "list":
            return list(self.classes)
        if self.kind == "label":
            if label is None:
                raise ValueError("explain.targets is label, but the record has no label")
            return [label]
        return [-1 - rank for rank in range(self.ranks)]

    @classmethod
    def parse(cls, value: object) -> Targets:
        """The targets of a configuration's value: `predicted`, `label`, `top-3` or `[207, 281]`.

        Raises:
          ValueError: the value is none of these.
        """
        if isinstance(value, Targets):
            return value
        if value == "predicted":
            return cls("predicted")
        if value == "label":
            return cls("label")
        if isinstance(value, str) and re.fullmatch(r"top-[1-9][0-9]{0,8}", value):
            return cls("top", ranks=int(value.removeprefix("top-")))
        if isinstance(value, list | tuple) and value and all(type(each) is int and each >= 0 for each in value):
            classes = tuple(dict.fromkeys(value))
            if len(classes) == len(value):
                return cls("list", classes=classes)
        raise ValueError(f"not targets: {value!r}")

    def to_setting(self) -> str | list[int]:
        """The value that `parse` turns into these targets."""
        if self.kind == "list":
            return list(self.classes)
        return f"top-{self.ranks}" if self.kind == "top" else self.kind
