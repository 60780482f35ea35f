"""Model files that Keras 2 wrote give what Keras 2 predicted, or one sentence that says what to do."""

from __future__ import annotations

import json
import pathlib
import shutil
import zipfile

import h5py
import keras
import numpy as np
import pytest
import tf_keras

from tests.field import keras2_models as models
from tests.transforms.models.test_model import network, refusal, spec
from tests.transforms.models.test_model import saved as saved_by_keras_3
from transforms.fullgrad import full_gradients
from transforms.models import LoadedModel, fingerprint_of

FORMATS = [(name, "h5") for name in models.MODELS] + [
    (name, "keras") for name in models.MODELS if name not in models.NOT_AS_KERAS
]


# nested `Functional`: SGCODEX/Music-Recommendation-Using-Facial-Expressions 100, keras-team/keras 19151.
# DepthwiseConv2D's, SeparableConv2D's and Conv2DTranspose's `groups`: Shawn-Shan/fawkes 186, mafda/knee_OA_dl_app 3,
# keras-team/keras 19441. TFOpLambda: keras-team/keras 19525. `/` in names: thomas-rooty/lego-detector 1.
# Partly frozen inner models: keras-team/keras 10777, keras-team/keras 6607.
@pytest.mark.quick_cases(every=6)
@pytest.mark.parametrize(("name", "extension"), FORMATS)
def test_a_file_gives_the_predictions_of_keras_2(tmp_path: pathlib.Path, name: str, extension: str) -> None:
    tf_keras.backend.clear_session()
    model = models.drawn(models.MODELS[name]())
    path = models.saved(model, tmp_path / f"model.{extension}")
    images = models.images(model)
    loaded = LoadedModel(spec(path))
    predicted = loaded.exposed.model.predict(images, verbose=0)
    expected = model.predict(images, verbose=0)
    np.testing.assert_allclose(predicted, expected, rtol=1e-4, atol=2e-5 * max(1.0, np.abs(expected).max()))
    assert len(np.unique(expected)) == expected.size, "different images have different predictions"
    explanation = full_gradients(loaded.exposed, images, maps="signed")
    assert explanation.completeness_error.max() <= loaded.exposed.tolerance
    probabilities = loaded.exposed.probabilities(explanation.logits)
    squashed = {5: predicted, 1: np.concatenate([1 - predicted, predicted], -1)}.get(predicted.shape[-1], predicted)
    if model.layers[-1].get_config().get("activation") in ("softmax", "sigmoid") or name == "functions":
        np.testing.assert_allclose(probabilities, squashed, atol=1e-5)
    else:
        np.testing.assert_allclose(explanation.logits, predicted, rtol=1e-4, atol=1e-5 * np.abs(predicted).max())


@pytest.mark.slow
@pytest.mark.parametrize("application", ["EfficientNetB0", "MobileNetV3Small", "DenseNet121", "NASNetMobile"])
def test_an_application_of_keras_2_gives_its_predictions(tmp_path: pathlib.Path, application: str) -> None:
    tf_keras.backend.clear_session()
    size = 64 if application != "NASNetMobile" else 96
    build = getattr(tf_keras.applications, application)
    model = models.drawn(build(weights=None, input_shape=(size, size, 3), classes=5, classifier_activation=None))
    path = models.saved(model, tmp_path / "model.h5")
    images = models.images(model, 2)
    expected = model.predict(images, verbose=0)
    predicted = LoadedModel(spec(path)).exposed.model.predict(images, verbose=0)
    assert np.abs(predicted - expected).max() <= 1e-4 * np.abs(expected).max()


def test_half_of_the_weights_in_another_order_would_be_seen(tmp_path: pathlib.Path) -> None:
    """That the order matters: Keras 3's own reader gives each BatchNorm another one's statistics, or refuses."""
    model = models.drawn(models.partly_frozen())
    path = models.saved(model, tmp_path / "model.h5")
    with h5py.File(path) as file:
        [group] = [name for name in file["model_weights"].attrs["layer_names"] if "sequential" in str(name)]
        names = [str(name) for name in file["model_weights"][group].attrs["weight_names"]]
    assert "conv2d_2" in names[0] or "conv2d_" in names[0], "what is trained comes first"
    assert [name for name in names if "moving_mean" in name] != names[-3:]


@pytest.mark.parametrize("version", ["2.21.0", "2.4.0", None])
def test_a_weight_that_would_go_elsewhere_is_refused(tmp_path: pathlib.Path, version: str | None) -> None:
    path = models.saved(models.drawn(models.partly_frozen()), tmp_path / "model.h5")
    with h5py.File(path, "r+") as file:
        del file.attrs["keras_version"], file["model_weights"].attrs["keras_version"]
        if version is not None:
            file.attrs["keras_version"] = version
        group = next(file["model_weights"][name] for name in file["model_weights"] if "sequential" in name)
        names = list(group.attrs["weight_names"])
        at = [i for i, name in enumerate(names) if "gamma" in str(name) or "beta" in str(name)][:2]
        names[at[0]], names[at[1]] = names[at[1]], names[at[0]]
        group.attrs["weight_names"] = names
    sentence = refusal(lambda: LoadedModel(spec(path)))
    assert "was written by " + (f"Keras {version}" if version else "a Keras before 2.0") in sentence
    assert "gamma" in sentence
    assert sentence.endswith("and save it as a .keras file")


@pytest.mark.parametrize("extension", ["h5", "keras"])
def test_weights_that_are_missing_are_seen(tmp_path: pathlib.Path, extension: str) -> None:
    path = models.saved(models.drawn(models.sequential()), tmp_path / f"model.{extension}")
    if extension == "h5":
        with h5py.File(path, "r+") as file:
            group = next(file["model_weights"][name] for name in file["model_weights"] if "depthwise" in name)
            group.attrs["weight_names"] = list(group.attrs["weight_names"])[:1]
    else:
        with zipfile.ZipFile(path) as archive:
            content = {name: archive.read(name) for name in archive.namelist()}
        (tmp_path / "weights.h5").write_bytes(content["model.weights.h5"])
        with h5py.File(tmp_path / "weights.h5", "r+") as file:
            del file["layers/dense/vars/1"]
        content["model.weights.h5"] = (tmp_path / "weights.h5").read_bytes()
        with zipfile.ZipFile(path, "w") as archive:
            for name, value in content.items():
                archive.writestr(name, value)
    assert "has 2 weights, but the file has 1 for it" in refusal(lambda: LoadedModel(spec(path)))


def test_keras_2_also_wrote_hdf5_into_keras_files(tmp_path: pathlib.Path) -> None:
    """Until 2.11, `model.save("model.keras")` was HDF5."""
    model = models.drawn(models.sequential())
    path = models.saved(model, tmp_path / "model.h5")
    renamed = shutil.move(path, tmp_path / "model.keras")
    images = models.images(model)
    predicted = LoadedModel(spec(renamed)).exposed.model.predict(images, verbose=0)
    np.testing.assert_allclose(predicted, model.predict(images, verbose=0), atol=1e-5)


@pytest.mark.parametrize(("wrong", "right"), [("model.h5", "model.keras"), ("model.hdf", "model.h5")])
def test_a_file_is_read_by_its_content_and_not_by_its_name(tmp_path: pathlib.Path, wrong: str, right: str) -> None:
    saved_by_keras_3(network(), tmp_path / right)
    (tmp_path / right).rename(tmp_path / wrong)
    assert LoadedModel(spec(tmp_path / wrong)).exposed.classes == 3


def test_code_in_a_file_of_keras_2_runs_only_with_trust(tmp_path: pathlib.Path) -> None:
    layers = tf_keras.layers
    model = tf_keras.Sequential(
        [
            tf_keras.Input((8, 8, 3)),
            layers.Lambda(lambda x: x / 255.0),
            layers.Conv2D(4, 3),
            layers.GlobalAveragePooling2D(),
            layers.Dense(3),
        ]
    )
    images = models.images(models.drawn(model))
    for extension in ("h5", "keras"):
        path = models.saved(model, tmp_path / f"model.{extension}")
        assert "set model.trust: true" in refusal(lambda path=path: LoadedModel(spec(path)))
        predicted = LoadedModel(spec(path, trust=True)).exposed.model.predict(images, verbose=0)
        np.testing.assert_allclose(predicted, model.predict(images, verbose=0), rtol=1e-5, atol=1e-6)


def test_a_layer_that_reads_other_files_needs_trust_too(tmp_path: pathlib.Path) -> None:
    path = models.saved(models.drawn(models.hard_sigmoids()), tmp_path / "model.h5")
    with h5py.File(path, "r+") as file:
        config = json.loads(file.attrs["model_config"])
        rescaling = next(each for each in config["config"]["layers"] if each["class_name"] == "Rescaling")
        rescaling["class_name"] = "TFSMLayer"
        rescaling["config"] = {"name": rescaling["name"], "filepath": "somewhere", "call_endpoint": "serve"}
        file.attrs["model_config"] = json.dumps(config)
    assert "set model.trust: true" in refusal(lambda: LoadedModel(spec(path)))


def test_files_of_older_versions_of_keras_2_are_read(tmp_path: pathlib.Path) -> None:
    """Until 2.13 a .keras file had other groups, on Windows with backslashes; before 2.3 `Functional` was `Model`."""
    model = models.drawn(models.partly_frozen())
    images = models.images(model)
    expected = model.predict(images, verbose=0)
    path = models.saved(model, tmp_path / "model.keras")
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    (tmp_path / "weights.h5").write_bytes(content["model.weights.h5"])
    with h5py.File(tmp_path / "weights.h5") as old, h5py.File(tmp_path / "new.h5", "w") as new:
        arrays: dict[str, np.ndarray] = {}
        old.visititems(lambda name, item: arrays.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None)
        for name, array in arrays.items():
            new.create_dataset(
                name.replace("layers/", "_layer_checkpoint_dependencies\\").replace("/vars", "\\vars"), data=array
            )
    content["model.weights.h5"] = (tmp_path / "new.h5").read_bytes()
    with zipfile.ZipFile(path, "w") as archive:
        for name, value in content.items():
            archive.writestr(name, value)
    older = models.saved(model, tmp_path / "older.h5")
    with h5py.File(older, "r+") as file:
        file.attrs["model_config"] = file.attrs["model_config"].replace('"Functional"', '"Model"')
    for each in (path, older):
        predicted = LoadedModel(spec(each)).exposed.model.predict(images, verbose=0)
        np.testing.assert_allclose(predicted, expected, rtol=1e-4, atol=1e-4)


def _edited(path: pathlib.Path, old: str, new: str) -> pathlib.Path:
    with h5py.File(path, "r+") as file:
        config = file.attrs["model_config"]
        assert old in config
        file.attrs["model_config"] = config.replace(old, new)
        json.loads(file.attrs["model_config"])
    return path


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('"function": "math.truediv"', '"function": "signal.fft"', "calls tf.signal.fft, which is not among"),
        ('"function": "nn.softmax"', '"function": "os.system"', "calls tf.os.system, which is not among"),
        ('"class_name": "Conv2D"', '"class_name": "LocallyConnected2D"', "the class 'LocallyConnected2D'"),
        ('"groups": 1,', '"groups": 1, "kernel_size_on_mars": 3,', "has kernel_size_on_mars=3, which Keras 3"),
        ('"activation": "linear"', '"activation": "my_own"', "has the activation 'my_own'"),
    ],
)
def test_what_cannot_be_translated_is_named(tmp_path: pathlib.Path, old: str, new: str, words: str) -> None:
    path = models.saved(models.drawn(models.functions()), tmp_path / "model.h5")
    assert words in refusal(lambda: LoadedModel(spec(_edited(path, old, new))))


# cbrnr/sleepecg 214, Hrushi11/Real-TIme-Skin-Type-Detection 1, keras-team/keras 18709.
def test_a_saved_model_folder_is_not_said_to_be_missing(tmp_path: pathlib.Path) -> None:
    model = models.drawn(models.hard_sigmoids())
    for_keras, for_serving = tmp_path / "saved", tmp_path / "exported"
    models.saved(model, for_keras, save_format="tf")
    model.export(for_serving)
    for loading in (lambda path: fingerprint_of(path, None, None), lambda path: LoadedModel(spec(path))):
        sentence = refusal(lambda loading=loading: loading(str(for_keras)))
        assert f"{for_keras} is a SavedModel folder, which Keras 3 does not load" in sentence
        assert f"tf_keras.models.load_model({str(for_keras)!r}).save('model.h5')" in sentence
        assert "made for serving" in refusal(lambda loading=loading: loading(str(for_serving)))
    # The advice holds.
    images = models.images(model)
    again = models.saved(tf_keras.models.load_model(for_keras), tmp_path / "model.h5")
    predicted = LoadedModel(spec(again)).exposed.model.predict(images, verbose=0)
    np.testing.assert_allclose(predicted, model.predict(images, verbose=0), rtol=1e-4, atol=1e-5)


def test_other_folders_and_files_without_a_model_are_named(tmp_path: pathlib.Path) -> None:
    assert "is a folder, where a .keras or .h5 file is needed" in refusal(lambda: LoadedModel(spec(tmp_path)))
    models.sequential().save_weights(tmp_path / "checkpoints" / "model")
    assert "is a folder of checkpoints" in refusal(lambda: LoadedModel(spec(tmp_path / "checkpoints")))
    models.sequential().save_weights(tmp_path / "weights.h5")
    network().save_weights(tmp_path / "model.weights.h5")
    for name in ("weights.h5", "model.weights.h5"):
        sentence = refusal(lambda name=name: LoadedModel(spec(tmp_path / name)))
        assert "holds weights without their model" in sentence


def test_keras_3_s_own_hard_sigmoid_is_left_alone(tmp_path: pathlib.Path) -> None:
    model = network(keras.layers.Activation("hard_sigmoid"))
    path = saved_by_keras_3(model, tmp_path / "model.h5")
    images = np.random.default_rng(0).normal(0, 1, (3, 8, 8, 3)).astype(np.float32)
    predicted = LoadedModel(spec(path)).exposed.model.predict(images, verbose=0)
    np.testing.assert_allclose(predicted, model.predict(images, verbose=0), atol=1e-6)
