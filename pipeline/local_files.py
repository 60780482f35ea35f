"""Writes files and folders on this machine, complete or not at all."""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
import uuid
from collections.abc import Iterator


class CannotWrite(ValueError):
    """A file cannot be written there; one sentence names it and says what would be right."""


@contextlib.contextmanager
def writing(path: str, *, folder: bool = False) -> Iterator[pathlib.Path]:
    """The path of a temporary file, or of an empty temporary folder, that gets the name `path` when the block ends.

    After an error nothing is left. A file that already has the name is replaced; a folder must be new or empty.

    Raises:
      CannotWrite: the place is on another file system than the local one, or cannot be written to.
    """
    if "://" in path:
        raise CannotWrite(f"{path} is not on this machine; write to a local path, and copy it from there")
    final = pathlib.Path(path)
    try:
        if folder:
            if final.exists() and (not final.is_dir() or any(final.iterdir())):
                raise CannotWrite(f"{path} exists and is not empty; name a folder that is new or empty")
        elif final.is_dir():
            raise CannotWrite(f"{path} is a folder; name a file in it")
        temporary = final.with_name(f".{final.name}.{uuid.uuid4().hex[:12]}.part")
        try:
            if folder:
                temporary.mkdir()
            yield temporary
            if folder and final.exists():
                final.rmdir()
            os.replace(temporary, final)
        except BaseException:
            if temporary.is_dir():
                shutil.rmtree(temporary, ignore_errors=True)
            else:
                with contextlib.suppress(OSError):
                    temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        # An error of reading inside the block names its own file.
        if error.filename is None or not str(error.filename).startswith(str(final.parent)):
            raise
        raise CannotWrite(f"{path} cannot be written: {(error.strerror or str(error)).lower()}") from error
