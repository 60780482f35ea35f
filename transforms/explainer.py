"""Explains images in batches that fit the memory. Knows neither shards nor output."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import math

import numpy as np

from transforms.clock import Clock
from transforms.fullgrad import Explanation, Options, explain_batch, prefers_jit
from transforms.fullgrad.tensorflow.autodiff import has_accelerator, out_of_memory
from transforms.memory import accelerator_memory, memory_at_hand, sensible_batch, usable_cores
from transforms.methods import METHODS
from transforms.models import LoadedModel
from transforms.statistics import COARSE
from transforms.targets import Targets

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True)
class MethodSettings:
    """How images are explained; small and picklable.

    Attributes:
      targets: the classes that are explained.
      method, maps, biases, contrast, channels, samples, noise_level, seed: as in `transforms.fullgrad.explain`.
      map_size: height and width of the maps; None for the model's input size.
      batch_size: images per pass; None chooses by `sensible_batch`.
      unit_images: the number of images that come together, such as in the largest unit; None if it is unknown.
      jit: whether XLA compiles the model; None chooses the faster way.
    """

    targets: Targets
    method: str
    maps: str
    biases: str
    contrast: str
    channels: str
    samples: int
    noise_level: float
    seed: int
    map_size: tuple[int, int] | None
    batch_size: int | None
    unit_images: int | None
    jit: bool | None

    def options(self, model: LoadedModel) -> Options:
        """The options of `explain_batch` for a model."""
        return Options(
            method=self.method,
            maps=self.maps,
            biases=self.biases,
            contrast=self.contrast,
            channels=self.channels,
            map_size=self.map_size or model.input_size,
            evidence_size=(COARSE, COARSE),
            samples=self.samples,
            noise_level=self.noise_level,
            seed=self.seed,
            jit=prefers_jit() if self.jit is None else self.jit,
        )


@dataclasses.dataclass(frozen=True, slots=True)
class Problem:
    """Why an image has no explanation: the kind of error, and a message of one sentence."""

    error: str
    message: str


class Explainer:
    """Explains images in batches of a fixed size. It halves the size if the memory does not suffice."""

    def __init__(self, settings: MethodSettings, model: LoadedModel, clock: Clock):
        self._model = model
        self._options = settings.options(model)
        self._clock = clock
        self.batch_size = batch_size_of(settings, model)

    def explain(self, images: np.ndarray, requests: np.ndarray) -> tuple[list[Problem | None], Explanation | None]:
        """Explains each image for each of its targets.

        Args:
          images: float32 [n, H, W, C], n at least 1.
          requests: int32 [n, T], each image's targets from `Targets.requests`.

        Returns:
          For each image the problem that prevents an explanation, or None. And the explanations of the other images for
          all targets, those of one image together; None if no image has an explanation.
        """
        count, targets = requests.shape
        usable = np.isfinite(images).reshape(count, -1).all(axis=1)
        if not usable.all():  # a ReLU may make finite logits of NaN, which would be those of another image
            images = np.where(usable[:, None, None, None], images, np.float32(0))
        parts = [part for t in range(targets) for part in self._explain(images, requests[:, t])]

        # One row per image and target, target by target.
        sizes = [1 if part is None else len(part.targets) for part in parts]
        explained = np.repeat([part is not None for part in parts], sizes)
        found: np.ndarray = np.full(targets * count, None, object)
        found[~explained] = Problem("OutOfMemory", "one image alone does not fit the accelerator's memory")
        present = [part for part in parts if part is not None]
        if not present:
            return found[:count].tolist(), None
        joined = Explanation.join(present) if len(present) > 1 else present[0]
        found[explained] = _not_finite(joined, self._options.method)
        found[np.tile(~usable, targets)] = Problem("NotFinite", "the input of this image is not finite")
        problems = [next(filter(None, found[i::count]), None) for i in range(count)]
        kept = np.asarray([problem is None for problem in problems])
        if not kept.any():
            return problems, None
        if targets > 1 or not kept.all():
            rows = np.arange(targets * count).reshape(targets, count)[:, kept].T.ravel()
            joined = _take(joined, (np.cumsum(explained) - 1)[rows])
        return problems, joined

    def _explain(self, images: np.ndarray, targets: np.ndarray) -> list[Explanation | None]:
        """Explanations of images [n, H, W, C], in order; None for an image that does not fit the memory even alone."""
        explained: list[Explanation | None] = []
        start = 0
        while start < len(images):
            size = self._model.batch_limit or self.batch_size
            part = slice(start, start + size)
            try:
                with self._model.compute, self._clock.wall("compute", at_once=self._model.batches_at_once):
                    batch = explain_batch(self._model.exposed, images[part], targets[part], self._options, size)
                explained.append(batch)
            except out_of_memory():
                if size > 1:
                    self._model.batch_limit = size // 2
                    _log.warning("a batch of %d images does not fit the memory; going on with %d", size, size // 2)
                    continue
                explained.append(None)
            start += size
        return explained


def batch_size_of(settings: MethodSettings, model: LoadedModel) -> int:
    """The configured batch size, or the one that `sensible_batch` chose at the first call for this model."""
    if settings.batch_size is not None:
        return settings.batch_size
    if model.batch_size is None:
        accelerator = has_accelerator()
        model.batch_size = sensible_batch(
            activation_bytes(model),
            accelerator_memory() if accelerator else memory_at_hand(),
            accelerator=accelerator,
            cores=1 if model.batches_at_once > 1 else usable_cores(),
            batches_at_once=model.batches_at_once,
            unit_images=settings.unit_images,
        )
    return model.batch_size


def activation_bytes(model: LoadedModel) -> int:
    """The bytes of one image's activations in all layers, in float32."""
    height, width = model.input_size
    floats = 0
    for value in itertools.chain.from_iterable(step.outputs for step in model.exposed.program.steps):
        shape = value.shape[1:]
        floats += math.prod(size for size in shape if size is not None) * (height * width if None in shape else 1)
    return 4 * floats


def _take(explanation: Explanation, rows: np.ndarray) -> Explanation:
    """The explanations with only the given rows, in the order of `rows`."""
    values = ((field.name, getattr(explanation, field.name)) for field in dataclasses.fields(explanation))
    return dataclasses.replace(
        explanation, **{name: value[rows] for name, value in values if isinstance(value, np.ndarray)}
    )


def _not_finite(explanation: Explanation, method: str) -> np.ndarray:
    """For each row a `Problem` if one of its values is not finite, else None: object [N]."""
    problems = np.full(len(explanation.targets), None, object)
    terms = ("input_term", "bias_term") if METHODS[method].complete else ()
    for name in reversed(("logits", "maps", *terms)):
        values = getattr(explanation, name)
        problem = Problem("NotFinite", f"the {name.replace('_', ' ')} of this image is not finite")
        problems[~np.isfinite(values).reshape(len(values), -1).all(axis=1)] = problem
    return problems
