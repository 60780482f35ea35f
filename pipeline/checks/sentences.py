"""One sentence for each finding, in plain words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def sentence(row: Mapping[str, Any]) -> str:
    """What covering and adding did, from a row of `CHECKS`."""
    name = _name(row["class_name"], row["class"])
    parts = []
    if row["kind"] == "look":
        parts.append(
            f"What {name} rests on looks {'the same' if row['stands_out'] else 'different'} from picture to picture"
            f" (alikeness {row['alikeness']:.2f})"
        )
    elif row["turned"] is not None:
        commonest = _name(row["turned_into_name"], row["turned_into"])
        into = "" if row["turned_into"] is None else f", most often into {commonest}"
        most = into if row["turned"] >= 0.02 else ""
        parts.append(
            f"Covering the {row['place']} turns {row['turned']:.0%} of the images of {name}{most}; "
            f"covering as much elsewhere turns {row['turned_elsewhere']:.0%}"
        )
    if row["added"] is not None:
        what = "it" if parts else f"the evidence of {name}"
        parts.append(
            f"Adding {what} to other classes' images turns {row['added']:.0%} into {name}; adding the same part of "
            f"other images turns {row['added_control']:.0%}"
        )
    return ". ".join(parts) + "."


def _name(name: str | None, index: int) -> str:
    return repr(name) if name else f"class {index}"
