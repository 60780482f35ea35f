"""Whole runs of every method: what is written, what is null, and that noise depends on the image alone."""

from __future__ import annotations

import pathlib
from typing import Any

import keras
import numpy as np
import pytest

from pipeline.cli import run_config
from pipeline.config import Config
from pipeline.run import CannotRun, prepare, read_summary
from tests import shards
from tests.samples import SIDE, configuration, encoded_images
from transforms.methods import METHODS
from transforms.output import Output, read_maps, read_table
from transforms.statistics import DATASET, FIGURES

TERMS = ("input_term", "bias_term", "unlocated_term", "completeness_error")
SMOOTH = [name for name, method in METHODS.items() if method.noise]


@pytest.fixture
def dataset(tmp_path: pathlib.Path) -> dict[str, Any]:
    """A configuration for two TFRecord shards of 9 and 5 images."""
    samples = encoded_images(14)
    shards.write_tfrecord(tmp_path / "a.tfrecord", samples[:9])
    shards.write_tfrecord(tmp_path / "b.tfrecord", samples[9:])
    return configuration(tmp_path, str(tmp_path / "*.tfrecord"))


def _with(dataset: dict[str, Any], folder: str, explain: dict[str, Any], **input_keys: Any) -> dict[str, Any]:
    """The configuration with other settings and an output folder of its own."""
    return {
        **dataset,
        "input": {**dataset["input"], **input_keys},
        "explain": {**dataset["explain"], **explain},
        "output": {**dataset["output"], "path": f"{dataset['output']['path']}-{folder}"},
    }


def _maps(value: dict[str, Any]) -> list[dict[str, Any]]:
    return sorted(read_maps(value["output"]["path"]), key=lambda row: (row["image_id"], row["target"]))


@pytest.mark.quick_cases(every=3)
@pytest.mark.parametrize("method", METHODS)
def test_every_method_writes_maps_and_class_statistics(dataset: dict[str, Any], method: str) -> None:
    noise = {"samples": 2} if METHODS[method].noise else {}
    value = _with(dataset, method, {"method": method, "targets": "top-2", **noise})
    assert run_config(Config.from_dict(value)) == 0
    output = Output(value["output"]["path"])
    summary = read_summary(output)
    rows = _maps(value)
    assert (summary.images, summary.rows, summary.failed) == (14, 28, 0)
    assert (summary.completeness is None) == (method != "fullgrad")
    assert len(rows) == 28
    for row in rows:
        assert [row[name] is None for name in TERMS] == [method != "fullgrad"] * 4
        assert np.isfinite(row["logit"])
        assert row["map"].shape == (SIDE, SIDE)
        assert (row["entropy"] is None) == (not row["map"].any())
        assert row["map"].min() >= 0
    assert any(row["map"].any() for row in rows)

    classes = {row["class"]: row for row in read_table(output.file("classes.parquet")).to_pylist()}
    for class_index, row in classes.items():
        mine = [each for each in rows if class_index in (DATASET, each["target"])]
        assert row["images"] == len(mine)
        for name in ("p50", "p95", "max"):
            assert (row[f"completeness_error_{name}"] is None) == (method != "fullgrad" or not mine)
        with_mass = [each for each in mine if each["map"].any()]
        for name in FIGURES if with_mass else ():
            assert row[f"{name}_mean"] == pytest.approx(np.mean([each[name] for each in with_mass]), rel=1e-5, abs=1e-6)
    identity = output.read_json("run.json")["identity"]["explain"]
    assert ("seed" in identity) == METHODS[method].noise


@pytest.mark.slow
@pytest.mark.parametrize("method", SMOOTH)
def test_smooth_maps_do_not_depend_on_batches_or_units(dataset: dict[str, Any], method: str) -> None:
    smooth = {"method": method, "samples": 3, "seed": 4}
    whole = _with(dataset, "whole", {**smooth, "batch_size": 9})
    parts = _with(dataset, "parts", {**smooth, "batch_size": 2}, images_per_unit=3)
    other = _with(dataset, "other", {**smooth, "seed": 5})
    for value in (whole, parts, other):
        assert run_config(Config.from_dict(value)) == 0
    expected = _maps(whole)
    largest = max(np.abs(row["map"]).max() for row in expected)
    for row, same in zip(_maps(parts), expected, strict=True):
        assert row["image_id"] == same["image_id"]
        np.testing.assert_allclose(row["map"], same["map"], rtol=1e-4, atol=1e-5 * largest)
    differences = [np.abs(row["map"] - same["map"]).max() for row, same in zip(_maps(other), expected, strict=True)]
    assert max(differences) > 1e-3 * largest


def test_an_output_of_another_method_is_refused(dataset: dict[str, Any], capfd: pytest.CaptureFixture[str]) -> None:
    first = _with(dataset, "same", {"method": "gradients"})
    assert run_config(Config.from_dict(first)) == 0
    assert run_config(Config.from_dict(_with(dataset, "same", {"method": "smoothgrad"}))) == 2
    assert 'explain.method = "gradients", where it is now "smoothgrad"' in capfd.readouterr().err


def test_grad_cam_of_a_model_without_places_is_refused_before_the_run(
    dataset: dict[str, Any], tmp_path: pathlib.Path
) -> None:
    inputs = keras.Input((SIDE, SIDE, 3))
    flat = keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Flatten()(inputs)))
    flat.save(tmp_path / "model.keras")
    with pytest.raises(CannotRun, match=r"^explain\.method: model .* has no activation with places in the image"):
        prepare(Config.from_dict(_with(dataset, "flat", {"method": "grad_cam"})))
    assert prepare(Config.from_dict(_with(dataset, "flat", {"method": "gradients"}))).units
