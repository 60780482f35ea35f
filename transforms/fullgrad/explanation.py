"""What all methods have in common: their options, the explained number, and their result."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from keras import ops

from transforms import methods
from transforms.fullgrad import channels
from transforms.fullgrad.tensorflow.autodiff import Tensor


@dataclasses.dataclass(frozen=True, slots=True)
class Options:
    """All that decides how an image is explained; see `explain`."""

    method: str = "fullgrad"
    maps: str = "reference"
    biases: str = "all"
    contrast: str = "none"
    channels: str = channels.NONE
    map_size: tuple[int, int] | None = None
    evidence_size: tuple[int, int] | None = None
    samples: int = methods.SAMPLES
    noise_level: float = methods.NOISE_LEVEL
    seed: int = 0
    jit: bool = True

    def __post_init__(self) -> None:
        for name, allowed in (
            ("method", tuple(methods.METHODS)),
            ("maps", ("reference", "channelwise", "signed")),
            ("biases", ("all", "explicit")),
            ("contrast", ("none", "runner_up")),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, not {getattr(self, name)!r}")
        for name, fits, right in (
            ("samples", self.samples >= 1, "at least 1"),
            ("noise_level", 0 < self.noise_level < math.inf, "a finite number above 0"),
            ("seed", self.seed >= 0, "at least 0"),
        ):
            if not fits:
                raise ValueError(f"{name} must be {right}, not {getattr(self, name)!r}")
        wrong = methods.misplaced(self.method, {name: getattr(self, name) for name in methods.DEFAULTS})
        if wrong is not None:
            value = getattr(self, wrong)
            raise ValueError(
                f"{wrong}={value!r} is taken only by the methods {', '.join(methods.takers(wrong, value))}, not by "
                f"{self.method}"
            )


@dataclasses.dataclass(frozen=True, slots=True)
class Explanation:
    """The result of a method for N images, as NumPy arrays.

    The terms are FullGrad's. Methods that do not decompose the logit have NaN instead, and no layers.

    Attributes:
      logits: float32 [N, K], before any softmax or sigmoid.
      targets: int32 [N], the explained class of each image.
      explained: float32 [N], f: the target's logit; with `contrast="runner_up"`, less the largest other logit.
      contrast_class: int32 [N], the class of that largest other logit; −1 without contrast.
      maps: float32 [N, H, W].
      evidence: float32 [N, h, w], the positive part of the signed map, added up over the area of each cell, in the unit
        of f; h and w are 0 without `evidence_size`.
      input_term: float32 [N], ⟨∇ₓf, x⟩.
      bias_term: float32 [N], the sum of all layers' terms.
      unlocated_term: float32 [N], the part of the bias term without a position in the image; it is not in the map.
      completeness_error: float32 [N], |f − input_term − bias_term| / (|input_term| + Σ |each layer's term|).
      layer_terms: float32 [N, L], each layer's term, in the order of `layers`.
      channel_terms: float32 [N, C], what each channel of one layer adds to f; C is 0 without `channels`.
      after_term: float32 [N], the sum of the terms after that layer; NaN without `channels`.
      layers: the L layers' names.
    """

    logits: np.ndarray
    targets: np.ndarray
    explained: np.ndarray
    contrast_class: np.ndarray
    maps: np.ndarray
    evidence: np.ndarray
    input_term: np.ndarray
    bias_term: np.ndarray
    unlocated_term: np.ndarray
    completeness_error: np.ndarray
    layer_terms: np.ndarray
    channel_terms: np.ndarray
    after_term: np.ndarray
    layers: tuple[str, ...]

    def __repr__(self) -> str:
        count, classes = self.logits.shape
        size = " × ".join(str(side) for side in self.maps.shape[1:])
        worst = f", completeness error at most {self.completeness_error.max():.1e}" if count and self.layers else ""
        return f"<Explanation of {count} images: {classes} classes, maps {size}, {len(self.layers)} layers{worst}>"

    def split(self) -> list[Explanation]:
        """One explanation for each image; the arrays are views."""
        return [
            Explanation(**{name: getattr(self, name)[i : i + 1] for name in _ARRAYS}, layers=self.layers)
            for i in range(len(self.targets))
        ]

    @classmethod
    def join(cls, parts: Sequence[Explanation]) -> Explanation:
        """Joins explanations (at least one) that were made with the same model and options."""
        arrays = {name: np.concatenate([getattr(part, name) for part in parts]) for name in _ARRAYS}
        return cls(**arrays, layers=parts[0].layers)


_ARRAYS = tuple(field.name for field in dataclasses.fields(Explanation) if field.name != "layers")


def objective(logits: Tensor, targets: Tensor, contrast: str) -> Tensor:
    """The explained number of each image, f [N]."""
    chosen = ops.one_hot(targets, logits.shape[-1], dtype=logits.dtype)
    f = ops.sum(logits * chosen, axis=-1)
    if contrast == "runner_up":
        f = f - ops.max(ops.where(chosen > 0, -math.inf, logits), axis=-1)
    return f


def explained_numbers(logits: np.ndarray, targets: np.ndarray, contrast: str) -> tuple[np.ndarray, np.ndarray]:
    """f as in `objective`, and the class that the target is contrasted with.

    Args:
      logits: float32 [N, K].
      targets: int32 [N].

    Returns:
      float32 [N] and int32 [N]; the class is −1 without contrast.
    """
    each = np.arange(len(logits))
    f = logits[each, targets]
    if contrast != "runner_up":
        return f, np.full(len(logits), -1, np.int32)
    others = logits.copy()
    others[each, targets] = -np.inf
    classes = others.argmax(axis=1)
    return f - others[each, classes], classes.astype(np.int32)


def resolve(targets: Tensor, logits: Tensor) -> Tensor:
    """Class indices [N] int32: every −1 − r is replaced by the class of rank r."""
    order = ops.cast(ops.argsort(-logits, axis=-1), "int32")
    ranks = ops.maximum(-1 - targets, 0)
    ranked = ops.take_along_axis(order, ranks[:, None], axis=-1)[:, 0]
    return ops.where(targets < 0, ranked, targets)
