"""`fullgrad check` on an output with one class that rests on a mark."""

from __future__ import annotations

import io
import math
import pathlib
import shutil
import signal
import subprocess
import sys
import time
from typing import Any

import pytest
from PIL import Image

from pipeline.checks.choice import choose, read_pool
from pipeline.checks.command import check_output
from pipeline.cli import main
from tests.pipeline.checks.conftest import IMAGES, NAMES, Outputs
from tests.pipeline.report.data import class_of, index_of
from transforms.output import Output, read_table

ROOT = pathlib.Path(__file__).parents[3]


def checks(folder: pathlib.Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = read_table(str(folder / "checks.parquet")).to_pylist()
    return rows


def assert_same_checks(folder: pathlib.Path, expected: pathlib.Path) -> None:
    rows, wanted = checks(folder), checks(expected)
    assert [(row["class"], row["kind"]) for row in rows] == [(row["class"], row["kind"]) for row in wanted]
    for row, other in zip(rows, wanted, strict=True):
        for name, value in other.items():
            numbers = (row[name], value) if isinstance(value, list) else ([row[name]], [value])
            if value is not None and isinstance(numbers[1][0], float):
                assert all(math.isclose(*pair, rel_tol=1e-4, abs_tol=1e-4) for pair in zip(*numbers, strict=True)), name
            else:
                assert row[name] == value, name


def test_the_marked_class_is_found_with_its_place_and_no_other(outputs: Outputs) -> None:
    rows = checks(outputs.checked)
    assert {row["class_name"] for row in rows} == set(NAMES)
    [main_row] = [row for row in rows if row["main"]]
    assert (main_row["class_name"], main_row["place"]) == ("marked", "bottom right")
    assert {row["class_name"] for row in rows if row["verdict"] == "used"} == {"marked"}
    assert main_row["turned_into_name"] == "red"
    assert main_row["sentence"].startswith(
        "Covering the bottom right turns 100% of the images of 'marked', most often into 'red'; covering as much "
        "elsewhere turns 0%"
    )
    assert rows[0] == main_row, "the most convincing comes first"


def test_intervals_hold_their_figures_and_shares_are_shares(outputs: Outputs) -> None:
    for row in checks(outputs.checked):
        for name in ("logit_drop", "probability_drop", "turned", "added"):
            if row[name] is not None:
                assert row[f"{name}_low"] <= row[name] + 1e-9
                assert row[name] <= row[f"{name}_high"] + 1e-9
        assert 0 <= row["q_cover"] <= 1
        assert 0 < row["area"] < 1
        assert len(row["covering_map"]) == row["covering_map_height"] * row["covering_map_width"]


def test_pictures_show_each_finding_before_and_after(outputs: Outputs) -> None:
    rows = read_table(str(outputs.checked / "evidence.parquet")).to_pylist()
    of_mark = [row for row in rows if row["class_name"] == "marked" and row["finding"] == "place"]
    assert {row["kind"] for row in of_mark} == {"covered", "pasted"}
    for row in of_mark:
        before, after = (Image.open(io.BytesIO(row[name]["bytes"])) for name in ("before", "after"))
        assert before.size == after.size
        assert (
            row["predicted_after_name"] == ("red" if row["kind"] == "covered" else "marked") or row["kind"] == "pasted"
        )
    assert {row["kind"] for row in rows} == {"evidence", "covered", "pasted"}


def test_images_are_located_on_and_tested_on_but_never_both(outputs: Outputs) -> None:
    output = Output(str(outputs.plain))
    pool = read_pool(output, output.read_receipts())
    choice = choose(pool, None, IMAGES, 128)
    assert choice.located.keys() == choice.tested.keys() == choice.others.keys() == {0, 1, 2, 3}
    for k in choice.located:
        assert len(choice.located[k]) == IMAGES
        assert not set(choice.located[k]) & set(choice.tested[k])
        assert (pool.predicted[choice.tested[k]] == k).all()
        assert (pool.predicted[choice.others[k]] != k).all()
    again = choose(pool, [2], IMAGES, 128)
    assert list(again.located) == [2]
    assert again.others[2].tolist() == choice.others[2].tolist(), "other classes' images are there though not checked"


@pytest.mark.slow
def test_a_check_that_was_killed_goes_on(outputs: Outputs, tmp_path: pathlib.Path) -> None:
    folder = shutil.copytree(outputs.plain, tmp_path / "out")
    parts = folder / "checks" / "parts"
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline", "check", str(folder), "--images", str(IMAGES)],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        while not list(parts.glob("located-*.parquet")) and process.poll() is None:
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    before = {path: path.stat().st_mtime_ns for path in parts.glob("*.parquet")}
    assert before
    assert not (folder / "checks.parquet").exists()
    assert check_output(str(folder), images=IMAGES) == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before, "what was there is not computed again"
    assert_same_checks(folder, outputs.checked)


@pytest.mark.slow
def test_two_processes_find_the_same_as_one(outputs: Outputs, tmp_path: pathlib.Path) -> None:
    folder = shutil.copytree(outputs.plain, tmp_path / "out")
    options = ["--direct_num_workers=2", "--direct_running_mode=multi_processing"]
    assert check_output(str(folder), images=IMAGES, beam_options=options) == 0
    assert_same_checks(folder, outputs.checked)


def test_a_dry_run_says_what_it_costs_and_writes_nothing(
    outputs: Outputs, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(outputs.plain, tmp_path / "out")
    assert main(["check", str(folder), "--classes", "red", "--dry-run"]) == 0
    assert "1 class to check" in capsys.readouterr().out
    assert not (folder / "checks").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["{out}", "--classes", "rde"], "there is no class 'rde'; it must be a class's name or an index from 0 to 3"),
        (["{out}", "--classes", "4"], "there is no class '4'"),
        (["{out}/maps"], "is no output of a run: there is no run.json of one in it"),
        (["{out}", "--runner", "FlinkRnuner"], "runner.name"),
    ],
)
def test_what_cannot_be_checked_is_refused_in_one_sentence(
    outputs: Outputs, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert main(["check", *(each.format(out=outputs.plain) for each in arguments)]) == 2
    assert said in capsys.readouterr().err


def test_the_report_shows_a_check_first_with_its_pictures(outputs: Outputs, tmp_path: pathlib.Path) -> None:
    assert main(["report", str(outputs.checked), "--to", str(tmp_path / "page")]) == 0
    first = index_of(tmp_path / "page")["checks"]["listed"][0]
    assert (first["class_name"], first["main"], first["sentence"]) == (
        "marked",
        True,
        checks(outputs.checked)[0]["sentence"],
    )
    page = class_of(tmp_path / "page", 0)["checks"]
    assert {pair["kind"] for pair in page["pairs"]} == {"covered", "pasted", "evidence"}
    assert len(page["findings"]) == 6
