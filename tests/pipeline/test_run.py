"""Whole runs on small real data: what comes out, what is refused, what is gone on with."""

from __future__ import annotations

import io
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
from typing import Any

import keras
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.cli import run_config
from pipeline.config import Config
from pipeline.run import CannotRun, launch, prepare
from pipeline.summary import Summary
from tests import shards
from tests.samples import CLASS_NAMES, configuration, encoded_images, save_model
from transforms.models import model as model_module
from transforms.output import CLASSES, MAPS, SCHEMA_VERSION, Output, decode_map, read_maps, read_table
from transforms.statistics import DATASET, FIGURES, map_figures


def _run(value: dict[str, Any]) -> Summary:
    return launch(prepare(Config.from_dict(value)))


def _maps(value: dict[str, Any]) -> list[dict[str, Any]]:
    return sorted(read_maps(value["output"]["path"]), key=lambda row: (row["image_id"], row["target"]))


def _classes(value: dict[str, Any]) -> dict[int, dict[str, Any]]:
    table = read_table(f"{value['output']['path']}/classes.parquet")
    return {row["class"]: row for row in table.to_pylist()}


def _examples(value: dict[str, Any]) -> list[dict[str, Any]]:
    return read_table(f"{value['output']['path']}/examples.parquet").to_pylist()


def _places(examples: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    return [tuple(row[name] for name in ("class", "kind", "rank", "shard", "index")) for row in examples]


def test_a_run_writes_a_row_an_image_and_a_row_a_class(dataset: dict[str, Any]) -> None:
    summary = _run(dataset)
    rows = _maps(dataset)
    output = Output(dataset["output"]["path"])
    assert (summary.images, summary.rows, summary.units, summary.failed) == (33, 33, 2, 0)
    assert [row["image_id"] for row in rows] == [f"image{i:04d}.png" for i in range(33)]
    assert len(output.read_receipts()) == 2
    assert summary.completeness is not None
    assert summary.completeness["max"] < 1e-5
    assert summary.accuracy == np.mean([row["correct"] for row in rows])
    assert os.listdir(output.file("tmp")) == []
    for row in rows:
        assert row["label_name"] == CLASS_NAMES[row["label"]]
        assert row["target"] == row["predicted"]
        assert row["target_rank"] == 0
        total = np.sum(row["channel_terms"], dtype=np.float64) + row["after_term"]
        assert abs(total - row["explained"]) <= 1e-4 * max(1, abs(row["explained"]))
        assert len(row["channel_terms"]) == 5
        assert row["correct"] == (row["label"] == row["predicted"])
        assert row["map"].shape == (16, 16)
        assert row["coarse_map"].sum() == pytest.approx(1 if row["map"].any() else 0, abs=1e-5)
        assert row["total"] == pytest.approx(row["map"].sum(), rel=1e-5)
    for path, schema in ((output.file("classes.parquet"), CLASSES), (_part(output), MAPS)):
        stored = pq.read_schema(path)
        assert stored.names == schema.names
        assert stored.metadata[b"fullgrad.schema_version"] == SCHEMA_VERSION.encode()
        assert len(stored.metadata[b"fullgrad.fingerprint"]) == 16


def _part(output: Output) -> str:
    return output.part("maps", output.read_receipts()[0].unit)


def test_class_statistics_equal_numpy_s_of_the_stored_maps(dataset: dict[str, Any]) -> None:
    dataset["explain"]["targets"] = [0, 1, 2]
    _run(dataset)
    rows, classes = _maps(dataset), _classes(dataset)
    images = [r for r in rows if r["target_rank"] == 0]
    assert len(rows) == 3 * len(images)
    assert set(classes) == {DATASET} | {r["target"] for r in rows} | {r["label"] for r in rows}
    assert any(not r["map"].any() for r in rows), "the test's model also makes maps without mass"
    dataset_map = _mean_map([r for r in rows if r["map"].any()])
    coarse_means = {}
    for class_index, row in classes.items():
        mine = [r for r in rows if class_index in (DATASET, r["target"])]
        labelled = [r for r in images if class_index in (DATASET, r["label"])]
        assert row["images"] == len(mine)
        assert row["labelled"] == len(labelled)
        assert row["correct"] == sum(r["correct"] for r in labelled)
        if not mine:
            assert row["mean_map"] is None
            continue
        _close(row["mean_logit"], np.mean([r["logit"] for r in mine], dtype=np.float64))
        _close(row["mean_probability"], np.mean([r["probability"] for r in mine], dtype=np.float64))
        _close(row["completeness_error_max"], max(r["completeness_error"] for r in mine))
        by_logit = sorted(mine, key=lambda r: (-r["logit"], r["image_id"]))
        assert row["top_logit_ids"] == [r["image_id"] for r in by_logit[:10]]
        mine = [r for r in mine if r["map"].any()]
        maps = np.stack([_grid(r["map"]) for r in mine])
        _close(row["mean_map"], maps.mean(axis=0).ravel())
        _close(row["std_map"], maps.std(axis=0).ravel())
        _close(row["contrast_map"], (maps.mean(axis=0) - dataset_map).ravel())
        wrong = [_grid(r["map"]) for r in mine if r["label"] != r["target"]]
        assert (row["wrong_map"] is None) == (not wrong)
        if wrong:
            _close(row["wrong_map"], np.mean(wrong, axis=0).ravel())
        for name in FIGURES:
            values = np.array([r[name] for r in mine], np.float64)
            _close(row[f"{name}_mean"], values.mean())
            _close(row[f"{name}_std"], values.std())
            for what, q in (("p05", 0.05), ("p25", 0.25), ("p50", 0.5), ("p75", 0.75), ("p95", 0.95)):
                _close(row[f"{name}_{what}"], np.quantile(values, q))
        mean = maps.mean(axis=0)
        _close(row["similarity"], _cosine(mean, dataset_map))
        coarse_means[class_index] = np.mean([r["coarse_map"] for r in mine], axis=0, dtype=np.float64)
        similarity = sorted((_cosine(r["coarse_map"], coarse_means[class_index]), r["image_id"]) for r in mine)
        assert row["bottom_similarity_ids"] == [image_id for _, image_id in similarity[:10]]
        assert row["top_similarity_ids"] == [image_id for _, image_id in similarity[:-11:-1]]
    for figure in ("border_mass", "corner_mass"):
        means = {c: row[f"{figure}_mean"] for c, row in classes.items() if c != DATASET and row["images"]}
        for class_index, row in classes.items():
            others = [mean for c, mean in means.items() if c != class_index]
            assert len(means) == 3
            if class_index in means and len(others) > 1:
                _close(row[f"{figure}_z"], (means[class_index] - np.mean(others)) / np.std(others, ddof=1))
            else:
                assert row[f"{figure}_z"] is None


def _grid(image: np.ndarray, grid: int = 56) -> np.ndarray:
    """Unit mass, then the mass that falls into each cell of a grid: computed pixel by pixel."""
    mass = image.astype(np.float64) / np.abs(image).sum(dtype=np.float64)
    side = len(image)
    fine = np.kron(mass, np.ones((grid, grid))) / grid**2  # every pixel as grid × grid equal ones
    return fine.reshape(grid, side, grid, side).sum(axis=(1, 3))


def _mean_map(rows: list[dict[str, Any]]) -> np.ndarray:
    return np.mean([_grid(r["map"]) for r in rows], axis=0)


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a.ravel().astype(np.float64), b.ravel().astype(np.float64)
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def _close(actual: Any, expected: Any) -> None:
    np.testing.assert_allclose(np.asarray(actual, np.float64), expected, rtol=1e-6, atol=1e-6)


def test_the_same_images_in_any_format_give_the_same(tmp_path: pathlib.Path) -> None:
    samples = encoded_images(12)
    writers = {
        "tfrecord": lambda f: shards.write_tfrecord(f / "s.tfrecord", samples),
        "gzip": lambda f: shards.write_tfrecord(f / "s.tfrecord.gz", samples, gzip=True),
        "webdataset": lambda f: shards.write_webdataset(f / "s.tar", samples),
        "parquet": lambda f: shards.write_parquet(f / "s.parquet", samples),
        "folder": lambda f: shards.write_folder(f / "images", samples, CLASS_NAMES),
    }
    results = {}
    for name, write in writers.items():
        folder = tmp_path / name
        folder.mkdir()
        save_model(folder / "model.keras")
        write(folder)
        pattern = folder / "images" if name == "folder" else folder / "s.*"
        value = configuration(folder, str(pattern))
        _run(value)
        rows = {pathlib.PurePath(row["image_id"]).stem: row for row in _maps(value)}
        results[name] = rows, _classes(value)
    expected_rows, expected_classes = results["tfrecord"]
    assert len(expected_rows) == 12
    for rows, classes in results.values():
        assert rows.keys() == expected_rows.keys()
        for key, row in rows.items():
            np.testing.assert_allclose(row["map"], expected_rows[key]["map"], atol=1e-5)
            assert row["label"] == expected_rows[key]["label"]
        for class_index, row in classes.items():
            np.testing.assert_allclose(row["mean_map"] or 0, expected_classes[class_index]["mean_map"] or 0, atol=1e-7)
            assert row["correct"] == expected_classes[class_index]["correct"]


def test_a_run_in_two_halves_equals_a_run_in_one(dataset: dict[str, Any], tmp_path: pathlib.Path) -> None:
    whole = {**dataset, "output": {**dataset["output"], "path": str(tmp_path / "whole")}}
    _run(whole)
    _run({**dataset, "input": {**dataset["input"], "limit": 17}})
    summary = _run({**dataset, "input": {**dataset["input"], "images_per_unit": 6}})
    assert (summary.images, summary.units, summary.units_computed) == (33, 5, 4)
    for row, expected in zip(_maps(dataset), _maps(whole), strict=True):
        assert row["image_id"] == expected["image_id"]
        np.testing.assert_allclose(row["map"], expected["map"], atol=1e-5)
    for class_index, row in _classes(dataset).items():
        expected = _classes(whole)[class_index]
        assert row["images"] == expected["images"]
        np.testing.assert_allclose(row["mean_map"] or 0, expected["mean_map"] or 0, atol=1e-7)
        assert row["top_logit_ids"] == expected["top_logit_ids"]
    assert _places(_examples(dataset)) == _places(_examples(whole))
    confusion = [read_table(f"{each['output']['path']}/confusion.parquet") for each in (dataset, whole)]
    assert confusion[0].equals(confusion[1])


def test_what_is_done_is_not_computed_again(dataset: dict[str, Any]) -> None:
    _run(dataset)
    output = Output(dataset["output"]["path"])
    before = {p: os.stat(p).st_mtime_ns for p in pathlib.Path(output.path).glob("*/*")}
    summary = _run(dataset)
    assert (summary.units, summary.units_computed, summary.images) == (2, 0, 33)
    assert {p: os.stat(p).st_mtime_ns for p in pathlib.Path(output.path).glob("*/*")} == before


def test_a_unit_without_a_receipt_does_not_exist(dataset: dict[str, Any]) -> None:
    _run(dataset)
    output = Output(dataset["output"]["path"])
    lost, kept = output.read_receipts()
    os.remove(output.receipt(lost.unit))
    assert {row["shard"] for row in read_maps(output.path)} == {kept.unit.shard.path}
    assert _run(dataset).units_computed == 1
    assert len(list(read_maps(output.path))) == 33


@pytest.mark.quick_cases(every=4)
@pytest.mark.parametrize(
    ("targets", "rows"), [("top-2", 66), ([0, 2], 66), ("label", 33), ([1], 33)], ids=["top-2", "list", "label", "one"]
)
def test_every_image_has_one_row_per_target(dataset: dict[str, Any], targets: Any, rows: int) -> None:
    value = {**dataset, "explain": {**dataset["explain"], "targets": targets}}
    summary = _run(value)
    found = _maps(value)
    assert summary.rows == len(found) == rows
    assert summary.images == summary.labelled == 33
    assert summary.accuracy == pytest.approx(np.mean([row["correct"] for row in found]))
    for row in found:
        if targets == "label":
            assert row["target"] == row["label"]
        elif targets == "top-2":
            assert row["target_rank"] in (0, 1)
        else:
            assert row["target"] in targets


@pytest.mark.slow
@pytest.mark.parametrize(("map_dtype", "tolerance"), [("float32", 0), ("float16", 2**-11), ("uint8", 1 / 510)])
def test_maps_are_stored_as_asked(dataset: dict[str, Any], map_dtype: str, tolerance: float) -> None:
    exact = {**dataset, "output": {**dataset["output"], "path": dataset["output"]["path"] + "-exact"}}
    _run(exact)
    value = {**dataset, "output": {**dataset["output"], "map_dtype": map_dtype}}
    _run(value)
    for row, expected in zip(_maps(value), _maps(exact), strict=True):
        limit = tolerance * np.abs(expected["map"]).max() * 1.001
        np.testing.assert_allclose(row["map"], expected["map"], rtol=0, atol=limit)
        assert row["map_dtype"] == map_dtype
        assert [row[name] for name in FIGURES] == [expected[name] for name in FIGURES]


def test_maps_may_be_left_out_or_made_smaller(dataset: dict[str, Any]) -> None:
    without = {
        **dataset,
        "output": {"path": dataset["output"]["path"], "map_dtype": "none", "map_size": 4, "images": None},
    }
    _run(without)
    rows = _maps(without)
    assert all(row["map"] is None and row["coarse_map"].shape == (14, 14) for row in rows)
    assert {(row["map_height"], row["map_width"]) for row in rows} == {(4, 4)}
    assert {row["image"] for row in rows} == {None}
    examples = _examples(without)
    assert {(len(row["map"]), row["map_height"], row["image"]) for row in examples} == {(56**2, 56, None)}
    for example in examples:  # the maps of examples are there nonetheless
        assert decode_map(example).sum() == pytest.approx(example["total"], rel=0.05)


@pytest.mark.slow
def test_the_model_is_loaded_once_in_a_process_whatever_its_threads(
    dataset: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model_module._loaded.clear()
    loads = []
    load = model_module._load
    monkeypatch.setattr(model_module, "_load", lambda spec: loads.append(time.sleep(0.2)) or load(spec))
    value = {
        **dataset,
        "input": {**dataset["input"], "images_per_unit": 2},
        "runner": {"options": {"direct_num_workers": 4, "direct_running_mode": "multi_threading"}},
    }
    before = model_module.models_loaded()
    summary = _run(value)
    assert summary.units_computed == 17
    assert len(loads) == model_module.models_loaded() - before == 1
    receipts = Output(value["output"]["path"]).read_receipts()
    assert {receipt.models_loaded for receipt in receipts} == {before + 1}


@pytest.mark.slow
def test_new_shards_are_welcome(dataset: dict[str, Any], tmp_path: pathlib.Path) -> None:
    _run(dataset)
    shards.write_tfrecord(tmp_path / "c.tfrecord", encoded_images(5, seed=9))
    summary = _run(dataset)
    assert (summary.images, summary.units_computed) == (38, 1)
    assert _classes(dataset)[DATASET]["images"] == 38


def test_bad_input_gives_error_rows_and_everything_else(tmp_path: pathlib.Path) -> None:
    good = encoded_images(6)
    samples: list[Any] = [*good[:3], ("broken.png", b"no image at all", 1), *good[3:], ("none.png", None, 0)]
    shards.write_tfrecord(tmp_path / "a.tfrecord", samples)
    (tmp_path / "empty.tfrecord").write_bytes(b"")
    whole = (tmp_path / "a.tfrecord").read_bytes()
    (tmp_path / "truncated.tfrecord").write_bytes(whole[: len(whole) // 2])
    value = configuration(tmp_path, str(tmp_path / "*.tfrecord"), errors={"max_fraction": 0.9})
    assert run_config(Config.from_dict(value)) == 0
    summary = Summary.from_dict(Output(value["output"]["path"]).read_json("summary.json"))
    assert summary.failures["EmptyShard"] == 1
    assert summary.failures["UndecodableImage"] >= 1
    assert summary.failures["NoImage"] == 1
    assert summary.failures["DamagedShard"] == 1
    errors = [
        row
        for path in sorted((tmp_path / "out" / "errors").glob("*.parquet"))
        for row in pq.read_table(path).to_pylist()
    ]
    assert len(errors) == summary.failed
    by_error = {row["error"]: row for row in errors}
    assert by_error["UndecodableImage"]["image_id"] == "broken.png"
    assert by_error["UndecodableImage"]["index"] == 3
    assert by_error["NoImage"]["stage"] == "read"
    assert "image/encoded" in by_error["NoImage"]["message"]
    assert "no records" in by_error["EmptyShard"]["message"]
    assert {row["image_id"] for row in _maps(value)} == {name for name, _, _ in good}

    strict = {**value, "errors": {"max_fraction": 0.01}}
    assert run_config(Config.from_dict(strict)) == 1


def test_an_image_whose_map_is_not_finite_is_an_error_row(tmp_path: pathlib.Path) -> None:
    shards.write_tfrecord(tmp_path / "a.tfrecord", encoded_images(5))
    value = configuration(tmp_path, str(tmp_path / "a.tfrecord"))
    value["model"]["preprocess"]["scale"] = {"divide": 1e-38}  # overflows in float32
    assert run_config(Config.from_dict(value)) == 1
    summary = Summary.from_dict(Output(value["output"]["path"]).read_json("summary.json"))
    assert (summary.images, summary.failures) == (0, {"NotFinite": 5})
    assert read_table(f"{value['output']['path']}/classes.parquet").num_rows == 0
    assert _examples(value) == []


@pytest.mark.slow
@pytest.mark.parametrize("jit", ["off", "on"], ids=["native", "XLA"])
def test_an_image_that_is_not_finite_is_an_error_row_and_changes_no_other(tmp_path: pathlib.Path, jit: str) -> None:
    black = io.BytesIO()
    Image.new("RGB", (16, 16)).save(black, "PNG")
    samples = encoded_images(3)
    rows = {}
    for name, images in (("mixed", [*samples[:2], ("black.png", black.getvalue(), 0), samples[2]]), ("alone", None)):
        folder = tmp_path / name
        folder.mkdir()
        shards.write_tfrecord(folder / "a.tfrecord", images or [("black.png", black.getvalue(), 0)])
        value = configuration(
            folder, str(folder / "*.tfrecord"), explain={"batch_size": 4, "jit": jit}, errors={"max_fraction": 0.9}
        )
        value["model"]["preprocess"]["scale"] = {"divide": 1e-38}  # all pixels but 0 become infinite
        summary = _run(value)
        [rows[name]] = _maps(value)
        assert summary.failures == ({"NotFinite": 3} if images else {})
    assert rows["mixed"]["image_id"] == "black.png"
    np.testing.assert_allclose(rows["mixed"]["map"], rows["alone"]["map"], atol=1e-6)
    assert rows["mixed"]["logit"] == pytest.approx(rows["alone"]["logit"], abs=1e-5)


@pytest.mark.parametrize(
    ("section", "key", "setting", "words"),
    [
        ("input", "shards", "nowhere/*.tfrecord", "nowhere/*.tfrecord"),
        ("input", "fields", {"image": "image/encodet"}, "image/encodet"),
        ("model", "path", "nowhere.keras", "model.path: nowhere.keras cannot be read"),
        ("model", "class_names", "nowhere.txt", "model.class_names: nowhere.txt cannot be read"),
        ("explain", "targets", "top-9", "explain.targets is top-9, but the model has 3 classes"),
        ("explain", "targets", [0, 7], "explain.targets has class 7"),
    ],
)
def test_what_cannot_be_run_is_refused_before_the_run(
    dataset: dict[str, Any], section: str, key: str, setting: Any, words: str
) -> None:
    value = {**dataset, section: {**dataset[section], key: setting}}
    with pytest.raises(CannotRun) as error:
        prepare(Config.from_dict(value))
    assert words in str(error.value)
    assert "\n" not in str(error.value)
    assert not os.path.exists(dataset["output"]["path"])


def test_a_file_that_is_no_model_is_refused(dataset: dict[str, Any], tmp_path: pathlib.Path) -> None:
    (tmp_path / "model.keras").write_bytes(b"something else")
    with pytest.raises(CannotRun, match=r"model\.path: .*model\.keras cannot be loaded as a Keras model"):
        prepare(Config.from_dict(dataset))


@pytest.mark.parametrize(
    "signals",
    [(signal.SIGKILL,), pytest.param((signal.SIGINT, signal.SIGTERM, signal.SIGKILL), marks=pytest.mark.slow)],
    ids=["killed once", "ended in each way"],
)
def test_a_sigkilled_or_interrupted_run_is_gone_on_with(
    dataset: dict[str, Any], tmp_path: pathlib.Path, signals: tuple[signal.Signals, ...]
) -> None:
    value = {**dataset, "input": {**dataset["input"], "images_per_unit": 1}}
    config = tmp_path / "config.json"  # JSON is YAML
    config.write_text(json.dumps(value))
    receipts = pathlib.Path(value["output"]["path"]) / "receipts"
    for sent in signals:
        done = len(list(receipts.glob("*.json")))
        process = subprocess.Popen(
            [sys.executable, "-m", "pipeline", "run", str(config)], stderr=subprocess.PIPE, text=True
        )
        deadline = time.monotonic() + 120
        while len(list(receipts.glob("*.json"))) < done + 3 and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(sent)
        _, error = process.communicate(timeout=120)
        if sent is not signal.SIGKILL:
            assert process.returncode == 130, error
            assert "goes on with what is missing" in error
            assert "Traceback" not in error
        assert done + 3 <= len(list(receipts.glob("*.json"))) < 33
    before = len(list(receipts.glob("*.json")))
    summary = _run(value)
    assert summary.units == summary.images == 33
    assert summary.units_computed == 33 - before
    assert _classes(value)[DATASET]["images"] == 33
    np.testing.assert_allclose(
        [row["total"] for row in _maps(value)], map_figures(np.stack([row["map"] for row in _maps(value)]))[:, 0]
    )
    assert os.listdir(tmp_path / "out" / "tmp") == []
    whole = {**value, "output": {**value["output"], "path": str(tmp_path / "whole")}}
    _run(whole)
    assert _places(_examples(value)) == _places(_examples(whole))
    assert [row["image"] for row in _examples(value)] == [row["image"] for row in _examples(whole)]


def test_a_model_without_any_term_on_an_image_is_complete(tmp_path: pathlib.Path) -> None:
    black = io.BytesIO()
    Image.new("RGB", (16, 16)).save(black, "PNG")
    shards.write_tfrecord(tmp_path / "a.tfrecord", [("black.png", black.getvalue(), 0)])
    keras.Sequential(
        [
            keras.Input((16, 16, 3)),
            keras.layers.Conv2D(2, 3, use_bias=False, activation="relu"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(3, use_bias=False),
        ]
    ).save(tmp_path / "model.keras")
    value = configuration(tmp_path, str(tmp_path / "a.tfrecord"))
    value["model"]["preprocess"] = {}
    assert run_config(Config.from_dict(value)) == 0
    (row,) = _maps(value)
    assert row["completeness_error"] == 0
    assert row["entropy"] is None
