"""A file of a user's that has the name of one of our packages: the command and workers say which file is in the way."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import pickle
import signal
import subprocess
import sys

import pytest

import fullgrad_beam
from fullgrad_beam import Checked, HiddenPackage, check_packages
from tests.samples import configuration, encoded_images
from tests.shards import write_tfrecord
from transforms.explain import ExplainUnits
from transforms.unit import Shard, Unit

ROOT = pathlib.Path(__file__).parent.parent

# What the console script of an installed project does; the folder that it is started in is not on Python's path.
SCRIPT = "import sys; sys.path.remove(''); from fullgrad_beam import main; sys.exit(main())"


def run(folder: pathlib.Path, *arguments: object, python_path: str = str(ROOT)) -> subprocess.CompletedProcess[str]:
    """Runs Python in a folder, with the project installed or on the path behind `python_path`."""
    environment = {**os.environ, "PYTHONPATH": python_path, "PYTHONSAFEPATH": ""}
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def hide(folder: pathlib.Path, name: str) -> pathlib.Path:
    """Makes what hides a package: a file, a folder with or without `__init__.py`; returns what is named."""
    path = folder / name
    if path.suffix == ".py" and path.name != "__init__.py":
        path.write_text("raise RuntimeError('this must not be imported')\n")
    elif path.name == "__init__.py":
        path.parent.mkdir()
        path.write_text("raise RuntimeError('this must not be imported')\n")
    else:
        path.mkdir()
    return path


def test_ours_are_found() -> None:
    check_packages()


@pytest.mark.parametrize("name", ["transforms.py", "transforms/__init__.py"])
def test_python_m_pipeline_names_the_file_beside_which_it_is_started(tmp_path: pathlib.Path, name: str) -> None:
    hiding = hide(tmp_path, name)
    ran = run(tmp_path, "-m", "pipeline", "--help")
    assert ran.returncode == 2
    assert ran.stdout == ""
    [line] = ran.stderr.splitlines()
    assert line.startswith(
        f"fullgrad: Python finds {hiding} in place of fullgrad's own package `transforms`: rename it"
    )


@pytest.mark.parametrize("name", ["pipeline.py", "transforms.py", "pipeline/__init__.py"])
def test_the_command_names_the_file_that_the_path_has_before_ours(tmp_path: pathlib.Path, name: str) -> None:
    hiding = hide(tmp_path, name)
    ran = run(ROOT.parent, "-c", SCRIPT, "--help", python_path=f"{tmp_path}{os.pathsep}{ROOT}")
    assert ran.returncode == 2
    [line] = ran.stderr.splitlines()
    assert line.startswith(f"fullgrad: Python finds {hiding} in place of fullgrad's own package")


def test_files_that_python_does_not_find_are_in_nobodys_way(tmp_path: pathlib.Path) -> None:
    hide(tmp_path, "transforms.py")
    hide(tmp_path, "pipeline.py")
    ran = run(tmp_path, "-c", SCRIPT, "--help")
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith("usage: fullgrad")


@pytest.mark.slow
def test_a_worker_names_the_file_beside_which_it_is_started(tmp_path: pathlib.Path) -> None:
    """Beam starts workers as `python -m …`, which looks in the folder first, where the command itself does not."""
    shards = str(write_tfrecord(tmp_path / "a.tfrecord", encoded_images(4)))
    options = {"direct_num_workers": 1, "direct_running_mode": "multi_processing"}
    (tmp_path / "run.yaml").write_text(
        json.dumps({**configuration(tmp_path, shards), "runner": {"name": "direct", "options": options}})
    )
    hiding = hide(tmp_path, "transforms.py")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", SCRIPT, "run", "run.yaml"]
    # In a group of its own, which is ended at once: after an error, Beam may wait for its worker for minutes.
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as launcher:
        assert launcher.stderr is not None
        try:
            said = next((line for line in launcher.stderr if "HiddenPackage: " in line), "the launcher ended")
            assert f"Python finds {hiding} in place of fullgrad's own package `transforms`" in said
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(launcher.pid, signal.SIGKILL)


def test_unpickling_checks_before_it_imports(tmp_path: pathlib.Path) -> None:
    pickled = tmp_path / "pickled"
    pickled.write_bytes(pickle.dumps(Checked(Unit.from_dict)))
    program = f"import pickle, pathlib; pickle.loads(pathlib.Path({str(pickled)!r}).read_bytes())"
    ran = run(tmp_path, "-c", program)
    assert ran.returncode == 0, ran.stderr
    hiding = hide(tmp_path, "transforms.py")
    ran = run(tmp_path, "-c", program)
    assert ran.stderr.splitlines()[-1].startswith(f"fullgrad_beam.HiddenPackage: Python finds {hiding} in place")


def test_what_is_checked_on_workers_comes_back_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    unit = Unit(Shard("a.tfrecord", "tfrecord", 5), 2, 4, 2)
    assert pickle.loads(pickle.dumps(Checked(Unit.from_dict)))(unit.to_dict()) == unit
    explaining = ExplainUnits("settings")  # type: ignore[arg-type]
    again = pickle.loads(pickle.dumps(explaining))
    assert type(again) is ExplainUnits
    assert again.__dict__.keys() == explaining.__dict__.keys()
    assert again._settings == "settings"
    monkeypatch.setattr(fullgrad_beam, "_FOLDER", "/elsewhere")
    with pytest.raises(HiddenPackage, match="`pipeline`"):
        pickle.loads(pickle.dumps(explaining))
