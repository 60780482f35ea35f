"""FullGrad: a map for every image, and the account that proves it complete (Srinivas & Fleuret, arXiv 1905.00780).

And the way into every method: `explain`, and `explain_batch` for batches of one size.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from keras import ops

from transforms.fullgrad import autodiff, maps, operations
from transforms.fullgrad.agreement import FirstBatch
from transforms.fullgrad.autodiff import Tensor
from transforms.fullgrad.explanation import Explanation, Options, explained_numbers, objective, resolve
from transforms.fullgrad.expose import Exposed
from transforms.fullgrad.located import Condensed, Contribution, Located, Product, Read, together, total
from transforms.fullgrad.operations import Reading
from transforms.fullgrad.siblings import SIBLINGS, Compiled, Evidence, Sibling, compile_sibling
from transforms.fullgrad.terms import AnyTerm, Contributions
from transforms.methods import NOISE_LEVEL, SAMPLES


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
    return explain(
        exposed,
        images,
        targets,
        maps=maps,
        biases=biases,
        contrast=contrast,
        map_size=map_size,
        batch_size=batch_size,
        jit=jit,
    )


def explain(
    exposed: Exposed,
    images: np.ndarray,
    targets: np.ndarray | Sequence[int] | int | None = None,
    *,
    method: str = "fullgrad",
    maps: str = "reference",
    biases: str = "all",
    contrast: str = "none",
    map_size: tuple[int, int] | None = None,
    samples: int = SAMPLES,
    noise_level: float = NOISE_LEVEL,
    seed: int = 0,
    batch_size: int | None = None,
    jit: bool | None = None,
) -> Explanation:
    """Explains images with any of the methods.

    The methods, each with its source where it is computed:

      fullgrad          as `full_gradients`
      gradients         max_c |∂f/∂x_c|
      input_x_gradient  |Σ_c x_c · ∂f/∂x_c|
      smoothgrad        max_c |mean of ∂f/∂x_c over noisy copies|
      simple_fullgrad   FullGrad with every bias replaced by one
      smooth_fullgrad   FullGrad of each term's mean over noisy copies
      grad_cam          ReLU(Σ_k α_k A_k), A the last spatial activation, α_k the mean of ∂f/∂A_k

    Only `fullgrad` decomposes f; the others' terms are NaN.

    Args:
      exposed, images, targets, contrast, batch_size, jit: as in `full_gradients`.
      method: the name of the method.
      maps: as in `full_gradients`, with `fullgrad` and `smooth_fullgrad`; with `input_x_gradient`, `signed` takes no
        absolute value, so that a map's sum is ⟨x, ∂f/∂x⟩. Other methods make one kind of map, called `reference`.
      biases: as in `full_gradients`, with `fullgrad` and `smooth_fullgrad`.
      map_size: height and width of the maps; None for the images' own, at which maps are made, and from which others
        are the mean (the sum, where signed) over each pixel's area.
      samples: how many noisy copies `smoothgrad` and `smooth_fullgrad` average over.
      noise_level: their noise's standard deviation, as a fraction of the image's largest less its smallest value.
      seed: of their noise, which depends on it and the image alone.

    Raises:
      ValueError: as `full_gradients`, or an option is not taken by the method.
      CannotExpose: the model does not have what the method needs.
    """
    images = np.asarray(images, np.float32)
    options = Options(
        method=method,
        maps=maps,
        biases=biases,
        contrast=contrast,
        map_size=map_size,
        samples=samples,
        noise_level=noise_level,
        seed=seed,
        jit=prefers_jit() if jit is None else jit,
    )
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

    Raises:
      CannotExpose: the model does not have what the method needs, or the logits of its first batch are not its own.
    """
    count = len(images)
    if count < batch_size:
        # Repeating an image instead of zeros keeps whatever a model divides by away from zero.
        fill = images[-1:] if count else np.zeros((1, *_sizes(exposed, images)), np.float32)
        images = np.concatenate([images, np.repeat(fill, batch_size - count, axis=0)])
        targets = np.concatenate([targets, np.full(batch_size - count, -1, np.int32)])
    if (compiled := exposed.compiled.get(options)) is None:
        # Of several threads that come here first, all take what one of them made, and wait while it is traced.
        compiled = exposed.compiled.setdefault(options, _compile(exposed, options))
    first = None if exposed.agreements else FirstBatch(exposed, images)
    outputs, layers = compiled(images, targets)
    arrays = {name: np.asarray(ops.convert_to_numpy(value))[:count] for name, value in outputs.items()}
    explained, contrast_class = explained_numbers(arrays["logits"], arrays["targets"], options.contrast)
    if first is not None:
        first.check(arrays["logits"])
    return Explanation(**arrays, explained=explained, contrast_class=contrast_class, layers=layers)


def _compile(exposed: Exposed, options: Options) -> Compiled:
    if options.method != "fullgrad":
        return compile_sibling(exposed, options, _SIBLINGS[options.method])
    rule = maps.RULES[options.maps]
    reading = _reading(rule, options)
    folded = exposed.folded if reading is None else exposed.folded_for_operations
    names: list[str] = []  # known once the function was traced; the same for every shape

    def function(images: Tensor, targets: Tensor) -> dict[str, Tensor]:
        found = _decompose(folded, images, targets, options, reading)
        names[:] = found.layers
        condensed = [_condense(each, rule, reading) for each in found.located]
        totals = ops.concatenate([each.totals for each in condensed], axis=1)
        return {
            **_account(found.f, totals, found.unlocated, found.counts),
            "logits": found.logits,
            "targets": found.targets,
            "maps": _combine([each.map for each in condensed], images, options, by_operations=reading is not None),
        }

    run = autodiff.compiled(function, jit=options.jit)

    def call(images: np.ndarray, targets: np.ndarray) -> tuple[dict[str, Tensor], tuple[str, ...]]:
        outputs = run(ops.convert_to_tensor(images), ops.convert_to_tensor(targets))
        return outputs, tuple(names)

    return call


def _reading(rule: maps.MapRule, options: Options) -> Reading | None:
    """How our own operations read contributions; None where TensorFlow's do."""
    if rule.reading is None or options.jit or autodiff.has_accelerator() or not operations.available():
        return None
    return dataclasses.replace(rule.reading, implicit=options.biases == "all", threads=autodiff.threads_a_call())


def _condense(contribution: Contribution, rule: maps.MapRule, reading: Reading | None) -> Condensed:
    if isinstance(contribution, Read):
        return contribution.condensed
    if reading is not None:
        return operations.condense(contribution, reading)
    return Condensed(rule.condense(contribution), contribution.totals())


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class _Decomposition:
    """One batch of N images, taken apart.

    Attributes:
      logits, targets: as in an `Explanation`.
      f: float32 [N], the explained number.
      layers: the names of the terms, without the input's.
      located: what has a place, in the order of the terms, the input's first.
      counts: how many contributions of `located` each term has, the input's first.
      unlocated: float32 [N, 1 + terms], each term's part that has no place, the input's first.
    """

    logits: Tensor
    targets: Tensor
    f: Tensor
    layers: list[str]
    located: list[Contribution]
    counts: list[int]
    unlocated: Tensor

    @property
    def plain(self) -> list[Located]:
        """What has a place, of a model that was not folded for operations: nothing of it was read already."""
        return cast(list[Located], self.located)


def _decompose(
    exposed: Exposed, images: Tensor, targets: Tensor, options: Options, reading: Reading | None = None
) -> _Decomposition:
    """f = input term + Σ bias terms: the method itself, on one batch of tensors."""

    def forward(tap: autodiff.Tap) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor, Tensor, list[AnyTerm]]]:
        x = tap(images)
        logits, terms = exposed.run(x, tap, reading)
        chosen = resolve(targets, logits)
        f = objective(logits, chosen, options.contrast)
        return f, (x, logits, chosen, f, terms)

    (x, logits, chosen, f, terms), gradients = autodiff.tapped_gradients(forward)
    if options.biases == "explicit":
        terms = [term for term in terms if term.explicit]

    of_input = Located(Product(gradients.in_float32(x), ops.cast(x, "float32")))
    contributions = [Contributions([of_input], []), *(term.contributions(gradients) for term in terms)]
    return _Decomposition(
        logits=logits,
        targets=chosen,
        f=f,
        layers=[term.layer for term in terms],
        located=together(each for found in contributions for each in found.located),
        counts=[len(found.located) for found in contributions],
        unlocated=ops.stack([sum(map(total, found.unlocated), ops.zeros_like(f)) for found in contributions], axis=1),
    )


def _account(f: Tensor, totals: Tensor, unlocated: Tensor, counts: list[int]) -> dict[str, Tensor]:
    """The terms of an `Explanation`, from the totals [N, …] of what is located; the rest as in a `_Decomposition`."""
    each = iter(ops.unstack(totals, axis=1))
    located = [sum((next(each) for _ in range(count)), ops.zeros_like(f)) for count in counts]
    layer_terms = ops.stack(located, axis=1) + unlocated
    # Where there is no term at all, as of a black image without biases, nothing may be missing either.
    scale = ops.maximum(ops.sum(ops.abs(layer_terms), axis=1), 1e-30)
    input_term, bias_term = layer_terms[:, 0], ops.sum(layer_terms[:, 1:], axis=1)
    return {
        "input_term": input_term,
        "bias_term": bias_term,
        "unlocated_term": ops.sum(unlocated, axis=1),
        "completeness_error": ops.abs(f - input_term - bias_term) / scale,
        "layer_terms": layer_terms[:, 1:],
    }


def _combine(condensed: list[Tensor], images: Tensor, options: Options, *, by_operations: bool) -> Tensor:
    size = int(images.shape[1]), int(images.shape[2])
    rule = maps.RULES[options.maps]
    return maps.combine(rule, condensed, size, options.map_size or size, by_operations=by_operations)


def _located_terms(exposed: Exposed, images: Tensor, targets: Tensor, options: Options) -> Evidence:
    """FullGrad's terms, which Smooth FullGrad averages before ψ makes their map.

    As the authors (idiap/fullgrad-saliency, saliency/smooth_fullgrad.py), who average each term over noisy copies and
    then normalise it; but for the input's term, which they sum over channels first. Here it is treated as FullGrad
    treats it, so that the map is FullGrad's where the noise vanishes.
    """
    found = _decompose(exposed, images, targets, options)
    return Evidence(found.logits, found.targets, found.plain)


_SIBLINGS = {**SIBLINGS, "smooth_fullgrad": Sibling(_located_terms, lambda options: maps.RULES[options.maps])}


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
