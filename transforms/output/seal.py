"""Seals receipts with a checksum of their own, and reads what is sealed."""

from __future__ import annotations

import json
from typing import Any

import google_crc32c

from transforms.output.files import damaged
from transforms.unit import Receipt

_SEAL = "crc32c"


def sealed(text: str) -> str:
    """The JSON object in a text, with the checksum of its values."""
    value = json.loads(text)
    return json.dumps({**value, _SEAL: _checksum(value)}, indent=1)


def receipt_of(path: str, text: bytes) -> Receipt:
    """The receipt in a file's content. Receipts of earlier versions have no seal, which is not missed.

    Raises:
      DamagedOutput: it is not as it was written; names the file.
    """
    try:
        receipt = Receipt.from_json(text)
    except ValueError as error:
        raise damaged(path, str(error)) from error
    value = json.loads(text)
    seal = value.pop(_SEAL, None)
    if (seal is not None or receipt.parts is not None) and seal != _checksum(value):
        raise damaged(path, "its content does not match its checksum")
    if path.rpartition("/")[2] != f"{receipt.unit.id}.json":
        raise damaged(path, f"it is the receipt of another unit, {receipt.unit.id}")
    return receipt


def _checksum(value: Any) -> str:
    return google_crc32c.Checksum(json.dumps(value, sort_keys=True).encode()).digest().hex()
