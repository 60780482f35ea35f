"""The layout holds: which room imports which, no circles, short files, and where TensorFlow may be imported.

`ROOMS` is the layout. CONTRIBUTING.md shows it to people, and a test keeps the two equal.
"""

from __future__ import annotations

import ast
import dataclasses
import pathlib
import re
import sys
from collections.abc import Iterator

import pytest

ROOT = pathlib.Path(__file__).parent.parent
PACKAGES = ("transforms", "pipeline")
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
LONGEST_FILE = 500


@dataclasses.dataclass(frozen=True)
class Room:
    """Modules that belong together.

    Attributes:
      holds: modules and packages. A module belongs to the room that names the longest part of its name.
      imports: other rooms whose modules it may import.
    """

    holds: str
    imports: str = ""


# From the ground up: each room stands above those that it imports.
ROOMS = {
    "basics": Room(
        "transforms.unit transforms.targets transforms.methods transforms.memory transforms.clock "
        "transforms.filesystems transforms.labels transforms.byte_names transforms.moved "
        "transforms.code_cache",
    ),
    "fullgrad": Room("transforms.fullgrad", "basics"),
    "sources": Room("transforms.sources", "basics"),
    "images": Room("transforms.images"),
    "models": Room("transforms.models transforms.model", "basics images fullgrad"),
    "statistics": Room("transforms.statistics"),
    "pictures": Room("transforms.pictures"),
    "probing": Room("transforms.probing"),
    "output": Room("transforms.output transforms.parts", "basics sources images statistics"),
    "explaining": Room(
        "transforms transforms.explain transforms.explainer transforms.inference transforms.results transforms.merging "
        "transforms.examples transforms.clusters",
        "basics fullgrad sources images models statistics pictures output",
    ),
    "config": Room("pipeline.config", "basics"),
    "engines": Room("pipeline.engines", "config"),
    "report": Room("pipeline.report", "basics statistics output"),
    "pipeline": Room(
        "pipeline",
        "basics fullgrad sources images models statistics pictures output probing explaining config engines report",
    ),
}

# What modules of the method may import besides our own modules, by the part of their name that is longest.
OUTSIDE_THE_METHOD = {
    "transforms.fullgrad": {"keras", "numpy"},
    "transforms.fullgrad.tensorflow": {"keras", "numpy", "tensorflow"},
    "transforms.fullgrad.tensorflow.native": {"keras", "numpy", "tensorflow", "numba", "llvmlite"},
}


# ---- what imports what


def name_of(path: pathlib.Path) -> str:
    """`transforms.fullgrad.maps` for its file, `transforms.fullgrad` for the package's `__init__.py`."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def longest(names: Iterator[str] | list[str], module: str) -> str | None:
    """The longest of `names` that is `module` or a package around it."""
    around = [name for name in names if module == name or module.startswith(f"{name}.")]
    return max(around, key=len, default=None)


HOLDERS = {name: room for room, each in ROOMS.items() for name in each.holds.split()}


def room_of(module: str) -> str:
    holder = longest(list(HOLDERS), module)
    # The packages themselves are rooms, but no place for what has none: a new module must be named in `ROOMS`.
    assert holder is not None, f"{module} has no room"
    assert holder != "transforms" or module == "transforms", f"{module} has no room in ROOMS"
    return HOLDERS[holder]


def is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").exists()


def for_types_alone(tree: ast.Module) -> set[ast.AST]:
    """The nodes that run only for a type checker: what stands in `if TYPE_CHECKING:`."""
    return {
        node
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test).endswith("TYPE_CHECKING")
        for statement in block.body
        for node in ast.walk(statement)
    }


def imports_of(path: pathlib.Path, *, types: bool) -> set[str]:
    """The modules that a file imports, at its top or in a function; with `types`, those for a type checker too."""
    tree = ast.parse(path.read_text())
    skipped = set() if types else for_types_alone(tree)
    found = set()
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute here"
            assert node.module
            # `from transforms.fullgrad import maps` may import a module as well as a name.
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found.update(name if is_module(name) else node.module for name in names)
    return found


IMPORTS = {name_of(path): imports_of(path, types=True) for path in MODULES}
AT_RUN_TIME = {name_of(path): imports_of(path, types=False) for path in MODULES}


def ours(names: set[str]) -> set[str]:
    return {name for name in names if name.split(".")[0] in PACKAGES}


# ---- rooms


def test_rooms_import_only_rooms_below_them() -> None:
    below: set[str] = set()
    for name, room in ROOMS.items():
        assert set(room.imports.split()) <= below, name
        below.add(name)


@pytest.mark.parametrize("module", IMPORTS)
def test_imports_go_one_way(module: str) -> None:
    room = room_of(module)
    allowed = {room, *ROOMS[room].imports.split()}
    assert [name for name in sorted(ours(IMPORTS[module])) if room_of(name) not in allowed] == []


@pytest.mark.parametrize("module", IMPORTS)
def test_packages_do_not_import_tests_or_benchmarks(module: str) -> None:
    assert {name.split(".")[0] for name in IMPORTS[module]} & {"tests", "benchmarks"} == set()


def test_no_modules_import_each_other_in_a_circle() -> None:
    for name in AT_RUN_TIME:
        reached: set[str] = set()
        ahead = ours(AT_RUN_TIME[name])
        while ahead:
            module = ahead.pop()
            if module not in reached:
                reached.add(module)
                ahead |= ours(AT_RUN_TIME.get(module, set()))
        assert name not in reached, f"{name} imports itself by way of others"


def test_nothing_of_ours_imports_from_an_old_path() -> None:
    old = {name for name, names in IMPORTS.items() if "transforms.moved" in names}
    assert {name: names & old for name, names in IMPORTS.items() if names & old} == {}


# ---- the method


METHOD = [name for name in IMPORTS if name.split(".")[:2] == ["transforms", "fullgrad"]]


@pytest.mark.parametrize("module", METHOD)
def test_the_method_knows_no_beam_no_files_and_no_pipeline(module: str) -> None:
    holder = longest(list(OUTSIDE_THE_METHOD), module)
    assert holder is not None
    allowed = OUTSIDE_THE_METHOD[holder] | set(sys.stdlib_module_names) | {"transforms"}
    assert {name.split(".")[0] for name in IMPORTS[module]} - allowed == set()
    assert IMPORTS[module] & {"os", "io", "pathlib", "shutil", "tempfile", "json"} == set()
    of_native = {"transforms.code_cache", "transforms.memory"} if holder.endswith(".native") else set()
    assert (
        ours(IMPORTS[module]) - set(METHOD) <= {"transforms", "transforms.methods", "transforms.resampling"} | of_native
    )


# ---- files


def python_files() -> list[pathlib.Path]:
    """All of the repository's, but not what is installed or built in it."""
    folders = [path for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith(".")]
    return [path for folder in folders if folder.name not in ("build", "dist") for path in folder.rglob("*.py")]


def test_no_file_is_longer_than_500_lines() -> None:
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in python_files()}
    assert len(lengths) > len(MODULES), "tests and benchmarks too"
    assert {name: count for name, count in lengths.items() if count > LONGEST_FILE} == {}


# ---- the layout as CONTRIBUTING.md shows it


def test_contributing_shows_the_same_rooms() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    rows = re.findall(r"^\| \*\*(.+?)\*\* \| (.+?) \| (.+?) \| (.+?) \|$", text, re.MULTILINE)
    assert {room: set(re.findall(r"\w+", imports)) - {"nothing"} for room, _, imports, _ in rows} == {
        name: set(room.imports.split()) for name, room in ROOMS.items()
    }
