"""The methods that explain images, by name, and which options each takes. Needs no framework."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

# As in the authors' Smooth FullGrad (idiap/fullgrad-saliency); SmoothGrad's paper has 50 samples, and 0.1 to 0.2.
SAMPLES = 25
NOISE_LEVEL = 0.15

# The options that not every method takes, with the values that every method does.
DEFAULTS: Mapping[str, Any] = {
    "maps": "reference",
    "biases": "all",
    "samples": SAMPLES,
    "noise_level": NOISE_LEVEL,
    "seed": 0,
}


@dataclasses.dataclass(frozen=True, slots=True)
class Method:
    """What a method takes and gives.

    Attributes:
      maps: the kinds of maps that it can make.
      biases: whether it has bias terms to choose from.
      noise: whether it averages over noisy copies of the image, and so takes `samples`, `noise_level` and `seed`.
      complete: whether it decomposes the logit into terms, whose sum can be checked.
    """

    maps: tuple[str, ...] = ("reference",)
    biases: bool = False
    noise: bool = False
    complete: bool = False


METHODS: Mapping[str, Method] = {
    "fullgrad": Method(maps=("reference", "channelwise", "signed"), biases=True, complete=True),
    "gradients": Method(),
    "input_x_gradient": Method(maps=("reference", "signed")),
    "smoothgrad": Method(noise=True),
    "simple_fullgrad": Method(),
    "smooth_fullgrad": Method(maps=("reference", "channelwise", "signed"), biases=True, noise=True),
    "grad_cam": Method(),
}


def takers(option: str, value: object) -> tuple[str, ...]:
    """The methods that take a value of one of the `DEFAULTS`' options."""

    def takes(method: Method) -> bool:
        if option == "maps":
            return value in method.maps
        return value == DEFAULTS[option] or (method.biases if option == "biases" else method.noise)

    return tuple(name for name, method in METHODS.items() if takes(method))


def misplaced(method: str, options: Mapping[str, object]) -> str | None:
    """The first of `options` whose value the method does not take; None where it takes all."""
    return next((option for option, value in options.items() if method not in takers(option, value)), None)
