"""The model of a run. A process loads and exposes it once, for all its threads."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import os
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems

from transforms.filesystems import READ_ERRORS
from transforms.images import Affine, Exif, Preprocessing, Resize, application_family, preprocessing
from transforms.labels import Classes, Label
from transforms.memory import usable_cores
from transforms.models.applications import application_name, load_application
from transforms.models.class_names import UnreadableNames, class_names
from transforms.models.custom_objects import UnusableModules, known_objects, source_hash
from transforms.models.errors import OpenSize, UnusableModel
from transforms.models.files import load_file, unreadable_file
from transforms.models.inputs import as_image_model
from transforms.targets import Targets

if TYPE_CHECKING:
    from transforms.fullgrad import Agreement


@dataclasses.dataclass(frozen=True, slots=True)
class ModelSpec:
    """Which model is explained, and how images are prepared for it. Small and hashable; workers get it pickled.

    Attributes:
      fingerprint: a hash of the model's content, from `fingerprint_of`.
      path: a model file; None for an application.
      application: the name of a model in `keras.applications`; None for a file.
      weights: `imagenet` or a weights file, for an application.
      output: the output that is explained, by name or index; None for a model with one output.
      trust: whether code in the file may run.
      custom_objects: modules that define the file's own classes. They are imported wherever the model is loaded.
      resize: how images are brought to the model's size.
      scale: a `scale` of `images.preprocessing`. `auto` is an application's own preprocessing, and none for a file.
      class_names: the classes' names in the order of the logits, None for one without a name; None if there are none.
      exif: what is done with an EXIF orientation; see `images.decode_image`.
    """

    fingerprint: str
    path: str | None
    application: str | None
    weights: str | None
    output: int | str | None
    trust: bool
    resize: Resize
    scale: str | Affine
    class_names: tuple[str | None, ...] | None
    exif: Exif = "ignore"
    custom_objects: tuple[str, ...] = ()

    def check(self) -> None:
        """Checks the names of application and scale, without loading the model.

        Raises:
          UnusableModel: there is no such application or scale.
        """
        if self.application is not None:
            application_name(self.application)
        try:
            _preprocessing(self)
        except ValueError as error:
            raise UnusableModel(f"model.preprocess.{error}") from error


class LoadedModel:
    """An exposed model with its preprocessing. `load_once` gives one per process and spec.

    Attributes:
      exposed: the model as `full_gradients` takes it.
      resize: how images are resized, with the model's shape filled in.
      channels: 1 or 3.
      class_names: K names, None for a class without a name; None if there are none.
      exif: what is done with an EXIF orientation.
      batches_at_once: how many batches are computed at once: one, on all cores or an accelerator, or one on each core.
      compute: a semaphore, held while a batch is computed.
      batch_size: images a pass, once it is known for this model; None before that, or if it is configured.
      batch_limit: the largest batch that fits the memory, known after a larger one failed; None before that.
    """

    def __init__(self, spec: ModelSpec, batches_at_once: int = 1):
        from transforms.fullgrad import CannotExpose, expose

        try:
            self.exposed = expose(_load(spec), spec.output)
        except CannotExpose as error:
            raise UnusableModel(f"{_name(spec)}: {error}") from error
        height, width, channels = self.exposed.input_shape
        if spec.resize.shape is None and (height is None or width is None):
            raise OpenSize(
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
        self.class_names: tuple[str | None, ...] | None = spec.class_names
        self.exif = spec.exif
        self._classes = Classes(self.exposed.classes, spec.class_names)
        try:
            self.resize = spec.resize if height is None or width is None else spec.resize.for_input((height, width))
        except ValueError as error:  # the short side is shorter than the model's input
            raise UnusableModel(f"model.preprocess.resize.{error}") from error
        try:
            self.preprocess = _preprocessing(spec)
            self.preprocess(np.zeros((1, *self.input_size, channels), np.uint8))
        except ValueError as error:  # an unknown scale, or one for another number of channels
            raise UnusableModel(f"model.preprocess.{error}") from error
        self.batches_at_once = batches_at_once
        self.compute = threading.BoundedSemaphore(batches_at_once)
        self.batch_size: int | None = None
        self.batch_limit: int | None = None

    def check(self, targets: Targets, method: str, channels: str = "none") -> None:
        """Checks that the model has the classes and layers that targets, method and channel contributions need.

        Raises:
          UnusableModel: the model does not have them.
        """
        from transforms.fullgrad import CannotExpose, channel_layer, check_method

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
        try:
            channel_layer(self.exposed, channels)
        except CannotExpose as error:
            raise UnusableModel(f"explain.channels: {error}") from error

    def compare(self) -> Agreement:
        """Compares the exposed logits with the model's own output, on an image of noise.

        Raises:
          UnusableModel: they differ; the message names the first layer that differs.
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

    def named(self, names: tuple[str | None, ...]) -> LoadedModel:
        """The same model with K names for its classes. It shares everything else with this one."""
        named = copy.copy(self)
        named.class_names = names
        named._classes = Classes(self.exposed.classes, names)
        return named

    def name_of(self, class_index: int | None) -> str | None:
        """The class's name; None if it has none."""
        if self.class_names is None or class_index is None or not 0 <= class_index < len(self.class_names):
            return None
        return self.class_names[class_index]

    def index_of(self, label: Label | None) -> int | None:
        """The class index of a record's label; None if the label is unknown.

        Raises:
          UnusableLabel: the label does not name one of the classes.
        """
        return self._classes.index_of(label)


def noise_images(shape: tuple[int, int, int], count: int = 4, seed: int = 0) -> np.ndarray:
    """Images of noise to check a model with: uint8 [count, *shape]. Each image is coarser than the one before."""
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
    """The model of a spec. The first thread that asks loads it; other threads wait.

    Raises:
      UnusableModel: the model cannot be loaded, or does not fit the spec.
    """
    global _loads
    with _loading:
        if spec not in _loaded:
            model = LoadedModel(spec, _batches_at_once())
            _loaded.clear()  # a worker that starts another job must not keep the last job's model
            _loaded[spec] = model
            _loads += 1
        return _loaded[spec]


def with_class_names(spec: ModelSpec, names: tuple[str | None, ...]) -> ModelSpec:
    """The spec with names for the classes. If its model is loaded, the named model is that one, loaded only once.

    Args:
      spec: a model without names.
      names: one for each class; None for a class without a name.
    """
    named = dataclasses.replace(spec, class_names=names)
    with _loading:
        if (model := _loaded.pop(spec, None)) is not None:
            _loaded[named] = model.named(names)
    return named


def _batches_at_once() -> int:
    """How many batches to compute at once: one a core where TensorFlow can give each batch one thread, else one."""
    from transforms.fullgrad.tensorflow import autodiff

    if os.environ.get("TF_NUM_INTRAOP_THREADS"):  # the user set TensorFlow's number of threads a batch
        return 1
    return usable_cores() if autodiff.one_thread_a_call() else 1


def models_loaded() -> int:
    """How often this process has loaded a model."""
    return _loads


def fingerprint_of(
    path: str | None, application: str | None, weights: str | None, custom_objects: tuple[str, ...] = ()
) -> str:
    """A hash of the model's content: the file's bytes, or the application's name and the weights.

    It includes the source of the modules in `custom_objects`, which decides what is computed, but not their names.

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
            raise UnusableModel(unreadable_file(key, file)) from error
    return digest.hexdigest()


def read_class_names(path: str) -> tuple[str, ...]:
    """The class names in a file, in the order of the logits. `class_names.class_names` lists the formats.

    Raises:
      UnusableModel: the file cannot be read or is not a list of names.
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
        return load_application(spec.application, spec.weights, spec.class_names)
    assert spec.path is not None, "one of path and application is set"
    model = load_file(spec.path, spec.trust, spec.custom_objects)
    return as_image_model(model, spec.path, known_objects(spec.custom_objects, {}))
