"""Makes all kinds of maps of a model's images, as coarse maps, from one decomposition for each explained number."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from benchmarks.shortcuts.drawing import SIDE
from benchmarks.shortcuts.evidence import Evidence
from transforms.fullgrad import expose, maps
from transforms.fullgrad.contributions import Contribution, Product
from transforms.fullgrad.expose import Exposed
from transforms.fullgrad.resampling import area, spread
from transforms.fullgrad.tensorflow import autodiff
from transforms.statistics import COARSE

# z; z − the largest other one and z − the mean of the others gave the same separation at three times the cost.
OBJECTIVES = ("logit",)
RESOLUTIONS = (96, 48, 24, 12, 6, 3)  # the sides of the located terms; what has another is counted to the nearest
BATCH = 50


def write_evidence(model: keras.Model, images: np.ndarray, labels: np.ndarray, path: pathlib.Path) -> None:
    """Writes the evidence of all images for their predicted classes.

    Args:
      images: uint8 [N, SIDE, SIDE, 3].
      labels: int64 [N].
      path: an .npz file.
    """
    found = _computed(model, images.astype(np.float32), labels)
    partial = path.with_suffix(".partial.npz")
    np.savez(partial, **{field.name: getattr(found, field.name) for field in dataclasses.fields(found)})
    partial.rename(path)


def _computed(model: keras.Model, images: np.ndarray, labels: np.ndarray) -> Evidence:
    exposed = expose(model).folded
    pooled = keras.Model(model.inputs, model.get_layer("pooled").output)
    head = model.get_layer("head").kernel.numpy()
    run = tf.function(lambda batch: _of_batch(exposed, batch), autograph=False, reduce_retracing=False)
    parts: list[dict[str, Any]] = []
    for start in range(0, len(images), BATCH):
        batch = images[start : start + BATCH]
        filled = np.concatenate([batch, np.repeat(batch[-1:], BATCH - len(batch), axis=0)])
        found = {name: value.numpy() for name, value in run(filled).items()}
        features = np.asarray(pooled(filled, training=False))
        found["channels"] = features * head[:, found["predicted"]].T
        parts.append({name: _rows(name, value, len(batch)) for name, value in found.items()})
    axis = {"signed": 2, "reference": 2, "positive": 1, "positive_fine": 1, "magnitude": 1, "input_signed": 1}
    joined = {name: np.concatenate([p[name] for p in parts], axis=axis.get(name, 0)) for name in parts[0]}
    return Evidence(labels=labels, **{**joined, "predicted": joined["predicted"].astype(np.int64)})


def _rows(name: str, value: np.ndarray, count: int) -> np.ndarray:
    if name in ("signed", "reference"):
        return value[:, :, :count]
    return value[:, :count] if name in ("positive", "positive_fine", "magnitude", "input_signed") else value[:count]


def _of_batch(exposed: Exposed, images: Any) -> dict[str, Any]:
    found: dict[str, list[Any]] = {}
    for objective in OBJECTIVES:
        for name, value in _decomposed(exposed, images, objective).items():
            found.setdefault(name, []).append(value)
    single = ("predicted", "probabilities")
    return {name: values[0] if name in single else ops.stack(values) for name, values in found.items()}


def _decomposed(exposed: Exposed, images: Any, objective: str) -> dict[str, Any]:
    """The maps of one batch that explain one number, as in `transforms.fullgrad.method`."""

    def forward(tap: autodiff.Tap) -> tuple[Any, tuple[Any, ...]]:
        x = tap(images)
        logits, terms = exposed.run(x, tap)
        predicted = ops.argmax(logits, axis=-1)
        chosen = ops.one_hot(predicted, logits.shape[-1], dtype=logits.dtype)
        f = ops.sum(logits * chosen, axis=-1)
        if objective == "runner-up":
            f = f - ops.max(ops.where(chosen > 0, -np.inf, logits), axis=-1)
        elif objective == "others":
            f = f - ops.sum(logits * (1 - chosen), axis=-1) / (logits.shape[-1] - 1)
        return f, (x, logits, predicted, terms)

    (x, logits, predicted, terms), gradients = autodiff.tapped_gradients(forward)
    of_input = Contribution(Product(gradients.in_float32(x), x))
    signed: list[Any] = [0.0] * len(RESOLUTIONS)
    reference: list[Any] = [0.0] * len(RESOLUTIONS)
    for contribution in [of_input, *(c for term in terms for c in term.contributions(gradients).located)]:
        side = contribution.resolution[0]
        nearest = int(np.argmin([abs(np.log(side / r)) for r in RESOLUTIONS]))
        whole = _resized(maps.RULES["signed"].condense(contribution), spread)
        signed[nearest] = signed[nearest] + whole
        reference[nearest] = reference[nearest] + _resized(
            maps.RULES["reference"].condense(contribution), maps.RULES["reference"].resize
        )
        if contribution is of_input:
            input_signed = whole
    zero = ops.zeros_like(input_signed)
    total = sum(signed, zero)
    return {
        "predicted": predicted,
        "probabilities": ops.max(ops.softmax(logits), axis=-1),
        "signed": ops.stack([_coarse(each + zero) for each in signed]),
        "reference": ops.stack([_coarse(each + zero) for each in reference]),
        "positive": _coarse(ops.maximum(total, 0.0)),
        "positive_fine": _coarse(ops.maximum(sum(signed[:3], zero), 0.0)),
        "magnitude": _coarse(ops.abs(total)),
        "input_signed": _coarse(input_signed),
    }


def _resized(small: Any, rule: Callable[[int, int], np.ndarray]) -> Any:
    """[N, h, w] → [N, SIDE, SIDE]."""
    side = int(small.shape[1])
    if side == SIDE:
        return small
    matrix = rule(side, SIDE).astype(np.float32)
    return ops.matmul(ops.matmul(ops.convert_to_tensor(matrix), small), ops.convert_to_tensor(matrix.T))


def _coarse(whole: Any) -> Any:
    matrix = area(SIDE, COARSE).astype(np.float32)
    return ops.matmul(ops.matmul(ops.convert_to_tensor(matrix), whole), ops.convert_to_tensor(matrix.T))
