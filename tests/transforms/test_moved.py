"""Old paths of names still work, and say where the names are now."""

from __future__ import annotations

import importlib
import os
import pathlib
import subprocess
import sys

import pytest

PROJECT = pathlib.Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("old", "new", "name"),
    [
        ("transforms.parts", "transforms.output", "read_maps"),
        ("transforms.parts", "transforms.output", "Output"),
        ("transforms.parts", "transforms.output", "MAPS"),
        ("transforms.model", "transforms.models", "load_once"),
        ("transforms.model", "transforms.models", "ModelSpec"),
        ("transforms.model", "transforms.models", "UnusableModel"),
    ],
)
def test_an_old_path_gives_the_same_object_and_warns(old: str, new: str, name: str) -> None:
    with pytest.warns(DeprecationWarning, match=name) as warned:
        found = getattr(importlib.import_module(old), name)
    assert found is getattr(importlib.import_module(new), name)
    assert [str(each.message) for each in warned] == [
        f"{old}.{name} is now {new}.{name}; the old path goes away with the next version"
    ]
    assert warned[0].filename == __file__


@pytest.mark.parametrize("old", ["transforms.parts", "transforms.model"])
@pytest.mark.parametrize("name", ["read_mapps", "_open", "__path__"])
def test_what_was_never_there_is_an_attribute_error(old: str, name: str) -> None:
    with pytest.raises(AttributeError, match=rf"^module '{old}' has no attribute '{name}'$"):
        getattr(importlib.import_module(old), name)


@pytest.mark.slow
def test_a_script_that_imports_from_an_old_path_is_told_its_line(tmp_path: pathlib.Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("import os\nfrom transforms.parts import read_maps\nprint(read_maps.__module__)\n")
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=PROJECT,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "transforms.output.reading\n"
    assert (
        f"{script}:2: DeprecationWarning: transforms.parts.read_maps is now transforms.output.read_maps" in done.stderr
    )
