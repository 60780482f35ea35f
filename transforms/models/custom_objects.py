"""Finds a user's own layers: the classes and functions of the modules that the configuration names."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import os
import pathlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any


class UnusableModules(ValueError):
    """A module cannot be imported. One sentence names the module and the configuration key."""


def known_objects(modules: Sequence[str], config: Mapping[str, Any]) -> dict[str, Any]:
    """The objects that a model's configuration may refer to, by name.

    Args:
      modules: names as in an import statement. They are imported, which runs their code.
      config: the model's configuration.

    Returns:
      All layers, models and other Keras objects of the modules, with or without the decorator
      `register_keras_serializable`, and their functions. An object that the configuration calls by a registered name
      `package>Name` is also listed under that name.

    Raises:
      UnusableModules: a module is not found, or fails while it is imported.
    """
    if not modules:
        return {}
    import keras

    found: dict[str, Any] = {}
    for name in modules:
        found.update(_defined_in(import_module(name)))
    found.update(keras.saving.get_custom_objects())  # objects that registered themselves during the import
    for registered in set(_registered_names(config)):
        plain = registered.rsplit(">", 1)[-1]
        if registered not in found and plain in found:
            found[registered] = found[plain]
    return found


def import_module(name: str) -> ModuleType:
    """Imports a module that is installed, on PYTHONPATH, or in the directory in which the command was started.

    Raises:
      UnusableModules: the module is not found, or its import fails.
    """
    _look_here_too()
    try:
        return importlib.import_module(name)
    except Exception as error:  # a user's module may raise anything
        raise UnusableModules(_why(name, error)) from error


def source_hash(modules: Sequence[str]) -> bytes:
    """A hash of the modules' source files; of a package, all its files. Empty without modules.

    Files that the modules import from elsewhere are not included.

    Raises:
      UnusableModules: a module is not found.
    """
    if not modules:
        return b""
    _look_here_too()
    digest = hashlib.sha256()
    for name in modules:
        try:
            spec = importlib.util.find_spec(name)
        except Exception as error:
            raise UnusableModules(_why(name, error)) from error
        if spec is None:
            raise UnusableModules(_why(name, ModuleNotFoundError(name=name)))
        folders = [pathlib.Path(folder) for folder in spec.submodule_search_locations or ()]
        files = sorted(file for folder in folders for file in folder.rglob("*.py"))
        if not folders and spec.origin is not None and os.path.isfile(spec.origin):
            files = [pathlib.Path(spec.origin)]
        for file in files:
            digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.digest()


def _look_here_too() -> None:
    """Adds the current directory to the module path, after the installed modules.

    `python -m` searches the current directory by itself; a console script does not.
    """
    here = os.getcwd()
    if "" not in sys.path and here not in sys.path:
        sys.path.append(here)
        importlib.invalidate_caches()


def _why(name: str, error: Exception) -> str:
    missing = error.name if isinstance(error, ModuleNotFoundError) else None
    if missing is not None and (name == missing or name.startswith(f"{missing}.")):
        return (
            f"model.custom_objects: there is no module {name!r}; it must be installed, on PYTHONPATH, or in the "
            "directory in which the command is started, here and on every worker"
        )
    lines = str(error).strip().splitlines() or [""]
    reason = f"{type(error).__name__}: {lines[0][:200]}".rstrip(".: ")
    return f"model.custom_objects: the module {name!r} fails when it is imported ({reason})"


def _defined_in(module: ModuleType) -> dict[str, Any]:
    """The module's objects by name, including those that it imports from elsewhere, except from Keras."""
    import keras
    from keras.src.saving.keras_saveable import KerasSaveable

    found: dict[str, Any] = {}
    for name, value in vars(module).items():
        own = str(getattr(value, "__module__", "")).split(".")[0] not in ("keras", "builtins")
        if not own:
            continue
        if inspect.isclass(value):
            if issubclass(value, KerasSaveable | keras.Layer):
                found[value.__name__] = value
        elif inspect.isfunction(value) and value.__module__.split(".")[0] == module.__name__.split(".")[0]:
            found[name] = value
    return found


def _registered_names(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for inner in value.values():
            yield from _registered_names(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _registered_names(inner)
    elif isinstance(value, str) and ">" in value:
        yield value
