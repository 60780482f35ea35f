"""The native operations as steps of TensorFlow's graphs: condensing, pulling back through activations, and resizing."""

from __future__ import annotations

import dataclasses
import functools
import threading
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import tensorflow as tf

from transforms.fullgrad import maps
from transforms.fullgrad.contributions import Condensed, Contribution
from transforms.fullgrad.tensorflow.native import c_api, objects
from transforms.fullgrad.tensorflow.native.jobs import Setting, describe
from transforms.memory import usable_cores

Tensor = Any


@dataclasses.dataclass(frozen=True, slots=True)
class NativeCondenser:
    """Condenses with native operations, on CPUs; each reads its tensors once.

    Attributes:
      signed: whether maps sum up the contributions themselves, or else their normalised magnitudes ψ.
      epsilon: is added to the denominator of ψ.
      implicit: whether implicit biases count.
      threads: how many threads share the images of a call; None for one a core.
    """

    signed: bool
    epsilon: float
    implicit: bool = True
    threads: int | None = 1

    @property
    def early(self) -> NativeCondenser:
        """This condenser: it also condenses terms while the backward pass makes their gradients."""
        return self

    def condense(self, contribution: Contribution) -> Condensed:
        """Condenses contributions that are made of float32 tensors."""
        product, subtracted, factor = contribution.product, contribution.subtracted, contribution.factor
        threshold = -np.inf if product.threshold is None else product.threshold
        scales = tf.ones((1, product.gradient.shape[3])) if contribution.scales is None else contribution.scales
        if subtracted is not None:
            name = "Difference"
            tensors = [product.gradient, product.multiplier, subtracted.gradient, subtracted.multiplier]
        elif product.multiplier is not None:
            name, tensors = "Product", [product.gradient, product.multiplier]
        else:
            name = "ScaledPixels" if int(product.gradient.shape[3]) == 3 else "Scaled"
            tensors = [product.gradient]
        # (|k·t| − |k|·low) / (|k|·high − |k|·low + ε) is the same function of t with ε/|k|.
        epsilon = self.epsilon / abs(factor)
        _, condensed = self._call(name, tensors, scales, epsilon=epsilon, threshold=threshold)
        if factor == 1.0:
            return condensed
        evidence = condensed.evidence * factor
        return Condensed(evidence if self.signed else condensed.map, evidence, condensed.totals * factor)

    def pull_back(
        self, activation: Literal["relu6", "silu"], g: Tensor, y: Tensor, z: Tensor, scales: Tensor
    ) -> tuple[Tensor, Condensed]:
        """Does what `EarlyCondenser.pull_back` says; g_z takes the memory of g if nothing else needs that."""
        name, tensors = ("Relu6", [g, y]) if activation == "relu6" else ("Silu", [g, y, z])
        return self._call(name, tensors, scales, epsilon=self.epsilon, with_activation=self.implicit)

    def add_resized(
        self, total: Tensor | None, small: Tensor, rows: np.ndarray | None, columns: np.ndarray | None
    ) -> Tensor:
        """As `maps.add_resized`; into the memory of the total if nothing else needs that.

        Matrices that `two_neighbours` does not take are left to TensorFlow.
        """
        if total is not None and rows is not None and columns is not None:
            down, across = two_neighbours(rows), two_neighbours(columns)
            if down is not None and across is not None:
                return _add_interpolated(total, small, down, across)
        return maps.add_resized(total, small, rows, columns)

    def _call(
        self,
        name: str,
        tensors: list[Tensor],
        scales: Tensor,
        *,
        epsilon: float,
        threshold: float = -np.inf,
        with_activation: bool = False,
    ) -> tuple[Tensor, Condensed]:
        """Adds an operation to the graph; returns the pulled-back gradient (None if it makes none) and the rest."""
        operation, (registered, kernel) = _OPERATIONS[name], _registered(name, self.signed)
        settings = np.zeros(len(Setting), np.float32)
        settings[Setting.EPSILON] = epsilon
        settings[Setting.THRESHOLD] = threshold
        settings[Setting.WITH_ACTIVATION] = with_activation
        threads = usable_cores() if self.threads is None else self.threads
        count = int(scales.shape[0]) + with_activation
        description = describe(
            tensors=len(operation.inputs),
            pulls_back=operation.pulls_back,
            kernel=kernel,
            threads=threads,
            count=count,
            beside=not self.signed,
        )
        inputs = [tf.convert_to_tensor(each) for each in (description, scales, settings, *tensors)]
        kinds = [tf.float32] * (operation.pulls_back + (2 if self.signed else 3))
        outputs = list(tf.compat.v1.get_default_graph().create_op(registered, inputs, kinds).outputs)
        shape = inputs[-1].shape
        pulled_back = outputs.pop(0) if operation.pulls_back else None
        if pulled_back is not None:
            pulled_back.set_shape(shape)
        totals = outputs.pop()
        totals.set_shape((shape[0], count))
        for each in outputs:
            each.set_shape(shape[:3])
        return pulled_back, Condensed(outputs[0], outputs[-1], totals)


def two_neighbours(matrix: np.ndarray) -> np.ndarray | None:
    """A matrix [new, old] in which every row has at most two numbers, side by side; None for any other matrix.

    Returns:
      float32 [new, 3]: the column of a row's first number, and the two numbers.
    """
    first = np.clip((matrix != 0).argmax(axis=1), 0, max(matrix.shape[1] - 2, 0))
    rows = np.arange(len(matrix))
    second = np.minimum(first + 1, matrix.shape[1] - 1)
    numbers = np.stack([matrix[rows, first], np.where(second > first, matrix[rows, second], 0)], axis=1)
    if np.count_nonzero(numbers) != np.count_nonzero(matrix):
        return None
    return np.concatenate([first[:, None], numbers], axis=1).astype(np.float32)


def _add_interpolated(total: Tensor, small: Tensor, rows: np.ndarray, columns: np.ndarray) -> Tensor:
    """total [N, H, W] + small [N, h, w] interpolated by rows [H, 3] and columns [W, 3] from `two_neighbours`."""
    inputs = [tf.convert_to_tensor(each) for each in (total, small, rows, columns)]
    graph = tf.compat.v1.get_default_graph()
    (made,) = graph.create_op(_registered_interpolation()[0], inputs, [tf.float32]).outputs
    made.set_shape(inputs[0].shape)
    return made


# ---- registration


@dataclasses.dataclass(frozen=True, slots=True)
class _Operation:
    """A kernel as an operation.

    Attributes:
      kernel: the name in `kernels` of what makes the kernel.
      inputs: the names of the tensors [N, h, w, C] that it takes.
      pulls_back: whether it leaves the pulled-back gradient in place of its first tensor.
    """

    kernel: str
    inputs: tuple[str, ...]
    pulls_back: bool = False


_OPERATIONS = {
    "Scaled": _Operation("scaled", ("gradient",)),
    "ScaledPixels": _Operation("scaled_pixels", ("gradient",)),
    "Product": _Operation("product", ("gradient", "multiplier")),
    "Difference": _Operation("difference", ("gradient", "multiplier", "less", "less_multiplier")),
    "Relu6": _Operation("relu6", ("gradient", "output"), pulls_back=True),
    "Silu": _Operation("silu", ("gradient", "output", "input"), pulls_back=True),
}

_registering = threading.RLock()


def _once(register: Callable[..., tuple[str, int]]) -> Callable[..., tuple[str, int]]:
    """`register`, called once for each set of arguments, however many threads ask for it."""
    cached = functools.cache(register)

    def once(*arguments: Any) -> tuple[str, int]:
        with _registering:
            return cached(*arguments)

    return once


@_once
def _registered(name: str, signed: bool) -> tuple[str, int]:
    """An operation's name in graphs and its kernel's address; compiled and registered once in a process."""
    operation, registered = _OPERATIONS[name], f"FullGrad{name}{'Signed' if signed else ''}"
    floats = ("scales", "settings", *operation.inputs)
    outputs = (*(["passed"] if operation.pulls_back else []), "sums", *([] if signed else ["evidence"]), "totals")
    inputs = ["described: int64", *(f"{each}: float" for each in floats)]
    c_api.register(registered, inputs, outputs, _condensing_function())
    return registered, _kernel(operation, signed)


@_once
def _registered_interpolation() -> tuple[str, int]:
    inputs = [f"{each}: float" for each in ("total", "old", "rows", "columns")]
    c_api.register("FullGradResized", inputs, ["new"], _interpolating_function())
    return "FullGradResized", 0


# ---- compiled code, which is imported with Numba only where it must be compiled


@functools.cache
def _condensing_function() -> int:
    def compiled() -> Any:
        from transforms.fullgrad.tensorflow.native import glue

        return glue.condensing_function()

    return objects.address_of("condensing", compiled)


def _interpolating_function() -> int:
    def compiled() -> Any:
        from transforms.fullgrad.tensorflow.native import glue

        return glue.interpolating_function()

    return objects.address_of("interpolating", compiled)


def _kernel(operation: _Operation, signed: bool) -> int:
    def compiled() -> Any:
        from transforms.fullgrad.tensorflow.native import glue, kernels

        return glue.compiled_kernel(getattr(kernels, operation.kernel), len(operation.inputs), signed)

    return objects.address_of(f"{operation.kernel}{'-signed' if signed else ''}", compiled)


def compile_all() -> None:
    """Compiles all that is not in the cache on disk."""
    with _registering:
        _condensing_function()
        _interpolating_function()
        for operation in _OPERATIONS.values():
            for signed in (False, True):
                _kernel(operation, signed)
