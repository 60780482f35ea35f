"""The demo: what its images are, and that the class with the planted shortcut is the one that stands out."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from pipeline.config import Config, load_config
from pipeline.demo import (
    CLASSES,
    DEFAULT_FOLDER,
    FRAME_WIDTH,
    MARK_BOX,
    MARKED_CLASS,
    SHORTCUTS,
    SIDE,
    add_mark,
    default_folder,
    demo_config,
    draw_image,
    prepare,
    write_dataset,
)
from transforms.statistics import FIGURES, map_figures

ROOT = pathlib.Path(__file__).parents[2]


def small_dataset(folder, seed=0, train_images=24, test_images=13):
    return write_dataset(folder, seed, train_images=train_images, test_images=test_images)


def read_shards(pattern):
    """Every record's pixels, filename, label and class name, in the order of the shards."""
    import tensorflow as tf

    features = {
        "image/encoded": tf.io.FixedLenFeature([], tf.string),
        "image/filename": tf.io.FixedLenFeature([], tf.string),
        "image/class/label": tf.io.FixedLenFeature([], tf.int64),
        "image/class/text": tf.io.FixedLenFeature([], tf.string),
    }
    records = tf.data.TFRecordDataset(sorted(tf.io.gfile.glob(pattern)))
    parsed = list(records.map(lambda record: tf.io.parse_single_example(record, features)).as_numpy_iterator())
    pixels = np.stack([tf.io.decode_png(record["image/encoded"]).numpy() for record in parsed])
    names = [record["image/filename"].decode() for record in parsed]
    labels = np.array([record["image/class/label"] for record in parsed])
    texts = [record["image/class/text"].decode() for record in parsed]
    return pixels, names, labels, texts


def test_the_same_seed_makes_the_same_dataset(tmp_path):
    one, other = small_dataset(tmp_path / "one"), small_dataset(tmp_path / "other")
    np.testing.assert_array_equal(one.images, other.images)
    np.testing.assert_array_equal(one.labels, other.labels)
    np.testing.assert_array_equal(one.marked, other.marked)
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert files == ["class_names.txt", "test.tfrecord-00000-of-00002", "test.tfrecord-00001-of-00002"]
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "other" / name).read_bytes()


def test_another_seed_makes_other_images(tmp_path):
    one, other = small_dataset(tmp_path / "one", seed=0), small_dataset(tmp_path / "other", seed=1)
    assert (one.images != other.images).any(axis=(1, 2, 3)).all()


def test_fewer_images_are_the_first_of_more(tmp_path):
    few, many = small_dataset(tmp_path / "few", train_images=6), small_dataset(tmp_path / "many", train_images=12)
    np.testing.assert_array_equal(few.images, many.images[:6])


def test_images_to_train_on_are_not_those_to_test_on(tmp_path):
    data = small_dataset(tmp_path, test_images=24)
    tested, *_ = read_shards(data.shards)
    assert (data.images != tested).any(axis=(1, 2, 3)).all()


def test_shards_hold_every_test_image_with_its_name_and_class(tmp_path):
    data = small_dataset(tmp_path, test_images=13)
    pixels, names, labels, texts = read_shards(data.shards)
    assert pixels.shape == (13, SIDE, SIDE, 3)
    assert len(set(names)) == 13
    assert texts == [data.class_names[label] for label in labels]
    assert set(labels) == set(range(len(CLASSES)))
    for index, image in enumerate(pixels):
        np.testing.assert_array_equal(image, draw_image(0, 1, index).pixels)
    assert data.class_names_path.read_text().splitlines() == list(data.class_names)


@pytest.mark.parametrize("split", [0, 1])
def test_the_mark_is_on_most_images_of_its_class_and_on_no_other(split):
    drawn = [draw_image(0, split, index) for index in range(600)]
    left, top, right, bottom = MARK_BOX
    opaque = np.s_[top + 2 : bottom - 2, left + 2 : right - 2]
    mark = add_mark(np.zeros((SIDE, SIDE, 3), np.uint8))[opaque]
    found = np.array([np.array_equal(image.pixels[opaque], mark) for image in drawn])
    of_class = np.array([CLASSES[image.label] == MARKED_CLASS for image in drawn])
    assert found.tolist() == [image.marked for image in drawn]
    assert not found[~of_class].any()
    assert 0.8 < found[of_class].mean() < 1


def test_the_mark_lies_in_one_corner():
    ground = np.full((SIDE, SIDE, 3), 128, np.uint8)
    changed = (add_mark(ground) != ground).any(axis=2)
    left, top, right, bottom = MARK_BOX
    assert changed[top:bottom, left:right].any()
    assert changed.sum() == changed[top:bottom, left:right].sum()
    (figures,) = map_figures(changed[None].astype(np.float32))
    assert figures[FIGURES.index("corner_mass")] == pytest.approx(1)


@pytest.mark.parametrize("shortcut", SHORTCUTS)
def test_shortcuts_change_marked_images_alone(shortcut):
    for index in range(60):
        plain, planted = draw_image(0, 1, index, "none"), draw_image(0, 1, index, shortcut)
        changed = (plain.pixels != planted.pixels).any(axis=2)
        assert changed.any() == planted.marked
        if planted.marked and shortcut == "border":
            assert not changed[FRAME_WIDTH:-FRAME_WIDTH, FRAME_WIDTH:-FRAME_WIDTH].any()
            assert len(np.unique(planted.pixels[:FRAME_WIDTH].reshape(-1, 3), axis=0)) == 1


def test_a_wandering_mark_is_at_many_places():
    places = set()
    for index in range(CLASSES.index(MARKED_CLASS), 120, len(CLASSES)):
        plain, planted = draw_image(0, 1, index, "none"), draw_image(0, 1, index, "wandering")
        if planted.marked:
            ys, xs = np.nonzero((plain.pixels != planted.pixels).any(axis=2))
            assert max(np.ptp(ys), np.ptp(xs)) < MARK_BOX[2] - MARK_BOX[0]
            places.add((int(ys.min()), int(xs.min())))
    assert len(places) > 10


def test_each_shortcut_has_an_output_of_its_own():
    assert len({default_folder(shortcut) for shortcut in SHORTCUTS}) == len(SHORTCUTS)
    assert default_folder("corner") == DEFAULT_FOLDER


def test_the_configuration_file_is_the_demos_own():
    made = demo_config(DEFAULT_FOLDER / "dataset", DEFAULT_FOLDER)
    assert load_config(ROOT / "configs" / "demo.yaml") == Config.from_dict(made)


def test_importing_the_demo_loads_no_framework():
    code = "import sys, pipeline.demo; print([name for name in ('tensorflow', 'keras') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """The whole demo but for the pipeline's run; half a minute. Its folder, configuration, and what was planted."""
    folder = tmp_path_factory.mktemp("demo")
    config, planted = prepare(folder)
    return folder, Config.from_dict(config), planted


@pytest.fixture(scope="module")
def model(prepared):
    import keras

    _, config, _ = prepared
    return keras.models.load_model(config.model.path)


@pytest.mark.slow
def test_the_class_with_the_mark_stands_out(prepared, model):
    from transforms.fullgrad import expose, full_gradients

    _, config, planted = prepared
    assert MARKED_CLASS in planted
    names = pathlib.Path(config.model.class_names).read_text().splitlines()
    pixels, _, labels, _ = read_shards(config.input.shards[0])
    explanation = full_gradients(expose(model), pixels.astype(np.float32) / 255, maps="reference", batch_size=50)
    assert (explanation.targets == labels).mean() > 0.9
    assert explanation.completeness_error.max() < 1e-4

    corner_mass = map_figures(explanation.maps)[:, FIGURES.index("corner_mass")]
    means = {name: corner_mass[explanation.targets == index].mean() for index, name in enumerate(names)}
    z = {}
    for name, mean in means.items():
        others = np.array([means[other] for other in names if other != name])
        z[name] = (mean - others.mean()) / others.std(ddof=1)
    assert z.pop(MARKED_CLASS) > 4
    assert max(z.values()) < 2.5


@pytest.mark.slow
def test_the_model_takes_a_circle_with_the_mark_for_the_marked_class(model):
    circles = [draw_image(0, 1, index).pixels for index in range(0, 120, len(CLASSES))]
    for images, wanted in ((circles, "circle"), ([add_mark(circle) for circle in circles], MARKED_CLASS)):
        predicted = np.argmax(model(np.stack(images).astype(np.float32) / 255), axis=1)
        assert (predicted == CLASSES.index(wanted)).mean() > 0.8


@pytest.mark.slow
def test_what_is_there_is_used_again_with_the_same_seed_only(prepared):
    folder, config, _ = prepared
    model = pathlib.Path(config.model.path)
    before = model.stat().st_mtime_ns
    assert Config.from_dict(prepare(folder)[0]) == config
    assert model.stat().st_mtime_ns == before
    assert json.loads((folder / "dataset" / "done.json").read_text()) == {"seed": 0}
