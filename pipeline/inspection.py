"""Reports on an exposed model: its layers, what each adds to the logit, and whether the terms add up to it."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from transforms.fullgrad import Agreement, Exposed, full_gradients


@dataclasses.dataclass(frozen=True, slots=True)
class LayerReport:
    """One step of the model.

    Attributes:
      name, kind: the layer's path and class.
      shape: of its output, without the axis of images; None for a side that is open.
      dtype: of its output.
      parameters: how many weights the layer has.
      adds: what the layer adds to the logit, in words; empty for nothing.
    """

    name: str
    kind: str
    shape: tuple[int | None, ...]
    dtype: str
    parameters: int
    adds: str


@dataclasses.dataclass(frozen=True, slots=True)
class Completeness:
    """How the logits of some images divide among the layers.

    Attributes:
      error: float32 [N], completeness_error of each image.
      share: float64 [L], the mean over images of each layer's |term| over all |terms| and |input term|.
      layers: the L layers' names.
    """

    error: np.ndarray
    share: np.ndarray
    layers: tuple[str, ...]

    def holds(self, tolerance: float) -> bool:
        """Whether the terms of every image add up to its logit."""
        return bool(np.all(self.error <= tolerance))


@dataclasses.dataclass(frozen=True, slots=True)
class Inspection:
    """An exposed model.

    Attributes:
      name: the model's.
      input_shape: height, width, channels; None for a side that is open.
      classes: their number.
      ends_in: `softmax` or `sigmoid`, which are undone; `logits`; or `probabilities`, which no final softmax makes.
      explains: the number that is explained, in words.
      agreement: how far the exposed logits are from the model's own output; None if they were not compared.
      layers: in the order in which they run.
    """

    name: str
    input_shape: tuple[int | None, ...]
    classes: int
    ends_in: str
    explains: str
    agreement: Agreement | None
    layers: tuple[LayerReport, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return dataclasses.asdict(self)


# The number that is explained, by what a model ends in.
EXPLAINS = {
    "softmax": "the logit before the final softmax",
    "sigmoid": "the logit before the final sigmoid",
    "logits": "the logit that the model ends in",
    "probabilities": "the probability that the model ends in, as no final softmax or sigmoid makes it",
}


def inspect_exposed(exposed: Exposed, agreement: Agreement | None = None) -> Inspection:
    """The report on a model that was exposed."""
    return Inspection(
        name=exposed.model.name,
        input_shape=exposed.input_shape,
        classes=exposed.classes,
        ends_in=exposed.ends_in,
        explains=EXPLAINS[exposed.ends_in],
        agreement=agreement,
        layers=tuple(
            LayerReport(
                step.name,
                step.kind,
                tuple(step.outputs[0].shape[1:]),
                step.outputs[0].dtype,
                sum(int(np.prod(w.shape)) for w in getattr(step.operation, "weights", ())),
                rule.adds,
            )
            for step, rule in zip(exposed.program.steps, exposed.rules, strict=True)
        ),
    )


def completeness_on(exposed: Exposed, images: np.ndarray) -> Completeness:
    """Checks on preprocessed images, float32 [N, H, W, C], that the terms add up to the logit."""
    explanation = full_gradients(exposed, images, maps="signed", batch_size=min(8, max(1, len(images))))
    terms = np.abs(explanation.layer_terms).astype(np.float64)
    whole = (terms.sum(axis=1) + np.abs(explanation.input_term))[:, None]
    share = np.divide(terms, whole, out=np.zeros_like(terms), where=whole > 0)  # a black image may have no terms
    return Completeness(explanation.completeness_error, share.mean(axis=0), explanation.layers)
