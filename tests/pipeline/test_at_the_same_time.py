"""Two runs into one output at the same time, as where a launcher or a runner lost sight of the first."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from pipeline.config import Config
from pipeline.run import launch, prepare
from tests import shards
from tests.outputs import assert_same_output
from tests.samples import configuration, encoded_images
from transforms.explain import explain_unit
from transforms.output import Output, read_maps

ROOT = pathlib.Path(__file__).parent.parent.parent

# Plans, says how many units there are to do, waits for a word, and does them: with their launcher, or without.
_RUN = """
import sys
from pipeline.config import load_config
from pipeline.run import launch, prepare
from transforms.explain import explain_unit
plan = prepare(load_config(sys.argv[1]))
print(len(plan.units), flush=True)
input()
print(launch(plan).images if sys.argv[2] == "run" else sum(explain_unit(u, plan.settings).images for u in plan.units))
"""

UNITS = 20


def _dataset(folder: pathlib.Path, images: int, units: int) -> dict[str, Any]:
    """A configuration for two shards that have half of the images each."""
    for name, seed in (("a", 0), ("b", 1)):
        shards.write_tfrecord(folder / f"{name}.tfrecord", encoded_images(images // 2, seed))
    return configuration(folder, str(folder / "*.tfrecord"), input={"images_per_unit": images // units})


@pytest.fixture
def dataset(tmp_path: pathlib.Path) -> dict[str, Any]:
    return _dataset(tmp_path, 120, UNITS)


def _at_the_same_time(value: dict[str, Any], folder: pathlib.Path, *how: str) -> list[tuple[int, str]]:
    """Starts a process for each of `how`, lets all begin when all have planned; their exit codes and last words."""
    config = folder / "config.json"
    config.write_text(json.dumps(value))
    commands = [[sys.executable, "-c", _RUN, str(config), each] for each in how]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(command, cwd=ROOT, **pipes) for command in commands]
    try:
        planned = [int(process.stdout.readline()) for process in processes]
        assert planned == [UNITS] * len(how), "all begin before anything is committed"
        for process in processes:
            process.stdin.write("go\n")
            process.stdin.flush()
        said = [process.communicate(timeout=120)[0].strip() for process in processes]
        return [(process.returncode, words) for process, words in zip(processes, said, strict=True)]
    finally:
        for process in processes:
            process.kill()
            process.wait()


def _parts(path: str, kind: str) -> list[str]:
    return sorted(file.name.removesuffix(".parquet") for file in pathlib.Path(path, kind).iterdir())


@pytest.mark.slow
def test_two_runs_at_the_same_time_leave_one_whole_output(dataset: dict[str, Any], tmp_path: pathlib.Path) -> None:
    assert _at_the_same_time(dataset, tmp_path, "run", "run") == [(0, "120")] * 2
    path = dataset["output"]["path"]
    assert len(Output(path).read_receipts()) == UNITS
    alone = {**dataset, "output": {**dataset["output"], "path": str(tmp_path / "alone")}}
    launch(prepare(Config.from_dict(alone)))
    assert_same_output(path, alone["output"]["path"])


@pytest.mark.slow
def test_two_processes_at_the_same_units_leave_one_part_of_each(
    dataset: dict[str, Any], tmp_path: pathlib.Path
) -> None:
    prepare(Config.from_dict(dataset)).settings.output.create()
    assert _at_the_same_time(dataset, tmp_path, "units", "units") == [(0, "120")] * 2
    assert_one_part_of_each(dataset, tmp_path, 120, UNITS)


def test_two_threads_at_the_same_units_leave_one_part_of_each(tmp_path: pathlib.Path) -> None:
    dataset = _dataset(tmp_path, 16, 4)
    plan = prepare(Config.from_dict(dataset))
    plan.settings.output.create()
    with ThreadPoolExecutor(2) as pool:
        twice = [unit for unit in plan.units for _ in range(2)]
        done = list(pool.map(lambda unit: explain_unit(unit, plan.settings).images, twice))
    assert done == [4] * 8
    assert_one_part_of_each(dataset, tmp_path, 16, 4)


def assert_one_part_of_each(dataset: dict[str, Any], folder: pathlib.Path, images: int, count: int) -> None:
    """Each unit has one part of each kind, each image one row, and nothing else is left."""
    output = Output(dataset["output"]["path"])
    units = {receipt.unit.id for receipt in output.read_receipts()}
    assert len(units) == count
    for kind in ("maps", "partials"):
        assert _parts(output.path, kind) == sorted(units)
    rows = sorted((row["shard"], row["index"]) for row in read_maps(output.path))
    assert rows == [(str(folder / f"{name}.tfrecord"), i) for name in "ab" for i in range(images // 2)]
    assert list(pathlib.Path(output.file("tmp")).iterdir()) == []
