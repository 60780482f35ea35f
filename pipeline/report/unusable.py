"""What is raised for an output that cannot be shown, with the file that is the reason."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pyarrow as pa

from transforms.filesystems import STORE_ERRORS


class UnusableResults(ValueError):
    """A folder has no results of a finished run. One sentence says what would be right."""


@contextlib.contextmanager
def reading(path: str) -> Iterator[None]:
    """Says of an error in the block which file it is about.

    Raises:
      UnusableResults: the block met a file that cannot be read.
    """
    try:
        yield
    except (pa.ArrowException, KeyError, TypeError, ValueError, *STORE_ERRORS) as error:
        raise UnusableResults(f"{path} cannot be read: {error}") from error
