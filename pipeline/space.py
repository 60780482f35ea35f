"""Says where a file system has no space left, and how much is free there."""

from __future__ import annotations

import shutil
import tempfile

_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")


def no_space_left(output: str) -> str:
    """The clause for a run that found no space. It names the output or the temporary folder, where less is free.

    Args:
      output: the output folder; nothing is known of the space in an object store.
    """
    advice = {
        output: "make room there, or give another output.path",
        tempfile.gettempdir(): "make room there, or let TMPDIR name another folder",
    }
    free = {}
    for path in advice:
        try:
            free[path] = shutil.disk_usage(path).free
        except OSError:  # in a store, or a folder that is gone
            continue
    if "://" in output or output not in free:
        return f"there is no space left where {output} is written; {advice[output]}"
    least = min(free, key=lambda path: free[path])  # the first of two on one file system
    return f"there is no space left in {least}, where {_size(free[least])} are free; {advice[least]}"


def _size(count: int) -> str:
    """A number of bytes as people read it."""
    value, unit = float(count), 0
    while value >= 1024 and unit < len(_UNITS) - 1:
        value, unit = value / 1024, unit + 1
    return f"{value:.3g} {_UNITS[unit]}"
