"""The error of a model that cannot be used, and the one line that tells what went wrong inside Keras."""

from __future__ import annotations

import re


class UnusableModel(ValueError):
    """The model cannot be loaded or explained. One sentence names the file or setting and says what would be right."""


class OpenSize(UnusableModel):
    """The model takes images of any size, and no size is configured."""


def first_line(error: BaseException) -> str:
    """An error's reason in one line: the text behind Keras' "Exception encountered" if there is one."""
    text = str(error).strip()
    if found := re.search(r"Exception encountered: ?(.+)", text):
        text = found[1]
    lines = text.splitlines() or [type(error).__name__]
    return lines[0][:200].rstrip(".: ")
