"""What tests do if a server that they need is not available."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest


def skip_or_fail(reason: object) -> NoReturn:
    """Skips the test. Where FULLGRAD_REQUIRE_SERVERS is set, as in CI, it fails: no promise may go untested there."""
    if os.environ.get("FULLGRAD_REQUIRE_SERVERS"):
        pytest.fail(f"required here, but not available: {reason}")
    pytest.skip(str(reason))
