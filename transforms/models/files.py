"""Loads model files of Keras 3 and Keras 2, or refuses them in one sentence that says what to do."""

from __future__ import annotations

import contextlib
import os
import posixpath
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems

from transforms.filesystems import READ_ERRORS
from transforms.models.custom_objects import UnusableModules, known_objects
from transforms.models.errors import UnusableModel, first_line


class LocalFile:
    """A local path to a file on any file system. A remote file is copied; the copy is deleted at the block's end."""

    def __init__(self, path: str, key: str):
        self.path = path
        self._key = key
        self._copy: str | None = None

    def __enter__(self) -> str:
        if "://" not in self.path:
            return self.path
        try:
            opened = FileSystems.open(self.path, compression_type=CompressionTypes.UNCOMPRESSED)
        except READ_ERRORS as error:
            raise UnusableModel(unreadable_file(self._key, self.path)) from error
        # Keras tells a file's kind by the end of its name, and `.weights.h5` is not `.h5`.
        handle, self._copy = tempfile.mkstemp(suffix=f"-{posixpath.basename(self.path)}")
        try:
            with os.fdopen(handle, "wb") as sink, opened as source:
                while chunk := source.read(1 << 20):
                    sink.write(chunk)
        except BaseException as error:
            self.__exit__()
            if not isinstance(error, OSError):
                raise
            raise UnusableModel(
                f"{self._key}: {self.path} cannot be copied to the temporary folder {tempfile.gettempdir()} "
                f"({(error.strerror or str(error)).lower()}); TMPDIR can name another folder"
            ) from error
        return self._copy

    def __exit__(self, *_: object) -> None:
        if self._copy is not None:
            os.unlink(self._copy)


def load_file(path: str, trust: bool, modules: Sequence[str] = ()) -> Any:
    """Loads the Keras model in a file.

    Args:
      path: a file that Keras 3 or Keras 2 wrote, on any file system that Beam knows.
      trust: whether code in the file may run.
      modules: modules that define the file's own classes. They are imported, which runs their code.

    Raises:
      UnusableModel: it cannot be loaded.
    """
    from transforms.models.keras2 import Unreadable, read_saved

    with LocalFile(path, "model.path") as local:
        if os.path.isdir(local):
            raise UnusableModel(unreadable_file("model.path", path))
        try:
            saved = read_saved(local)
        except Unreadable as error:
            raise UnusableModel(f"model.path: {path} cannot be loaded as a Keras model ({error})") from error
        if saved.config is None:
            raise UnusableModel(
                f"model.path: {path} holds weights without their model; save the whole model, with "
                "model.save('model.keras')"
            )
        try:
            custom = known_objects(modules, saved.config)
        except UnusableModules as error:
            raise UnusableModel(str(error)) from error
        if saved.by_keras_2:
            return _load_keras_2(path, saved, trust, modules, custom)
        return _load_keras_3(path, saved, trust, modules, custom)


def _load_keras_3(path: str, saved: Any, trust: bool, modules: Sequence[str], custom: Mapping[str, Any]) -> Any:
    import keras

    if not trust and _has_layer(saved.config, "TFSMLayer"):  # Keras 3.8 loads it in spite of `safe_mode`
        raise UnusableModel(_untrusted(path))
    with _named_for_its_kind(saved.path, saved.kind) as named:
        try:
            return keras.models.load_model(named, custom_objects=dict(custom), compile=False, safe_mode=not trust)
        except Exception as error:  # Keras raises whatever its many readers raise
            text = str(error)
            if "safe_mode" in text or ("deserialization" in text and not trust):
                raise UnusableModel(_untrusted(path)) from error
            if absent := re.search(r"parent module (keras_\w+)\S* cannot be imported", text):
                raise UnusableModel(
                    f"model.path: {path} has layers of the package {absent[1]}, which is not installed here"
                ) from error
            unknown = re.search(
                r"(?:Could not (?:locate|deserialize) (?:class|function)|Unknown layer:) '([^']+)'", text
            ) or re.search(  # before Keras 3.9
                r"Could not interpret \w+ function identifier: \{[^{}]*'config': '([^']+)'", text
            )
            if unknown:
                raise UnusableModel(_unknown_class(path, unknown[1], modules)) from error
            raise UnusableModel(
                f"model.path: {path} cannot be loaded as a Keras model ({first_line(error)})"
            ) from error


def _load_keras_2(path: str, saved: Any, trust: bool, modules: Sequence[str], custom: Mapping[str, Any]) -> Any:
    from transforms.models import keras2

    try:
        built = keras2.build(saved.config, custom, trust)
        keras2.fill(saved, built)
    except keras2.UnknownClass as error:
        raise UnusableModel(_unknown_class(path, error.name, modules)) from error
    except keras2.NeedsTrust as error:
        raise UnusableModel(_untrusted(path)) from error
    except keras2.NotTranslated as error:
        reason = str(error)
    except Exception as error:  # the configuration or the weights are not as Keras 2 writes them
        reason = f"its contents do not have that version's form ({type(error).__name__}: {first_line(error)})"
    else:
        return built.layer
    writer = f"Keras {saved.version}" if saved.version else "a Keras before 2.0"
    raise UnusableModel(
        f"model.path: {path} was written by {writer}, and {reason}; build the model with Keras 3, load the old weights "
        "with load_weights, and save it as a .keras file"
    )


def _has_layer(config: Any, name: str) -> bool:
    """Whether a layer of a class is anywhere in a configuration."""
    if isinstance(config, dict):
        return config.get("class_name") == name or any(_has_layer(each, name) for each in config.values())
    return isinstance(config, list) and any(_has_layer(each, name) for each in config)


@contextlib.contextmanager
def _named_for_its_kind(path: str, kind: str) -> Iterator[str]:
    """The file under a name that ends as Keras expects. Keras 2 wrote HDF5 into .keras files too."""
    ends = (".keras",) if kind == "keras" else (".h5", ".hdf5")
    if path.endswith(ends):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        named = os.path.join(folder, f"model{ends[0]}")
        os.symlink(os.path.abspath(path), named)
        yield named


def _untrusted(path: str) -> str:
    return (
        f"model.path: {path} contains code of its own (a Lambda layer or a SavedModel); set model.trust: true "
        "if you trust where it comes from"
    )


def _unknown_class(path: str, name: str, modules: Sequence[str]) -> str:
    what = f"model.path: {path} has a layer of the class {name!r}, which is none of Keras' own"
    if name.rsplit(">", 1)[-1] == "KerasLayer":
        return (
            f"{what} but TensorFlow Hub's, which Keras 3 cannot load; build the model with Keras 3 around "
            "keras.layers.TFSMLayer, or with Keras' own layers"
        )
    if modules:
        return f"{what} and which model.custom_objects ({', '.join(modules)}) does not define; add the module that does"
    return f"{what}; name the module that defines it in model.custom_objects, with model.trust: true"


def unreadable_file(key: str, path: str) -> str:
    """The sentence for a path that cannot be opened. It says what is there instead."""
    inside = {name for name in ("saved_model.pb", "keras_metadata.pb", "checkpoint") if _exists(path, name)}
    if "keras_metadata.pb" in inside:
        return (
            f"{key}: {path} is a SavedModel folder, which Keras 3 does not load; with Keras 2, the package tf_keras, "
            f"tf_keras.models.load_model({path!r}).save('model.h5') makes a file that can be given here"
        )
    if "saved_model.pb" in inside:
        return (
            f"{key}: {path} is a SavedModel folder made for serving, which does not contain the layers; save the "
            "model itself, with model.save('model.keras')"
        )
    if "checkpoint" in inside:
        return (
            f"{key}: {path} is a folder of checkpoints, which hold weights without their model; save the whole model, "
            "with model.save('model.keras')"
        )
    if "://" not in path and os.path.isdir(path):
        return f"{key}: {path} is a folder, where a .keras or .h5 file is needed"
    return f"{key}: {path} cannot be read: there is no such file, or no access to it"


def _exists(folder: str, name: str) -> bool:
    with contextlib.suppress(*READ_ERRORS):
        return bool(FileSystems.exists(f"{folder.rstrip('/')}/{name}"))
    return False
