"""Which outputs a run may continue, and which are refused."""

from __future__ import annotations

import pathlib
from typing import Any

import pytest

from pipeline.cli import run_config
from pipeline.config import Config
from pipeline.run import CannotRun, launch, prepare
from pipeline.summary import Summary
from tests import shards
from tests.samples import configuration, encoded_images, save_model


def _run(value: dict[str, Any]) -> Summary:
    return launch(prepare(Config.from_dict(value)))


@pytest.fixture
def dataset(tmp_path: pathlib.Path) -> dict[str, Any]:
    """A configuration for a TFRecord shard of 8 images."""
    shards.write_tfrecord(tmp_path / "a.tfrecord", encoded_images(8))
    return configuration(tmp_path, str(tmp_path / "*.tfrecord"))


@pytest.mark.quick_cases(every=4)
@pytest.mark.parametrize(
    ("section", "changes", "words"),
    [
        ("explain", {"maps": "signed"}, 'explain.maps = "reference", where it is now "signed"'),
        ("output", {"grid": 14}, "output.grid = 56, where it is now 14"),
        ("output", {"images": None}, "output.images = 96, where it is now null"),
        ("explain", {"targets": "top-2"}, "explain.targets"),
    ],
)
def test_an_output_of_other_settings_is_refused_in_one_sentence(
    dataset: dict[str, Any], capfd: pytest.CaptureFixture[str], section: str, changes: dict[str, Any], words: str
) -> None:
    _run(dataset)
    changed = {**dataset, section: {**dataset[section], **changes}}
    assert run_config(Config.from_dict(changed)) == 2
    error = capfd.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert "Traceback" not in error


def test_an_output_of_another_model_is_refused(
    dataset: dict[str, Any], tmp_path: pathlib.Path, capfd: pytest.CaptureFixture[str]
) -> None:
    _run(dataset)
    save_model(tmp_path / "model.keras", seed=1)
    assert run_config(Config.from_dict(dataset)) == 2
    assert "holds a run with another model file" in capfd.readouterr().err


def test_an_output_that_cannot_be_written_or_found_again_is_refused(
    dataset: dict[str, Any], tmp_path: pathlib.Path
) -> None:
    def refusal(path: pathlib.Path) -> str:
        with pytest.raises(CannotRun) as error:
            _run({**dataset, "output": {"path": str(path)}})
        return str(error.value)

    (tmp_path / "file").write_text("not a folder")
    assert f"output.path: {tmp_path / 'file'} cannot be written" in refusal(tmp_path / "file")
    assert "has one of * ? [ in it" in refusal(tmp_path / "out[1]")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "run.json").write_text("{}")
    assert "has a run.json that no run of fullgrad wrote" in refusal(tmp_path / "foreign")
