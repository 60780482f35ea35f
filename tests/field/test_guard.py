"""The comparison with the model's own output, in whole runs: a model that would be explained wrongly is refused."""

from __future__ import annotations

import pathlib
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops

from pipeline.cli import main, run_config
from pipeline.config import Config
from pipeline.run import CannotRun, RunFailed, launch, prepare
from tests import shards
from tests.samples import SIDE, configuration, encoded_images
from tests.transforms.fullgrad.networks import randomize
from transforms.output import Output, read_maps


class Fickle(layers.Layer):
    """Computes something else on tensors than on the symbols by which it is opened up."""

    def call(self, x: Any) -> Any:
        return ops.relu(x) if isinstance(x, keras.KerasTensor) else ops.relu(x) * 1.5


class OnBrightImages(layers.Layer):
    """The same, but on images unlike noise alone: those in which red is strongest nearly everywhere."""

    def call(self, x: Any) -> Any:
        if isinstance(x, keras.KerasTensor):
            return ops.abs(x)
        return ops.where(ops.mean(x[..., :1]) > ops.mean(x) + 20, x * 1.5, x)


def _configuration(folder: pathlib.Path, layer: type, **sections: dict[str, Any]) -> dict[str, Any]:
    image = keras.Input((SIDE, SIDE, 3))
    x = layers.Rescaling(1 / 255)(layer()(image))
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(6, 3, activation="silu")(x))
    model = randomize(keras.Model(image, layers.Dense(3, activation="softmax")(x)))
    model.save(folder / "model.keras")
    shards.write_tfrecord(folder / "a.tfrecord", [s for s in encoded_images(40) if s[2] == 0])
    value = configuration(folder, str(folder / "a.tfrecord"), **sections)
    value["model"].update(preprocess={"scale": "none"}, custom_objects=__name__, trust=True)
    return value


def test_a_model_that_would_be_explained_wrongly_is_refused_before_the_run(tmp_path: pathlib.Path) -> None:
    value = _configuration(tmp_path, Fickle)
    with pytest.raises(CannotRun, match=r"the first layer that differs is 'fickle\w*' \(Fickle\)"):
        prepare(Config.from_dict(value))
    assert not (tmp_path / "out").exists()


def test_inspect_refuses_it_too(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    _configuration(tmp_path, Fickle)
    assert main(["inspect", str(tmp_path / "model.keras"), "--trust", "--custom-objects", __name__]) == 2
    assert "the first layer that differs is 'fickle" in capsys.readouterr().err


def test_what_noise_does_not_show_is_found_on_the_first_batch(tmp_path: pathlib.Path) -> None:
    value = _configuration(tmp_path, OnBrightImages)
    plan = prepare(Config.from_dict(value))
    with pytest.raises(RunFailed, match="the first layer that differs is 'on_bright_images"):
        launch(plan)
    assert not list(Output(value["output"]["path"]).read_receipts())


def test_a_run_says_how_well_they_agree(tmp_path: pathlib.Path) -> None:
    value = _configuration(tmp_path, layers.Identity)
    launch(prepare(Config.from_dict(value)))
    agreement = Output(value["output"]["path"]).read_json("run.json")["model"]["agreement"]
    assert 0 <= agreement["difference"] < agreement["limit"] == pytest.approx(1e-3)


@pytest.mark.parametrize(("biases", "code"), [("explicit", 0), ("all", 0)])
def test_explicit_biases_that_do_not_add_up_are_a_warning_with_the_figure(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], biases: str, code: int
) -> None:
    value = _configuration(tmp_path, layers.Identity, explain={"biases": biases})
    assert run_config(Config.from_dict(value)) == code
    errors = capsys.readouterr().out
    largest = max(row["completeness_error"] for row in read_maps(value["output"]["path"]))
    if biases == "explicit":
        assert largest > 1e-3
        assert f"the largest completeness_error is {largest:.1e}" in errors
    else:
        assert "do not add up" not in errors


def test_the_cells_of_a_signed_map_are_sums_over_the_absolute_mass(tmp_path: pathlib.Path) -> None:
    value = _configuration(tmp_path, layers.Identity, explain={"maps": "signed", "contrast": "runner_up"})
    launch(prepare(Config.from_dict(value)))
    rows = list(read_maps(value["output"]["path"]))
    for row in rows:
        share = row["map"].sum(dtype=np.float64) / np.abs(row["map"]).sum(dtype=np.float64)
        assert row["coarse_map"].sum(dtype=np.float64) == pytest.approx(share, abs=1e-5)
    assert min(row["coarse_map"].min() for row in rows) < 0


@pytest.mark.slow
def test_an_output_of_an_earlier_version_of_the_columns_is_refused(tmp_path: pathlib.Path) -> None:
    value = _configuration(tmp_path, layers.Identity)
    launch(prepare(Config.from_dict(value)))
    path = tmp_path / "out" / "run.json"
    path.write_text(path.read_text().replace('"schema_version": "3"', '"schema_version": "1"'))
    with pytest.raises(CannotRun, match="was written with version 1 of the columns"):
        prepare(Config.from_dict(value))
