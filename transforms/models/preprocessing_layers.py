"""Finds the layers at the beginning of a model that prepare the image, such as Rescaling and RandomFlip."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from transforms.fullgrad import Exposed

Does = Literal["scales", "resizes", "augments"]

_SCALE = {"Rescaling", "Normalization"}
_RESIZE = {"Resizing", "CenterCrop"}
# What Keras applies in training alone. Their names begin with `Random`, or are these.
_AUGMENT = {"AutoContrast", "AugMix", "CutMix", "Equalization", "GaussianNoise", "MixUp", "Pipeline", "RandAugment"}
# Operations that `preprocess_input` and plain Python (`x / 127.5 - 1`) leave in a model.
_ARITHMETIC = {"TrueDivide", "Divide", "Multiply", "Subtract", "Add"}
# Steps that may stand before or between preparing layers and change no values that matter here.
_NEUTRAL = {"GetItem", "Stack", "Cast", "Identity", "ZeroPadding2D", "Dropout", "InputLayer", "Concatenate"}


@dataclasses.dataclass(frozen=True, slots=True)
class PreprocessingLayer:
    """A layer, or a bare operation, that prepares the image inside the model.

    Attributes:
      name: the layer's path.
      kind: its class.
      does: `scales` the values, `resizes` the image, or `augments` it, which happens in training alone.
      details: its numbers, such as `× 0.00784314 − 1`; empty without numbers.
    """

    name: str
    kind: str
    does: Does
    details: str = ""

    def __str__(self) -> str:
        details = f" ({self.details})" if self.details else ""
        return f"{self.kind} {self.name!r}{details}"


def preprocessing_layers(exposed: Exposed) -> tuple[PreprocessingLayer, ...]:
    """The layers that prepare the image, in order, also those in nested models.

    The search ends at the first step that does something else, such as a convolution. So a Rescaling between two
    convolutions does not count.
    """
    found = []
    for step in exposed.program.steps:
        does = _does(step.kind)
        if does is not None:
            found.append(PreprocessingLayer(step.name, step.kind, does, _details(step)))
        elif step.kind not in _NEUTRAL:
            break
    return tuple(found)


def _does(kind: str) -> Does | None:
    if kind in _SCALE or kind in _ARITHMETIC:
        return "scales"
    if kind in _RESIZE:
        return "resizes"
    return "augments" if kind.startswith("Random") or kind in _AUGMENT else None


def _details(step: Any) -> str:
    layer = step.operation
    if step.kind == "Rescaling":
        offset = np.mean(np.asarray(layer.offset, np.float64))
        scale = f"× {_shown(layer.scale)}"
        return scale if not offset else f"{scale} {'−' if offset < 0 else '+'} {_shown(np.abs(layer.offset))}"
    if step.kind == "Normalization":
        mean, variance = (np.asarray(value, np.float64).ravel() for value in (layer.mean, layer.variance))
        if getattr(layer, "invert", False) or not len(mean):
            return ""
        return f"mean {_shown(mean)}, standard deviation {_shown(np.sqrt(variance))}"
    if step.kind in ("Resizing", "CenterCrop"):
        return f"to {layer.height}×{layer.width}"
    if step.kind in _ARITHMETIC:
        sign = {"TrueDivide": "÷", "Divide": "÷", "Multiply": "×", "Subtract": "−", "Add": "+"}[step.kind]
        numbers = [each for each in step.args if isinstance(each, int | float)]
        return f"{sign} {_shown(numbers[0])}" if numbers else ""
    return ""


def _shown(value: Any) -> str:
    numbers = np.asarray(value, np.float64).ravel()[:4]
    return ", ".join(f"{number:.6g}" for number in numbers)
