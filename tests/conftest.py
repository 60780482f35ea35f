"""What all tests share."""

from __future__ import annotations

import os
import pathlib

import pytest


@pytest.fixture(scope="session")
def test_data() -> pathlib.Path:
    """The folder of real models and images; tests that need it are skipped where it is absent."""
    root = pathlib.Path(__file__).parent.parent
    folder = pathlib.Path(os.environ.get("FULLGRAD_TEST_DATA", root.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("the folder of real models and images is not there (FULLGRAD_TEST_DATA)")
    return folder
