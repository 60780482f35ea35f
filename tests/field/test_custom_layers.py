"""Model files with layers of their users' own: loaded with model.custom_objects, refused by name without."""

from __future__ import annotations

import pathlib
import subprocess
import sys
from typing import Any

import keras
import numpy as np
import pytest

from pipeline.config import Config, ConfigError
from tests.samples import configuration, encoded_images
from tests.shards import write_tfrecord
from tests.transforms.fullgrad.networks import randomize
from tests.transforms.models.test_model import refusal, spec
from transforms.models import LoadedModel, fingerprint_of

CONSOLE = pathlib.Path(sys.executable).parent / "fullgrad"
PLAIN = """
import keras
from keras import ops

class Scale(keras.layers.Layer):
    def __init__(self, by=3.0, **rest):
        super().__init__(**rest)
        self.by = by
    def call(self, x):
        return x * self.by
    def get_config(self):
        return {**super().get_config(), "by": self.by}

def gate(x):
    return x * ops.sigmoid(2.0 * x)
"""
REGISTERED = PLAIN.replace("class Scale", '@keras.saving.register_keras_serializable("mine")\nclass Scale').replace(
    "def gate", '@keras.saving.register_keras_serializable("mine")\ndef gate'
)


def model_of(variables: dict[str, Any]) -> keras.Model:
    layers = keras.layers
    middle = [layers.Conv2D(4, 3, activation=variables["gate"]), variables["Scale"](2.5)]
    return randomize(
        keras.Sequential([keras.Input((8, 8, 3)), *middle, layers.GlobalAveragePooling2D(), layers.Dense(3)])
    )


@pytest.fixture
def project(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """An empty folder in which a user works."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", str(tmp_path))])
    return tmp_path


def forget() -> None:
    """As in another process: what was registered is not known any more."""
    keras.saving.get_custom_objects().clear()


# Names differ, as a process imports a module only once.
@pytest.mark.parametrize("extension", ["keras", "h5"])
@pytest.mark.parametrize(
    ("name", "source"),
    [("plain", PLAIN), ("registered", REGISTERED), ("package.inner", PLAIN), ("only_now", REGISTERED)],
)
def test_the_module_s_layers_and_functions_are_found(
    project: pathlib.Path, name: str, source: str, extension: str
) -> None:
    module = f"{name.replace('.', f'_{extension}.')}" if "." in name else f"{name}_{extension}"
    file = project.joinpath(*module.split(".")).with_suffix(".py")
    file.parent.mkdir(exist_ok=True, parents=True)
    file.write_text(PLAIN if name == "only_now" else source)  # registered when it was saved, and not any more
    variables: dict[str, Any] = {"__name__": module}
    exec(source, variables)
    model = model_of(variables)
    path = project / f"model.{extension}"
    model.save(path)
    images = np.random.default_rng(0).normal(0, 1, (2, 8, 8, 3)).astype(np.float32)
    expected = model.predict(images, verbose=0)
    forget()
    sentence = refusal(lambda: LoadedModel(spec(path, trust=True)))
    assert "which is none of Keras' own; name the module that defines it in model.custom_objects" in sentence
    loaded = LoadedModel(spec(path, trust=True, custom_objects=(module,)))
    np.testing.assert_allclose(loaded.exposed.model.predict(images, verbose=0), expected, rtol=1e-5, atol=1e-5)
    forget()


def test_a_class_that_the_module_lacks_is_named_with_it(project: pathlib.Path) -> None:
    (project / "lacking.py").write_text("import keras\n")
    variables: dict[str, Any] = {"__name__": "elsewhere"}
    exec(PLAIN, variables)
    model_of(variables).save(project / "model.keras")
    sentence = refusal(lambda: LoadedModel(spec(project / "model.keras", trust=True, custom_objects=("lacking",))))
    assert "model.custom_objects (lacking) does not define; add the module that does" in sentence


@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("not_there", "there is no module 'not_there'; it must be installed, on PYTHONPATH, or in the directory"),
        ("not_there.inner", "there is no module 'not_there.inner'"),
        ("broken", "the module 'broken' fails when it is imported (ZeroDivisionError: division by zero)"),
        ("lonely", "the module 'lonely' fails when it is imported (ModuleNotFoundError: No module named 'tool_not_the"),
    ],
)
def test_a_module_that_cannot_be_imported_is_named(project: pathlib.Path, module: str, words: str) -> None:
    (project / "broken.py").write_text("1 / 0\n")
    (project / "lonely.py").write_text("import tool_not_there\n")
    keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten(), keras.layers.Dense(2)]).save("model.keras")
    sentence = refusal(lambda: LoadedModel(spec("model.keras", trust=True, custom_objects=(module,))))
    assert sentence.startswith(f"model.custom_objects: {words}")
    if "not_there" in module:
        assert words in refusal(lambda: fingerprint_of("model.keras", None, None, (module,)))


def test_other_code_is_another_model_and_another_name_is_not(project: pathlib.Path) -> None:
    (project / "model.keras").write_bytes(b"content")
    for name in ("one", "two", "three"):
        (project / f"{name}.py").write_text(PLAIN if name != "three" else PLAIN.replace("2.0", "2.1"))
    prints = [fingerprint_of("model.keras", None, None, modules) for modules in ((), ("one",), ("two",), ("three",))]
    assert prints[1] == prints[2]
    assert len(set(prints)) == 3


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"custom_objects": "mine"}, "needs `model.trust` to be true, as importing a module runs its code"),
        ({"custom_objects": ["layers/mine.py"], "trust": True}, "the name of a module such as mypackage.layers"),
        ({"custom_objects": "mine.py/x", "trust": True}, "the name of a module such as mypackage.layers"),
        ({"custom_objects": "m", "trust": True, "path": None, "application": "VGG16"}, "only with `model.path`"),
    ],
)
def test_the_setting_is_checked_before_anything_is_imported(settings: dict[str, Any], words: str) -> None:
    model = {"path": "model.keras", **settings}
    with pytest.raises(ConfigError) as error:
        Config.from_dict({"input": {"shards": "a"}, "model": model, "output": {"path": "o"}})
    assert words in str(error.value)


def test_a_run_without_own_layers_has_the_identity_that_it_had_before() -> None:
    config = Config.from_dict({"input": {"shards": "a"}, "model": {"path": "m"}, "output": {"path": "o"}})
    assert "custom_objects" not in config.identity()["model"]


# The console script does not look for modules where it is started, and Beam's workers are processes of their own.
@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_run_and_inspect_take_a_module_from_the_directory_they_are_started_in(
    project: pathlib.Path, workers: int
) -> None:
    (project / "my_layers.py").write_text(REGISTERED)
    variables: dict[str, Any] = {"__name__": "my_layers"}
    exec(REGISTERED, variables)
    model_of(variables).save(project / "own.keras")
    forget()
    settings = configuration(project, str(write_tfrecord(project / "a.tfrecord", encoded_images(4))))
    options = {"direct_num_workers": workers} | ({"direct_running_mode": "multi_processing"} if workers > 1 else {})
    settings["model"] = {"path": "own.keras", "trust": True, "custom_objects": "my_layers"}
    settings["runner"] = {"options": options}
    (project / "run.yaml").write_text(__import__("json").dumps(settings))
    done = subprocess.run([CONSOLE, "run", "run.yaml"], cwd=project, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "4 images explained" in done.stdout
    if workers == 1:
        inspect = [CONSOLE, "inspect", "own.keras"]
        refused = subprocess.run([*inspect, "--custom-objects", "my_layers"], capture_output=True, text=True)
        assert (refused.returncode, "--custom-objects needs --trust" in refused.stderr) == (2, True)
        done = subprocess.run([*inspect, "--trust", "--custom-objects", "my_layers"], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "Scale" in done.stdout or "Multiply" in done.stdout
