"""Two outputs on the same images, side by side."""

from __future__ import annotations

import io
import pathlib
from typing import Any

import duckdb
import keras
import numpy as np
import pytest
from PIL import Image

from benchmarks.shuffled import shuffle_kernels
from pipeline.cli import main, run_config
from pipeline.config import Config
from tests import shards
from tests.pipeline.report.data import index_of
from tests.samples import CLASS_NAMES, SIDE, configuration, encoded_images
from tests.transforms.fullgrad.networks import randomize
from transforms.output import read_maps, read_table
from transforms.statistics import DATASET


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Configurations of three runs on the same images: a model twice, in other units, and a changed one."""
    folder = tmp_path_factory.mktemp("compared")
    samples = encoded_images(60)
    shard = shards.write_tfrecord(folder / "a.tfrecord", samples)
    value = configuration(folder, str(shard))
    model = keras.models.load_model(value["model"]["path"])
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(data))) for _, data, _ in samples])
    head = model.layers[-1]
    means = np.log(np.asarray(model((pixels / 255 - 0.5).astype(np.float32)))).mean(axis=0)
    head.bias.assign(np.asarray(head.bias) - means)  # so that it predicts every class
    model.save(folder / "model.keras")
    kernel = np.asarray(model.layers[-1].kernel).copy()
    kernel[:, 1] *= -1  # only the logit of green
    model.layers[-1].kernel.assign(kernel)
    model.save(folder / "changed.keras")
    made = {}
    for name, model_path, units in (
        ("first", "model.keras", 25),
        ("again", "model.keras", 17),
        ("changed", "changed.keras", 25),
    ):
        each = configuration(
            folder,
            str(shard),
            model={**value["model"], "path": str(folder / model_path)},
            input={"images_per_unit": units},
            explain={"targets": "top-2"},
            output={"path": str(folder / name)},
        )
        assert run_config(Config.from_dict(each)) in (0, 1)
        made[name] = each
    return made


def _path(outputs: dict[str, Any], name: str) -> str:
    return outputs[name]["output"]["path"]


def test_a_model_compared_with_itself_is_the_same(outputs: dict[str, Any], tmp_path: pathlib.Path) -> None:
    assert main(["compare", _path(outputs, "first"), _path(outputs, "again"), "--to", str(tmp_path / "self")]) == 0
    rows = read_table(str(tmp_path / "self" / "comparison.parquet")).to_pylist()
    assert len(rows) == 60
    with_mass = [row for row in rows if row["cosine"] is not None]
    no_mass = {row["index"] for row in read_maps(_path(outputs, "first")) if row["entropy"] is None}
    assert {row["index"] for row in rows if row["cosine"] is None} == no_mass
    assert len(with_mass) >= 10
    np.testing.assert_allclose([row["cosine"] for row in with_mass], 1, atol=1e-6)
    np.testing.assert_allclose([row["spearman"] for row in with_mass], 1, atol=1e-6)
    assert not any(row["changed"] for row in rows)
    for row in read_table(str(tmp_path / "self" / "comparison_classes.parquet")).to_pylist():
        assert row["changed"] == 0
        assert row["probability_shift_mean"] == 0
        assert np.abs(row["shift_map"]).max() == 0
    assert list((tmp_path / "self" / "tmp").iterdir()) == []


def test_a_changed_model_shows_what_changed(outputs: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    first, changed = _path(outputs, "first"), _path(outputs, "changed")
    assert main(["compare", first, changed]) == 0
    printed = capsys.readouterr().out
    rows = read_table(f"{changed}/comparison.parquet").to_pylist()
    by_image = {path: {r["index"]: r for r in read_maps(path) if r["target_rank"] == 0} for path in (first, changed)}
    for row in rows:
        a, b = by_image[first][row["index"]], by_image[changed][row["index"]]
        assert (row["predicted_a"], row["predicted_b"]) == (a["predicted"], b["predicted"])
        assert row["changed"] == (a["predicted"] != b["predicted"])
        assert row["target_a"] == row["target_b"], "both explain two of three classes, so they have one in common"
    changes = sum(row["changed"] for row in rows)
    assert changes > 0
    assert f"{changes:,} predictions" in printed

    counted = duckdb.sql(
        f"SELECT target_a, count(*), count(*) FILTER (changed), avg(cosine), avg(probability_b - probability_a) "
        f"FROM '{changed}/comparison.parquet' GROUP BY target_a"
    ).fetchall()
    classes = {row["class"]: row for row in read_table(f"{changed}/comparison_classes.parquet").to_pylist()}
    assert classes[DATASET]["images"] == len(rows) == 60
    for class_index, images, changed_images, cosine, shift in counted:
        row = classes[class_index]
        assert (row["images"], row["changed"]) == (images, changed_images)
        np.testing.assert_allclose(row["cosine_mean"], cosine, rtol=1e-6)
        np.testing.assert_allclose(row["probability_shift_mean"], shift, rtol=1e-5, atol=1e-7)
        assert row["cosine_low"] <= row["cosine_mean"] <= row["cosine_high"]
        assert row["changed_low"] <= changed_images / images <= row["changed_high"]

    assert main(["report", changed]) == 0
    shown = index_of(pathlib.Path(changed, "report"))["comparison"]
    assert (shown["sides"]["A"]["Output"], shown["sides"]["B"]["Output"]) == (first, changed)
    assert (shown["classes"]["images"][0], shown["classes"]["changed"][0]) == (60, changes)
    assert len(shown["changed"]) == min(24, changes)


def _residual_model(pixels: np.ndarray) -> keras.Model:
    """Two residual blocks with random weights, whose logits have the same mean for each class on the images."""
    keras.utils.set_random_seed(1)
    inputs = keras.Input((SIDE, SIDE, 3))
    x = keras.layers.Conv2D(8, 3, padding="same", activation="relu")(inputs)
    for block in ("block1", "block2"):
        y = keras.layers.Conv2D(8, 3, padding="same", activation="relu", name=f"{block}_conv1")(x)
        y = keras.layers.Conv2D(8, 3, padding="same", name=f"{block}_conv2")(y)
        x = keras.layers.ReLU()(keras.layers.Add()([x, y]))
    model = keras.Model(inputs, keras.layers.Dense(3, name="logits")(keras.layers.GlobalAveragePooling2D()(x)))
    randomize(model, 1)
    head = model.get_layer("logits")
    head.bias.assign(np.asarray(head.bias) - np.asarray(model(pixels)).mean(axis=0))
    return model


def test_shuffled_kernels_keep_their_values_and_other_layers_stay() -> None:
    model = _residual_model(np.zeros((1, SIDE, SIDE, 3), np.float32))
    before = {weight.path: np.array(weight) for weight in model.weights}
    assert shuffle_kernels(model, ["block2"], seed=3) == ["block2_conv1", "block2_conv2"]
    for weight in model.weights:
        same = np.array_equal(before[weight.path], np.asarray(weight))
        assert same != (weight.path.startswith("block2") and weight.name == "kernel")
        assert sorted(before[weight.path].ravel()) == sorted(np.asarray(weight).ravel())
    with pytest.raises(ValueError, match=r"begins with 'block3'; there are conv2d.*, block1_conv1"):
        shuffle_kernels(model, ["block3"])


@pytest.mark.slow
def test_a_shuffled_last_block_shows_in_the_classes_whose_predictions_it_changes(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    samples = encoded_images(60)
    shard = shards.write_tfrecord(tmp_path / "a.tfrecord", samples)
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(data))) for _, data, _ in samples])
    pixels = (pixels / 255 - 0.5).astype(np.float32)
    model = _residual_model(pixels)
    predicted, paths = [], []
    for name in ("whole", "shuffled"):
        if name == "shuffled":
            shuffle_kernels(model, ["block2"])
        model.save(tmp_path / f"{name}.keras")
        predicted.append(np.asarray(model(pixels)).argmax(axis=1))
        value = configuration(tmp_path, str(shard), explain={"jit": "off"}, output={"path": str(tmp_path / name)})
        value["model"]["path"] = str(tmp_path / f"{name}.keras")
        assert run_config(Config.from_dict(value)) == 0
        paths.append(value["output"]["path"])
    capsys.readouterr()
    assert main(["compare", *paths]) == 0
    printed = capsys.readouterr().out
    changed = predicted[0] != predicted[1]
    assert 0 < changed.sum() < 60, "otherwise this test shows nothing"
    assert f"{changed.sum()} predictions" in printed
    classes = {row["class"]: row for row in read_table(f"{paths[1]}/comparison_classes.parquet").to_pylist()}
    for class_index in (DATASET, *np.unique(predicted[0]).tolist()):
        row, of_class = classes[class_index], (predicted[0] == class_index) | (class_index == DATASET)
        assert (row["images"], row["changed"]) == (of_class.sum(), changed[of_class].sum())
        assert row["spearman_high"] < 1
        assert CLASS_NAMES[class_index] in printed


def test_outputs_that_cannot_be_compared_are_refused(
    outputs: dict[str, Any], tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = _path(outputs, "first")
    assert main(["compare", first, str(tmp_path)]) == 2
    assert f"{tmp_path} is no output of a run" in capsys.readouterr().err
    other = shards.write_tfrecord(tmp_path / "b.tfrecord", encoded_images(4))
    value = configuration(tmp_path, str(other))
    assert run_config(Config.from_dict(value)) == 0
    assert main(["compare", first, value["output"]["path"]]) == 2
    error = capsys.readouterr().err
    assert "have no shard in common" in error
    assert "a.tfrecord" in error
    assert not (tmp_path / "out" / "comparison.parquet").exists()
