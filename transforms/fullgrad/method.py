"""FullGrad: a map for every image, and an account that proves it complete (Srinivas & Fleuret, arXiv 1905.00780).

`explain` and `explain_batch` run every method, FullGrad and its siblings.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from keras import ops

from transforms.fullgrad import condensing, maps
from transforms.fullgrad.agreement import FirstBatch
from transforms.fullgrad.arguments import images_given, targets_given
from transforms.fullgrad.channels import Cut, channel_terms, find_cut
from transforms.fullgrad.condensing import Condenser
from transforms.fullgrad.contributions import (
    AnyContribution,
    Condensed,
    CondensedContribution,
    Contribution,
    Product,
    merge_neighbours,
    total,
)
from transforms.fullgrad.explanation import Explanation, Options, explained_numbers, objective, resolve
from transforms.fullgrad.expose import Exposed, expose
from transforms.fullgrad.siblings import SIBLINGS, Compiled, Evidence, Sibling, compile_sibling
from transforms.fullgrad.tensorflow import autodiff
from transforms.fullgrad.tensorflow.autodiff import Tensor
from transforms.fullgrad.terms import Run, TermContributions
from transforms.methods import NOISE_LEVEL, SAMPLES


def full_gradients(
    exposed: Exposed | Any,
    images: Any,
    targets: np.ndarray | Sequence[int] | int | None = None,
    *,
    maps: str = "reference",
    biases: str = "all",
    contrast: str = "none",
    channels: str = "none",
    map_size: tuple[int, int] | None = None,
    evidence_size: tuple[int, int] | None = None,
    batch_size: int | None = None,
    jit: bool | None = None,
) -> Explanation:
    """Explains images by FullGrad, with one forward and one backward pass a batch.

    Args:
      exposed: from `expose`. A model, or a model file's path, is exposed first; do that once for several calls.
      images: float32 [N, H, W, C], preprocessed for the model; any N ≥ 0. `arguments.images_given` says what else is
        taken, and why pixels 0 … 255 are taken only if the model scales them itself.
      targets: the class to explain: one for each image [N], one for all, or None for the predicted class. A negative
        number −1 − r means the class with rank r among the logits: −1 the predicted class, −2 the runner-up.
      maps: `reference`, the authors' maps; `channelwise`, normalised channel by channel; or `signed`, whose sum is the
        logit less the unlocated term.
      biases: `all` terms, or only the `explicit` ones of biases and BatchNorm, as in the authors' implementation. The
        decomposition is then complete only for ReLU networks.
      contrast: `none` explains the target's logit; `runner_up` explains that logit less the largest other one.
      channels: the name of a layer, for the contribution of each of its channels; `auto` takes the last layer whose
        output has places in the image, `none` none.
      map_size: height and width of the maps; None for those of the images.
      evidence_size: height and width of the `evidence`, which is made beside the maps; None for none.
      batch_size: images a pass; None for at most 32.
      jit: whether XLA compiles; None decides by `prefers_jit`.

    Raises:
      ValueError: the images' shape is not the model's, a value is not finite, a target is no class, or an option is
        unknown.
      TypeError: these are no images, or pixels whose scale is not known.
    """
    return explain(
        exposed,
        images,
        targets,
        maps=maps,
        biases=biases,
        contrast=contrast,
        channels=channels,
        map_size=map_size,
        evidence_size=evidence_size,
        batch_size=batch_size,
        jit=jit,
    )


def explain(
    exposed: Exposed | Any,
    images: Any,
    targets: np.ndarray | Sequence[int] | int | None = None,
    *,
    method: str = "fullgrad",
    maps: str = "reference",
    biases: str = "all",
    contrast: str = "none",
    channels: str = "none",
    map_size: tuple[int, int] | None = None,
    evidence_size: tuple[int, int] | None = None,
    samples: int = SAMPLES,
    noise_level: float = NOISE_LEVEL,
    seed: int = 0,
    batch_size: int | None = None,
    jit: bool | None = None,
) -> Explanation:
    """Explains images with any of the methods.

    The methods are these. The code that computes each names its source:

      fullgrad          as `full_gradients`
      gradients         max_c |∂f/∂x_c|
      input_x_gradient  |Σ_c x_c · ∂f/∂x_c|
      smoothgrad        max_c |mean of ∂f/∂x_c over noisy copies|
      simple_fullgrad   FullGrad with every bias replaced by one
      smooth_fullgrad   FullGrad of each term's mean over noisy copies
      grad_cam          ReLU(Σ_k α_k A_k), A the last spatial activation, α_k the mean of ∂f/∂A_k

    Only `fullgrad` decomposes f; the terms of other methods are NaN.

    Args:
      exposed, images, targets, contrast, batch_size, jit: as in `full_gradients`.
      method: the name of the method.
      maps: as in `full_gradients`, for `fullgrad` and `smooth_fullgrad`. For `input_x_gradient`, `signed` takes no
        absolute value, so that a map's sum is ⟨x, ∂f/∂x⟩. Other methods make one kind of map, called `reference`.
      biases: as in `full_gradients`, for `fullgrad` and `smooth_fullgrad`.
      channels, evidence_size: as in `full_gradients`, for `fullgrad` alone; other methods have none.
      map_size: height and width of the maps; None for those of the images. Maps are made at the images' size; another
        size takes the mean (for signed maps, the sum) over each pixel's area.
      samples: how many noisy copies `smoothgrad` and `smooth_fullgrad` average over.
      noise_level: the noise's standard deviation, as a fraction of the image's largest less its smallest value.
      seed: the noise's seed. The noise depends only on it and on the image.

    Raises:
      ValueError: as `full_gradients`, or the method does not take an option.
      CannotExpose: the model does not have what the method needs.
    """
    if not isinstance(exposed, Exposed):
        exposed = expose(exposed)
    layers = [type(step.operation).__name__ for step in exposed.program.steps]
    images = images_given(images, exposed.input_shape, layers)
    options = Options(
        method=method,
        maps=maps,
        biases=biases,
        contrast=contrast,
        channels=channels,
        map_size=map_size,
        evidence_size=evidence_size,
        samples=samples,
        noise_level=noise_level,
        seed=seed,
        jit=prefers_jit() if jit is None else jit,
    )
    chosen = targets_given(targets, len(images), exposed.classes)
    size = batch_size or min(32, max(1, len(images)))
    parts = [
        explain_batch(exposed, images[i : i + size], chosen[i : i + size], options, size)
        for i in range(0, max(1, len(images)), size)
    ]
    return Explanation.join(parts)


def explain_batch(
    exposed: Exposed, images: np.ndarray, targets: np.ndarray, options: Options, batch_size: int
) -> Explanation:
    """Explains up to `batch_size` images [n, H, W, C]. Fewer images are padded, so that there is a single trace.

    `targets` are int32 [n] as in `full_gradients`, already checked.

    Raises:
      CannotExpose: the model lacks what the method needs, or the logits of the first batch are not the model's own.
    """
    count = len(images)
    if count < batch_size:
        # Padding repeats an image, since a model may divide by something that is 0 for an image of zeros.
        fill = images[-1:] if count else np.zeros((1, *_sizes(exposed, images)), np.float32)
        images = np.concatenate([images, np.repeat(fill, batch_size - count, axis=0)])
        targets = np.concatenate([targets, np.full(batch_size - count, -1, np.int32)])
    if (compiled := exposed.compiled.get(options)) is None:
        # If several threads arrive together, one result is kept and all use it; they wait while it is traced.
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
    condenser = condensing.choose(rule, implicit=options.biases == "all", jit=options.jit)
    cut = find_cut(exposed.program, exposed.places, options.channels)
    folded = _folded(exposed, cut, activations=condenser.early is not None)
    names: list[str] = []  # known after the function is traced; the same for every shape

    def function(images: Tensor, targets: Tensor) -> dict[str, Tensor]:
        found = _decompose(folded, images, targets, options, condenser, cut)
        names[:] = found.layers
        condensed = [_condense(each, condenser) for each in found.located]
        totals = ops.concatenate([each.totals for each in condensed], axis=1)
        return {
            **_account(found, totals),
            "logits": found.logits,
            "targets": found.targets,
            "maps": _combine([each.map for each in condensed], images, options, condenser),
            "evidence": _evidence([each.evidence for each in condensed], images, options),
        }

    run = autodiff.compiled(function, jit=options.jit)

    def call(images: np.ndarray, targets: np.ndarray) -> tuple[dict[str, Tensor], tuple[str, ...]]:
        outputs = run(ops.convert_to_tensor(images), ops.convert_to_tensor(targets))
        return outputs, tuple(names)

    return call


def _folded(exposed: Exposed, cut: Cut | None, *, activations: bool) -> Exposed:
    if cut is not None:
        return exposed.folded_beside(cut.value, activations=activations)
    return exposed.folded_with_activations if activations else exposed.folded


def _condense(contribution: AnyContribution, condenser: Condenser) -> Condensed:
    if isinstance(contribution, CondensedContribution):
        return contribution.condensed
    return condenser.condense(contribution)


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class _Decomposition:
    """The decomposition of f for one batch of N images.

    Attributes:
      logits, targets: as in an `Explanation`.
      f: float32 [N], the explained number.
      layers: the names of the bias terms.
      located: the contributions with a position in the image, in the order of the terms; the input's come first.
      counts: how many contributions of `located` each term has; the input's comes first.
      unlocated: float32 [N, 1 + terms], the part of each term without a position; the input's comes first.
      channel_terms: float32 [N, C], of the layer at the cut; C is 0 without a cut.
      before_cut: how many of `layers` come before the cut; None without a cut.
    """

    logits: Tensor
    targets: Tensor
    f: Tensor
    layers: list[str]
    located: list[AnyContribution]
    counts: list[int]
    unlocated: Tensor
    channel_terms: Tensor
    before_cut: int | None

    @property
    def plain(self) -> list[Contribution]:
        """The located contributions of a run without an early condenser, none of which is condensed yet."""
        return cast(list[Contribution], self.located)


def _decompose(
    exposed: Exposed,
    images: Tensor,
    targets: Tensor,
    options: Options,
    condenser: Condenser | None = None,
    cut: Cut | None = None,
) -> _Decomposition:
    """f = input term + Σ bias terms: the method itself, on one batch of tensors."""

    def forward(tap: autodiff.Tap) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor, Tensor, Run]]:
        x = tap(images)
        run = Run(tap, exposed.places, None if condenser is None else condenser.early, images.shape[0])
        logits = exposed.forward(run, x, cut)
        chosen = resolve(targets, logits)
        f = objective(logits, chosen, options.contrast)
        return f, (x, logits, chosen, f, run)

    (x, logits, chosen, f, run), gradients = autodiff.tapped_gradients(forward)
    kept = [(i, term) for i, term in enumerate(run.terms) if term.explicit or options.biases == "all"]
    terms = [term for _, term in kept]
    at_cut = run.at_cut

    of_input = Contribution(Product(gradients.in_float32(x), ops.cast(x, "float32")))
    contributions = [TermContributions([of_input], []), *(term.contributions(gradients) for term in terms)]
    return _Decomposition(
        logits=logits,
        targets=chosen,
        f=f,
        layers=[term.layer for term in terms],
        located=merge_neighbours(each for found in contributions for each in found.located),
        counts=[len(found.located) for found in contributions],
        unlocated=ops.stack([sum(map(total, found.unlocated), ops.zeros_like(f)) for found in contributions], axis=1),
        channel_terms=ops.zeros((images.shape[0], 0))
        if at_cut is None
        else channel_terms(gradients.in_float32(at_cut.tensor), at_cut.tensor),
        before_cut=None if at_cut is None else sum(i < at_cut.terms_before for i, _ in kept),
    )


def _account(found: _Decomposition, totals: Tensor) -> dict[str, Tensor]:
    """The terms of an `Explanation`, from the totals [N, …] of all located contributions."""
    f, each = found.f, iter(ops.unstack(totals, axis=1))
    located = [sum((next(each) for _ in range(count)), ops.zeros_like(f)) for count in found.counts]
    layer_terms = ops.stack(located, axis=1) + found.unlocated
    # All terms may be zero, as for a black image without biases; then the error must be zero too, not NaN.
    scale = ops.maximum(ops.sum(ops.abs(layer_terms), axis=1), 1e-30)
    input_term, bias_term = layer_terms[:, 0], ops.sum(layer_terms[:, 1:], axis=1)
    return {
        "input_term": input_term,
        "bias_term": bias_term,
        "unlocated_term": ops.sum(found.unlocated, axis=1),
        "completeness_error": ops.abs(f - input_term - bias_term) / scale,
        "layer_terms": layer_terms[:, 1:],
        "channel_terms": found.channel_terms,
        "after_term": ops.full_like(f, math.nan)
        if found.before_cut is None
        else ops.sum(layer_terms[:, 1 + found.before_cut :], axis=1),
    }


def _combine(condensed: list[Tensor], images: Tensor, options: Options, condenser: Condenser) -> Tensor:
    size = int(images.shape[1]), int(images.shape[2])
    rule = maps.RULES[options.maps]
    return maps.combine(rule, condensed, size, options.map_size or size, condenser.add_resized)


def _evidence(sums: list[Tensor], images: Tensor, options: Options) -> Tensor:
    if options.evidence_size is None:
        return ops.zeros((images.shape[0], 0, 0))
    return maps.evidence(sums, (int(images.shape[1]), int(images.shape[2])), options.evidence_size)


def _located_terms(exposed: Exposed, images: Tensor, targets: Tensor, options: Options) -> Evidence:
    """FullGrad's terms, which Smooth FullGrad averages before ψ makes their map.

    The authors do the same (idiap/fullgrad-saliency, saliency/smooth_fullgrad.py): they average each term over noisy
    copies and then normalise it. But they sum the input's term over channels first. Here it is treated as in FullGrad,
    so that the map becomes FullGrad's as the noise vanishes.
    """
    found = _decompose(exposed, images, targets, options)
    return Evidence(found.logits, found.targets, found.plain)


_SIBLINGS = {**SIBLINGS, "smooth_fullgrad": Sibling(_located_terms, lambda options: maps.RULES[options.maps])}


def channel_layer(exposed: Exposed, channels: str) -> str | None:
    """The name of the layer whose channels' contributions are computed; None if there are none.

    Args:
      channels: as in `full_gradients`.

    Raises:
      CannotExpose: the layer is not there or has no such contributions; the message names those that have.
    """
    cut = find_cut(exposed.program, exposed.places, channels)
    return None if cut is None else cut.step.name


def prefers_jit() -> bool:
    """Whether XLA makes models faster on this machine than TensorFlow's own graph.

    On CPUs it does not. oneDNN's convolutions are faster than XLA's (measured on two cores, images/s: ResNet-20 820
    against 680, SqueezeNet 39 against 18); depthwise ones are ten times as fast.
    """
    return autodiff.has_accelerator()


def _sizes(exposed: Exposed, images: np.ndarray) -> tuple[int, ...]:
    return tuple(int(size) for size in images.shape[1:])
