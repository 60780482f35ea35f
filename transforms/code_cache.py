"""Keeps compiled code on disk for later processes, in a folder that nobody else can write to.

`FULLGRAD_CACHE` names the folder, or turns the cache off with `off`. Otherwise it is `fullgrad` in the user's cache
folder (`XDG_CACHE_HOME`, or ~/.cache; on macOS ~/Library/Caches). Where that cannot be used, it is a folder of the
user's own among the temporary files. A cache that cannot be used is no error: the code is compiled again.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence

_MAGIC = b"fullgrad code 1\n"
_UNUSED_SECONDS = 90 * 24 * 3600.0
_MOST_KEYS = 32
_TOUCH_SECONDS = 24 * 3600.0  # how exactly it is known when a key was last used


def key_of(parts: Sequence[str]) -> str:
    """A key for code that depends on these texts, and on the variables of Numba in the environment."""
    numba = sorted(f"{name}={value}" for name, value in os.environ.items() if name.startswith("NUMBA_"))
    digest = hashlib.sha256()
    for part in (*parts, *numba):
        digest.update(hashlib.sha256(part.encode("utf-8", "surrogateescape")).digest())
    return digest.hexdigest()[:32]


def read(key: str, name: str) -> bytes | None:
    """What was written under a key and a name; None if there is nothing, or nothing that may be trusted."""
    for folder in _folders():
        with contextlib.suppress(OSError):
            if not (_is_safe(os.lstat(folder)) and _is_safe(os.lstat(os.path.join(folder, key)))):
                continue
            # Another user may change what a name refers to, but not what is in this file once it is open.
            handle = os.open(os.path.join(folder, key, name), os.O_RDONLY | os.O_NOFOLLOW)
            with open(handle, "rb") as file:
                content = file.read() if _is_safe(os.fstat(handle)) else b""
            found = _unsealed(content)
            if found is not None:
                _note_use(os.path.join(folder, key))
                return found
    return None


def write(key: str, name: str, content: bytes) -> bool:
    """Keeps bytes under a key and a name; returns whether it did. Other processes see all of them or nothing."""
    for folder in _folders():
        place = os.path.join(folder, key)
        try:
            _make(folder)
            if not os.path.isdir(place):
                _drop_old(folder)
            _make(place)
            handle, temporary = tempfile.mkstemp(".tmp", f"{name}-", place)
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(_sealed(content))
                os.chmod(temporary, 0o644)  # the worker image's cache is read by a user who did not write it
                os.replace(temporary, os.path.join(place, name))
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(temporary)
                raise
            return True
        except OSError:
            continue
    return False


def places() -> str:
    """The folders that are tried, in words."""
    return " or ".join(_folders()) or "no folder, as FULLGRAD_CACHE is off"


def _sealed(content: bytes) -> bytes:
    return _MAGIC + hashlib.sha256(content).digest() + content


def _unsealed(stored: bytes) -> bytes | None:
    """The content of a stored file; None if the file is damaged or not whole."""
    content = stored[len(_MAGIC) + 32 :]
    return content if stored == _sealed(content) else None


def _folders() -> Iterator[str]:
    """Where code may be kept, the best place first."""
    named = os.environ.get("FULLGRAD_CACHE", "")
    if named == "off" or not hasattr(os, "getuid"):
        return
    if named:
        yield os.path.abspath(named)
    else:
        home = os.path.expanduser("~")
        caches = os.path.join(home, "Library/Caches" if sys.platform == "darwin" else ".cache")
        caches = os.environ.get("XDG_CACHE_HOME") or caches
        if os.path.isabs(caches):
            yield os.path.join(caches, "fullgrad")
    yield os.path.join(tempfile.gettempdir(), f"fullgrad-{os.getuid()}")


def _is_safe(status: os.stat_result) -> bool:
    """Whether a file or folder is this user's or root's, and nobody else may write to it."""
    ours = status.st_uid in (os.getuid(), 0)
    return ours and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not stat.S_ISLNK(status.st_mode)


def _make(folder: str) -> None:
    """Makes a folder that is safe.

    Raises:
      OSError: it cannot be made, or exists and is not safe.
    """
    os.makedirs(os.path.dirname(folder), mode=0o700, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        os.mkdir(folder, 0o755 if "FULLGRAD_CACHE" in os.environ else 0o700)
    if not _is_safe(os.lstat(folder)):
        raise PermissionError(f"{folder} may be written to by others")


def _note_use(place: str) -> None:
    with contextlib.suppress(OSError):
        if time.time() - os.stat(place).st_mtime > _TOUCH_SECONDS:
            os.utime(place)


def _drop_old(folder: str) -> None:
    """Removes keys that were not used for 90 days, and the oldest if there are many."""
    with contextlib.suppress(OSError):
        keys = [each for each in os.scandir(folder) if len(each.name) == 32 and each.is_dir(follow_symlinks=False)]
        keys.sort(key=lambda each: each.stat(follow_symlinks=False).st_mtime, reverse=True)
        for i, each in enumerate(keys):
            if i >= _MOST_KEYS - 1 or time.time() - each.stat(follow_symlinks=False).st_mtime > _UNUSED_SECONDS:
                shutil.rmtree(each.path, ignore_errors=True)
