"""Compares what two runs wrote."""

from __future__ import annotations

from typing import Any

import numpy as np

from transforms.output import Output, read_maps, read_table

TOLERANCE = 1e-6


def assert_same_output(path: str, expected: str) -> None:
    """Two outputs have the same rows of maps, order apart, and the same classes; numbers agree to `TOLERANCE`."""
    _assert_same_rows(_maps(path), _maps(expected))
    _assert_same_rows(_classes(path), _classes(expected))
    assert Output(path).read_json("summary.json")["images"] == Output(expected).read_json("summary.json")["images"]


def _maps(path: str) -> dict[Any, dict[str, Any]]:
    rows = list(read_maps(path))
    by_key = {(row["shard"], row["index"], row["target"]): row for row in rows}
    assert len(by_key) == len(rows), f"{path} has an image twice for one target"
    return by_key


def _classes(path: str) -> dict[Any, dict[str, Any]]:
    return {row["class"]: row for row in read_table(f"{path}/classes.parquet").to_pylist()}


def _is_numeric(value: Any) -> bool:
    numbers = isinstance(value, list) and value and isinstance(value[0], float)
    return bool(numbers) or isinstance(value, float | np.ndarray)


def _assert_same_rows(rows: dict[Any, dict[str, Any]], expected: dict[Any, dict[str, Any]]) -> None:
    assert rows.keys() == expected.keys()
    for key, row in rows.items():
        for name, value in row.items():
            wanted = expected[key][name]
            if _is_numeric(wanted):
                scale = max(1.0, float(np.abs(wanted).max()))
                np.testing.assert_allclose(value, wanted, rtol=0, atol=TOLERANCE * scale, err_msg=f"{key} {name}")
            else:
                assert value == wanted, (key, name)
