"""The methods that explain images, by name, and the options that each accepts. Imports no framework."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

# As in the authors' Smooth FullGrad (idiap/fullgrad-saliency). SmoothGrad's paper uses 50 samples and 0.1 to 0.2.
SAMPLES = 25
NOISE_LEVEL = 0.15

# The options that only some methods accept, with the values that every method accepts.
DEFAULTS: Mapping[str, Any] = {
    "maps": "reference",
    "biases": "all",
    "channels": "auto",
    "samples": SAMPLES,
    "noise_level": NOISE_LEVEL,
    "seed": 0,
}


@dataclasses.dataclass(frozen=True, slots=True)
class Method:
    """What a method accepts and computes.

    Attributes:
      maps: the kinds of maps that it can compute.
      biases: whether it has bias terms, so that `biases` can choose among them.
      noise: whether it averages over noisy copies of the image. It then accepts `samples`, `noise_level` and `seed`.
      complete: whether it decomposes the logit into terms. Their sum can then be checked.
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
    """The methods that accept a value of an option in `DEFAULTS`."""

    def takes(method: Method) -> bool:
        if option == "maps":
            return value in method.maps
        if option == "channels":
            return value in ("auto", "none") or method.complete
        return value == DEFAULTS[option] or (method.biases if option == "biases" else method.noise)

    return tuple(name for name, method in METHODS.items() if takes(method))


def misplaced(method: str, options: Mapping[str, object]) -> str | None:
    """The first of `options` whose value the method does not accept; None if it accepts all."""
    return next((option for option, value in options.items() if method not in takers(option, value)), None)
