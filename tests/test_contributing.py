"""CONTRIBUTING.md's worked examples work: each is done to a copy of the repository, and then its tests run there."""

from __future__ import annotations

import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
TEXT = (ROOT / "CONTRIBUTING.md").read_text()
EXAMPLES = re.findall(r"^## (Add .*)$", TEXT, re.MULTILINE)
COPIED = (
    "transforms",
    "pipeline",
    "tests",
    "docs",
    "configs",
    "README.md",
    "CONTRIBUTING.md",
    "LICENSE",
    "pyproject.toml",
)


def blocks(example: str) -> list[tuple[str, str]]:
    """The example's code blocks in order: language and content."""
    section = TEXT.partition(f"\n## {example}\n")[2].partition("\n## ")[0]
    return re.findall(r"^```(\w+)\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)


def apply_diff(folder: pathlib.Path, diff: str) -> None:
    """Does the edits of a `diff` block: its first line names the file, and `@@` stands before each edit."""
    head, *hunks = re.split(r"^@@\n", diff, flags=re.MULTILINE)
    path = folder / head.removeprefix("--- ").strip()
    text = path.read_text()
    for hunk in hunks:
        lines = hunk.splitlines(keepends=True)
        assert {line[:1] for line in lines} <= {" ", "-", "+"}, hunk
        before = "".join(line[1:] for line in lines if line[0] in " -")
        after = "".join(line[1:] for line in lines if line[0] in " +")
        assert text.count(before) == 1, f"{path.relative_to(folder)} has not once:\n{before}"
        text = text.replace(before, after)
    path.write_text(text)


def write_file(folder: pathlib.Path, code: str) -> pathlib.Path:
    """Writes a `python` block as a new file, which its first line names."""
    path = folder / code.partition("\n")[0].removeprefix("# ")
    assert not path.exists(), f"{path.relative_to(folder)} is there already"
    path.write_text(code)
    return path


def copy_of_the_repository(folder: pathlib.Path) -> pathlib.Path:
    for name in (*COPIED, *(path.name for path in ROOT.glob("*.py"))):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, folder / name)
    return folder


def test_there_are_three_examples() -> None:
    assert EXAMPLES == ["Add a rule for a layer", "Add a shard format", "Add a figure of maps"]


@pytest.mark.slow
@pytest.mark.parametrize("example", EXAMPLES)
def test_a_worked_example_passes_its_tests(example: str, tmp_path: pathlib.Path) -> None:
    folder = copy_of_the_repository(tmp_path)
    commands = []
    written = []
    for language, content in blocks(example):
        if language == "diff":
            apply_diff(folder, content)
        elif language == "python":
            written.append(write_file(folder, content))
        else:
            assert language == "bash"
            commands.extend(content.splitlines())
    tests = [str(path.relative_to(folder)) for path in written if path.name.startswith("test_")]
    assert tests
    assert all(any(test in command for command in commands) for test in tests), "its own tests are among what is run"
    for command in commands:
        python, *arguments = shlex.split(command)
        assert python == "python"
        # The copy comes first on the path, before the checkout that is installed.
        environment = {**os.environ, "PYTHONPATH": str(folder)}
        done = subprocess.run(
            [sys.executable, *arguments, "-q"], cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
    for path in written:
        for arguments in (["check"], ["format", "--check"]):
            ruff = [sys.executable, "-m", "ruff", *arguments, str(path)]
            done = subprocess.run(ruff, cwd=folder, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stdout


def test_every_file_that_contributing_links_to_is_there() -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", TEXT):
        assert (ROOT / target).exists(), target


def test_every_benchmark_is_named() -> None:
    folder = ROOT / "benchmarks"
    modules = {path.stem for path in folder.glob("*.py") if "__main__" in path.read_text()}
    modules |= {path.parent.name for path in folder.glob("*/__main__.py")}
    assert set(re.findall(r"python -m benchmarks\.(\w+)", TEXT)) == modules
