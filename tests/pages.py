"""What stands in the README and in docs/, for tests that run it."""

from __future__ import annotations

import pathlib
import re

_ROOT = pathlib.Path(__file__).parent.parent


def code_blocks(page: str, language: str) -> list[str]:
    """The code of a page, such as `docs/method.md`, in one language, in order."""
    return re.findall(rf"```{language}\n(.*?)```", (_ROOT / page).read_text(), re.DOTALL)
