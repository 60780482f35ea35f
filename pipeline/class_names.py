"""Decides the names of the classes: those that are configured, else those of an earlier run, else those in the data."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from transforms.models import LoadedModel
from transforms.output import DamagedOutput, Output
from transforms.sources import Source, contradictions, names_in_data
from transforms.unit import Shard


@dataclasses.dataclass(frozen=True, slots=True)
class ClassNames:
    """The names of a run's classes.

    Attributes:
      names: one for each class of the model, None for a class whose name is not known; None if there are none.
      source: where they come from, in words; empty if there are none.
      warnings: how the data contradict the configured names, one sentence or none.
    """

    names: tuple[str | None, ...] | None
    source: str = ""
    warnings: tuple[str, ...] = ()

    def sentence(self) -> str:
        """One line for the plan, if there are names."""
        if self.names is None:
            return "class names: none"
        known = sum(name is not None for name in self.names)
        return f"class names: {self.source}" + (f", {known} of {len(self.names)}" if known < len(self.names) else "")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for run.json."""
        return {
            "source": self.source,
            "names": None if self.names is None else list(self.names),
            "warnings": list(self.warnings),
        }


def class_names_of(
    configured: str | None, source: Source, shards: Sequence[Shard], model: LoadedModel, earlier: ClassNames | None
) -> ClassNames:
    """The names of the classes of a run.

    Args:
      configured: the file of `model.class_names`; its names are the model's.
      source, shards: the data.
      model: as loaded with the configured names.
      earlier: the names in the data as an earlier run into the output found them. They are kept, so that all parts of
        an output have the same.
    """
    classes = model.exposed.classes
    if configured is None and earlier is not None and len(earlier.names or ()) == classes:
        return earlier
    found = names_in_data(source, shards, classes)
    if configured is not None:
        names = tuple(model.class_names or ())
        warnings = () if found is None else _warnings(names, found.names, found.source)
        return ClassNames(names, f"model.class_names ({configured})", warnings)
    if found is None:
        return ClassNames(None)
    names = tuple(found.names.get(index) for index in range(classes))
    records = f" of the first {found.records:,} records" if found.records else ""
    return ClassNames(names, f"{found.source}{records}")


def earlier_names(output: Output) -> ClassNames | None:
    """The names that an earlier run into the output found in its data; None if there are none."""
    try:
        run = output.read_json("run.json")
    except DamagedOutput:
        return None
    value = run.get("class_names") if isinstance(run, dict) else None
    names = value.get("names") if isinstance(value, dict) else None
    source = value.get("source") if isinstance(value, dict) else None
    if not isinstance(names, list) or not isinstance(source, str) or source.startswith("model.class_names"):
        return None
    return ClassNames(tuple(names), source)


def _warnings(names: Sequence[str | None], texts: Any, where: str) -> tuple[str, ...]:
    found = contradictions(names, texts)
    if not found:
        return ()
    examples = " and ".join(f"class {each.index} {each.text!r}, not {each.configured!r}" for each in found[:2])
    return (
        f"model.class_names contradicts the data: {where} calls {examples}; {len(found)} of {len(texts)} classes "
        "have the name of another class there, so the list seems to be in another order than the labels",
    )
