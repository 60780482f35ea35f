"""Reads the report's data files back, as a browser would."""

from __future__ import annotations

import base64
import json
import pathlib
from typing import Any

import numpy as np


def call_of(path: pathlib.Path, call: str) -> list[Any]:
    """The values that a data file hands to the page."""
    text = path.read_text("ascii")
    start, end = f"{call}(", ");\n"
    assert text.startswith(start), text[:40]
    assert text.endswith(end), text[-40:]
    return json.loads(f"[{text[len(start) : -len(end)]}]")


def index_of(report: pathlib.Path) -> dict[str, Any]:
    """The content of data/index.js."""
    [value] = call_of(report / "data" / "index.js", "fullgrad.index")
    return value


def class_of(report: pathlib.Path, index: int) -> dict[str, Any]:
    """The content of data/c<index>.js."""
    number, value = call_of(report / "data" / f"c{index}.js", "fullgrad.class")
    assert number == index
    return value


def map_of(coded: list[Any]) -> tuple[np.ndarray, float]:
    """A map's values float64 [H, W], and half of the step between two of them."""
    data, scale, offset, height, width = coded
    codes = np.frombuffer(base64.b64decode(data), np.uint8).reshape(height, width)
    return codes * scale + offset, scale / 2
