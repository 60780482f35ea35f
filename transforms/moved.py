"""Names that moved to another module: their old paths work for one version, and warn."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable
from typing import Any


def moved(old: str, new: str) -> Callable[[str], Any]:
    """The `__getattr__` of the module `old`: takes every name from the module `new` and warns.

    Args:
      old, new: full names of the modules.

    Raises:
      AttributeError: when called with a name that is not public in `new`.
    """

    def __getattr__(name: str) -> Any:
        if name.startswith("_") or not hasattr(module := importlib.import_module(new), name):
            raise AttributeError(f"module {old!r} has no attribute {name!r}")
        warnings.warn(
            f"{old}.{name} is now {new}.{name}; the old path goes away with the next version",
            DeprecationWarning,
            stacklevel=2,
        )
        return getattr(module, name)

    return __getattr__
