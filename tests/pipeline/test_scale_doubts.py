"""A scale of pixels that the model was not trained with is doubted, by its BatchNorm or by its answers."""

from __future__ import annotations

import pathlib
from typing import Any

import pytest

from pipeline.cli import run_config
from pipeline.config import Config
from pipeline.run import prepare
from pipeline.scaling import at_least
from tests import shards
from tests.pipeline.test_init import SHADES, save_shade_model, shades
from transforms.output import Output

TRAINED_WITH = {"divide": 255, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


@pytest.fixture
def cifar10(test_data: pathlib.Path, tmp_path: pathlib.Path) -> Any:
    def doubts(scale: Any) -> tuple[str, ...]:
        value = {
            "input": {"shards": str(test_data / "cifar10" / "cifar10_test.tfrecord-00000-of-00008")},
            "model": {
                "path": str(test_data / "cifar10" / "resnet20_cifar10.keras"),
                "preprocess": {"scale": scale},
            },
            "output": {"path": str(tmp_path / "out")},
        }
        return prepare(Config.from_dict(value)).doubts

    return doubts


@pytest.mark.parametrize("scale", ["none", "caffe", {"divide": 255}])
def test_a_real_model_with_a_wrong_scale_is_doubted_before_the_run(cifar10: Any, scale: Any) -> None:
    (doubt,) = cifar10(scale)
    assert doubt.startswith("model.preprocess seems not to be as in training")
    assert "with scale: torch only" in doubt


@pytest.mark.parametrize("scale", [TRAINED_WITH, "torch", {**TRAINED_WITH, "mean": [0.491, 0.482, 0.447]}])
def test_a_real_model_with_the_right_scale_or_one_close_to_it_is_not_doubted(cifar10: Any, scale: Any) -> None:
    assert cifar10(scale) == ()


def run(folder: pathlib.Path, scale: Any, capsys: pytest.CaptureFixture[str]) -> tuple[str, list[str]]:
    value = {
        "input": {"shards": str(shards.write_folder(folder / "photos", shades(48), SHADES))},
        "model": {"path": str(save_shade_model(folder / "model.keras")), "preprocess": {"scale": scale}},
        "output": {"path": str(folder / "out")},
    }
    capsys.readouterr()
    assert run_config(Config.from_dict(value)) == 0
    return capsys.readouterr().out, Output(str(folder / "out")).read_json("summary.json")["warnings"]


def test_a_model_without_batchnorm_is_doubted_by_its_answers_after_the_run(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    printed, (warning,) = run(tmp_path, "none", capsys)
    assert "model.preprocess seems not to be as in training" in warning
    assert "48 of 48 images are predicted correctly, where it is 16 as configured" in warning
    assert printed.count("warning: ") == 1


def test_the_right_scale_is_not_doubted(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    printed, warnings = run(tmp_path, {"divide": 255}, capsys)
    assert warnings == []
    assert "warning" not in printed


def test_the_tail_of_the_binomial() -> None:
    assert at_least(0, 5, 0.3) == pytest.approx(1)
    assert at_least(5, 5, 0.5) == pytest.approx(1 / 32)
    assert at_least(2, 3, 0.5) == pytest.approx(0.5)
