"""Gradients at tapped tensors, compilation, memory and threads, and noise that is the same on every machine."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, TypeVar

import tensorflow as tf

Tensor = Any
Tap = Callable[..., Tensor]
GradientReader = Callable[[Tensor], list[Tensor]]
Result = TypeVar("Result")


class Gradients:
    """The objective's gradient at every tapped tensor."""

    def __init__(self, tensors: list[Tensor], gradients: list[Tensor]):
        self._gradients = {id(tensor): gradient for tensor, gradient in zip(tensors, gradients, strict=True)}
        self._tensors = tensors  # ids stay unique only as long as the tensors live
        self._in_float32: dict[int, Tensor] = {}

    def __getitem__(self, tensor: Tensor) -> Tensor:
        """The gradient at a tensor that `tap` returned, with the tensor's shape and dtype."""
        return self._gradients[id(tensor)]

    def in_float32(self, tensor: Tensor) -> Tensor:
        """The gradient in float32. Equal gradients are the same tensor."""
        gradient = self[tensor]
        if gradient.dtype == tf.float32:
            return gradient
        return self._in_float32.setdefault(id(gradient), tf.cast(gradient, tf.float32))


def tapped_gradients(forward: Callable[[Tap], tuple[Tensor, Result]]) -> tuple[Result, Gradients]:
    """Runs `forward` once, and then backward once to all tensors that it tapped.

    Args:
      forward: takes `tap`, and returns the objective and any other result. `tap(t)` returns a copy of t. The gradient
        at the copy counts the uses of the copy, and no other use of t. `tap(t, read)` also calls `read` with the
        gradient where it is made, before anything else uses it; `read` returns the tensors that it makes. It is not
        called if no gradient comes back. An image's objective must depend on that image alone: the sum over images is
        differentiated, so that each image gets its own gradient.

    Returns:
      The other result, and the gradients; zero if the objective does not depend on a tensor.
    """
    tapped: list[Tensor] = []
    watched: list[Tensor] = []
    with tf.GradientTape(watch_accessed_variables=False) as tape:

        def tap(tensor: Tensor, read: GradientReader | None = None) -> Tensor:
            own = tf.identity(tensor)
            tape.watch(own)
            watched.append(own)
            tapped.append(own if read is None else with_pull_back(own, tf.identity, lambda g, _: _read_first(g, read)))
            return tapped[-1]

        objective, result = forward(tap)
    return result, Gradients(
        tapped, tape.gradient(objective, watched, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    )


def untapped(tensor: Tensor, read: GradientReader | None = None) -> Tensor:
    """Returns the tensor itself; stands in for a tap where no gradient is needed."""
    return tensor


def _read_first(gradient: Tensor, read: GradientReader) -> Tensor:
    """Passes the gradient on only after it is read: what follows finds it in the cache, and may overwrite it."""
    with tf.control_dependencies(read(gradient)):
        return tf.identity(gradient)


def normal_noise(seeds: Tensor, sample: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Standard normal numbers that depend only on an image's seed and on the sample.

    The bits come from the counter-based generator Philox, which gives the same in TensorFlow and XLA. Their normal
    numbers differ, so the bits are turned into normal numbers here, by the transform of Box & Muller (1958),
    √(−2 ln u)·(cos 2πv, sin 2πv).

    Args:
      seeds: int32 [N, 2], one for each image. They must be as good as random, since samples use neighbouring seeds.
      sample: int32 [], the number of the image's sample.
      shape: the shape of one image's numbers.

    Returns:
      float32 [N, *shape].
    """
    count = math.prod(shape)
    pairs = -(-count // 2)

    def of_one(seed: Tensor) -> Tensor:
        bits = tf.random.stateless_uniform(
            (2, pairs),
            seed + tf.stack([0, sample]),
            minval=None,
            maxval=None,
            dtype=tf.uint32,
            alg=tf.random.Algorithm.PHILOX,
        )
        # The upper 23 bits as the middles of 2^23 steps in (0, 1): exact in float32 and never 0, where ln is −∞.
        u, v = tf.unstack((tf.cast(tf.bitwise.right_shift(bits, 9), tf.float32) + 0.5) * 2.0**-23)
        radius, angle = tf.sqrt(-2.0 * tf.math.log(u)), 2.0 * math.pi * v
        numbers = tf.concat([radius * tf.cos(angle), radius * tf.sin(angle)], axis=0)
        return tf.reshape(numbers[:count], shape)

    # Image by image: in a batch, rounding may depend on an image's position.
    return tf.map_fn(of_one, seeds, fn_output_signature=tf.TensorSpec(shape, tf.float32))


def compiled(function: Callable[..., Result], *, jit: bool) -> Callable[..., Result]:
    """Compiles a function of tensors to one graph for each input shape, by XLA if `jit`.

    Several threads may call it at once. Each then runs its own copy of the graph, which TensorFlow inlines. A oneDNN
    convolution that is fused with a sum keeps the sum's operands in itself, so two calls of the same one crash
    (TensorFlow 2.21, in `MklConvOp::AllocateOutputTensor`).
    """
    options = {"autograph": False, "reduce_retracing": False}
    traced = tf.function(function, jit_compile=jit, **options)
    idle = [traced]

    def call(*arguments: Any) -> Result:
        try:
            run = idle.pop()
        except IndexError:
            run = tf.function(lambda *tensors: traced(*tensors), **options)
        try:
            return run(*arguments)
        finally:
            idle.append(run)

    return call


def with_pull_back(
    z: Tensor, function: Callable[[Tensor], Tensor], backward: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """y = function(z), with `backward`(g, y) as its pull-back of the gradient g at y."""

    @tf.custom_gradient
    def apply(z: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        y = function(z)
        return y, lambda g: backward(g, y)

    return apply(z)


@tf.custom_gradient
def silu(z: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """z · σ(z), whose pull-back reads memory once instead of seven times: g · σ(z) · (1 + z · (1 − σ(z)))."""
    return tf.nn.silu(z), lambda gradient: _silu_gradient(gradient, z)


@functools.partial(tf.function, jit_compile=True, autograph=False)
def _silu_gradient(gradient: Tensor, z: Tensor) -> Tensor:
    gate = tf.sigmoid(z)
    return gradient * gate * (1 + z * (1 - gate))


def convolve(x: Tensor, kernel: Tensor, stride: int, padding: str) -> Tensor:
    """The convolution of x [N, H, W, C] with a kernel [k, l, C, D], with a faster pull-back for few channels C.

    The stride s is larger than 1. TensorFlow pulls gradients back slowly here: 49 ms for eight images through the first
    layer of ResNet-50, where this takes 18. Each of the s² phases of pixels uses its own kernel values, so all phases
    together are one convolution without stride: ∂x[s·q + r] = Σ_j g[q − j] · kernel[s·j + r]  for r = 0 … s − 1.

    Args:
      padding: `same` or `valid`.
    """

    @tf.custom_gradient
    def apply(x: Tensor, kernel: Tensor) -> tuple[Tensor, Callable[[Tensor], tuple[Tensor, None]]]:
        return tf.nn.conv2d(x, kernel, stride, padding.upper()), lambda g: (backward(g, kernel), None)

    def backward(gradient: Tensor, kernel: Tensor) -> Tensor:
        sizes, (*taps, channels, filters) = x.shape[1:3], kernel.shape
        reach = [-(-k // stride) for k in taps]  # the size of a phase's kernel
        padded = tf.pad(kernel, [[0, stride * r - k] for r, k in zip(reach, taps, strict=True)] + [[0, 0], [0, 0]])
        phases = tf.reshape(padded, (reach[0], stride, reach[1], stride, channels, filters))[::-1, :, ::-1]
        phases = tf.reshape(tf.transpose(phases, (0, 2, 5, 1, 3, 4)), (*reach, filters, stride * stride * channels))
        before, margins = [], []
        for size, k, r, made in zip(sizes, taps, reach, gradient.shape[1:3], strict=True):
            missing = max((made - 1) * stride + k - size, 0) if padding == "same" else 0
            before.append(missing // 2)
            margins.append([r - 1, max(-(-(size + before[-1]) // stride) - made, 0)])
        around = tf.pad(gradient, [[0, 0], *margins, [0, 0]])
        image = tf.nn.depth_to_space(tf.nn.conv2d(around, phases, 1, "VALID"), stride)
        return image[:, before[0] : before[0] + sizes[0], before[1] : before[1] + sizes[1]]

    return apply(x, kernel)


def channel_means(x: Tensor) -> Tensor:
    """The mean over positions, [N, h, w, C] → [N, C]."""
    if has_accelerator():
        return tf.reduce_mean(x, axis=(1, 2))
    # On CPUs, pooling reads memory two to four times as fast as a reduction of these axes.
    return tf.reshape(tf.nn.avg_pool2d(x, x.shape[1:3], 1, "VALID"), (-1, x.shape[3]))


def out_of_memory() -> type[Exception]:
    """The exception that a compiled function raises if the accelerator's memory does not suffice."""
    return tf.errors.ResourceExhaustedError


def grow_memory() -> None:
    """Makes TensorFlow take accelerators' memory as needed, not all at once, so that processes can share it."""
    for device in tf.config.list_physical_devices("GPU"):
        try:
            tf.config.experimental.set_memory_growth(device, True)
        except RuntimeError:  # the surrounding program uses the device already: its choice is kept
            return


def one_thread_a_call() -> bool:
    """Makes TensorFlow compute each call in one thread, so that as many calls as there are cores run side by side.

    This is faster than one call that all cores share, since those wait for one another after each operation. The
    setting holds for the whole process. It is left alone if the program chose it, if TensorFlow is in use already, or
    if there is an accelerator.

    Returns:
      Whether each call is computed in one thread.
    """
    if (chosen := threads_a_call()) or has_accelerator():
        return chosen == 1
    try:
        tf.config.threading.set_intra_op_parallelism_threads(1)
    except RuntimeError:  # in use already
        return False
    return True


def threads_a_call() -> int | None:
    """How many threads compute a call in this process; None if TensorFlow decides."""
    return tf.config.threading.get_intra_op_parallelism_threads() or None


def has_accelerator() -> bool:
    """Whether there is a GPU that TensorFlow can use."""
    return bool(tf.config.list_physical_devices("GPU"))
