"""The model of a run: loaded and exposed once in a process, whatever the number of its threads."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import posixpath
import re
import tempfile
import threading
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems

from transforms.decode import Resize
from transforms.filesystems import READ_ERRORS
from transforms.memory import usable_cores
from transforms.preprocess import Affine, Preprocessing, application_family, preprocessing
from transforms.targets import Targets


class UnusableModel(ValueError):
    """The model cannot be loaded or explained; one sentence that names the file or setting and what would be right."""


@dataclasses.dataclass(frozen=True, slots=True)
class ModelSpec:
    """Which model, and what its inputs go through; small, hashable, pickled to the workers.

    Attributes:
      fingerprint: hash of the model's content, from `fingerprint_of`.
      path: a model file; None for an application.
      application: the name of a model in `keras.applications`; None for a file.
      weights: `imagenet` or a weights file, for an application.
      output: which output is explained, by name or index; None where there is one.
      trust: whether the file may run code of its own.
      resize: how an image gets the model's size.
      scale: as `preprocess.preprocessing` takes it; `auto` is an application's own, and nothing for a file.
      class_names: the classes' names in the order of the logits; None where they have none.
    """

    fingerprint: str
    path: str | None
    application: str | None
    weights: str | None
    output: int | str | None
    trust: bool
    resize: Resize
    scale: str | Affine
    class_names: tuple[str, ...] | None

    def check(self) -> None:
        """Checks the names in it, which needs no model.

        Raises:
          UnusableModel: there is no such application or scale.
        """
        if self.application is not None:
            _application(self.application)
        try:
            _preprocessing(self)
        except ValueError as error:
            raise UnusableModel(f"model.preprocess.{error}") from error


class LoadedModel:
    """An exposed model and what goes before it. One per process and spec, from `load_once`.

    Attributes:
      exposed: for `full_gradients`.
      resize: complete, with the shape that the model takes.
      channels: 1 or 3.
      class_names: K names, or None.
      batches_at_once: how many batches are computed at once: one, which all cores share or an accelerator computes; or
        as many as there are cores, each by one.
      compute: held while a batch is computed.
      batch_size: images a pass, once that was found for this model; None before, and where it is configured.
      batch_limit: the largest batch that fits the memory, once a larger one did not; None before.
    """

    def __init__(self, spec: ModelSpec, batches_at_once: int = 1):
        from transforms.fullgrad import CannotExpose, expose

        try:
            self.exposed = expose(_load(spec), spec.output)
        except CannotExpose as error:
            raise UnusableModel(f"{_name(spec)}: {error}") from error
        height, width, channels = self.exposed.input_shape
        if spec.resize.shape is None and (height is None or width is None):
            raise UnusableModel(
                f"{_name(spec)} takes images of any size: model.preprocess.resize.shape must say [HEIGHT, WIDTH]"
            )
        if spec.resize.shape is not None and any(
            wanted not in (None, given) for wanted, given in zip((height, width), spec.resize.shape, strict=True)
        ):
            raise UnusableModel(
                f"model.preprocess.resize.shape is {list(spec.resize.shape)}, but {_name(spec)} takes "
                f"[{height}, {width}]"
            )
        if channels not in (1, 3):
            raise UnusableModel(f"{_name(spec)} takes images of {channels} channels; 1 or 3 can be decoded")
        if spec.class_names is not None and len(spec.class_names) != self.exposed.classes:
            raise UnusableModel(
                f"model.class_names has {len(spec.class_names)} names, but {_name(spec)} has {self.exposed.classes} "
                "classes"
            )
        self.channels = channels
        self.class_names = spec.class_names
        try:
            self.resize = spec.resize if height is None or width is None else spec.resize.for_input((height, width))
        except ValueError as error:  # a short side that is shorter than the model's input
            raise UnusableModel(f"model.preprocess.resize.{error}") from error
        try:
            self.preprocess = _preprocessing(spec)
            self.preprocess(np.zeros((1, *self.input_size, channels), np.uint8))
        except ValueError as error:  # not known, or for images of other channels
            raise UnusableModel(f"model.preprocess.{error}") from error
        self.batches_at_once = batches_at_once
        self.compute = threading.BoundedSemaphore(batches_at_once)
        self.batch_size: int | None = None
        self.batch_limit: int | None = None

    def check(self, targets: Targets, method: str) -> None:
        """Checks that it has the classes and layers that are asked for.

        Raises:
          UnusableModel: it has not.
        """
        from transforms.fullgrad import CannotExpose, check_method

        classes = self.exposed.classes
        if targets.ranks > classes:
            raise UnusableModel(f"explain.targets is top-{targets.ranks}, but the model has {classes} classes")
        if targets.classes and max(targets.classes) >= classes:
            raise UnusableModel(
                f"explain.targets has class {max(targets.classes)}, but the model's classes are 0 to {classes - 1}"
            )
        try:
            check_method(self.exposed, method)
        except CannotExpose as error:
            raise UnusableModel(f"explain.method: {error}") from error

    @property
    def input_size(self) -> tuple[int, int]:
        """Height and width of the images that are explained."""
        assert self.resize.shape is not None, "completed when the model was loaded"
        height, width = self.resize.shape
        return height, width

    def name_of(self, class_index: int | None) -> str | None:
        """The class's name, None where it has none."""
        if self.class_names is None or class_index is None or not 0 <= class_index < len(self.class_names):
            return None
        return self.class_names[class_index]

    def index_of(self, label: int | str | None) -> int | None:
        """The class index of a record's label.

        Raises:
          ValueError: a name that is not among the class names, or an index beyond the classes.
        """
        if isinstance(label, str):
            if self.class_names is None:
                raise ValueError(f"the label {label!r} is a name; model.class_names must list the classes' names")
            if label not in self.class_names:
                raise ValueError(f"the label {label!r} is not among model.class_names")
            return self.class_names.index(label)
        if label is not None and label >= self.exposed.classes:
            raise ValueError(f"the label {label} is beyond the model's {self.exposed.classes} classes")
        return label


_loaded: dict[ModelSpec, LoadedModel] = {}
_loading = threading.Lock()
_loads = 0


def load_once(spec: ModelSpec) -> LoadedModel:
    """The model of a spec; loaded by whichever thread asks first, while the others wait.

    Raises:
      UnusableModel: it cannot be loaded, or does not fit the spec.
    """
    global _loads
    with _loading:
        if spec not in _loaded:
            model = LoadedModel(spec, _batches_at_once())
            _loaded.clear()  # a worker that goes on to another job must not keep the last one's model
            _loaded[spec] = model
            _loads += 1
        return _loaded[spec]


def _batches_at_once() -> int:
    """As many as there are cores, if each can have one of its own; TF_NUM_INTRAOP_THREADS says how many one has."""
    from transforms.fullgrad import autodiff

    if os.environ.get("TF_NUM_INTRAOP_THREADS"):  # which TensorFlow takes for itself
        return 1
    return usable_cores() if autodiff.one_thread_a_call() else 1


def models_loaded() -> int:
    """How often this process has loaded a model."""
    return _loads


def fingerprint_of(path: str | None, application: str | None, weights: str | None) -> str:
    """A hash of the model's content: its file's bytes, or the application's name and its weights'.

    Raises:
      UnusableModel: a file cannot be read.
    """
    digest = hashlib.sha256()
    if application is not None:
        digest.update(f"{application.lower()}\n".encode())
    file = path if path is not None else weights
    if file == "imagenet" and path is None:
        digest.update(b"imagenet")
    elif file is not None:
        key = "model.path" if path is not None else "model.weights"
        try:
            with FileSystems.open(file, compression_type=CompressionTypes.UNCOMPRESSED) as source:
                while chunk := source.read(1 << 20):
                    digest.update(chunk)
        except READ_ERRORS as error:
            raise UnusableModel(_unreadable(key, file)) from error
    return digest.hexdigest()


def read_class_names(path: str) -> tuple[str, ...]:
    """The names in a text file, one a line; empty lines at the end do not count.

    Raises:
      UnusableModel: the file cannot be read or has no names.
    """
    try:
        with FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED) as source:
            lines = source.read().decode("utf-8-sig").rstrip().splitlines()
    except READ_ERRORS as error:
        raise UnusableModel(
            f"model.class_names: {path} cannot be read as a text file in UTF-8 with one name a line"
        ) from error
    if not lines:
        raise UnusableModel(f"model.class_names: {path} is empty, where one name a line was expected")
    return tuple(line.strip() for line in lines)


def _name(spec: ModelSpec) -> str:
    return spec.path or str(spec.application)


def _preprocessing(spec: ModelSpec) -> Preprocessing:
    if isinstance(spec.scale, Affine):
        return spec.scale
    if spec.scale == "auto":
        return preprocessing("none" if spec.application is None else application_family(spec.application))
    return preprocessing(spec.scale)


def _load(spec: ModelSpec) -> Any:
    import keras

    from transforms.fullgrad import autodiff

    if keras.backend.backend() != "tensorflow":
        raise UnusableModel(
            f"Keras runs on {keras.backend.backend()!r} here; set KERAS_BACKEND=tensorflow, the backend in use"
        )
    autodiff.grow_memory()
    if spec.application is not None:
        return _load_application(spec)
    assert spec.path is not None, "one of path and application is set"
    with _LocalFile(spec.path, "model.path") as local:
        try:
            return keras.models.load_model(local, compile=False, safe_mode=not spec.trust)
        except Exception as error:  # Keras raises whatever its many readers raise
            if "safe_mode" in str(error) or ("deserialization" in str(error) and not spec.trust):
                raise UnusableModel(
                    f"model.path: {spec.path} contains code of its own (a Lambda layer); set model.trust: true if you "
                    "trust where it comes from"
                ) from error
            if unknown := re.search(r"(?:Could not locate class|Unknown layer:) '([^']+)'", str(error)):
                raise UnusableModel(
                    f"model.path: {spec.path} has a layer of the class {unknown[1]!r}, which is none of Keras' own; "
                    "save the model with Keras' layers only"
                ) from error
            raise UnusableModel(
                f"model.path: {spec.path} cannot be loaded as a Keras model ({_first_line(error)})"
            ) from error


def _application(name: str) -> str:
    """The name of an application as `keras.applications` spells it.

    Raises:
      UnusableModel: there is none; the message has the nearest name, or a family's members.
    """
    import keras

    known = {each.lower(): each for each in dir(keras.applications) if each[0].isupper()}
    if name.lower() not in known:
        try:
            family = application_family(name)
        except ValueError as error:  # with the nearest name
            raise UnusableModel(f"model.{error}") from error
        members = ", ".join(known[each] for each in known if application_family(each) == family)
        raise UnusableModel(f"model.application is {name!r}, which is a family; choose one of {members}")
    return known[name.lower()]


def _load_application(spec: ModelSpec) -> Any:
    import keras

    name = _application(str(spec.application))
    build = getattr(keras.applications, name)
    weights = spec.weights or "imagenet"
    if weights == "imagenet":
        try:
            return build(weights="imagenet")
        except Exception as error:  # Keras raises a bare one where the download fails
            raise UnusableModel(
                f"model.weights: Keras' weights of {name} cannot be had ({_first_line(error)}); "
                "model.weights may also be a file"
            ) from error
    classes = 1000 if spec.class_names is None else len(spec.class_names)
    # Keras warns of layers that get no weights, and where those have any it also refuses them.
    with _LocalFile(weights, "model.weights") as local, warnings.catch_warnings(action="ignore"):
        try:
            return build(weights=local, classes=classes)
        except Exception as error:
            raise UnusableModel(
                f"model.weights: {weights} does not fit {name} with {classes} classes, as many as "
                f"model.class_names has or else 1000 ({_first_line(error)})"
            ) from error


class _LocalFile:
    """A local path to a file that may lie on another file system; a copy is deleted at the end of the block."""

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
            raise UnusableModel(_unreadable(self._key, self.path)) from error
        # Keras tells by the end of the name what a file is, and `.weights.h5` is not `.h5`.
        handle, self._copy = tempfile.mkstemp(suffix=f"-{posixpath.basename(self.path)}")
        with os.fdopen(handle, "wb") as sink, opened as source:
            while chunk := source.read(1 << 20):
                sink.write(chunk)
        return self._copy

    def __exit__(self, *_: object) -> None:
        if self._copy is not None:
            os.unlink(self._copy)


def _unreadable(key: str, path: str) -> str:
    return f"{key}: {path} cannot be read: there is no such file, or no access to it"


def _first_line(error: Exception) -> str:
    lines: Sequence[str] = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:200].rstrip(".:")
