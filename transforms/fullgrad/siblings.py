"""FullGrad's siblings: maps from the same exposed model and the same explained number f, without an account of f.

A method has two parts. Its evidence comes from one forward and one backward pass: tensors [N, h, w, C] of any
resolutions. Its rule makes a map of them. Methods that smooth first average the evidence over noisy copies of the
image, one copy at a time.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from keras import layers, ops

from transforms.fullgrad import maps
from transforms.fullgrad.contributions import Contribution, Product
from transforms.fullgrad.explanation import Options, objective, resolve
from transforms.fullgrad.expose import Exposed
from transforms.fullgrad.flatten import CannotExpose, Step
from transforms.fullgrad.places import IMAGE
from transforms.fullgrad.rules import Rule, without_activation
from transforms.fullgrad.tensorflow import autodiff
from transforms.fullgrad.tensorflow.autodiff import Tensor
from transforms.fullgrad.terms import Part, Run, Term, Values
from transforms.methods import METHODS


class Evidence(NamedTuple):
    """What a map is made of, from one forward and one backward pass.

    Attributes:
      logits: float32 [N, K].
      targets: int32 [N], the explained classes.
      contributions: the evidence itself.
    """

    logits: Tensor
    targets: Tensor
    contributions: list[Contribution]


@dataclasses.dataclass(frozen=True, slots=True)
class Sibling:
    """A method without an account.

    Attributes:
      evidence: takes an exposed model, images [N, H, W, C], targets int32 [N] as in `explain`, and options.
      rule: how the evidence becomes a map.
      foldable: whether the evidence stays the same if BatchNorms are folded into convolutions.
    """

    evidence: Callable[[Exposed, Tensor, Tensor, Options], Evidence]
    rule: Callable[[Options], maps.MapRule]
    foldable: bool = True


# ---- the methods


def _gradients(exposed: Exposed, images: Tensor, targets: Tensor, options: Options) -> Evidence:
    """∂f/∂x; the map is max_c |∂f/∂x_c| (Simonyan et al. 2013, arXiv 1312.6034, section 3.1).

    If it is averaged over noisy copies before the maximum, it is SmoothGrad (Smilkov et al. 2017, arXiv 1706.03825):
    (1/n) Σᵢ ∂f/∂x (x + εᵢ), where εᵢ is normal with standard deviation noise_level · (max x − min x).
    """

    def forward(tap: autodiff.Tap) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
        x = tap(images)
        logits, _ = exposed.run(x, autodiff.untapped)
        chosen = resolve(targets, logits)
        return objective(logits, chosen, options.contrast), (x, logits, chosen)

    (x, logits, chosen), gradients = autodiff.tapped_gradients(forward)
    return Evidence(logits, chosen, [Contribution(Product(gradients.in_float32(x)))])


def _input_x_gradient(exposed: Exposed, images: Tensor, targets: Tensor, options: Options) -> Evidence:
    """x ⊙ ∂f/∂x (Shrikumar et al. 2016, arXiv 1605.01713).

    It is a pixel's share of f to first order, so the map is a sum over channels: its absolute value, or with
    `maps: signed` the sum itself. A signed map adds up to ⟨x, ∂f/∂x⟩.
    """
    logits, chosen, (gradient,) = _gradients(exposed, images, targets, options)
    return Evidence(logits, chosen, [Contribution(Product(gradient.product.gradient, ops.cast(images, "float32")))])


def _simple_fullgrad(exposed: Exposed, images: Tensor, targets: Tensor, options: Options) -> Evidence:
    """x ⊙ ∂f/∂x, and ∂f/∂z at the output z of every layer that has a bias, before its activation.

    This is Simple FullGrad, from the authors' repository (idiap/fullgrad-saliency, saliency/simple_fullgrad.py):
    FullGrad's map with every bias replaced by one. As there, the layers are those with a bias or an effective bias
    (BatchNorm) whose output has positions in the image. If a model has no such layer, the convolutions are used.
    """
    if not any(rule.explicit and step.outputs[0] in exposed.places for step, rule in _steps(exposed)):
        exposed = _with_rules(
            exposed, lambda step, rule: _CONVOLUTION if _is_convolution(step) and _is_spatial(exposed, step) else rule
        )

    def forward(tap: autodiff.Tap) -> tuple[Tensor, tuple[Any, ...]]:
        x = tap(images)
        logits, terms = exposed.run(x, tap)
        chosen = resolve(targets, logits)
        return objective(logits, chosen, options.contrast), (x, logits, chosen, terms)

    (x, logits, chosen, terms), gradients = autodiff.tapped_gradients(forward)
    contributions = [Contribution(Product(gradients.in_float32(x), ops.cast(x, "float32")))]
    for term in terms:
        if term.explicit and isinstance(term, Term):  # all are, without an early condenser
            ones = tuple(dataclasses.replace(part, multiplier=ops.ones_like(part.tensor)) for part in term.parts)
            contributions.extend(dataclasses.replace(term, parts=ones).contributions(gradients).located)
    return Evidence(logits, chosen, contributions)


def _grad_cam(exposed: Exposed, images: Tensor, targets: Tensor, options: Options) -> Evidence:
    """α_k A_k, where A is the last spatial activation and α_k the mean of ∂f/∂A_k over positions.

    Grad-CAM (Selvaraju et al. 2017, arXiv 1610.02391, equations 1 and 2); the map is the ReLU of the sum over k.
    """
    last = last_spatial_step(exposed)

    def forward(tap: autodiff.Tap) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
        found: list[Tensor] = []

        def tapped(rule: Rule) -> Rule:
            def apply(run: Run, step: Step, values: Values) -> Tensor:
                found.append(tap(rule.apply(run, step, values)))
                return found[0]

            return dataclasses.replace(rule, apply=apply)

        watched = _with_rules(exposed, lambda step, rule: tapped(rule) if step is last else rule)
        logits, _ = watched.run(images, autodiff.untapped)
        chosen = resolve(targets, logits)
        return objective(logits, chosen, options.contrast), (found[0], logits, chosen)

    (activation, logits, chosen), gradients = autodiff.tapped_gradients(forward)
    weights = ops.mean(gradients.in_float32(activation), axis=(1, 2), keepdims=True)
    return Evidence(logits, chosen, [Contribution(Product(weights * ops.cast(activation, "float32")))])


def last_spatial_step(exposed: Exposed) -> Step:
    """The last step whose output is an image [N, h, w, C] with h·w > 1: Grad-CAM's activation.

    The classifier's head takes this output, after an activation function and any pooling that leaves positions. In a
    transformer, it is the output that is cut into tokens. A size that the model leaves open counts as more than one.

    Raises:
      CannotExpose: there is none.
    """
    for step in reversed(exposed.program.steps):
        if _is_spatial(exposed, step):
            return step
    raise CannotExpose(
        f"model {exposed.model.name!r} has no activation with places in the image, [N, h, w, C], which the method "
        "grad_cam needs"
    )


def check_method(exposed: Exposed, method: str) -> None:
    """Checks that a model has what a method needs.

    Raises:
      CannotExpose: the model lacks it; one sentence.
    """
    if method == "grad_cam":
        last_spatial_step(exposed)


# ---- from contributions to maps


def _largest(contribution: Contribution) -> Tensor:
    """max_c |t_c|."""
    return ops.max(contribution.magnitudes().tensor, axis=-1)


def _absolute_sum(contribution: Contribution) -> Tensor:
    """|Σ_c t_c|."""
    return ops.abs(contribution.sums())


def _positive_sum(contribution: Contribution) -> Tensor:
    """ReLU(Σ_c t_c)."""
    return ops.relu(contribution.sums())


def _channelwise_like(condense: Callable[[Contribution], Tensor]) -> maps.MapRule:
    """A rule that resizes as `channelwise` does: half-pixel bilinear to the input's size."""
    return dataclasses.replace(maps.RULES["channelwise"], condense=condense)


_GRADIENTS = Sibling(_gradients, lambda options: _channelwise_like(_largest))

SIBLINGS = {
    "gradients": _GRADIENTS,
    "input_x_gradient": Sibling(
        _input_x_gradient,
        lambda options: maps.RULES["signed"] if options.maps == "signed" else _channelwise_like(_absolute_sum),
    ),
    "smoothgrad": _GRADIENTS,
    "simple_fullgrad": Sibling(_simple_fullgrad, lambda options: maps.RULES["reference"], foldable=False),
    "grad_cam": Sibling(_grad_cam, lambda options: _channelwise_like(_positive_sum), foldable=False),
}


# ---- on batches

Compiled = Callable[[np.ndarray, np.ndarray], tuple[dict[str, Any], tuple[str, ...]]]


def compile_sibling(exposed: Exposed, options: Options, sibling: Sibling) -> Compiled:
    """A function of images float32 [N, H, W, C] and targets int32 [N] that returns the fields of an `Explanation`.

    Raises:
      CannotExpose: the model lacks what the method needs.
    """
    check_method(exposed, options.method)
    if sibling.foldable:
        exposed = exposed.folded
    make_maps = (
        _smoothed(exposed, options, sibling) if METHODS[options.method].noise else _plain(exposed, options, sibling)
    )

    def explain(images: np.ndarray, targets: np.ndarray) -> tuple[dict[str, Any], tuple[str, ...]]:
        logits, chosen, made = make_maps(images, targets)
        missing = np.full(len(images), np.nan, np.float32)
        return {
            "logits": logits,
            "targets": chosen,
            "maps": made,
            "input_term": missing,
            "bias_term": missing,
            "unlocated_term": missing,
            "completeness_error": missing,
            "layer_terms": np.zeros((len(images), 0), np.float32),
            "evidence": np.zeros((len(images), 0, 0), np.float32),
            "channel_terms": np.zeros((len(images), 0), np.float32),
            "after_term": missing,
        }, ()

    return explain


_MakeMaps = Callable[[np.ndarray, np.ndarray], tuple[Tensor, Tensor, Tensor]]


def _plain(exposed: Exposed, options: Options, sibling: Sibling) -> _MakeMaps:
    def function(images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logits, chosen, contributions = sibling.evidence(exposed, images, targets, options)
        return logits, chosen, _combined(sibling, options, images, contributions)

    run = autodiff.compiled(function, jit=options.jit)
    return lambda images, targets: run(ops.convert_to_tensor(images), ops.convert_to_tensor(targets))


def _smoothed(exposed: Exposed, options: Options, sibling: Sibling) -> _MakeMaps:
    """Averages the evidence over noisy copies; logits and explained classes are those of the image itself."""

    def clean(images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        logits, _ = exposed.run(images, autodiff.untapped)
        return logits, resolve(targets, logits)

    def noisy(images: Tensor, targets: Tensor, seeds: Tensor, sample: Tensor) -> list[Tensor]:
        spread = ops.max(images, axis=(1, 2, 3), keepdims=True) - ops.min(images, axis=(1, 2, 3), keepdims=True)
        noise = autodiff.normal_noise(seeds, sample, tuple(images.shape[1:]))
        copies = images + options.noise_level * spread * noise
        contributions = sibling.evidence(exposed, copies, targets, options).contributions
        return [tensor for contribution in contributions for tensor in contribution.tensors()]

    def averaged(images: Tensor, total: list[Tensor]) -> Tensor:
        return _combined(sibling, options, images, [Contribution(Product(each / options.samples)) for each in total])

    run_clean, run_noisy, run_averaged = (
        autodiff.compiled(function, jit=options.jit) for function in (clean, noisy, averaged)
    )

    def run(images: np.ndarray, targets: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
        seeds = ops.convert_to_tensor(noise_seeds(images, options.seed))
        tensor = ops.convert_to_tensor(images)
        logits, chosen = run_clean(tensor, ops.convert_to_tensor(targets))
        total: list[Tensor] = []
        for sample in range(options.samples):
            # A tensor, since every Python number would be traced again.
            contributions = run_noisy(tensor, chosen, seeds, ops.convert_to_tensor(sample, "int32"))
            total = [a + b for a, b in zip(total, contributions, strict=True)] if total else contributions
        return logits, chosen, run_averaged(tensor, total)

    return run


def _combined(sibling: Sibling, options: Options, images: Tensor, contributions: list[Contribution]) -> Tensor:
    size = int(images.shape[1]), int(images.shape[2])
    rule = sibling.rule(options)
    return maps.combine(rule, [rule.condense(each) for each in contributions], size, options.map_size or size)


def noise_seeds(images: np.ndarray, seed: int) -> np.ndarray:
    """The seeds of the images' noise. Each depends only on `seed` and on the image, not on the batch.

    Args:
      images: float32 [N, H, W, C].
      seed: 0 or more.

    Returns:
      int32 [N, 2], halves of the BLAKE2b hash of the seed and the pixels' bytes, little-endian.
    """
    hashes = [
        hashlib.blake2b(f"{seed}\n".encode() + image.astype("<f4").tobytes(), digest_size=8).digest()
        for image in images
    ]
    return np.frombuffer(b"".join(hashes), "<i4").astype(np.int32).reshape(-1, 2)


# ---- replaced rules of steps


def _steps(exposed: Exposed) -> list[tuple[Step, Rule]]:
    return list(zip(exposed.program.steps, exposed.rules, strict=True))


def _with_rules(exposed: Exposed, rule_of: Callable[[Step, Rule], Rule]) -> Exposed:
    return dataclasses.replace(exposed, rules=tuple(rule_of(step, rule) for step, rule in _steps(exposed)))


def _is_spatial(exposed: Exposed, step: Step) -> bool:
    """Whether a step makes a single tensor [N, h, w, C] whose middle axes are the image's, not both of length 1."""
    shapes = [value.shape for value in step.outputs if exposed.places.get(value) == IMAGE]
    return len(step.outputs) == len(shapes) == 1 and shapes[0][1:3] != (1, 1)


def _is_convolution(step: Step) -> bool:
    return isinstance(
        step.operation, layers.Conv2D | layers.DepthwiseConv2D | layers.SeparableConv2D | layers.Conv2DTranspose
    )


def _convolution_without_bias(run: Run, step: Step, values: Values) -> Tensor:
    """Taps the output before the activation, like the rule for a bias."""
    z = run.tap(without_activation(step).call(values))
    run.add(step, Part(z, ops.zeros_like(z)), explicit=True)
    return step.operation.activation(z)


_CONVOLUTION = Rule("", _convolution_without_bias)
