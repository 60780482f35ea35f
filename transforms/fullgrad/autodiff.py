"""The one file that knows TensorFlow: gradients at tapped tensors, and compilation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import tensorflow as tf

Tensor = Any
Tap = Callable[[Tensor], Tensor]
Result = TypeVar("Result")


class Gradients:
    """The objective's gradient at every tapped tensor."""

    def __init__(self, tensors: list[Tensor], gradients: list[Tensor]):
        self._gradients = {id(tensor): gradient for tensor, gradient in zip(tensors, gradients, strict=True)}
        self._tensors = tensors  # ids stay unique only as long as the tensors live

    def __getitem__(self, tensor: Tensor) -> Tensor:
        """The gradient at a tensor that `tap` returned; has its shape and dtype."""
        return self._gradients[id(tensor)]


def tapped_gradients(forward: Callable[[Tap], tuple[Tensor, Result]]) -> tuple[Result, Gradients]:
    """Runs `forward` once and goes back once, to all the tensors that it tapped.

    Args:
      forward: takes `tap` and returns the objective and whatever else it made. `tap(t)` returns t as a tensor of its
        own: the gradient there is what flows back through the uses of the returned tensor, and through no other use
        of t. Every image's objective must depend on that image alone; the objectives' sum is differentiated, so each
        image gets its own gradient.

    Returns:
      What else `forward` made, and the gradients; zero where the objective does not depend on a tensor.
    """
    tapped: list[Tensor] = []
    with tf.GradientTape(watch_accessed_variables=False) as tape:

        def tap(tensor: Tensor) -> Tensor:
            own = tf.identity(tensor)
            tape.watch(own)
            tapped.append(own)
            return own

        objective, result = forward(tap)
    return result, Gradients(
        tapped, tape.gradient(objective, tapped, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    )


def compiled(function: Callable[..., Result], *, jit: bool) -> Callable[..., Result]:
    """`function` of tensors as one graph per input shape; `jit` has XLA compile it."""
    return tf.function(function, jit_compile=jit, autograph=False, reduce_retracing=False)


def out_of_memory() -> type[Exception]:
    """What a compiled function raises where the accelerator's memory does not suffice."""
    return tf.errors.ResourceExhaustedError


def grow_memory() -> None:
    """Has accelerators' memory taken as needed, not all at once, so that several processes can share one."""
    for device in tf.config.list_physical_devices("GPU"):
        try:
            tf.config.experimental.set_memory_growth(device, True)
        except RuntimeError:  # the device is in use already, by a program of which this is a part: its choice stands
            return


def has_accelerator() -> bool:
    return bool(tf.config.list_physical_devices("GPU"))
