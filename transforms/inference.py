"""Explanations in your own Beam pipeline: a model handler for `RunInference`, and a transform for images."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import apache_beam as beam
import numpy as np
from apache_beam.ml.inference.base import MaybeKeyedModelHandler, ModelHandler, PredictionResult, RunInference

from transforms.clock import Clock
from transforms.explainer import Explainer, MethodSettings, Problem
from transforms.fullgrad import Explanation, Options
from transforms.images import EXIF, Affine, Exif, Resize, UndecodableImage, decode_ahead, decode_image, resize_image
from transforms.memory import usable_cores
from transforms.methods import NOISE_LEVEL, SAMPLES
from transforms.models import LoadedModel, ModelSpec, read_class_names
from transforms.targets import Targets

# An encoded image, or a decoded one: uint8 [h, w, 3], or grey as [h, w, 1] or [h, w].
Image: TypeAlias = bytes | np.ndarray

# The images per call if the worker chooses its batch size: the largest batch size on CPUs.
_IMAGES_PER_CALL = 128

_RESIZE = Resize()


class CannotExplain(ValueError):
    """Images of a batch have no explanation. One sentence says how many, and the reason for the first one."""


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class ImageExplanation:
    """The explanation of one image for one class.

    The terms are FullGrad's, as in `transforms.fullgrad.Explanation`. They are NaN if the method does not decompose the
    logit.

    Attributes:
      map: float32 [H, W].
      logits: float32 [K], before any softmax or sigmoid.
      target: the explained class.
      target_name: its name; None without class names.
      input_term: ⟨∇ₓf, x⟩.
      bias_term: the sum of all layers' terms.
      unlocated_term: the sum of the terms without a position in the image. The map does not contain them.
      completeness_error: how far the sum of the terms is from the logit; at most 1e-4 in float32.
    """

    map: np.ndarray
    logits: np.ndarray
    target: int
    target_name: str | None
    input_term: float
    bias_term: float
    unlocated_term: float
    completeness_error: float

    @property
    def logit(self) -> float:
        """The explained class's logit."""
        return float(self.logits[self.target])

    @property
    def predicted(self) -> int:
        """The class with the largest logit."""
        return int(self.logits.argmax())


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class ImageFailure:
    """Why one image has no explanation.

    Attributes:
      image: the image as it was given.
      stage: `decode` or `explain`.
      error: the kind of error: `UndecodableImage`, `NotFinite` or `OutOfMemory`.
      message: one sentence.
    """

    image: Image
    stage: str
    error: str
    message: str


class ImageExplainer:
    """A loaded model with its settings. `RunInference` shares it among threads or processes.

    Other processes use it through a proxy, which has only its methods.
    """

    def __init__(self, spec: ModelSpec, settings: MethodSettings):
        self._model = LoadedModel(spec)
        self._model.check(settings.targets, settings.method)
        self._requests = np.asarray(settings.targets.requests(None), np.int32)
        self._explainer = Explainer(settings, self._model, Clock())

    def explain(self, images: Sequence[Image]) -> list[tuple[ImageExplanation, ...] | ImageFailure]:
        """For each image its explanations, one per target, or its failure; in order."""
        ahead = max(1, len(images))
        prepared = list(decode_ahead(images, self._prepare, threads=min(8, usable_cores()), ahead=ahead))
        usable = [pixels for pixels in prepared if not isinstance(pixels, ImageFailure)]
        explained = iter(self._explain(usable))
        outcomes: list[tuple[ImageExplanation, ...] | ImageFailure] = []
        for image, pixels in zip(images, prepared, strict=True):
            outcome = pixels if isinstance(pixels, ImageFailure) else next(explained)
            if isinstance(outcome, Problem):
                outcome = ImageFailure(image, "explain", outcome.error, outcome.message)
            outcomes.append(outcome)
        return outcomes

    def _explain(self, images: list[np.ndarray]) -> list[tuple[ImageExplanation, ...] | Problem]:
        """The explanations of preprocessed images, float32 [H, W, C], or the problems; in order."""
        if not images:
            return []
        problems, explanation = self._explainer.explain(np.stack(images), np.tile(self._requests, (len(images), 1)))
        each = iter(()) if explanation is None else self._image_explanations(explanation)
        targets = len(self._requests)
        return [tuple(itertools.islice(each, targets)) if problem is None else problem for problem in problems]

    def _prepare(self, image: Image) -> np.ndarray | ImageFailure:
        """Decodes, resizes and preprocesses an image: float32 [H, W, C]."""
        model = self._model
        try:
            if isinstance(image, np.ndarray):
                pixels = resize_image(image, model.resize, model.channels)
            elif isinstance(image, bytes):
                pixels = decode_image(image, model.resize, model.channels, model.exif)
            else:
                raise UndecodableImage(
                    f"the image is of type {type(image).__name__}, where bytes or an array of uint8 is expected"
                )
        except UndecodableImage as error:
            return ImageFailure(image, "decode", type(error).__name__, str(error))
        return model.preprocess(pixels[None])[0]

    def _image_explanations(self, explanation: Explanation) -> Iterator[ImageExplanation]:
        for i, target in enumerate(explanation.targets.tolist()):
            yield ImageExplanation(
                map=explanation.maps[i],
                logits=explanation.logits[i],
                target=target,
                target_name=self._model.name_of(target),
                input_term=float(explanation.input_term[i]),
                bias_term=float(explanation.bias_term[i]),
                unlocated_term=float(explanation.unlocated_term[i]),
                completeness_error=float(explanation.completeness_error[i]),
            )


class FullGradModelHandler(ModelHandler):
    """Explains images in `RunInference`: `images | RunInference(FullGradModelHandler("resnet20.keras"))`.

    The input is images of any size, encoded or decoded: bytes of a JPEG, PNG, …, or arrays of uint8 [h, w, 3], or grey
      as
    [h, w, 1] or [h, w]. They are resized and scaled as in a run of `fullgrad`. Arrays of floats are refused, because it
    is unknown how they were scaled. For pairs of key and image, wrap this handler in Beam's `KeyedModelHandler`.

    The output is a `PredictionResult` per image. `example` is the image as it was given. `inference` is an
    `ImageExplanation`, or a tuple of them if `targets` asks for several classes. `model_id` is the model's file, or the
    application's name. `failures` says what happens to an image that cannot be explained.

    `RunInference` loads the model once per process, or once per machine with `large_model`. All batches are padded to
    one size, so that the model is traced once. If bundles are small, as in streaming, `max_batch_duration_secs`
    collects images over several bundles.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        application: str | None = None,
        weights: str | None = None,
        output: int | str | None = None,
        class_names: str | os.PathLike[str] | Sequence[str] | None = None,
        resize: Resize = _RESIZE,
        scale: str | Affine = "auto",
        exif: Exif = "ignore",
        trust: bool = False,
        custom_objects: str | Sequence[str] = (),
        method: str = "fullgrad",
        maps: str = "reference",
        biases: str = "all",
        targets: str | Sequence[int] | Targets = "predicted",
        contrast: str = "none",
        samples: int = SAMPLES,
        noise_level: float = NOISE_LEVEL,
        seed: int = 0,
        map_size: Sequence[int] | None = None,
        batch_size: int | None = None,
        jit: bool | None = None,
        failures: Literal["raise", "return"] = "raise",
        max_batch_duration_secs: int | None = None,
        large_model: bool = False,
        model_copies: int | None = None,
        env_vars: Mapping[str, str] | None = None,
    ):
        """Arguments have the meaning of the configuration's keys; see also `fullgrad run --help`.

        Args:
          path: the model file, .keras or .h5, on any file system that Beam knows. Only the workers read it.
          application: the name of a model in `keras.applications`, instead of a path.
          weights: the application's weights: `imagenet`, the default, or a file.
          output: the output that is explained, by name or index, if the model has several.
          class_names: the class names in the order of the logits, or a file of them (docs/labels.md). The file is read
            here, not by the workers.
          resize: how images are brought to the model's size.
          scale: how pixels are scaled: `auto` (an application's own way, and none for a file), `none`, `tf`, `torch`,
            `caffe`, the name of an application, or an `Affine`.
          exif: what is done with an orientation in an encoded image's EXIF or XMP: `ignore` or `apply`. Arrays are not
            turned.
          trust: whether code in the model file may run.
          custom_objects: with `trust`, one or several modules that define the file's own layers. Workers import them.
          method, maps, biases, contrast, samples, noise_level, seed: as in `transforms.fullgrad.explain`.
          targets: `predicted`; `top-K`, such as `top-3`; or class indices.
          map_size: height and width of the maps; None for the model's input size.
          batch_size: images per pass; None chooses a size that suits the model and the memory.
          jit: whether XLA compiles the model; None chooses the faster way.
          failures: what happens to an image that cannot be explained. `raise`: its batch fails with `CannotExplain`;
            `RunInference(…).with_exception_handling()` then sets the whole batch aside. `return`: its `inference` is an
            `ImageFailure`, and the other images are explained.
          max_batch_duration_secs, large_model, model_copies, env_vars: as in Beam's `ModelHandler`.

        Raises:
          ValueError: an argument has a wrong value; one sentence says what would be right.
        """
        if (path is None) == (application is None):
            raise ValueError(
                "either path, a model file, or application, the name of a Keras application, must be given"
            )
        if not isinstance(path, str | os.PathLike | None):
            raise ValueError(f"path is of type {type(path).__name__}; it must be that of a file the model is saved in")
        if weights is not None and application is None:
            raise ValueError("weights is taken only with application, as a model file has its own")
        modules = (custom_objects,) if isinstance(custom_objects, str) else tuple(custom_objects)
        if modules and not trust:
            raise ValueError("custom_objects needs trust=True, as importing a module runs its code")
        if modules and path is None:
            raise ValueError("custom_objects is taken only with path")
        if not isinstance(resize, Resize):
            raise ValueError(f"resize is {resize!r}; it must be a Resize, such as Resize((224, 224))")
        if not isinstance(scale, str | Affine):
            raise ValueError(f"scale is {scale!r}; it must be a name such as 'tf', or an Affine such as Affine(255)")
        if exif not in EXIF:
            raise ValueError(f"exif is {exif!r}; it must be {' or '.join(EXIF)}")
        if batch_size is not None and not _is_whole(batch_size):
            raise ValueError(f"batch_size is {batch_size!r}; it must be a whole number from 1 up, or None")
        if failures not in ("raise", "return"):
            raise ValueError(f"failures is {failures!r}; it must be raise or return")
        Options(  # checks the arguments
            method=method,
            maps=maps,
            biases=biases,
            contrast=contrast,
            map_size=_size(map_size),
            samples=samples,
            noise_level=noise_level,
            seed=seed,
        )
        self._spec = ModelSpec(
            fingerprint="",  # not needed: it tells cached models apart, and here RunInference keeps the model
            path=None if path is None else os.fspath(path),
            application=application,
            weights=weights,
            output=output,
            trust=trust,
            resize=resize,
            scale=scale,
            class_names=_names(class_names),
            exif=exif,
            custom_objects=modules,
        )
        self._spec.check()
        at_once = batch_size or _IMAGES_PER_CALL
        self._settings = MethodSettings(
            targets=_targets(targets),
            method=method,
            maps=maps,
            biases=biases,
            contrast=contrast,
            channels="none",
            samples=samples,
            noise_level=noise_level,
            seed=seed,
            map_size=_size(map_size),
            batch_size=batch_size,
            unit_images=at_once,
            jit=jit,
        )
        self._failures = failures
        # Only Beam's handlers of later versions take these themselves.
        super().__init__()
        self._env_vars = dict(env_vars or {})
        self._batches: dict[str, Any] = {"min_batch_size": at_once, "max_batch_size": at_once}
        if max_batch_duration_secs is not None:
            self._batches["max_batch_duration_secs"] = max_batch_duration_secs
        self._shared = large_model or model_copies is not None
        self._copies = model_copies or 1

    def batch_elements_kwargs(self) -> Mapping[str, Any]:
        """How Beam batches images: as in Beam's `ModelHandler`."""
        return self._batches

    def share_model_across_processes(self) -> bool:
        """Whether a machine's processes share one model: as in Beam's `ModelHandler`."""
        return self._shared

    def model_copies(self) -> int:
        """How many models the processes share: as in Beam's `ModelHandler`."""
        return self._copies

    def returning_failures(self) -> FullGradModelHandler:
        """A copy with `failures="return"`."""
        other = copy.copy(self)
        other._failures = "return"
        return other

    def load_model(self) -> ImageExplainer:
        """Loads the model.

        Raises:
          UnusableModel: the model cannot be loaded or explained, or does not have the classes of `targets`.
        """
        return ImageExplainer(self._spec, self._settings)

    def run_inference(
        self, batch: Sequence[Image], model: ImageExplainer, inference_args: Mapping[str, Any] | None = None
    ) -> list[PredictionResult]:
        """Explains any number of images.

        Raises:
          CannotExplain: `failures` is `raise`, and one of the images cannot be explained.
        """
        outcomes = model.explain(batch)
        failed = [(i, outcome) for i, outcome in enumerate(outcomes) if isinstance(outcome, ImageFailure)]
        if failed and self._failures == "raise":
            i, first = failed[0]
            which = f"{len(failed)} of {len(batch)} images in a batch cannot be explained"
            raise CannotExplain(f"{which}, the first of them, at index {i}, for this reason: {first.message}")
        name = self._model_id()
        single = self._settings.targets.per_image == 1
        return [
            PredictionResult(image, outcome[0] if single and isinstance(outcome, tuple) else outcome, name)
            for image, outcome in zip(batch, outcomes, strict=True)
        ]

    def update_model_path(self, model_path: str | None = None) -> None:
        """Sets another model file, or other weights of the application. `RunInference` then loads the model again."""
        if not model_path:
            return
        if self._spec.application is None:
            self._spec = dataclasses.replace(self._spec, path=model_path)
        else:
            self._spec = dataclasses.replace(self._spec, weights=model_path)

    def _model_id(self) -> str | None:
        own_weights = None if self._spec.weights == "imagenet" else self._spec.weights
        return self._spec.path or own_weights or self._spec.application

    def validate_inference_args(self, inference_args: Mapping[str, Any] | None) -> None:
        """Refuses arguments to the model, which takes only images."""
        if inference_args:
            raise ValueError(f"inference_args has {', '.join(inference_args)}, but FullGradModelHandler takes none")

    def get_num_bytes(self, batch: Sequence[Image]) -> int:
        """The bytes of a batch, also of elements that are not images."""
        return sum(image.nbytes if isinstance(image, np.ndarray) else sys.getsizeof(image) for image in batch)

    def get_metrics_namespace(self) -> str:
        """The namespace of `RunInference`'s metrics."""
        return "BeamML_FullGrad"


@dataclasses.dataclass(eq=False)
class ExplainImages(beam.PTransform):
    """Explains a PCollection of images: `explanations, failures = images | ExplainImages(handler)`.

    The input is images as the handler takes them, or pairs of a key and an image. The main output is an
    `ImageExplanation` for each image and each class of the handler's `targets`. The second output, tagged `failures`,
    is an `ImageFailure` for each image without an explanation. If images have keys, both outputs are pairs of a key and
    the value. Every image is in exactly one of the outputs.

    Attributes:
      handler: the model and how it explains. Its own `failures` is ignored here.
    """

    FAILURES = "failures"

    handler: FullGradModelHandler

    def __post_init__(self) -> None:
        super().__init__()

    def expand(self, images: beam.PCollection) -> beam.pvalue.DoOutputsTuple:
        handler = MaybeKeyedModelHandler(self.handler.returning_failures())
        return (
            images
            | "Explain" >> RunInference(handler)
            | "Part" >> beam.FlatMap(_separate).with_outputs(self.FAILURES, main="explanations")
        )


def _separate(result: PredictionResult | tuple[Any, PredictionResult]) -> Iterator[Any]:
    """Yields one image's explanations, or its failure under its tag, with the image's key if it has one."""
    keys = () if isinstance(result, PredictionResult) else result[:1]
    inference = (result if isinstance(result, PredictionResult) else result[1]).inference
    for each in inference if isinstance(inference, tuple) else (inference,):
        element = (*keys, each) if keys else each
        failed = isinstance(each, ImageFailure)
        yield beam.pvalue.TaggedOutput(ExplainImages.FAILURES, element) if failed else element


def _targets(value: object) -> Targets:
    try:
        targets = Targets.parse(value)
    except ValueError as error:
        raise ValueError(
            f"targets is {value!r}; it must be predicted, top-K such as top-3, or a list of class indices"
        ) from error
    if targets.kind == "label":
        raise ValueError("targets is label, but images come here without labels; it must be another")
    return targets


def _names(value: str | os.PathLike[str] | Sequence[str] | None) -> tuple[str, ...] | None:
    if value is None:
        return None
    return read_class_names(os.fspath(value)) if isinstance(value, str | os.PathLike) else tuple(value)


def _size(value: Sequence[int] | None) -> tuple[int, int] | None:
    if value is None:
        return None
    if isinstance(value, list | tuple) and len(value) == 2 and all(_is_whole(side) for side in value):
        return value[0], value[1]
    raise ValueError(f"map_size is {value!r}; it must be a height and a width in pixels, or None")


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
