"""Scales pixels as the model's own preprocessing does, bit for bit."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import importlib
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

# uint8 [N, H, W, C] → float32 [N, H, W, C]; does not change its input.
Preprocessing: TypeAlias = Callable[[np.ndarray], np.ndarray]

MODES = ("tf", "torch", "caffe")


@dataclasses.dataclass(frozen=True, slots=True)
class Affine:
    """Computes (x / divide − mean) / std in float32, one operation after the other. A step that is None is skipped.

    Attributes:
      divide: one number for all channels.
      mean, std: one number per channel.
    """

    divide: float | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        for name, values in (("divide", (self.divide,)), ("mean", self.mean), ("std", self.std)):
            for value in values or ():
                if value is not None and (not math.isfinite(value) or (value == 0 and name != "mean")):
                    right = "a finite number" if name == "mean" else "a finite number other than 0"
                    raise ValueError(f"scale.{name} has the value {value}; it must be {right}")

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """Scales a batch.

        Raises:
          ValueError: mean or std does not have one value per channel.
        """
        channels = pixels.shape[-1]
        for name, values in (("mean", self.mean), ("std", self.std)):
            if values is not None and len(values) != channels:
                raise ValueError(f"scale.{name} is for images of {len(values)} channels, but these have {channels}")
        scaled = pixels.astype(np.float32)
        # Works on whole rows of pixels, with the channels' numbers repeated. NumPy is ten times slower on three at a
        # time.
        rows, width = scaled.reshape(-1, pixels.shape[-2] * channels), pixels.shape[-2]
        if self.divide is not None:
            rows /= np.float32(self.divide)
        if self.mean is not None:
            rows -= np.tile(np.asarray(self.mean, np.float32), width)
        if self.std is not None:
            rows /= np.tile(np.asarray(self.std, np.float32), width)
        return scaled


@dataclasses.dataclass(frozen=True, slots=True)
class KerasPreprocessing:
    """Keras' own `preprocess_input`.

    Attributes:
      module: the module of `keras.applications` that has the `preprocess_input`.
      mode: the argument `mode` of `imagenet_utils`; None for a family's own function.
    """

    module: str
    mode: str | None = None

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """Preprocesses a batch.

        Raises:
          ValueError: the images have too few channels.
        """
        preprocess_input = importlib.import_module(f"keras.applications.{self.module}").preprocess_input
        mode = {} if self.mode is None else {"mode": self.mode}
        try:
            # A float32 copy, because Keras writes into its argument. The data format is given, because its default is a
            # global setting that somebody may have changed.
            scaled = preprocess_input(pixels.astype(np.float32), data_format="channels_last", **mode)
        except IndexError as error:
            name, channels = self.mode or self.module, pixels.shape[-1]
            raise ValueError(f"scale {name} is for images of 3 channels, but these have {channels}") from error
        # "caffe" turns RGB into BGR with a reversed view, which would slow down every later copy.
        return np.ascontiguousarray(scaled)


def preprocessing(scale: str | Mapping[str, Any]) -> Preprocessing:
    """The preprocessing that a configuration's `scale` names. It is small, hashable and cheap to pickle.

    Args:
      scale: `none` (the pixels as float32); `tf`, `torch` or `caffe` (the modes of Keras' `imagenet_utils`); a family
        or an application of `keras.applications`, in upper or lower case (`resnet_v2`, `ResNet50V2`); or a mapping with
        any of `divide`, `mean` and `std`: see `Affine`. Some families (ConvNeXt, EfficientNet, MobileNetV3) preprocess
        inside the model, and their function does not change the pixels.

    Raises:
      ValueError: there is no such scale; the message gives the nearest name.
    """
    if isinstance(scale, Mapping):
        return _affine(scale)
    name = scale.lower()
    if name == "none":
        return Affine()
    if name in MODES:
        return KerasPreprocessing("imagenet_utils", name)
    families = _families()
    if name not in families:
        raise ValueError(f"scale is {scale!r}, which is {_unknown(name, ['none', *MODES, *families])}")
    return KerasPreprocessing(families[name])


def application_family(name: str) -> str:
    """The module of `keras.applications` that defines an application: ResNet50V2 → resnet_v2. It is also a `scale`.

    Raises:
      ValueError: there is no such application; the message gives the nearest name.
    """
    families = _families()
    if name.lower() not in families:
        raise ValueError(f"application is {name!r}, which is {_unknown(name.lower(), families)}")
    return families[name.lower()]


def _affine(scale: Mapping[str, Any]) -> Affine:
    fields = [field.name for field in dataclasses.fields(Affine)]
    for key in scale:
        if key not in fields:
            raise ValueError(f"scale has the key {key!r}, which is {_unknown(str(key), fields)}")
    return Affine(scale.get("divide"), _per_channel(scale.get("mean")), _per_channel(scale.get("std")))


def _per_channel(values: Sequence[float] | None) -> tuple[float, ...] | None:
    return None if values is None else tuple(values)


def _unknown(name: str, known: Sequence[str] | Mapping[str, str]) -> str:
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"not known; did you mean {nearest[0]!r}?" if nearest else f"not one of {', '.join(known)}"


@functools.cache
def _families() -> dict[str, str]:
    """The families' and applications' names in lower case, each with its family's module."""
    import keras  # imported here because it takes seconds, and most scales do not need it

    applications = vars(keras.applications)
    families = {
        name: name
        for name, member in applications.items()
        if hasattr(member, "preprocess_input") and name != "imagenet_utils"
    }
    # An application's `__module__` is the private module that defines it. It has the same name as the public one.
    return families | {
        name.lower(): member.__module__.rsplit(".", 1)[-1]
        for name, member in applications.items()
        if inspect.isfunction(member)
    }
