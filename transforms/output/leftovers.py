"""Tells which temporary files nobody is writing any more."""

from __future__ import annotations

import os
import posixpath
import socket
import time
from collections.abc import Collection

from apache_beam.io.filesystem import FileMetadata

# A temporary file from another machine counts as abandoned after so long without a change.
_ABANDONED_SECONDS = 24 * 3600.0


def new_attempt(run: str, number: str) -> str:
    """The beginning of the names of temporary files. It tells on which machine and by which process they are made."""
    return f"{run}~{socket.gethostname()}~{os.getpid()}~{number}"


def is_abandoned(file: FileMetadata, ended: Collection[str]) -> bool:
    """Whether a temporary file is no longer being written.

    That holds for files of the runs that have `ended`, of a process on this machine that has ended, and for old files.
    A heartbeat can always be deleted, because it is written again.
    """
    name = posixpath.basename(file.path)
    run, *writer = name.split("~")
    if name.endswith(".progress") or run in ended:
        return True
    if len(writer) in (4, 5) and writer[0] == socket.gethostname() and not is_running(int(writer[1])):
        return True
    return 0 < file.last_updated_in_seconds < time.time() - _ABANDONED_SECONDS


def is_running(process: int) -> bool:
    """Whether a process of this machine runs."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's process
        return True
    return True
