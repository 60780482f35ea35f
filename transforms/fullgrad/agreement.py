"""Compares the exposed logits with the model's own output: a map must not explain another function."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np
from keras import ops

from transforms.fullgrad import terms
from transforms.fullgrad.expose import Exposed, own_output
from transforms.fullgrad.flatten import CannotExpose, Program, Step, Value
from transforms.fullgrad.tensorflow import autodiff
from transforms.fullgrad.tensorflow.autodiff import Tensor


@dataclasses.dataclass(frozen=True, slots=True)
class Agreement:
    """How far the exposed logits are from the model's own.

    Attributes:
      difference: the largest one over images and classes, as a fraction of the logits' range.
      limit: the largest that rounding explains.
    """

    difference: float
    limit: float

    @property
    def holds(self) -> bool:
        return self.difference <= self.limit


class Disagreement(CannotExpose):
    """The exposed logits are not the model's own; one sentence that names the first layer that differs."""


# Two ways to compute the same network differ by more than completeness errors, and a wrong function differs by far
# more. With 10 bits, as in half precision and in GPUs' matrix products (TensorFloat-32), the tolerance has room.
_MARGIN, _COARSE_MARGIN, _COARSE = 10.0, 2.0, 5e-3


def compare(exposed: Exposed, images: np.ndarray, logits: np.ndarray, own: np.ndarray | None = None) -> Agreement:
    """Compares logits with the model's own output for the same images.

    If a softmax or sigmoid was undone, the model's probabilities are turned back into logits. A difference then counts
    as much at probabilities near 0 or 1.

    Args:
      images: float32 [N, H, W, C], preprocessed for the model.
      logits: float32 [N, K], those of the exposed model.
      own: the model's own output, if `own_output` was called already.
    """
    own = own_output(exposed, images) if own is None else own
    tolerance = max(exposed.tolerance, _COARSE) if autodiff.has_accelerator() else exposed.tolerance
    coarse = tolerance >= _COARSE
    limit = (_COARSE_MARGIN if coarse else _MARGIN) * tolerance
    here, there = np.isfinite(own).all(axis=1), np.isfinite(logits).all(axis=1)
    # Overflow of the model's own output tells nothing. In half precision, either way to compute may overflow alone.
    if not coarse and (here & ~there).any():
        return Agreement(math.inf, limit)
    both = here & there
    return Agreement(_difference(exposed, own[both], logits[both]) if both.any() else 0.0, limit)


def _compare_uncompiled(exposed: Exposed, images: np.ndarray) -> Agreement:
    with ThreadPoolExecutor(1) as beside:
        own = beside.submit(own_output, exposed, images)
        logits, _ = exposed.folded.run(ops.convert_to_tensor(images), autodiff.untapped)
        return compare(exposed, images, ops.convert_to_numpy(logits), own.result())


def check(exposed: Exposed, images: np.ndarray) -> Agreement:
    """Compares on images float32 [N, H, W, C], in eager mode, without compiling anything.

    Raises:
      Disagreement: the logits differ by more than rounding explains.
    """
    agreement = _compare_uncompiled(exposed, images)
    if not agreement.holds:
        raise _disagreement(exposed, images, agreement)
    return agreement


class FirstBatch:
    """Compares the first image that an exposed model explains.

    A second thread computes the model's own output while the batch is compiled, so that a run hardly waits.
    """

    def __init__(self, exposed: Exposed, images: np.ndarray):
        """`images` are those of the batch, float32 [N, H, W, C]."""
        self._exposed = exposed
        self._images = images
        beside = ThreadPoolExecutor(1, thread_name_prefix="own-output")
        self._own = beside.submit(own_output, exposed, images[:1])
        beside.shutdown(wait=False)

    def check(self, logits: np.ndarray) -> None:
        """Compares the batch's logits float32 [n, K]; does nothing if n is 0.

        Raises:
          Disagreement: the logits differ by more than rounding explains.
        """
        exposed, image, logits = self._exposed, self._images[:1], logits[:1]
        own = self._own.result()
        if not len(logits) or not np.isfinite(logits).all():  # every such image is reported by itself
            return
        agreement = compare(exposed, image, logits, own)
        if not agreement.holds and agreement.limit >= _COARSE:
            # With few bits, a compiled graph rounds elsewhere and may be far from the same network uncompiled.
            agreement = _compare_uncompiled(exposed, image)
        if not agreement.holds:
            raise _disagreement(exposed, self._images, agreement)
        exposed.agreements.append(agreement)


def _disagreement(exposed: Exposed, images: np.ndarray, agreement: Agreement) -> Disagreement:
    """The error that says why the exposed model and the model disagree on a batch of images."""
    model, limit = f"model {exposed.model.name!r}", agreement.limit
    own = own_output(exposed, images)
    if _difference_of(own_output(exposed, images), own) > limit:
        return Disagreement(
            f"{model} gives another answer each time it is called on the same image; a layer is probably random in "
            "prediction too: save the model without it"
        )
    if _difference_of(own_output(exposed, images[:1]), own[:1]) > limit:
        return Disagreement(
            f"{model} gives an image another answer beside other images; a BatchNormalization is probably called with "
            "training=True: save the model without that"
        )
    culprit = first_difference(exposed, images[:1], limit)
    where = (
        "no single layer is to blame"
        if culprit is None
        else f"the first layer that differs is {culprit.name!r} ({culprit.kind})"
    )
    return Disagreement(
        f"{model} cannot be explained: the logits that would be explained differ from its own by "
        f"{agreement.difference:.2g} of their range (limit {limit:g}); {where}; write its call() with Keras layers and "
        "keras.ops, applied only to its arguments"
    )


def first_difference(exposed: Exposed, images: np.ndarray, limit: float) -> Step | None:
    """The first step that the exposed model computes otherwise than the model itself; None if there is none.

    The output of each rule is compared with the output of its step, and opened calls with the layer's own call.

    Args:
      images: float32 [N, H, W, C].
      limit: the largest difference that counts as none, as a fraction of a tensor's largest value.
    """
    tensor = ops.convert_to_tensor(images)
    own = {exposed.program.input: tensor}
    made = {exposed.folded: dict(own), exposed: dict(own)}
    runs = {each: terms.Run(autodiff.untapped, each.places) for each in made}
    calls = _calls_by_last_step(exposed.program)
    for i, step in enumerate(exposed.program.steps):
        own.update(zip(step.outputs, keras.tree.flatten(step.call(own)), strict=True))
        for each, values in made.items():
            values.update(
                zip(step.outputs, keras.tree.flatten(each.rules[i].apply(runs[each], step, values)), strict=True)
            )
            if each is exposed.folded and each.rules[i] is not exposed.rules[i] and not _ends_folding(step):
                continue  # a convolution that also does its BatchNorm's work
            if _differ(own, values, step.outputs, limit):
                return step
        for call in calls.get(step, ()):
            called = dict(zip(call.outputs, keras.tree.flatten(call.call(own)), strict=True))
            if _differ(called, own, call.outputs, limit):
                return call
    return None


def _calls_by_last_step(program: Program) -> dict[Step, list[Step]]:
    """The opened calls, by the step after which all their inputs and outputs are known."""
    order = {value: i for i, step in enumerate(program.steps) for value in step.outputs}
    found: dict[Step, list[Step]] = {}
    for call in program.opened:
        last = max((order.get(value, -1) for value in (*call.inputs, *call.outputs)), default=-1)
        if last >= 0:
            found.setdefault(program.steps[last], []).append(call)
    return found


def _ends_folding(step: Step) -> bool:
    return "Conv" not in step.kind


def _differ(these: dict[Value, Tensor], those: dict[Value, Tensor], values: tuple[Value, ...], limit: float) -> bool:
    pairs: Iterator[tuple[np.ndarray, np.ndarray]] = (
        (_as_array(these[value]), _as_array(those[value])) for value in values
    )
    return any(a.shape != b.shape or _difference_of(a, b) > limit for a, b in pairs)


def _as_array(tensor: Tensor) -> np.ndarray:
    return np.asarray(ops.convert_to_numpy(ops.cast(tensor, "float32")))


def _difference_of(these: np.ndarray, those: np.ndarray) -> float:
    """The largest difference as a fraction of the largest value."""
    with np.errstate(invalid="ignore"):
        difference = np.abs(these - those).max(initial=0.0) / max(np.abs(those).max(initial=0.0), 1e-30)
    return float(np.nan_to_num(difference, nan=0.0 if _same_where_finite(these, those) else math.inf))


def _same_where_finite(these: np.ndarray, those: np.ndarray) -> bool:
    return bool((np.isfinite(these) == np.isfinite(those)).all())


def _difference(exposed: Exposed, own: np.ndarray, logits: np.ndarray) -> float:
    """The largest difference between the model's own output [N, K] and logits, as a fraction of the logits' range."""
    if own.shape[1] == 1:  # the logit of class 1 against class 0
        logits = logits[:, 1:]
    half = exposed.tolerance > 1e-4
    floor = 0.5 if half else 1e-2
    if exposed.ends_in in ("logits", "probabilities"):
        own = own + exposed.offset
        of_squashed = float(np.abs(_softmax(own) - _softmax(logits)).max(initial=0.0))
        return max(_of_range(own, logits, np.ones_like(own, bool), logits, floor), of_squashed)
    with np.errstate(divide="ignore", over="ignore"):
        if exposed.ends_in == "sigmoid":
            back, certain = np.log(own) - np.log1p(-own), 1e-3
        else:
            # A softmax keeps only the differences to the largest logit.
            back, certain = np.log(own) - np.log(own.max(axis=1, keepdims=True)), 0.0
            logits = logits - np.take_along_axis(logits, own.argmax(axis=1)[:, None], axis=1)
    # If rounding leaves a probability so few digits that its logit is unknown, only the probability is compared.
    known = (own > (1e-3 if half else 1e-6)) & (own <= 1 - (5e-2 if half and certain else certain))
    squashed = 1 / (1 + np.exp(-np.clip(logits, -80, 80))) if exposed.ends_in == "sigmoid" else _softmax(logits)
    return max(_of_range(back, logits, known, logits, floor), float(np.abs(squashed - own).max(initial=0.0)))


def _of_range(these: np.ndarray, those: np.ndarray, known: np.ndarray, logits: np.ndarray, floor: float) -> float:
    """The largest known difference, over the image's largest logit or difference of logits, whichever is larger.

    Logits of a smaller range than `floor`, as of a model that was not trained, are lost in rounding.
    """
    if not known.any():
        return 0.0
    scale = np.maximum(np.abs(logits).max(axis=1), np.ptp(logits, axis=1))[:, None]
    return float((np.abs(these - those) / np.maximum(scale, floor))[known].max())


def _softmax(logits: np.ndarray) -> np.ndarray:
    shifted: np.ndarray = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)
