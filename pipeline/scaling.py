"""Tries the usual scalings of pixels on a few images, to find the one with which the model was trained."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from transforms.fullgrad.expose import Exposed, own_output
from transforms.images import Affine, Preprocessing, UndecodableImage, decode_image, preprocessing
from transforms.models import LoadedModel
from transforms.sources import Record

# The number of images that are tried, and of those that the model gets at once.
IMAGES = 64
_BATCH = 16
# Each scaling is tried on a part of the images, and the best few on all of them.
_FIRST_IMAGES, _BEST = 16, 3
# A BatchNorm behind more steps than these is not near the model's beginning.
_STEPS = 16

# The usual scalings, by what stands in the configuration.
SCALES: Mapping[str, Preprocessing] = {
    "none": preprocessing("none"),
    "{divide: 255}": Affine(255.0),
    "tf": preprocessing("tf"),
    "torch": preprocessing("torch"),
    "caffe": preprocessing("caffe"),
    "{divide: 255, mean: [0.5, 0.5, 0.5]}": Affine(255.0, (0.5, 0.5, 0.5)),
    "{mean: [123.68, 116.779, 103.939]}": Affine(None, (123.68, 116.779, 103.939)),
}
GREY_SCALES: Mapping[str, Preprocessing] = {
    **{name: SCALES[name] for name in ("none", "{divide: 255}", "tf")},
    "{divide: 255, mean: [0.5]}": Affine(255.0, (0.5,)),
}

# How unlikely a difference between two scalings must be if they are equally good, to call one better.
_BETTER = 0.05
# How far, in standard deviations of the first BatchNorm's values, the images may be from those in training.
_MISFIT, _FACTOR = 0.5, 4.0


@dataclasses.dataclass(frozen=True, slots=True)
class Trial:
    """A scaling, and how the model does with it.

    Attributes:
      scale: as it stands in the configuration.
      right: bool [N], whether each labelled image is predicted correctly; empty without labels.
      likelihood: the mean logarithm of the probability of the label, at least −20; 0 without labels.
      misfit: how far the values at the model's first BatchNorm are from its moving averages, in standard deviations:
        near 0 on images like those in training. None if the model has no BatchNorm near its beginning.
    """

    scale: str
    right: np.ndarray
    likelihood: float
    misfit: float | None

    @property
    def accuracy(self) -> float:
        return float(self.right.mean()) if len(self.right) else math.nan

    def tells(self, chance: float, level: float = 0.01) -> bool:
        """Whether it is right on more images than always giving the most frequent label, of the share `chance`."""
        return len(self.right) > 0 and at_least(int(self.right.sum()), len(self.right), chance) < level

    def beats(self, other: Trial, level: float = _BETTER) -> bool:
        """Whether this one is right on more images, by more than chance: the sign test on the same images."""
        if len(self.right) != len(other.right):  # the other did worse on some of the images already
            return self.accuracy > other.accuracy
        won, lost = int((self.right & ~other.right).sum()), int((other.right & ~self.right).sum())
        return won > lost and at_least(won, won + lost, 0.5) < level

    def fits_better(self, other: Trial) -> bool:
        """Whether the values at the first BatchNorm are as in training with this one, and far off with the other."""
        if self.misfit is None or other.misfit is None:
            return False
        return self.misfit < _MISFIT and other.misfit > _FACTOR * self.misfit + _MISFIT


def at_least(successes: int, trials: int, chance: float) -> float:
    """The probability of at least so many successes in independent trials (the upper tail of the binomial)."""
    return math.fsum(
        math.comb(trials, k) * chance**k * (1 - chance) ** (trials - k) for k in range(successes, trials + 1)
    )


def decoded(records: Sequence[Record], model: LoadedModel) -> tuple[np.ndarray, list[int]]:
    """The pixels of the records' images as the model takes them, unscaled, and which records they are.

    Returns:
      uint8 [N, H, W, C], and the N indices of the records whose images can be decoded.
    """
    pixels, places = [], []
    for place, record in enumerate(records):
        try:
            pixels.append(decode_image(record.image or b"", model.resize, model.channels, model.exif))
        except UndecodableImage:
            continue
        places.append(place)
    shape = (0, *model.input_size, model.channels)
    return np.stack(pixels) if pixels else np.zeros(shape, np.uint8), places


def usual_scales(channels: int) -> Mapping[str, Preprocessing]:
    """The usual scalings for images of so many channels."""
    return SCALES if channels == 3 else GREY_SCALES


def best_scales(
    model: LoadedModel, pixels: np.ndarray, labels: Sequence[int], scales: Mapping[str, Preprocessing]
) -> list[Trial]:
    """As `try_scales`, but the model runs on all images only with the scalings that do best on some of them."""
    step = max(1, len(pixels) // _FIRST_IMAGES)
    first = try_scales(model, pixels[::step], labels[::step], scales)
    if step == 1:
        return first
    best = {trial.scale: scales[trial.scale] for trial in first[:_BEST]}
    return [*try_scales(model, pixels, labels, best), *first[_BEST:]]


def try_scales(
    model: LoadedModel, pixels: np.ndarray, labels: Sequence[int] | None, scales: Mapping[str, Preprocessing]
) -> list[Trial]:
    """Runs the model on images with each scaling, forwards alone; the best comes first.

    Args:
      model: the loaded model.
      pixels: uint8 [N, H, W, C], N at least 1, from `decoded`.
      labels: N class indices; None without labels. Then only the first layers are run.
      scales: scalings by their names.
    """
    trials = []
    for name, scale in scales.items():
        scaled = scale(pixels)
        misfit = batchnorm_misfit(model.exposed, scaled)
        right, likelihood = np.zeros(0, bool), 0.0
        if labels is not None:
            logs = np.concatenate(
                [_log_probabilities(model.exposed, scaled[i : i + _BATCH]) for i in range(0, len(scaled), _BATCH)]
            )
            right = logs.argmax(axis=1) == np.asarray(labels)
            likelihood = float(np.maximum(logs[np.arange(len(logs)), labels], -20).mean())
        trials.append(Trial(name, right, likelihood, misfit))
    if labels is None:
        return sorted(trials, key=lambda trial: math.inf if trial.misfit is None else trial.misfit)
    return sorted(trials, key=lambda trial: (-trial.right.sum(), -trial.likelihood))


def _log_probabilities(exposed: Exposed, images: np.ndarray) -> np.ndarray:
    """The logarithms of the model's probabilities, float64 [N, K]."""
    own = own_output(exposed, images).astype(np.float64)
    if exposed.ends_in == "logits":
        own = 1 / (1 + np.exp(-np.clip(own, -500, 500))) if exposed.single_output else _softmax(own)
    if exposed.single_output:
        own = np.concatenate([1 - own, own], axis=1)
    return np.log(np.maximum(np.nan_to_num(own), 1e-12))


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def batchnorm_misfit(exposed: Exposed, images: np.ndarray) -> float | None:
    """How far the values at the first BatchNorm are from those in training, in standard deviations.

    A BatchNorm keeps the mean and variance that its input had in training. The misfit is the mean over its channels of
    |mean − kept mean| / kept deviation + |log(deviation / kept deviation)|. None if the model has no BatchNorm near its
    beginning, or one that was never trained.

    Args:
      images: float32 [N, H, W, C], scaled.
    """
    values = {exposed.program.input: keras.ops.convert_to_tensor(images)}
    for step in exposed.program.steps[:_STEPS]:
        if step.kind == "BatchNormalization":
            layer: Any = step.operation
            kept_mean, kept = (
                np.asarray(keras.ops.convert_to_numpy(each), np.float64)
                for each in (layer.moving_mean, layer.moving_variance)
            )
            if not kept_mean.any() and (kept == 1).all():
                return None
            at = np.asarray(keras.ops.convert_to_numpy(values[step.inputs[0]]), np.float64)
            at = np.moveaxis(at, layer.axis, -1).reshape(-1, len(kept))
            deviation = np.sqrt(kept + layer.epsilon)
            ratio = np.sqrt(at.var(axis=0) + layer.epsilon) / deviation
            return float(np.mean(np.abs(at.mean(axis=0) - kept_mean) / deviation + np.abs(np.log(ratio))))
        outputs = keras.tree.flatten(step.call(values))
        values.update(zip(step.outputs, outputs, strict=True))
    return None
