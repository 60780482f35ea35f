"""An output folder to write to."""

from __future__ import annotations

import pathlib

import pytest

import tests.elsewhere  # noqa: F401  knows elsewhere://
from transforms.output import Output


@pytest.fixture(params=["", "elsewhere://"], ids=["local", "elsewhere"])
def output(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> Output:
    """An output folder on the local disk, and on a file system that does not rename onto what is there."""
    found = Output(f"{request.param}{tmp_path}/out", fingerprint="0123456789abcdef")
    found.create()
    return found
