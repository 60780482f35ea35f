"""Translates TensorFlow's functions, which Keras 2 records as layers (`TFOpLambda`), to calls of `keras.ops`.

Keras 2 records a name such as `math.truediv`, the first argument, and the other arguments by name. The functions below
take the same arguments. TensorFlow has a tensor for a shape; here it is a tuple, with None for an unknown size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from transforms.models.keras2.layers import NotTranslated


def call(function: str, first: Any, arguments: dict[str, Any]) -> Any:
    """Calls the function and returns its result.

    Args:
      function: TensorFlow's name of the function, without `tf.`.
      first: its first argument: a symbolic tensor, a list of some, or a number.
      arguments: the other arguments, by TensorFlow's names.

    Raises:
      NotTranslated: the function is not translated, or not with these arguments.
    """
    name = function.removeprefix("compat.v1.").removeprefix("compat.v2.")
    if name not in _FUNCTIONS:
        raise NotTranslated(f"it calls tf.{function}, which is not among the functions that are translated")
    given = {key: value for key, value in arguments.items() if key not in ("name", "conjugate") and value is not None}
    try:
        return _FUNCTIONS[name](first, **given)
    except NotTranslated:
        raise
    except Exception as error:
        rest = f" with {', '.join(map(str, given))}" if given else ""
        raise NotTranslated(f"it calls tf.{function}{rest}, which cannot be translated") from error


def _is_tensor(value: Any) -> bool:
    return isinstance(value, keras.KerasTensor)


def _like(value: Any, other: Any) -> Any:
    """A constant with the dtype of the tensor that it is combined with, as in TensorFlow."""
    return value if _is_tensor(value) or not _is_tensor(other) else np.asarray(value, other.dtype)


def _binary(function: Callable[[Any, Any], Any], on_numbers: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    def apply(x: Any, y: Any) -> Any:
        if not _is_tensor(x) and not _is_tensor(y):
            return None if x is None or y is None else on_numbers(x, y)
        return function(_like(x, y), _like(y, x))

    return apply


def _unary(function: Callable[[Any], Any]) -> Callable[..., Any]:
    def apply(first: Any) -> Any:
        return function(first)

    return apply


def _named(first_name: str, function: Callable[[Any], Any]) -> Callable[..., Any]:
    """Wraps a function whose first argument may also be given by name."""

    def apply(first: Any = None, **arguments: Any) -> Any:
        value = arguments.pop(first_name, first)
        if arguments:
            raise NotTranslated(f"it has the argument {next(iter(arguments))!r}, which is not translated")
        return function(value)

    return apply


def _reduce(function: Callable[..., Any]) -> Callable[..., Any]:
    def apply(x: Any, axis: Any = None, keepdims: bool = False) -> Any:
        return function(x, axis=tuple(axis) if isinstance(axis, list) else axis, keepdims=keepdims)

    return apply


def _truediv(x: Any, y: Any) -> Any:
    if _is_tensor(x) and "int" in x.dtype:
        raise NotTranslated("it divides whole numbers")
    return ops.divide(_like(x, y), _like(y, x))


def _getitem(x: Any, slice_spec: Any) -> Any:
    return x[_index(slice_spec)]


def _index(spec: Any) -> Any:
    if isinstance(spec, dict):
        return slice(spec["start"], spec["stop"], spec["step"])
    if isinstance(spec, list | tuple):
        return tuple(_index(each) for each in spec)
    return spec


def _strided_getitem(x: Any, slice_spec: Any) -> Any:
    if isinstance(x, tuple):  # a shape
        index = _index(slice_spec)
        return x[index[0] if isinstance(index, tuple) and len(index) == 1 else index]
    return _getitem(x, slice_spec)


def _shape(x: Any, out_type: str = "int32") -> tuple[int | None, ...]:
    return tuple(x.shape)


def _size_of(shape: Any) -> tuple[int, ...]:
    """A shape for reshape, in which one size may be unknown."""
    sizes = [-1 if size is None else int(size) for size in (shape if isinstance(shape, Sequence) else [shape])]
    if sizes.count(-1) > 1:
        raise NotTranslated("it reshapes to several sizes that are not known")
    return tuple(sizes)


def _reshape(tensor: Any, shape: Any) -> Any:
    return ops.reshape(tensor, _size_of(shape))


def _concat(values: Any, axis: int) -> Any:
    return ops.concatenate(list(values), axis=axis)


def _stack(values: Any, axis: int = 0) -> Any:
    if not any(_is_tensor(value) for value in values):
        return tuple(values)  # the sizes of a shape
    return ops.stack(list(values), axis=axis)


def _unstack(value: Any, axis: int = 0, num: int | None = None) -> Any:
    return tuple(value) if isinstance(value, tuple) else ops.unstack(value, num, axis)


def _split(value: Any, num_or_size_splits: Any, axis: int = 0, num: Any = None) -> Any:
    if isinstance(num_or_size_splits, int):
        return ops.split(value, num_or_size_splits, axis=axis)
    return ops.split(value, np.cumsum(num_or_size_splits)[:-1].tolist(), axis=axis)


def _bias_add(value: Any, bias: Any, data_format: str = "NHWC") -> Any:
    if data_format not in ("NHWC", None) and len(value.shape) > 2:
        raise NotTranslated(f"it adds a bias with data_format={data_format!r}")
    return ops.add(value, _like(bias, value))


def _transpose(a: Any, perm: Any = None) -> Any:
    return ops.transpose(a, perm)


def _pad(tensor: Any, paddings: Any, mode: str = "CONSTANT", constant_values: float = 0) -> Any:
    if mode.upper() == "CONSTANT":
        return ops.pad(tensor, paddings, "constant", constant_values=constant_values)
    return ops.pad(tensor, paddings, mode.lower())


def _resize(
    images: Any, size: Any, method: str = "bilinear", preserve_aspect_ratio: bool = False, antialias: bool = False
) -> Any:
    if preserve_aspect_ratio or method not in ("bilinear", "nearest", "bicubic", "lanczos3", "lanczos5"):
        raise NotTranslated(f"it resizes images with method={method!r}, preserve_aspect_ratio={preserve_aspect_ratio}")
    return ops.image.resize(images, tuple(size), interpolation=method, antialias=antialias, data_format="channels_last")


def _cast(x: Any, dtype: Any) -> Any:
    return ops.cast(x, str(dtype)) if _is_tensor(x) else x


def _clip(t: Any, clip_value_min: Any, clip_value_max: Any) -> Any:
    return ops.clip(t, clip_value_min, clip_value_max)


def _softmax(logits: Any, axis: int = -1) -> Any:
    return ops.softmax(logits, axis=axis)


def _log_softmax(logits: Any, axis: int = -1) -> Any:
    return ops.log_softmax(logits, axis=axis)


def _gelu(features: Any, approximate: bool = False) -> Any:
    return ops.gelu(features, approximate=approximate)


def _leaky_relu(features: Any, alpha: float = 0.2) -> Any:
    return ops.leaky_relu(features, negative_slope=alpha)


def _silu(features: Any, beta: float = 1.0) -> Any:
    return ops.silu(features) if beta == 1.0 else ops.multiply(features, ops.sigmoid(ops.multiply(features, beta)))


def _l2_normalize(x: Any, axis: Any = None, epsilon: float = 1e-12, dim: Any = None) -> Any:
    axis = dim if axis is None else axis
    squares = ops.sum(ops.square(x), axis=tuple(axis) if isinstance(axis, list) else axis, keepdims=True)
    return ops.multiply(x, ops.rsqrt(ops.maximum(squares, np.asarray(epsilon, x.dtype))))


def _matmul(a: Any, b: Any, transpose_a: bool = False, transpose_b: bool = False, **rest: Any) -> Any:
    if any(rest.values()):
        raise NotTranslated(f"it multiplies matrices with {next(key for key, value in rest.items() if value)}")
    return ops.matmul(ops.swapaxes(a, -1, -2) if transpose_a else a, ops.swapaxes(b, -1, -2) if transpose_b else b)


def _einsum(equation: Any, *inputs: Any, **rest: Any) -> Any:
    operands = rest.pop("inputs", inputs)
    if rest:
        raise NotTranslated(f"it calls einsum with {next(iter(rest))}")
    return ops.einsum(equation, *operands)


def _tile(input: Any, multiples: Any) -> Any:
    return ops.tile(input, multiples)


def _squeeze(input: Any, axis: Any = None) -> Any:
    return ops.squeeze(input, tuple(axis) if isinstance(axis, list) else axis)


def _expand_dims(input: Any, axis: int) -> Any:
    return ops.expand_dims(input, axis)


def _reverse(tensor: Any, axis: Any) -> Any:
    return ops.flip(tensor, axis=tuple(axis) if isinstance(axis, list) else axis)


def _roll(input: Any, shift: Any, axis: Any) -> Any:
    def plain(value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value

    return ops.roll(input, plain(shift), plain(axis))


def _pool(function: Callable[..., Any]) -> Callable[..., Any]:
    def apply(input: Any, ksize: Any, strides: Any, padding: str, data_format: str = "NHWC") -> Any:
        if data_format != "NHWC":
            raise NotTranslated(f"it pools with data_format={data_format!r}")

        def inner(value: Any) -> Any:
            return tuple(value[1:3]) if isinstance(value, list) and len(value) == 4 else value

        return function(input, inner(ksize), inner(strides), padding.lower(), "channels_last")

    return apply


_add = _binary(ops.add, lambda x, y: x + y)
_multiply = _binary(ops.multiply, lambda x, y: x * y)
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "__operators__.add": _add,
    "__operators__.getitem": _strided_getitem,
    "math.add": _add,
    "math.add_n": lambda inputs: sum(inputs[1:], start=inputs[0]),
    "math.subtract": _binary(ops.subtract, lambda x, y: x - y),
    "math.multiply": _multiply,
    "math.truediv": _truediv,
    "math.divide": _truediv,
    "math.floordiv": _binary(ops.floor_divide, lambda x, y: x // y),
    "math.maximum": _binary(ops.maximum, max),
    "math.minimum": _binary(ops.minimum, min),
    "math.pow": _binary(ops.power, lambda x, y: x**y),
    "math.squared_difference": _binary(lambda x, y: ops.square(ops.subtract(x, y)), lambda x, y: (x - y) ** 2),
    "math.negative": _unary(ops.negative),
    "math.abs": _unary(ops.abs),
    "math.square": _unary(ops.square),
    "math.sqrt": _unary(ops.sqrt),
    "math.rsqrt": _unary(ops.rsqrt),
    "math.exp": _unary(ops.exp),
    "math.log": _unary(ops.log),
    "math.log1p": _unary(ops.log1p),
    "math.reciprocal": _unary(ops.reciprocal),
    "math.sigmoid": _unary(ops.sigmoid),
    "nn.sigmoid": _unary(ops.sigmoid),
    "math.tanh": _unary(ops.tanh),
    "nn.tanh": _unary(ops.tanh),
    "math.softplus": _named("features", ops.softplus),
    "nn.softplus": _named("features", ops.softplus),
    "nn.softsign": _named("features", ops.softsign),
    "math.erf": _unary(ops.erf),
    "nn.relu": _named("features", ops.relu),
    "nn.relu6": _named("features", ops.relu6),
    "nn.elu": _named("features", ops.elu),
    "nn.selu": _named("features", ops.selu),
    "nn.silu": _silu,
    "nn.swish": _silu,
    "nn.gelu": _gelu,
    "nn.leaky_relu": _leaky_relu,
    "nn.softmax": _softmax,
    "math.softmax": _softmax,
    "nn.log_softmax": _log_softmax,
    "math.reduce_mean": _reduce(ops.mean),
    "reduce_mean": _reduce(ops.mean),
    "math.reduce_sum": _reduce(ops.sum),
    "math.reduce_max": _reduce(ops.max),
    "math.reduce_min": _reduce(ops.min),
    "math.reduce_prod": _reduce(ops.prod),
    "math.reduce_variance": _reduce(ops.var),
    "math.reduce_std": _reduce(ops.std),
    "math.l2_normalize": _l2_normalize,
    "nn.l2_normalize": _l2_normalize,
    "nn.bias_add": _bias_add,
    "nn.avg_pool": _pool(ops.average_pool),
    "nn.avg_pool2d": _pool(ops.average_pool),
    "nn.max_pool": _pool(ops.max_pool),
    "nn.max_pool2d": _pool(ops.max_pool),
    "cast": _cast,
    "clip_by_value": _clip,
    "concat": _concat,
    "convert_to_tensor": lambda value, dtype=None: value,
    "einsum": _einsum,
    "expand_dims": _expand_dims,
    "identity": _unary(lambda x: x),
    "stop_gradient": _unary(lambda x: x),
    "image.resize": _resize,
    "linalg.matmul": _matmul,
    "matmul": _matmul,
    "pad": _pad,
    "repeat": lambda input, repeats, axis=None: ops.repeat(input, repeats, axis),
    "reshape": _reshape,
    "reverse": _reverse,
    "roll": _roll,
    "shape": _shape,
    "split": _split,
    "squeeze": _squeeze,
    "stack": _stack,
    "tile": _tile,
    "transpose": _transpose,
    "unstack": _unstack,
}
