"""The command `fullgrad`, and a check that Python finds this project's packages and no others with their names.

The packages are named `pipeline` and `transforms`. A user's file transforms.py, in the folder where Python starts or on
PYTHONPATH, would be imported in place of ours. The check lives in this module, because nobody else's is likely to have
its name.
"""

from __future__ import annotations

import importlib.util
import os
import pickle
import sys
from collections.abc import Callable
from typing import Any

_PACKAGES = ("pipeline", "transforms")
_FOLDER = os.path.dirname(os.path.abspath(__file__))


class HiddenPackage(ImportError):
    """Python finds something else in place of one of our packages; one sentence that names it and what to do."""


def check_packages() -> None:
    """Checks that Python finds our packages. Imports none of them.

    Raises:
      HiddenPackage: it finds something else, or nothing.
    """
    for name in _PACKAGES:
        expected = os.path.join(_FOLDER, name)
        found = _place_of(name)
        if found is None:
            raise HiddenPackage(f"fullgrad's package `{name}` is not in {_FOLDER}; install fullgrad-beam again")
        if os.path.realpath(found) not in (os.path.realpath(expected), os.path.realpath(f"{expected}/__init__.py")):
            raise HiddenPackage(
                f"Python finds {found} in place of fullgrad's own package `{name}`: rename it, or start in another "
                "folder and take that one out of PYTHONPATH"
            )


def _place_of(name: str) -> str | None:
    """The file or folder that Python imports under a name; None if there is none."""
    try:
        spec = importlib.util.find_spec(name)
    except ValueError:  # a module without a spec was put in its place
        return str(getattr(sys.modules[name], "__file__", None) or f"a module made in {sys.argv[0] or 'this process'}")
    if spec is None:
        return None
    if spec.has_location and spec.origin is not None:
        return spec.origin
    folders = list(spec.submodule_search_locations or ())  # a folder without __init__.py
    return folders[0] if folders else spec.origin


class CheckedOnWorkers:
    """A base for what is pickled and sent to workers: a worker that unpickles it calls `check_packages` first.

    Otherwise a worker whose packages are hidden only says that it cannot import some module.
    """

    def __reduce__(self) -> tuple[Callable[[bytes], Any], tuple[bytes]]:
        # As bytes, so that unpickling imports nothing of ours before the check.
        return _unpickle, (pickle.dumps((type(self), self.__dict__)),)


def _unpickle(pickled: bytes) -> Any:
    check_packages()
    kind, attributes = pickle.loads(pickled)
    value = kind.__new__(kind)
    value.__dict__.update(attributes)
    return value


class Checked(CheckedOnWorkers):
    """A function of one of our modules, checked on workers."""

    def __init__(self, function: Callable[..., Any]):
        self.function = function

    def __call__(self, *arguments: Any) -> Any:
        return self.function(*arguments)


def main() -> int:
    """Runs the command line; returns the exit code."""
    try:
        check_packages()
    except HiddenPackage as error:
        print(f"fullgrad: {error}", file=sys.stderr)
        return 2
    from pipeline.arguments import parser

    # Ends here for --help, --version and what is refused, which then need not wait for the imports of `pipeline.cli`.
    arguments = sys.argv[1:]
    parser().parse_args(arguments[: arguments.index("--")] if "--" in arguments else arguments)
    from pipeline.cli import main as run

    return run()


if __name__ == "__main__":
    sys.exit(main())
