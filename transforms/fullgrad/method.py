"""FullGrad: a map for every image, and the account that proves it complete (Srinivas & Fleuret, arXiv 1905.00780)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import ops

from transforms.fullgrad import autodiff, maps
from transforms.fullgrad.autodiff import Tensor
from transforms.fullgrad.expose import Exposed
from transforms.fullgrad.terms import Term


@dataclasses.dataclass(frozen=True, slots=True)
class Options:
    """What decides the explanation of an image; see `full_gradients`."""

    maps: str = "reference"
    biases: str = "all"
    contrast: str = "none"
    map_size: tuple[int, int] | None = None
    jit: bool = True

    def __post_init__(self) -> None:
        for name, allowed in (
            ("maps", tuple(maps.RULES)),
            ("biases", ("all", "explicit")),
            ("contrast", ("none", "runner_up")),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, not {getattr(self, name)!r}")


@dataclasses.dataclass(frozen=True, slots=True)
class Explanation:
    """What `full_gradients` returns; NumPy arrays over N images.

    Attributes:
      logits: float32 [N, K], before any softmax or sigmoid.
      targets: int32 [N], the explained class of each image.
      maps: float32 [N, H, W].
      input_term: float32 [N], ⟨∇ₓf, x⟩.
      bias_term: float32 [N], the sum of all layers' terms.
      unlocated_term: float32 [N], the part of the bias term that has no place in the image and is not in the map.
      completeness_error: float32 [N], |f − input_term − bias_term| / (|input_term| + Σ |each layer's term|).
      layer_terms: float32 [N, L], each layer's term, in the order of `layers`.
      layers: the L layers' names.
    """

    logits: np.ndarray
    targets: np.ndarray
    maps: np.ndarray
    input_term: np.ndarray
    bias_term: np.ndarray
    unlocated_term: np.ndarray
    completeness_error: np.ndarray
    layer_terms: np.ndarray
    layers: tuple[str, ...]

    def split(self) -> list[Explanation]:
        """One explanation an image; their arrays are views."""
        return [
            Explanation(**{name: getattr(self, name)[i : i + 1] for name in _ARRAYS}, layers=self.layers)
            for i in range(len(self.targets))
        ]

    @classmethod
    def join(cls, parts: Sequence[Explanation]) -> Explanation:
        """The explanations of all images of all parts (at least one), of the same model and options."""
        arrays = {name: np.concatenate([getattr(part, name) for part in parts]) for name in _ARRAYS}
        return cls(**arrays, layers=parts[0].layers)


_ARRAYS = tuple(field.name for field in dataclasses.fields(Explanation) if field.name != "layers")


def full_gradients(
    exposed: Exposed,
    images: np.ndarray,
    targets: np.ndarray | Sequence[int] | int | None = None,
    *,
    maps: str = "reference",
    biases: str = "all",
    contrast: str = "none",
    map_size: tuple[int, int] | None = None,
    batch_size: int | None = None,
    jit: bool | None = None,
) -> Explanation:
    """Explains images with one forward and one backward pass a batch.

    Args:
      exposed: from `expose`.
      images: float32 [N, H, W, C], preprocessed as the model takes them; any N ≥ 0.
      targets: the class to explain: one an image [N], one for all, or None for the predicted one. A negative number
        −1 − r means the class of rank r in the logits: −1 the predicted, −2 the runner-up.
      maps: `reference`, the authors' maps; `channelwise`, normalised by channel; or `signed`, whose sum is the logit
        less the unlocated term.
      biases: `all` terms, or only the `explicit` ones of biases and BatchNorm, as in the authors' implementation; the
        decomposition is then complete for ReLU networks alone.
      contrast: `none` explains the target's logit; `runner_up` that logit less the largest other one.
      map_size: height and width of the maps; None for the images' own.
      batch_size: images a pass; None for all in batches of at most 32.
      jit: whether XLA compiles; None decides by `prefers_jit`.

    Raises:
      ValueError: the images' shape is not the model's, a target is no class, or an option is unknown.
    """
    images = np.asarray(images, np.float32)
    options = Options(maps, biases, contrast, map_size, prefers_jit() if jit is None else jit)
    _check_images(exposed, images)
    chosen = _check_targets(exposed, targets, len(images))
    size = batch_size or min(32, max(1, len(images)))
    parts = [
        explain_batch(exposed, images[i : i + size], chosen[i : i + size], options, size)
        for i in range(0, max(1, len(images)), size)
    ]
    return Explanation.join(parts)


def explain_batch(
    exposed: Exposed, images: np.ndarray, targets: np.ndarray, options: Options, batch_size: int
) -> Explanation:
    """Explains up to `batch_size` images [n, H, W, C]; fewer are padded, so that there is one trace.

    `targets` are int32 [n] as in `full_gradients`, already checked.
    """
    count = len(images)
    if count < batch_size:
        # Repeating an image instead of zeros keeps whatever a model divides by away from zero.
        fill = images[-1:] if count else np.zeros((1, *_sizes(exposed, images)), np.float32)
        images = np.concatenate([images, np.repeat(fill, batch_size - count, axis=0)])
        targets = np.concatenate([targets, np.full(batch_size - count, -1, np.int32)])
    if options not in exposed.compiled:
        exposed.compiled[options] = _compile(exposed, options)
    outputs, layers = exposed.compiled[options](images, targets)
    arrays = {name: np.asarray(ops.convert_to_numpy(value))[:count] for name, value in outputs.items()}
    return Explanation(**arrays, layers=layers)


def _compile(exposed: Exposed, options: Options) -> Any:
    names: list[str] = []  # known once the function was traced; the same for every shape

    def function(images: Tensor, targets: Tensor) -> dict[str, Tensor]:
        outputs, layers = _decompose(exposed, images, targets, options)
        names[:] = layers
        return outputs

    run = autodiff.compiled(function, jit=options.jit)

    def call(images: np.ndarray, targets: np.ndarray) -> tuple[dict[str, Tensor], tuple[str, ...]]:
        outputs = run(ops.convert_to_tensor(images), ops.convert_to_tensor(targets))
        return outputs, tuple(names)

    return call


def _decompose(
    exposed: Exposed, images: Tensor, targets: Tensor, options: Options
) -> tuple[dict[str, Tensor], list[str]]:
    """f = input term + Σ bias terms, and the map of them: the method itself, on one batch of tensors."""

    def forward(tap: autodiff.Tap) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor, Tensor, list[Term]]]:
        x = tap(images)
        logits, terms = exposed.run(x, tap)
        chosen = _resolve(targets, logits)
        f = _objective(logits, chosen, options.contrast)
        return f, (x, logits, chosen, f, terms)

    (x, logits, chosen, f, terms), gradients = autodiff.tapped_gradients(forward)
    if options.biases == "explicit":
        terms = [term for term in terms if term.explicit]

    products = ops.cast(gradients[x], "float32") * ops.cast(x, "float32")
    located, unlocated, sums = [products], [ops.zeros_like(f)], [_total(products)]
    for term in terms:
        contributions = term.contributions(gradients)
        sums.append(sum((_total(c) for c in contributions), ops.zeros_like(f)))
        if _has_place(contributions):
            located.extend(contributions)
        else:
            unlocated.append(sums[-1])

    layer_terms = ops.stack(sums, axis=1)
    input_term, bias_term = layer_terms[:, 0], ops.sum(layer_terms[:, 1:], axis=1)
    height, width = int(x.shape[1]), int(x.shape[2])
    return {
        "logits": logits,
        "targets": chosen,
        "maps": maps.combine(maps.RULES[options.maps], located, (height, width), options.map_size or (height, width)),
        "input_term": input_term,
        "bias_term": bias_term,
        "unlocated_term": sum(unlocated[1:], unlocated[0]),
        "completeness_error": ops.abs(f - input_term - bias_term) / ops.sum(ops.abs(layer_terms), axis=1),
        "layer_terms": layer_terms[:, 1:],
    }, [term.layer for term in terms]


def _objective(logits: Tensor, targets: Tensor, contrast: str) -> Tensor:
    """The explained number of each image, f [N]."""
    chosen = ops.one_hot(targets, logits.shape[-1], dtype=logits.dtype)
    f = ops.sum(logits * chosen, axis=-1)
    if contrast == "runner_up":
        f = f - ops.max(ops.where(chosen > 0, -math.inf, logits), axis=-1)
    return f


def _resolve(targets: Tensor, logits: Tensor) -> Tensor:
    """Class indices [N] int32, with −1 − r replaced by the class of rank r."""
    order = ops.cast(ops.argsort(-logits, axis=-1), "int32")
    ranks = ops.maximum(-1 - targets, 0)
    ranked = ops.take_along_axis(order, ranks[:, None], axis=-1)[:, 0]
    return ops.where(targets < 0, ranked, targets)


def _total(contribution: Tensor) -> Tensor:
    """Sum over all but the images, in steps, which loses less in float32 than one long sum."""
    while len(contribution.shape) > 1:
        contribution = ops.sum(contribution, axis=-1)
    return contribution


def _has_place(contributions: list[Tensor]) -> bool:
    """Whether all of a term lies on one grid of places in the image."""
    return all(len(c.shape) == 4 for c in contributions) and len({tuple(c.shape[1:3]) for c in contributions}) == 1


def prefers_jit() -> bool:
    """Whether XLA compiles models to something faster than TensorFlow's own graph on this machine.

    On CPUs it does not: oneDNN's convolutions are faster (measured on two cores, images/s: ResNet-20 820 against 680,
    SqueezeNet 39 against 18), depthwise ones by ten times.
    """
    return autodiff.has_accelerator()


def _sizes(exposed: Exposed, images: np.ndarray) -> tuple[int, ...]:
    return tuple(int(size) for size in images.shape[1:])


def _check_images(exposed: Exposed, images: np.ndarray) -> None:
    wanted = exposed.input_shape
    if images.ndim != 4 or any(w not in (None, g) for w, g in zip(wanted, images.shape[1:], strict=False)):
        shown = ", ".join("any" if size is None else str(size) for size in wanted)
        raise ValueError(f"images must have shape [N, {shown}], as the model takes them, but have {images.shape}")


def _check_targets(exposed: Exposed, targets: Any, count: int) -> np.ndarray:
    chosen = np.broadcast_to(np.asarray(-1 if targets is None else targets), (count,))
    if not np.issubdtype(chosen.dtype, np.integer) and chosen.size:
        raise ValueError(f"targets must be class indices, but have dtype {chosen.dtype}")
    if chosen.size and (chosen.max() >= exposed.classes or chosen.min() < -exposed.classes):
        raise ValueError(
            f"targets must lie in 0 … {exposed.classes - 1} (or −{exposed.classes} … −1 for ranks), but reach from "
            f"{chosen.min()} to {chosen.max()}"
        )
    return chosen.astype(np.int32)
