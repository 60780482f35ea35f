"""Runs on a file system that is full: one sentence, nothing half-written, and the same command goes on."""

from __future__ import annotations

import json
import pathlib
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from pipeline.config import Config
from pipeline.run import launch, prepare
from pipeline.space import no_space_left
from tests.elsewhere import Elsewhere  # noqa: F401  knows elsewhere://
from transforms.models import UnusableModel
from transforms.models.files import LocalFile
from transforms.output import Output


@pytest.fixture
def small_disk(tmp_path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A file system of 128 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    try:
        mounting = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(folder)], capture_output=True, text=True
        )
    except FileNotFoundError:
        pytest.skip("there is no `mount` here")
    if mounting.returncode:
        pytest.skip(f"no small file system can be mounted here: {mounting.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.slow
def test_a_full_disk_is_said_in_one_sentence_and_the_run_goes_on_once_there_is_room(
    dataset: dict[str, Any], tmp_path: pathlib.Path, small_disk: pathlib.Path
) -> None:
    out = small_disk / "out"
    value = {**dataset, "input": {**dataset["input"], "images_per_unit": 3}}
    value["output"] = {**dataset["output"], "path": str(out)}
    config = tmp_path / "config.json"  # JSON is YAML
    config.write_text(json.dumps(value))
    command = [sys.executable, "-m", "pipeline", "run", str(config)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 1, ended.stderr
    assert "Traceback" not in ended.stderr
    [sentence] = [line for line in ended.stderr.splitlines() if line.startswith("fullgrad:")]
    assert re.search(rf"there is no space left in {out}, where [\d.]+ \w+ are free; make room there", sentence)
    assert "the same command goes on" in sentence
    assert [each.name for each in (out / "tmp").iterdir() if not each.name.endswith(".alive")] == []
    for each in out.rglob("*.json"):
        json.loads(each.read_text())

    told = subprocess.run([*command[:3], "--verbose", *command[3:]], capture_output=True, text=True, timeout=300)
    assert told.returncode == 1
    assert "Traceback" in told.stderr
    assert "there is no space left in" in told.stderr

    subprocess.run(["mount", "-o", "remount,size=32m", str(small_disk)], check=True)
    summary = launch(prepare(Config.from_dict(value)))
    assert (summary.images, summary.failed) == (33, 0)
    assert len(Output(str(out)).read_receipts()) == summary.units


def test_a_model_that_does_not_fit_the_temporary_folder_is_refused_in_one_sentence(
    tmp_path: pathlib.Path, small_disk: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(small_disk))
    model = tmp_path / "model.keras"
    model.write_bytes(bytes(1 << 20))
    with pytest.raises(UnusableModel, match=rf"model\.path: .* temporary folder {small_disk} \(no space left") as error:
        LocalFile(f"elsewhere://{model}", "model.path").__enter__()
    assert "TMPDIR" in str(error.value)
    assert "\n" not in str(error.value)
    assert list(small_disk.iterdir()) == []


def test_the_place_with_the_least_room_is_named(
    tmp_path: pathlib.Path, small_disk: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert no_space_left(str(small_disk)).startswith(f"there is no space left in {small_disk}, where 128 KiB are free")
    monkeypatch.setattr("tempfile.tempdir", str(small_disk))
    assert "let TMPDIR name another folder" in no_space_left(str(tmp_path))
    assert no_space_left("elsewhere://nowhere") == (
        "there is no space left where elsewhere://nowhere is written; make room there, or give another output.path"
    )
