"""Which tests run where: each is in one of the sets that CI runs, and each file has one in the README's."""

from __future__ import annotations

import itertools
import pathlib
import re
import shlex
import tomllib

import pytest

from tests.conftest import COLLECTED

ROOT = pathlib.Path(__file__).parent.parent
OPTIONS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]
MARKERS = [name for marker in OPTIONS["markers"] if "(" not in (name := marker.partition(":")[0])]

# Files and folders that need more than Python, or are slow in all they test.
WITHOUT_A_QUICK_TEST = (
    "tests/cluster/",
    "tests/browser/",
    "tests/containers/",
    "tests/benchmarks/test_engines.py",
    "tests/benchmarks/test_kills.py",
    "tests/benchmarks/test_profile.py",
    "tests/pipeline/engines/test_lost_workers.py",
    "tests/pipeline/test_real_data.py",
    "tests/test_distributions.py",
    "tests/test_examples.py",
)


def chosen_by(arguments: list[str]) -> str:
    """The expression of the last -m."""
    places = [place for place, argument in enumerate(arguments) if argument == "-m"]
    return arguments[places[-1] + 1]


def chooses(expression: str, markers: set[str]) -> bool:
    """Whether a test with these markers is chosen. Such expressions are also Python's."""
    return bool(eval(expression, {}, {name: name in markers for name in MARKERS}))


QUICK = chosen_by(shlex.split(OPTIONS["addopts"]))


def commands_of_ci() -> list[str]:
    """What each of CI's commands chooses."""
    text = (ROOT / ".ci" / "run").read_text().replace("\\\n", " ")
    ran = [line.partition(" -m pytest")[2] for line in text.splitlines() if '/python" -m pytest' in line]
    return [chosen_by(["-m", QUICK, *shlex.split(re.split(r"2>&1|\|", line)[0])]) for line in ran]


def test_every_test_runs_in_exactly_one_of_ci_s_commands() -> None:
    """Whatever markers it has, those that no test has yet included."""
    chosen = commands_of_ci()
    assert chosen[0] == QUICK, "the README's command comes first"
    for count in range(len(MARKERS) + 1):
        for markers in map(set, itertools.combinations(MARKERS, count)):
            assert sum(chooses(expression, markers) for expression in chosen) == 1, markers


def test_the_readme_s_command_leaves_out_every_marker_and_an_unknown_one_is_refused() -> None:
    assert [marker for marker in MARKERS if chooses(QUICK, {marker})] == []
    assert chooses(QUICK, set())
    assert "--strict-markers" in OPTIONS["addopts"]


def test_contributing_names_every_marker() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    assert [marker for marker in MARKERS if f"`{marker}`" not in text] == []


def test_every_file_has_a_test_in_the_readme_s_set(request: pytest.FixtureRequest) -> None:
    """Of those that were collected: with `python -m pytest`, all."""
    without: dict[str, bool] = {}
    for item in request.config.stash[COLLECTED]:
        file = item.nodeid.partition("::")[0]
        markers = {marker.name for marker in item.iter_markers()} & set(MARKERS)
        without[file] = without.get(file, True) and not chooses(QUICK, markers)
    assert [file for file, lacks in without.items() if lacks and not file.startswith(WITHOUT_A_QUICK_TEST)] == []
