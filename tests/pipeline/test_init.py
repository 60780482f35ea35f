"""`fullgrad init` writes a configuration that runs as it stands, for every format and for models of many kinds."""

from __future__ import annotations

import dataclasses
import io
import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from pipeline.cli import main
from pipeline.config import load_config
from pipeline.init import name_of_data
from tests import shards
from tests.field.colours import IMAGES, RIGHT, save_colour_model
from tests.samples import CLASS_NAMES, SIDE
from transforms.output import read_maps

SHADES = ("bright", "dark", "middle")  # in alphanumeric order, as class folders are numbered


@dataclasses.dataclass(frozen=True)
class Made:
    """What `init`, `run --dry-run` and `run` came to: what `init` printed, the file, its values, and the maps."""

    printed: str
    text: str
    config: dict[str, Any]
    rows: list[dict[str, Any]]

    @property
    def comments(self) -> str:
        """The file's text on one line, without the signs that begin comments."""
        return " ".join(self.text.replace("# ", " ").split())


@pytest.fixture
def made(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs the three commands in a folder of their own; each must succeed."""

    def make(model: pathlib.Path, *data: str, options: Sequence[str] = ()) -> Made:
        monkeypatch.chdir(tmp_path)
        capsys.readouterr()
        assert main(["init", str(model), *data, "--to", "made.yaml", *options]) == 0
        printed = capsys.readouterr().out
        assert main(["run", "made.yaml", "--dry-run"]) == 0
        assert not (tmp_path / "out").exists()
        assert main(["run", "made.yaml"]) == 0
        text = (tmp_path / "made.yaml").read_text()
        rows = sorted(read_maps("out/made"), key=lambda row: (row["shard"], row["index"]))
        return Made(printed, text, yaml.safe_load(text), rows)

    return make


Make = Callable[..., Made]


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return save_colour_model(tmp_path_factory.mktemp("colours") / "model.keras")


def shades(count: int = 24, side: int = SIDE, grey: bool = False) -> list[tuple[str, bytes, int]]:
    """Ids, PNGs that are bright, dark or in between, and that shade as an index of `SHADES`."""
    generator = np.random.default_rng(1)
    samples = []
    for i in range(count):
        level = (200, 10, 100)[i % 3]
        shape = (side, side) if grey else (side, side, 3)
        sink = io.BytesIO()
        Image.fromarray(generator.integers(level, level + 40, shape, np.uint8)).save(sink, "PNG")
        samples.append((f"image{i:04d}.png", sink.getvalue(), i % 3))
    return samples


def save_shade_model(path: pathlib.Path, *before: Any, shape: Sequence[int | None] = (SIDE, SIDE, 3)) -> pathlib.Path:
    """Saves a model that names the shade of an image with values from 0 to 1; any other scale misleads it."""
    inputs = keras.Input(tuple(shape))
    x = inputs
    for layer in before:
        x = layer(x)
    pooled = keras.layers.GlobalAveragePooling2D()(x)
    dense = keras.layers.Dense(3, activation="softmax")
    model = keras.Model(inputs, dense(pooled))
    centres = np.asarray([0.86, 0.12, 0.47], np.float32)  # the nearest one has the largest logit
    kernel = np.tile(2 * centres, (shape[-1], 1)) / shape[-1]  # type: ignore[operator]
    dense.set_weights([100 * kernel.astype(np.float32), -100 * centres**2])
    model.save(path)
    return path


# ---- formats


def test_tfrecords_with_names_beside_the_numbers(made: Make, colours: pathlib.Path, tmp_path: pathlib.Path) -> None:
    for part in range(2):
        records = [
            shards.example(
                {"image/encoded": image, "image/class/label": label, "image/class/text": CLASS_NAMES[label].encode()}
            )
            for _, image, label in IMAGES[part::2]
        ]
        path = tmp_path / f"data-0000{part}-of-00002.tfrecord"
        path.write_bytes(b"".join(map(shards.frame, records)))
    ran = made(colours, "data-*.tfrecord")
    assert ran.config["input"] == {"shards": "data-*.tfrecord"}
    assert "2 TFRecord files with 12 images" in ran.text
    assert "class names: feature 'image/class/text'" in ran.printed
    assert {(row["label"], row["label_name"]) for row in ran.rows} == set(enumerate(CLASS_NAMES))
    assert ran.printed.endswith("next:\n  fullgrad run made.yaml\n")


@pytest.mark.slow
def test_a_parquet_file_of_hugging_face_with_class_labels(
    made: Make, colours: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    table = pq.read_table(shards.write_parquet(tmp_path / "plain.parquet", IMAGES))
    features = {"image": {"_type": "Image"}, "label": {"names": list(CLASS_NAMES), "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    pq.write_table(table.replace_schema_metadata(metadata), tmp_path / "hf.parquet")
    ran = made(colours, "hf.parquet")
    assert "class names: the ClassLabel of column 'label'" in ran.printed
    assert [row["label_name"] for row in ran.rows] == [CLASS_NAMES[label] for label in RIGHT]


def test_a_tar_whose_json_members_name_the_class(made: Make, colours: pathlib.Path, tmp_path: pathlib.Path) -> None:
    import tarfile

    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for image_id, image, label in IMAGES:
            key = image_id.partition(".")[0]
            shards.add_member(archive, f"{key}.png", image)
            shards.add_member(archive, f"{key}.cls", str(label).encode())
            shards.add_member(archive, f"{key}.json", json.dumps({"label": CLASS_NAMES[label]}).encode())
    ran = made(colours, "a.tar")
    assert "class names: key 'label' of the JSON member" in ran.printed
    assert [row["label_name"] for row in ran.rows] == [CLASS_NAMES[label] for label in RIGHT]


def test_nested_class_folders_and_a_model_whose_scale_is_found(made: Make, tmp_path: pathlib.Path) -> None:
    model = save_shade_model(tmp_path / "shades.keras")
    for i, (name, image, label) in enumerate(shades()):
        folder = tmp_path / "photos" / SHADES[label] / ("kaggle" if i % 2 else "")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(image)
    ran = made(model, "photos/")
    assert ran.config["model"]["preprocess"] == {"scale": {"divide": 255}}
    assert "model.preprocess.scale: {divide: 255} (24 of 24 labelled images correct)" in ran.printed
    assert "{divide: 255} predicts 24 of 24 labelled images correctly (100%)" in ran.comments
    assert [row["correct"] for row in ran.rows] == [True] * 24
    assert {row["label_name"] for row in ran.rows} == set(SHADES)


# ---- models


def test_a_model_that_scales_inside_gets_no_scale(made: Make, tmp_path: pathlib.Path) -> None:
    layers = (keras.Sequential([keras.layers.RandomFlip("horizontal")]), keras.layers.Rescaling(1 / 255))
    model = save_shade_model(tmp_path / "inside.keras", *layers)
    shards.write_folder(tmp_path / "photos", shades(), SHADES)
    ran = made(model, "photos")
    assert ran.config["model"]["preprocess"]["scale"] == "none"
    assert "The model scales pixels 0 to 255 itself: Rescaling" in ran.comments
    assert "Also inside: RandomFlip" in ran.text
    assert all(row["correct"] for row in ran.rows)


@pytest.mark.slow
def test_a_model_of_any_size_gets_the_size_of_the_images(made: Make, tmp_path: pathlib.Path) -> None:
    model = save_shade_model(tmp_path / "any.keras", shape=(None, None, 3))
    shards.write_folder(tmp_path / "photos", shades(side=20), SHADES)
    ran = made(model, "photos")
    assert ran.config["model"]["preprocess"]["resize"] == {"shape": [20, 20]}
    assert {row["map_height"] for row in ran.rows} == {20}


@pytest.mark.slow
def test_a_grey_model_with_one_output_and_images_without_labels(made: Make, tmp_path: pathlib.Path) -> None:
    inputs = keras.Input((SIDE, SIDE, 1))
    pooled = keras.layers.GlobalAveragePooling2D()(inputs)
    keras.Model(inputs, keras.layers.Dense(1, activation="sigmoid")(pooled)).save(tmp_path / "grey.keras")
    shards.write_folder(tmp_path / "photos", shades(grey=True))
    ran = made(tmp_path / "grey.keras", "photos")
    assert "which is a guess" in ran.printed
    assert "was the model given values 0 to 255 in training?" in ran.comments
    assert [row["label"] for row in ran.rows] == [None] * 24


def test_without_labels_the_first_batchnorm_tells_the_scale(made: Make, tmp_path: pathlib.Path) -> None:
    norm = keras.layers.BatchNormalization()
    model = save_shade_model(tmp_path / "norm.keras", norm)
    loaded = keras.models.load_model(model)
    values = np.stack([np.asarray(Image.open(io.BytesIO(image)), np.float32) for _, image, _ in shades()]) / 255
    layer = next(each for each in loaded.layers if isinstance(each, keras.layers.BatchNormalization))
    layer.set_weights([np.ones(3), np.zeros(3), values.mean((0, 1, 2)), values.var((0, 1, 2))])
    loaded.save(model)
    shards.write_folder(tmp_path / "photos", shades())
    ran = made(model, "photos")
    assert ran.config["model"]["preprocess"]["scale"] == {"divide": 255}
    assert "The model's first BatchNorm has kept" in ran.text


@pytest.mark.slow
def test_a_model_that_contains_an_application_gets_that_one_s_scale(made: Make, tmp_path: pathlib.Path) -> None:
    # By name and place as in transfer learning; the layers of the application itself do not matter here.
    inputs = keras.Input((32, 32, 3))
    base = keras.Model(inputs, keras.layers.Conv2D(2, 3)(inputs), name="mobilenetv2_1.00_224")
    layers = [base, keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(3)]
    keras.Sequential(layers).save(tmp_path / "tuned.keras")
    shards.write_folder(tmp_path / "photos", shades(4))
    ran = made(tmp_path / "tuned.keras", "photos")
    assert ran.config["model"]["preprocess"]["scale"] == "mobilenet_v2"
    assert "which is a guess" in ran.printed


# ---- labels


def test_labels_that_begin_at_1_are_not_used_and_said(
    made: Make, colours: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    shards.write_tfrecord(tmp_path / "a.tfrecord", [(name, image, label + 1) for name, image, label in IMAGES])
    ran = made(colours, "a.tfrecord")
    assert ran.config["input"]["fields"] == {"label": ""}
    assert "labels are not used: they are 1 to 3, and the model's classes are 0 to 2" in ran.printed
    assert [row["label"] for row in ran.rows] == [None] * len(IMAGES)


def test_labels_that_are_names_get_a_file_of_names(made: Make, colours: pathlib.Path, tmp_path: pathlib.Path) -> None:
    columns = {"image": [image for _, image, _ in IMAGES], "label": [CLASS_NAMES[label] for label in RIGHT]}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    ran = made(colours, "a.parquet")
    assert (tmp_path / "made_names.txt").read_text().split() == sorted(CLASS_NAMES)
    assert ran.config["model"]["class_names"] == "made_names.txt"
    assert "alphanumeric order" in ran.text


@pytest.mark.slow
def test_class_folders_that_do_not_fit_the_model_are_read_without_labels(
    made: Make, colours: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    shards.write_folder(tmp_path / "photos", [(n, i, min(label, 1)) for n, i, label in IMAGES], ("one", "two"))
    ran = made(colours, "photos")
    assert ran.config["input"]["fields"] == {"label": ""}
    assert "there are 2 class folders" in ran.printed


@pytest.mark.slow
def test_an_image_column_of_any_name_is_found(made: Make, colours: pathlib.Path, tmp_path: pathlib.Path) -> None:
    columns = {"photo": [image for _, image, _ in IMAGES], "hash": [b"none"] * len(IMAGES), "label": RIGHT}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    ran = made(colours, "a.parquet")
    assert ran.config["input"]["fields"] == {"image": "photo"}
    assert all(row["correct"] for row in ran.rows)


# ---- the file


def test_an_existing_file_is_kept_unless_forced(
    colours: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    shards.write_folder(tmp_path / "photos", IMAGES)
    (tmp_path / "photos.yaml").write_text("mine")
    assert main(["init", str(colours), "photos"]) == 2
    assert "photos.yaml exists already; --to" in " ".join(capsys.readouterr().err.split())
    assert (tmp_path / "photos.yaml").read_text() == "mine"
    assert main(["init", str(colours), "photos", "--force"]) == 0
    assert load_config("photos.yaml").input.shards == ("photos",)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos", "photos.yaml"]


@pytest.mark.parametrize(
    ("model", "data", "words"),
    [
        ("missing.keras", "photos", "missing.keras"),
        ("Xceptoin", "photos", "did you mean 'xception'"),
        (None, "missing", "no file or folder matches 'missing'"),
        (None, "empty", "holds no images or shards"),
    ],
)
def test_what_cannot_be_used_is_refused_in_a_sentence_and_leaves_nothing(
    model: str | None,
    data: str,
    words: str,
    colours: pathlib.Path,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    shards.write_folder(tmp_path / "photos", IMAGES[:2])
    (tmp_path / "empty").mkdir()
    assert main(["init", model or str(colours), data]) == 2
    printed = capsys.readouterr().err
    assert words in printed
    assert "Traceback" not in printed
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "photos"]


def test_a_pattern_that_the_shell_expanded_is_found_again(
    made: Make, colours: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    for name in ("a", "b"):
        shards.write_tfrecord(tmp_path / f"{name}.tfrecord", IMAGES[:3])
    (tmp_path / "notes.txt").write_text("not a shard")
    ran = made(colours, "a.tfrecord", "b.tfrecord")
    assert ran.config["input"]["shards"] == "*.tfrecord"


@pytest.mark.parametrize(
    ("data", "name"),
    [
        ("data/cifar10_test.tfrecord-*", "cifar10_test"),
        ("gs://bucket/train-00000-of-00008.tfrecord", "bucket"),
        ("photos/train/", "photos"),
        ("photos/*", "photos"),
        ("my data (2).tar", "my_data_2"),
        ("/", "fullgrad"),
    ],
)
def test_the_file_is_named_after_the_data(data: str, name: str) -> None:
    assert name_of_data([data]) == name
