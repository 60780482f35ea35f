"""Models are loaded once, exposed, and refused in one sentence that names the file or the key."""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import keras
import numpy as np
import pytest

import tests.elsewhere  # noqa: F401  knows elsewhere://
from tests.transforms.fullgrad.networks import randomize
from transforms.fullgrad import full_gradients
from transforms.images import Affine, Resize
from transforms.memory import usable_cores
from transforms.models import (
    LoadedModel,
    ModelSpec,
    UnusableModel,
    fingerprint_of,
    load_once,
    models_loaded,
    read_class_names,
)
from transforms.models import model as model_module


def spec(path: pathlib.Path | str | None = None, **changes: Any) -> ModelSpec:
    value: dict[str, Any] = {
        "fingerprint": "",
        "path": None if path is None else str(path),
        "application": None,
        "weights": None,
        "output": None,
        "trust": False,
        "resize": Resize(),
        "scale": "auto",
        "class_names": None,
    }
    return ModelSpec(**{**value, **changes})


def network(*middle: keras.Layer, shape: tuple[int | None, ...] = (8, 8, 3), classes: int = 3) -> keras.Model:
    layers = keras.layers
    return randomize(
        keras.Sequential(
            [
                keras.Input(shape),
                layers.Conv2D(4, 3, activation="relu"),
                *middle,
                layers.GlobalAveragePooling2D(),
                layers.Dense(classes),
            ]
        )
    )


def saved(model: keras.Model, path: pathlib.Path) -> pathlib.Path:
    model.save(path)
    return path


def refusal(call: Callable[[], Any]) -> str:
    """The sentence with which a call is refused."""
    with pytest.raises(UnusableModel) as error:
        call()
    sentence = str(error.value)
    assert "\n" not in sentence
    assert not sentence.endswith((".", ":"))
    return sentence


# ---- files


@pytest.mark.quick_cases(every=2)
@pytest.mark.parametrize("extension", ["keras", "h5"])
def test_a_model_file_of_either_format_gives_the_model_s_own_logits(tmp_path: pathlib.Path, extension: str) -> None:
    model = network()
    loaded = LoadedModel(spec(saved(model, tmp_path / f"model.{extension}")))
    assert (loaded.input_size, loaded.channels, loaded.exposed.classes) == ((8, 8), 3, 3)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), np.uint8)
    images = loaded.preprocess(pixels)
    np.testing.assert_array_equal(images, pixels)  # a file's own preprocessing is not known
    logits = full_gradients(loaded.exposed, images).logits
    np.testing.assert_allclose(logits, model.predict(images, verbose=0), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("extension", ["keras", "h5"])
def test_a_lambda_layer_is_refused_without_trust_and_accepted_with(tmp_path: pathlib.Path, extension: str) -> None:
    path = saved(network(keras.layers.Lambda(lambda x: 2 * x)), tmp_path / f"model.{extension}")
    sentence = refusal(lambda: LoadedModel(spec(path)))
    assert str(path) in sentence
    assert "set model.trust: true" in sentence
    assert LoadedModel(spec(path, trust=True)).exposed.classes == 3


class Doubling(keras.layers.Layer):
    def call(self, inputs: Any) -> Any:
        return 2 * inputs


@pytest.mark.parametrize("extension", ["keras", "h5"])
def test_a_class_that_is_not_keras_own_is_named(tmp_path: pathlib.Path, extension: str) -> None:
    path = saved(network(Doubling()), tmp_path / f"model.{extension}")
    assert f"{path} has a layer of the class 'Doubling'" in refusal(lambda: LoadedModel(spec(path, trust=True)))


@pytest.mark.parametrize("name", ["empty.keras", "text.keras", "text.h5", "text.onnx", "text"])
def test_a_file_that_is_no_model_is_named(tmp_path: pathlib.Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"" if "empty" in name else b"something else")
    sentence = refusal(lambda: LoadedModel(spec(tmp_path / name)))
    assert sentence.startswith(f"model.path: {tmp_path / name} cannot be loaded as a Keras model (")


def test_a_model_that_is_no_classifier_is_refused_with_its_file(tmp_path: pathlib.Path) -> None:
    path = saved(keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3)]), tmp_path / "model.keras")
    sentence = refusal(lambda: LoadedModel(spec(path)))
    assert sentence.startswith(f"{path}: model 'sequential")
    assert "is no classifier" in sentence


# ---- what goes before the model


def test_images_of_another_size_than_the_model_s_are_refused(tmp_path: pathlib.Path) -> None:
    path = saved(network(), tmp_path / "model.keras")
    sentence = refusal(lambda: LoadedModel(spec(path, resize=Resize((8, 9)))))
    assert sentence == f"model.preprocess.resize.shape is [8, 9], but {path} takes [8, 8]"
    assert LoadedModel(spec(path, resize=Resize((8, 8)))).input_size == (8, 8)


def test_a_short_side_below_the_model_s_input_is_refused(tmp_path: pathlib.Path) -> None:
    path = saved(network(), tmp_path / "model.keras")
    sentence = refusal(lambda: LoadedModel(spec(path, resize=Resize(None, "center_crop", 7))))
    assert sentence.startswith("model.preprocess.resize.short_side is 7, less than")


def test_a_model_of_any_size_needs_a_shape(tmp_path: pathlib.Path) -> None:
    path = saved(network(shape=(None, None, 3)), tmp_path / "model.keras")
    sentence = refusal(lambda: LoadedModel(spec(path)))
    assert str(path) in sentence
    assert "model.preprocess.resize.shape must say [HEIGHT, WIDTH]" in sentence
    loaded = LoadedModel(spec(path, resize=Resize((9, 7))))
    assert loaded.input_size == (9, 7)
    assert full_gradients(loaded.exposed, np.ones((1, 9, 7, 3), np.float32)).maps.shape == (1, 9, 7)


def test_a_model_may_take_grey_images(tmp_path: pathlib.Path) -> None:
    path = saved(network(shape=(8, 8, 1)), tmp_path / "model.keras")
    loaded = LoadedModel(spec(path, scale=Affine(255, (0.5,))))
    assert loaded.channels == 1
    np.testing.assert_array_equal(loaded.preprocess(np.full((1, 8, 8, 1), 255, np.uint8)), 0.5)


def test_images_of_two_channels_cannot_be_had(tmp_path: pathlib.Path) -> None:
    path = saved(network(shape=(8, 8, 2)), tmp_path / "model.keras")
    assert refusal(lambda: LoadedModel(spec(path))) == f"{path} takes images of 2 channels; 1 or 3 can be decoded"


@pytest.mark.parametrize(
    ("scale", "words"),
    [
        ("caffe", "model.preprocess.scale caffe is for images of 3 channels, but these have 1"),
        (Affine(255, (1.0, 2.0, 3.0)), "model.preprocess.scale.mean is for images of 3 channels, but these have 1"),
        ("resnet51", "model.preprocess.scale is 'resnet51', which is not known; did you mean 'resnet50'?"),
    ],
)
def test_a_scale_that_cannot_be_is_refused_before_any_image(
    tmp_path: pathlib.Path, scale: str | Affine, words: str
) -> None:
    path = saved(network(shape=(8, 8, 1)), tmp_path / "model.keras")
    assert refusal(lambda: LoadedModel(spec(path, scale=scale))) == words


# ---- outputs and classes


@pytest.fixture
def two_headed(tmp_path: pathlib.Path) -> pathlib.Path:
    layers = keras.layers
    images = keras.Input((8, 8, 3))
    features = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3, activation="relu")(images))
    heads = [layers.Dense(2, name="animal")(features), layers.Dense(5, activation="softmax", name="breed")(features)]
    return saved(randomize(keras.Model(images, heads)), tmp_path / "model.keras")


@pytest.mark.parametrize(("output", "classes"), [("animal", 2), ("breed", 5), (0, 2), (1, 5)])
def test_one_of_several_outputs_is_chosen_by_name_or_index(
    two_headed: pathlib.Path, output: str | int, classes: int
) -> None:
    assert LoadedModel(spec(two_headed, output=output)).exposed.classes == classes


@pytest.mark.parametrize("output", [None, "colour", 2])
def test_several_outputs_are_named_where_the_choice_is_missing_or_wrong(
    two_headed: pathlib.Path, output: str | int | None
) -> None:
    sentence = refusal(lambda: LoadedModel(spec(two_headed, output=output)))
    assert sentence.startswith(f"{two_headed}: ")
    assert sentence.endswith("animal, breed")


def test_there_are_as_many_names_as_classes(tmp_path: pathlib.Path) -> None:
    path = saved(network(), tmp_path / "model.keras")
    sentence = refusal(lambda: LoadedModel(spec(path, class_names=("a", "b"))))
    assert sentence == f"model.class_names has 2 names, but {path} has 3 classes"


def test_labels_are_indices_or_names(tmp_path: pathlib.Path) -> None:
    path = saved(network(), tmp_path / "model.keras")
    named = LoadedModel(spec(path, class_names=("a", "b", "c")))
    unnamed = LoadedModel(spec(path))
    assert [named.index_of(label) for label in (None, 0, 2, "a", "c")] == [None, 0, 2, 0, 2]
    assert [named.name_of(index) for index in (None, 0, 2, 3, -1)] == [None, "a", "c", None, None]
    assert unnamed.index_of(2) == 2
    assert unnamed.name_of(2) is None
    with pytest.raises(ValueError, match=r"'d' is not among model\.class_names"):
        named.index_of("d")
    with pytest.raises(ValueError, match=r"'a' is a name; model\.class_names must list"):
        unnamed.index_of("a")
    with pytest.raises(ValueError, match="the label 3 is beyond the model's 3 classes"):
        unnamed.index_of(3)


def test_class_names_are_read_one_a_line(tmp_path: pathlib.Path) -> None:
    names = tmp_path / "names.txt"
    names.write_bytes("\ufeffKäfer\r\n great white \nn/a\n\n\n".encode())
    assert read_class_names(str(names)) == ("Käfer", "great white", "n/a")
    for content in (b"", b"\n\n", b"\xff\xfe\x00"):
        names.write_bytes(content)
        assert f"model.class_names: {names}" in refusal(lambda: read_class_names(str(names)))
    missing = tmp_path / "missing.txt"
    assert f"model.class_names: {missing}" in refusal(lambda: read_class_names(str(missing)))


# ---- applications


@pytest.fixture(scope="module")
def mobilenet(tmp_path_factory: pytest.TempPathFactory) -> dict[int, pathlib.Path]:
    """Weights of MobileNets with so many classes."""
    folder = tmp_path_factory.mktemp("mobilenet")
    paths = {}
    for classes in (1000, 5):
        keras.utils.set_random_seed(classes)
        model = randomize(keras.applications.MobileNet(weights=None, classes=classes))
        paths[classes] = folder / f"mobilenet-{classes}.weights.h5"
        model.save_weights(paths[classes])
    return paths


@pytest.mark.quick_cases(every=2)
@pytest.mark.parametrize("classes", [1000, 5])
def test_an_application_takes_a_file_s_weights_and_its_own_preprocessing(
    mobilenet: dict[int, pathlib.Path], classes: int
) -> None:
    names = None if classes == 1000 else tuple("abcde")
    loaded = LoadedModel(spec(application="mobilenet", weights=str(mobilenet[classes]), class_names=names))
    assert (loaded.input_size, loaded.channels, loaded.exposed.classes) == ((224, 224), 3, classes)
    black_and_white = np.uint8([0, 255]).repeat(3).reshape(1, 1, 2, 3)
    np.testing.assert_array_equal(loaded.preprocess(black_and_white), np.float32([-1, 1]).repeat(3).reshape(1, 1, 2, 3))
    keras.utils.set_random_seed(classes)
    own = randomize(keras.applications.MobileNet(weights=None, classes=classes))
    image = loaded.preprocess(np.random.default_rng(0).integers(0, 256, (1, 224, 224, 3), np.uint8))
    probabilities = loaded.exposed.probabilities(full_gradients(loaded.exposed, image).logits)
    np.testing.assert_allclose(probabilities, own.predict(image, verbose=0), atol=1e-5)


def test_an_application_s_preprocessing_may_be_another(mobilenet: dict[int, pathlib.Path]) -> None:
    loaded = LoadedModel(spec(application="MobileNet", weights=str(mobilenet[1000]), scale="none"))
    np.testing.assert_array_equal(loaded.preprocess(np.full((1, 1, 1, 3), 255, np.uint8)), 255)


def test_weights_of_another_number_of_classes_are_refused(mobilenet: dict[int, pathlib.Path]) -> None:
    for names, weights, classes in ((None, mobilenet[5], 1000), (("a", "b"), mobilenet[1000], 2)):
        sentence = refusal(
            lambda weights=weights, names=names: LoadedModel(
                spec(application="MobileNet", weights=str(weights), class_names=names)
            )
        )
        assert sentence.startswith(f"model.weights: {weights} does not fit MobileNet with {classes} classes")


def test_an_unknown_application_is_refused_with_the_nearest() -> None:
    sentence = refusal(lambda: LoadedModel(spec(application="ResNet51", weights="imagenet")))
    assert sentence == "model.application is 'ResNet51', which is not known; did you mean 'resnet50'?"
    sentence = refusal(lambda: LoadedModel(spec(application="vgg", weights="imagenet")))
    assert "model.application is 'vgg'" in sentence


def test_a_family_is_no_application() -> None:
    sentence = refusal(lambda: LoadedModel(spec(application="mobilenet_v3", weights="imagenet")))
    assert sentence.endswith("choose one of MobileNetV3Large, MobileNetV3Small")


def test_weights_that_cannot_be_downloaded_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    for scheme in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(scheme, "http://127.0.0.1:9")  # nobody answers
    monkeypatch.setattr(keras.src.utils.file_utils.config, "keras_home", lambda: str(tmp_path))
    sentence = refusal(lambda: LoadedModel(spec(application="MobileNet", weights="imagenet")))
    assert sentence.startswith("model.weights: Keras' weights of MobileNet cannot be had (URL fetch failure")


# ---- identity


def test_the_fingerprint_is_of_the_content_and_not_of_the_name(tmp_path: pathlib.Path) -> None:
    one = saved(network(), tmp_path / "one.keras")
    shutil.copy(one, tmp_path / "two.keras")
    other = saved(network(classes=4), tmp_path / "other.keras")
    same = {fingerprint_of(str(path), None, None) for path in (one, tmp_path / "two.keras")}
    assert len(same) == 1
    assert fingerprint_of(str(other), None, None) not in same


def test_the_fingerprint_of_an_application_is_of_its_name_and_weights(tmp_path: pathlib.Path) -> None:
    one, other = tmp_path / "one.weights.h5", tmp_path / "other.weights.h5"
    one.write_bytes(b"one")
    other.write_bytes(b"other")
    prints = [
        fingerprint_of(None, application, weights)
        for application in ("MobileNet", "Xception")
        for weights in ("imagenet", str(one), str(other))
    ]
    assert len(set(prints)) == 6
    assert fingerprint_of(None, "mobilenet", str(one)) == prints[1]


@pytest.mark.parametrize(
    ("path", "application", "key"), [("{}", None, "model.path"), (None, "MobileNet", "model.weights")]
)
def test_a_file_that_is_not_there_is_named_with_its_key(
    tmp_path: pathlib.Path, path: str | None, application: str | None, key: str
) -> None:
    missing = str(tmp_path / "missing.h5")
    sentence = refusal(lambda: fingerprint_of(path and missing, application, None if path else missing))
    assert sentence.startswith(f"{key}: {missing} cannot be read")


# ---- once in a process


def test_threads_that_race_load_a_model_once(tmp_path: pathlib.Path) -> None:
    wanted = spec(saved(network(), tmp_path / "model.keras"), fingerprint="race")
    before = models_loaded()
    with ThreadPoolExecutor(8) as pool:
        loaded = list(pool.map(lambda _: load_once(wanted), range(8)))
    assert len({id(model) for model in loaded}) == 1
    assert models_loaded() == before + 1


@pytest.mark.slow
@pytest.mark.parametrize("chosen", [None, "2"])
def test_a_model_is_computed_on_all_cores_at_once_unless_the_environment_says_how(
    tmp_path: pathlib.Path, chosen: str | None
) -> None:
    path = saved(network(), tmp_path / "model.keras")
    script = f"""
from transforms.images import Resize
from transforms.models import ModelSpec, load_once
spec = ModelSpec("", {str(path)!r}, None, None, None, False, Resize(), "none", None)
print(load_once(spec).batches_at_once)
"""
    # A process of its own: threads are a setting of the whole process.
    environment = {name: value for name, value in os.environ.items() if name != "TF_NUM_INTRAOP_THREADS"}
    if chosen is not None:
        environment["TF_NUM_INTRAOP_THREADS"] = chosen
    environment["CUDA_VISIBLE_DEVICES"] = "-1"
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert int(done.stdout) == (usable_cores() if chosen is None else 1)


def test_another_model_takes_the_place_of_the_last_one(tmp_path: pathlib.Path) -> None:
    path = saved(network(), tmp_path / "model.keras")
    first = load_once(spec(path, fingerprint="first"))
    second = load_once(spec(path, fingerprint="second"))
    assert first is not second
    assert list(model_module._loaded.values()) == [second]


def test_a_model_that_could_not_be_loaded_may_be_there_later(tmp_path: pathlib.Path) -> None:
    wanted = spec(tmp_path / "model.keras", fingerprint="later")
    refusal(lambda: load_once(wanted))
    saved(network(), tmp_path / "model.keras")
    assert load_once(wanted).exposed.classes == 3


# ---- files elsewhere


def test_a_model_on_another_file_system_is_copied_and_the_copy_deleted(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, mobilenet: dict[int, pathlib.Path]
) -> None:
    copies = tmp_path / "copies"
    copies.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(copies))
    path = saved(network(), tmp_path / "model.keras")
    remote = f"elsewhere://{path}"
    assert fingerprint_of(remote, None, None) == fingerprint_of(str(path), None, None)
    assert LoadedModel(spec(remote)).exposed.classes == 3
    weights = f"elsewhere://{mobilenet[5]}"
    loaded = LoadedModel(spec(application="MobileNet", weights=weights, class_names=tuple("abcde")))
    assert loaded.exposed.classes == 5
    assert list(copies.iterdir()) == []
