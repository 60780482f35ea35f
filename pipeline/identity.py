"""Decides whether an output belongs to a run. Two runs with equal identities compute the same and share an output."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from apache_beam.io.filesystems import FileSystems

from pipeline.config import Config
from pipeline.config.schema import DEFAULT_IDENTITY
from transforms.models import ModelSpec
from transforms.output import SCHEMA_VERSION, DamagedOutput, Output
from transforms.unit import Receipt


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
    earlier = _run_json(output)
    if earlier is None:
        receipts, _ = output.look_at_receipts()
        return check_receipts(receipts, output, maps=True)
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


def claim_output(output: Output, identity: Mapping[str, Any], run_json: str) -> Mapping[str, Any] | None:
    """Writes run.json, unless the output belongs to a run with another identity; returns the earlier run.json, if any.

    If several runs claim a fresh output at the same time, one is first, and the others are checked against it. A store
    does not tell who was first; there the file is read back, and every unit and the end of the run look again.

    Raises:
      UnusableOutput: as `check_output`.
    """
    check_output(output, identity)
    earlier = _run_json(output)
    path = output.file("run.json")
    if earlier is None and not FileSystems.exists(path) and output.write_new_json(path, run_json):
        check_output(output, identity)
        return None
    check_output(output, identity)
    output.write_json(path, run_json)
    check_output(output, identity)
    return earlier


def _run_json(output: Output) -> Mapping[str, Any] | None:
    """The earlier run.json. None if there is none, or a damaged one beside receipts that say whose output it is.

    Raises:
      UnusableOutput: it was written by something else.
    """
    try:
        earlier = output.read_json("run.json")
        if earlier is None:
            return None
        if isinstance(earlier, dict) and isinstance(earlier.get("identity"), dict) and "fingerprint" in earlier:
            return earlier
        reason = "has a run.json that no run of fullgrad wrote"
    except DamagedOutput:
        reason = "has a run.json that is damaged, as it is no JSON file"
    receipts, _ = output.look_at_receipts()
    if any(receipt.fingerprint is not None for receipt in receipts):
        return None
    raise UnusableOutput(f"output.path: {output.path} {reason}; choose another")


def check_receipts(receipts: Sequence[Receipt], output: Output, *, maps: bool = False) -> None:
    """Refuses an output with units that have another fingerprint.

    Args:
      receipts: of the output.
      output: with the fingerprint of the run.
      maps: whether to look into the maps where a receipt of an earlier version does not tell it.

    Raises:
      UnusableOutput: names a receipt.
    """
    for receipt in receipts:
        found = receipt.fingerprint or (_fingerprint_of_maps(receipt, output) if maps else output.fingerprint)
        if found != output.fingerprint:
            raise UnusableOutput(
                f"output.path: {output.receipt(receipt.unit)} is of a run with other settings (fingerprint {found}, "
                f"where this run has {output.fingerprint}); choose another output.path, or delete that one"
            )


def _fingerprint_of_maps(receipt: Receipt, output: Output) -> str:
    """The fingerprint in the maps of a unit whose receipt does not tell it; empty if they cannot be read."""
    try:
        with output.open_part("maps", receipt.unit) as file:
            return (file.schema_arrow.metadata or {}).get(b"fullgrad.fingerprint", b"").decode(errors="replace")
    except DamagedOutput:
        return output.fingerprint  # the unit is computed again


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """The values of nested mappings by their dotted keys."""
    if not isinstance(value, dict):
        return {prefix.removesuffix("."): value}
    return {key: leaf for name, inner in value.items() for key, leaf in _flat(inner, f"{prefix}{name}.").items()}
