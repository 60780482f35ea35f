"""The main job on real input: ResNet-20 on CIFAR-10 shards, SqueezeNet on photographs, and the README's queries."""

from __future__ import annotations

import io
import pathlib
from typing import Any

import duckdb
import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from pipeline.config import Config
from pipeline.run import launch, prepare
from pipeline.summary import Summary
from tests.pages import code_blocks
from transforms.fullgrad import expose, full_gradients
from transforms.output import Output, read_maps, read_table

pytestmark = pytest.mark.slow  # and the data is not in the repository

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@pytest.fixture(scope="module")
def cifar10(tmp_path_factory: pytest.TempPathFactory, test_data: pathlib.Path) -> tuple[pathlib.Path, Summary]:
    """The README's configuration, run on the four real shards: the folder it ran in, and the summary."""
    folder = tmp_path_factory.mktemp("cifar10")
    (folder / "cifar10_names.txt").write_text("\n".join(CIFAR10))
    value: dict[str, Any] = yaml.safe_load(code_blocks("README.md", "yaml")[0])
    value["input"]["shards"] = str(test_data / "cifar10" / "cifar10_test.tfrecord-*")
    value["model"]["path"] = str(test_data / "cifar10" / "resnet20_cifar10.keras")
    value["model"]["class_names"] = str(folder / "cifar10_names.txt")
    value["output"]["path"] = str(folder / "out" / "cifar10")
    return folder, launch(prepare(Config.from_dict(value)))


def test_four_cifar10_shards_give_all_their_maps_and_classes(cifar10: tuple[pathlib.Path, Summary]) -> None:
    folder, summary = cifar10
    output = Output(str(folder / "out" / "cifar10"))
    rows = sum(pq.read_metadata(path).num_rows for path in (folder / "out/cifar10/maps").glob("*.parquet"))
    assert rows == summary.images == 5000
    assert len(output.read_receipts()) == 4
    assert read_table(output.file("classes.parquet"))["class"].to_pylist() == list(range(-1, 10))
    assert summary.accuracy == pytest.approx(0.813, abs=0.003)
    assert summary.completeness is not None
    assert summary.completeness["max"] <= 1e-4
    assert summary.failed == 0


def test_the_readme_s_queries_run_on_that_output(
    cifar10: tuple[pathlib.Path, Summary], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, summary = cifar10
    monkeypatch.chdir(folder)
    accuracies, borders, corners = (duckdb.sql(query).fetchall() for query in code_blocks("README.md", "sql"))
    assert {name for name, _, _ in accuracies} == set(CIFAR10)
    assert np.average([a for _, a, _ in accuracies], weights=[n for *_, n in accuracies]) == summary.accuracy
    masses = [mass for _, _, mass, _ in borders]
    assert len(borders) == 20
    assert masses == sorted(masses, reverse=True)
    assert len(corners) == 10
    mean_map, maps, _ = code_blocks("README.md", "python")
    variables: dict[str, Any] = {}
    exec(mean_map, variables)
    assert variables["mean_map"].shape == (56, 56)
    assert variables["mean_map"].sum() == pytest.approx(1, abs=1e-4)
    exec(maps, variables)
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 5000
    assert printed[0].endswith("(32, 32)")


def test_imagenet_photographs_are_explained_from_a_folder(tmp_path: pathlib.Path, test_data: pathlib.Path) -> None:
    value = {
        "input": {"shards": str(test_data / "imagenet" / "images"), "limit": 12},
        "model": {
            "path": str(test_data / "imagenet" / "squeezenet_v10_imagenet.keras"),
            "class_names": str(test_data / "imagenet" / "class_names.txt"),
            "preprocess": {
                "resize": {"how": "center_crop", "short_side": 256},
                "scale": {"mean": [123, 117, 104]},
            },
        },
        "explain": {"targets": "top-2"},
        "output": {"path": str(tmp_path / "out"), "map_dtype": "float32"},
    }
    plan = prepare(Config.from_dict(value))
    summary = launch(plan)
    assert (summary.images, summary.rows, summary.failed) == (12, 24, 0)
    rows = list(read_maps(str(tmp_path / "out")))
    assert all(row["map"].shape == (227, 227) and row["predicted_name"] for row in rows)
    assert max(row["completeness_error"] for row in rows) <= 1e-5


def test_the_pipeline_s_maps_are_those_of_the_method_alone(
    tmp_path: pathlib.Path, cifar10: tuple[pathlib.Path, Summary], test_data: pathlib.Path
) -> None:
    import keras
    import tensorflow as tf

    folder, _ = cifar10
    shard = str(test_data / "cifar10" / "cifar10_test.tfrecord-00000-of-00008")
    records = [tf.train.Example.FromString(r.numpy()) for r in tf.data.TFRecordDataset(shard).take(8)]
    pixels = [
        np.asarray(Image.open(io.BytesIO(r.features.feature["image/encoded"].bytes_list.value[0]))) for r in records
    ]
    images = (np.stack(pixels) / np.float32(255) - np.float32([0.485, 0.456, 0.406])) / np.float32(
        [0.229, 0.224, 0.225]
    )
    model = keras.models.load_model(test_data / "cifar10" / "resnet20_cifar10.keras", compile=False)
    expected = full_gradients(expose(model), images)
    names = [r.features.feature["image/filename"].bytes_list.value[0].decode() for r in records]
    stored = {r["image_id"]: r for r in read_maps(str(folder / "out" / "cifar10")) if r["image_id"] in names}
    for name, map_, logits in zip(names, expected.maps, expected.logits, strict=True):
        np.testing.assert_allclose(stored[name]["map"], map_, rtol=2**-11 + 1e-5, atol=1e-5 * map_.max())  # float16
        assert stored[name]["logit"] == pytest.approx(logits.max(), abs=1e-4)
