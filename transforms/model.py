"""The model of a run: loaded and exposed once in a process, whatever the number of its threads."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import threading
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems

from transforms.class_names import UnreadableNames, class_names
from transforms.custom_objects import UnusableModules, known_objects, source_hash
from transforms.decode import Exif, Resize
from transforms.filesystems import READ_ERRORS
from transforms.labels import Classes, Label
from transforms.memory import usable_cores
from transforms.model_files import LocalFile, UnusableModel, first_line, load_file, unreadable
from transforms.model_inputs import for_images
from transforms.preprocess import Affine, Preprocessing, application_family, preprocessing
from transforms.targets import Targets

if TYPE_CHECKING:
    from transforms.fullgrad import Agreement


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
      custom_objects: modules that define the file's own classes; imported wherever the model is loaded.
      resize: how an image gets the model's size.
      scale: as `preprocess.preprocessing` takes it; `auto` is an application's own, and nothing for a file.
      class_names: the classes' names in the order of the logits; None where they have none.
      exif: what becomes of an orientation in an image's EXIF, as `decode.decode_image` takes it.
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
    exif: Exif = "ignore"
    custom_objects: tuple[str, ...] = ()

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
      exif: what becomes of an orientation in an image's EXIF.
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
        self.exif = spec.exif
        self._classes = Classes(self.exposed.classes, spec.class_names)
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

    def compare(self) -> Agreement:
        """Compares the exposed logits with the model's own output, on an image of noise.

        Raises:
          UnusableModel: they differ; the sentence names the first layer that does.
        """
        from transforms.fullgrad import CannotExpose, agreement

        try:
            return agreement.check(self.exposed, self.preprocess(noise_images((*self.input_size, self.channels), 1)))
        except CannotExpose as error:
            raise UnusableModel(str(error)) from error

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

    def index_of(self, label: Label | None) -> int | None:
        """The class index of a record's label; None where it is not known.

        Raises:
          UnusableLabel: it does not say which of the classes it is.
        """
        return self._classes.index_of(label)


def noise_images(shape: tuple[int, int, int], count: int = 4, seed: int = 0) -> np.ndarray:
    """Pixels to check a model on when no images are at hand: uint8 [count, *shape], each at its own coarseness."""
    generator = np.random.default_rng(seed)
    height, width, channels = shape
    images = []
    for i in range(count):
        step = 1 << i
        coarse = generator.integers(0, 256, (-(-height // step), -(-width // step), channels), np.uint8)
        images.append(coarse.repeat(step, axis=0).repeat(step, axis=1)[:height, :width])
    return np.stack(images)


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
    from transforms.fullgrad.tensorflow import autodiff

    if os.environ.get("TF_NUM_INTRAOP_THREADS"):  # which TensorFlow takes for itself
        return 1
    return usable_cores() if autodiff.one_thread_a_call() else 1


def models_loaded() -> int:
    """How often this process has loaded a model."""
    return _loads


def fingerprint_of(
    path: str | None, application: str | None, weights: str | None, custom_objects: tuple[str, ...] = ()
) -> str:
    """A hash of the model's content: its file's bytes, or the application's name and its weights'.

    The source of modules with its classes is in it too, as they decide what the model computes; their names are not.

    Raises:
      UnusableModel: a file cannot be read, or a module is not found.
    """
    digest = hashlib.sha256()
    try:
        digest.update(source_hash(custom_objects))
    except UnusableModules as error:
        raise UnusableModel(str(error)) from error
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
            raise UnusableModel(unreadable(key, file)) from error
    return digest.hexdigest()


def read_class_names(path: str) -> tuple[str, ...]:
    """The names of the classes in a file, in the order of the logits; `class_names.class_names` says what it may be.

    Raises:
      UnusableModel: the file cannot be read or is no list of names.
    """
    try:
        with FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED) as source:
            text = source.read().decode("utf-8-sig")
    except READ_ERRORS as error:
        raise UnusableModel(
            f"model.class_names: {path} cannot be read as a text file in UTF-8 with one name a line"
        ) from error
    try:
        return class_names(text)
    except UnreadableNames as error:
        raise UnusableModel(f"model.class_names: {path} {error}") from error


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

    from transforms.fullgrad.tensorflow import autodiff

    if keras.backend.backend() != "tensorflow":
        raise UnusableModel(
            f"Keras runs on {keras.backend.backend()!r} here; set KERAS_BACKEND=tensorflow, the backend in use"
        )
    autodiff.grow_memory()
    if spec.application is not None:
        return _load_application(spec)
    assert spec.path is not None, "one of path and application is set"
    model = load_file(spec.path, spec.trust, spec.custom_objects)
    return for_images(model, spec.path, known_objects(spec.custom_objects, {}))


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
                f"model.weights: Keras' weights of {name} cannot be had ({first_line(error)}); "
                "model.weights may also be a file"
            ) from error
    classes = 1000 if spec.class_names is None else len(spec.class_names)
    # Keras warns of layers that get no weights, and where those have any it also refuses them.
    with LocalFile(weights, "model.weights") as local, warnings.catch_warnings(action="ignore"):
        try:
            return build(weights=local, classes=classes)
        except Exception as error:
            raise UnusableModel(
                f"model.weights: {weights} does not fit {name} with {classes} classes, as many as "
                f"model.class_names has or else 1000 ({first_line(error)})"
            ) from error
