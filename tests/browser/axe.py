"""Finds axe-core, which checks pages for barriers. It is in a wheel of PyPI, which is fetched once into the cache."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sysconfig

from tests.browser.bidi import Unavailable
from tests.cluster.artifacts import CACHE

# Its dependency, Playwright, is not needed and not installed.
_PACKAGE, _VERSION = "axe-playwright-python", "0.1.8"


def axe_source() -> str:
    """axe-core as one script.

    Raises:
      Unavailable: the wheel cannot be had.
    """
    folder = CACHE / f"{_PACKAGE}-{_VERSION}"
    if not (found := list(folder.rglob("axe.min.js"))):
        uv = os.path.join(sysconfig.get_path("scripts"), "uv")
        command = [uv, "pip", "install", "--quiet", "--no-deps", "--target", str(folder), f"{_PACKAGE}=={_VERSION}"]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
        except (OSError, subprocess.SubprocessError) as error:
            raise Unavailable(f"axe-core: {getattr(error, 'stderr', '') or error}") from error
        found = list(folder.rglob("axe.min.js"))
    if not found:
        raise Unavailable(f"{_PACKAGE} {_VERSION} has no axe.min.js")
    return pathlib.Path(found[0]).read_text("utf-8")
