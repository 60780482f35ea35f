"""Checks the account step by step, to name the layers that break it if it fails as a whole."""

from __future__ import annotations

import dataclasses
from typing import cast

import keras
import numpy as np
from keras import ops

from transforms.fullgrad import terms
from transforms.fullgrad.expose import Exposed
from transforms.fullgrad.tensorflow import autodiff
from transforms.fullgrad.tensorflow.autodiff import Tensor


@dataclasses.dataclass(frozen=True, slots=True)
class StepAccounts:
    """The account of every step.

    Attributes:
      steps: the S steps' names.
      missing: float64 [N, S], Σ g_y·y − Σ g_x·x − the step's terms: what a step adds to the logit beyond its terms.
        If its rule is right, this is zero but for rounding.
      scale: float64 [N], Σ |g_y·y| over all steps; `missing` is judged against it.
    """

    steps: tuple[str, ...]
    missing: np.ndarray
    scale: np.ndarray

    def unaccounted(self, tolerance: float) -> list[str]:
        """The steps that miss more than `tolerance` of the scale for some image; the worst comes first."""
        worst = (np.abs(self.missing) / self.scale[:, None]).max(axis=0)
        return [self.steps[i] for i in np.argsort(-worst) if not worst[i] <= tolerance]


def account_for_steps(exposed: Exposed, images: np.ndarray) -> StepAccounts:
    """Decomposes the predicted class's logit with all inputs and outputs of every step tapped.

    Args:
      exposed: from `expose`.
      images: float32 [N, H, W, C], preprocessed for the model.
    """
    count = len(images)

    def forward(tap: autodiff.Tap) -> tuple[Tensor, list[_Ends]]:
        run = terms.Run(tap, exposed.places)
        values = {exposed.program.input: ops.convert_to_tensor(images)}
        ends = []
        for step, rule in zip(exposed.program.steps, exposed.rules, strict=True):
            own = {v: tap(values[v]) if _is_floating(values[v]) else values[v] for v in step.inputs}
            before = len(run.terms)
            made = keras.tree.flatten(rule.apply(run, step, {**values, **own}))
            tapped = [tap(y) if _is_floating(y) else y for y in made]
            values.update(zip(step.outputs, tapped, strict=True))
            ends.append(
                _Ends(
                    [x for x in own.values() if _is_floating(x)],
                    [y for y in tapped if _is_floating(y)],
                    cast(list[terms.Term], run.terms[before:]),  # all are, without an early condenser
                )
            )
        logits = ops.reshape(values[exposed.program.output], (count, -1))
        return ops.max(logits, axis=-1), ends

    ends, gradients = autodiff.tapped_gradients(forward)

    def total(tensor: Tensor) -> np.ndarray:
        return ops.convert_to_numpy(ops.cast(tensor, "float32")).reshape(count, -1).sum(axis=1, dtype=np.float64)

    def product(tensor: Tensor) -> np.ndarray:
        return total(gradients.in_float32(tensor) * ops.cast(tensor, "float32"))

    nothing = np.zeros(count)
    out = [sum(map(product, each.outputs), nothing) for each in ends]
    missing = []
    for each, made in zip(ends, out, strict=True):
        found = [term.contributions(gradients) for term in each.terms]
        located = [tensor for contributions in found for part in contributions.located for tensor in part.tensors()]
        added = sum(map(total, (*located, *(c for contributions in found for c in contributions.unlocated))), nothing)
        missing.append(made - sum(map(product, each.inputs), nothing) - added)
    return StepAccounts(
        tuple(step.name for step in exposed.program.steps),
        np.stack(missing, axis=1),
        np.abs(np.stack(out, axis=1)).sum(axis=1),
    )


@dataclasses.dataclass(frozen=True, slots=True)
class _Ends:
    """One step of a run: its tapped inputs and outputs, and the terms that its rule added."""

    inputs: list[Tensor]
    outputs: list[Tensor]
    terms: list[terms.Term]


def _is_floating(tensor: Tensor) -> bool:
    return "float" in keras.backend.standardize_dtype(tensor.dtype)
