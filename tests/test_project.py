"""What the project says of itself is so: commands, columns, versions, and which module may import which."""

from __future__ import annotations

import ast
import pathlib
import re
import subprocess
import sys
import tarfile
import tomllib
from collections.abc import Iterator

import pytest

from pipeline.cli import main
from tests.pages import code_blocks
from transforms.output import CLASSES, ERRORS, MAPS
from transforms.statistics import FIGURES

ROOT = pathlib.Path(__file__).parent.parent
PACKAGES = ("transforms", "pipeline")
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def name_of(path: pathlib.Path) -> str:
    """`transforms.fullgrad.maps` for its file, `transforms.fullgrad` for the package's `__init__.py`."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


# ---- the README's commands


def test_ci_runs_the_readme_s_two_commands() -> None:
    blocks = code_blocks("README.md", "bash")
    promised = [part.strip() for block in blocks if ".venv/" in block for part in block.split("&&")]
    assert len(promised) == 5, "two commands, of three and two parts"
    ran = [_plain(line) for line in (ROOT / ".ci" / "run").read_text().splitlines()]
    places = [ran.index(_plain(part)) for part in promised]
    assert places == sorted(places)


def _plain(command: str) -> str:
    """A command without where its virtual environment is, where it writes, and how much it says."""
    command = re.sub(r'"?(\$venv|\.venv)(/bin/)?"?', "", command.strip())
    command = re.sub(r"--quiet |--output \S+|2>&1.*", "", command)
    return " ".join(command.replace('"', "").split())


def test_every_file_that_the_readme_and_the_docs_link_to_is_there() -> None:
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


# ---- what is distributed


def test_the_version_is_said_and_is_that_of_the_project(capsys: pytest.CaptureFixture[str]) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out == f"fullgrad {version}\n"
    assert f"version: {version}" in (ROOT / "CITATION.cff").read_text()


@pytest.mark.network
def test_the_source_distribution_has_tests_docs_and_all_that_a_packager_needs(tmp_path: pathlib.Path) -> None:
    uv = pathlib.Path(sys.executable).with_name("uv")
    subprocess.run([uv, "build", "--sdist", "--quiet", "--out-dir", tmp_path, ROOT], check=True)
    [archive] = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        held = {name.partition("/")[2] for name in tar.getnames()}
    wanted = {"Dockerfile", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "SECURITY.md", "pipeline/py.typed"}
    for folder in ("tests", "docs", "configs", "benchmarks", "examples", "pipeline", "transforms"):
        files = (path for path in (ROOT / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts)
        wanted.update(path.relative_to(ROOT).as_posix() for path in files)
    assert wanted - held == set()


# ---- columns


def _explained(heading: str) -> set[str]:
    """What stands in code marks in the first column of the tables, and in the text, below a heading of output.md."""
    text = (ROOT / "docs" / "output.md").read_text()
    section = text.partition(f"\n## {heading}")[2].partition("\n## ")[0]
    assert section, f"docs/output.md has no section {heading}"
    cells = [line.split("|")[1] for line in section.splitlines() if line.startswith("|")]
    prose = [line for line in section.splitlines() if not line.startswith("|")]
    names = {name for text in [*cells, *prose] for name in re.findall(r"`([^`]+)`", text)}
    for name in [name for name in names if "<figure>" in name]:
        names.update(name.replace("<figure>", figure) for figure in FIGURES)
    return names


@pytest.mark.parametrize(
    ("heading", "columns"),
    [("maps/", MAPS.names), ("classes.parquet", CLASSES.names), ("errors/", ERRORS.names)],
    ids=["maps", "classes", "errors"],
)
def test_every_column_is_explained(heading: str, columns: list[str]) -> None:
    assert set(columns) - _explained(heading) == set()


# ---- docstrings


def _public(path: pathlib.Path) -> Iterator[ast.FunctionDef | ast.ClassDef]:
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            yield node


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_modules_and_what_they_make_public_say_what_they_are(path: pathlib.Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text())), f"{name_of(path)} has no docstring"
    assert [node.name for node in _public(path) if not ast.get_docstring(node)] == []


# ---- versions


PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_python_versions_agree() -> None:
    versions = [each.rsplit(" ", 1)[1] for each in PROJECT["classifiers"] if re.search(r"Python :: \d\.", each)]
    assert PROJECT["requires-python"] == f">={versions[0]}"
    assert f"Python {versions[0]} to {versions[-1]}" in (ROOT / "README.md").read_text()
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    assert tools["ruff"]["target-version"] == "py" + versions[0].replace(".", "")
    assert tools["mypy"]["python_version"] == versions[0]


def test_the_licence_is_there_and_the_one_that_is_named() -> None:
    [name] = PROJECT["license-files"]
    text = " ".join((ROOT / name).read_text().split())
    assert PROJECT["license"] == "Apache-2.0"
    assert "Apache License Version 2.0, January 2004" in text
    assert "Apache License 2.0" in (ROOT / "README.md").read_text()
