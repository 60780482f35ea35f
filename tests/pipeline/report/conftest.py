"""A made-up output and its report, which all tests of the report share."""

from __future__ import annotations

import pathlib
import shutil

import pytest

from benchmarks.made_output import Made, make_output
from pipeline.report import build_report
from tests.pipeline.report.sections import add_check, add_clusters, add_comparison

NAMES = ("octagon", "circle", "<script>alert(1)</script>", "square", "star", 'tri & "angle"\u2028')
IDS = '{name} "x" & <i>{index}</i>.png'


@pytest.fixture(scope="session")
def output(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """An output with six classes, names and ids that HTML would misread, failures and its report."""
    path = tmp_path_factory.mktemp("made") / "output"
    make_output(path, Made(NAMES, images=40, grid=20, side=40, ids=IDS, failures=True))
    build_report(str(path))
    return path


@pytest.fixture(scope="session")
def tested(output: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The output with a check, clusters and a comparison, and its report."""
    path = tmp_path_factory.mktemp("tested") / "output"
    shutil.copytree(output, path, ignore=shutil.ignore_patterns("report"))
    add_check(path, NAMES)
    add_clusters(path, NAMES)
    add_comparison(path, NAMES)
    build_report(str(path))
    return path
