"""Decides whether an output belongs to a run. Two runs with equal identities compute the same and share an output."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

from pipeline.config import Config
from pipeline.config.schema import DEFAULT_IDENTITY
from transforms.models import ModelSpec
from transforms.output import SCHEMA_VERSION, Output


class UnusableOutput(ValueError):
    """The run cannot write to this output; one sentence that says why and what to do."""


def identity_of(config: Config, spec: ModelSpec) -> dict[str, Any]:
    """Everything that decides the content of an output, as plain values."""
    return {**config.identity(), "model_content": spec.fingerprint}


def fingerprint_of_identity(identity: Mapping[str, Any]) -> str:
    """16 hexadecimal digits that tell identities apart."""
    text = json.dumps(identity, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def check_output(output: Output, identity: Mapping[str, Any]) -> None:
    """Refuses an output of a run with another identity, and one whose files could not be found again.

    Raises:
      UnusableOutput: names the first setting that differs.
    """
    if re.search(r"[*?\[]", output.path):
        raise UnusableOutput(
            f"output.path: {output.path} has one of * ? [ in it, which stand for patterns; choose another"
        )
    earlier = output.read_json("run.json")
    if earlier is None:
        return
    if not isinstance(earlier, dict) or not {"fingerprint", "identity"} <= earlier.keys():
        raise UnusableOutput(f"output.path: {output.path} has a run.json that no run of fullgrad wrote; choose another")
    if (version := earlier.get("schema_version")) != SCHEMA_VERSION:
        raise UnusableOutput(
            f"output.path: {output.path} was written with version {version} of the columns, where this version of "
            f"fullgrad writes version {SCHEMA_VERSION}; choose another output.path, or delete that one"
        )
    if earlier["fingerprint"] == output.fingerprint:
        return
    # The earlier identity may lack keys that were added since.
    now, then = ({**DEFAULT_IDENTITY, **_flat(each)} for each in (identity, earlier["identity"]))
    key = next((key for key in now if now[key] != then.get(key)), "the configuration")
    differs = (
        "another model file"
        if key == "model_content"
        else f"{key} = {json.dumps(then.get(key))}, where it is now {json.dumps(now.get(key))}"
    )
    raise UnusableOutput(
        f"output.path: {output.path} holds a run with {differs}; choose another output.path, or delete that one"
    )


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """The values of nested mappings by their dotted keys."""
    if not isinstance(value, dict):
        return {prefix.removesuffix("."): value}
    return {key: leaf for name, inner in value.items() for key, leaf in _flat(inner, f"{prefix}{name}.").items()}
