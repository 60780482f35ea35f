"""Rules: which layer adds which term to the logit.

A term is zero for every step that is positively homogeneous of degree one: convolutions without bias, ReLU, pooling,
sums. For other known steps, the rules below give the term in closed form, position by position. `_GENERAL` treats every
remaining step by the definition of a term itself (see `terms`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
from keras import layers, ops

from transforms.fullgrad.condensing import Activation
from transforms.fullgrad.flatten import CannotExpose, Step, Value
from transforms.fullgrad.tensorflow import autodiff
from transforms.fullgrad.tensorflow.autodiff import Tensor
from transforms.fullgrad.terms import Part, Run, Values


@dataclasses.dataclass(frozen=True, slots=True)
class Rule:
    """How to run a step and which terms it adds.

    Attributes:
      adds: what the step adds to the logit, in words; empty for nothing.
      apply: runs the step, adds its terms to the run, and returns its output.
      explicit: whether the step has an explicit bias term, which `biases: explicit` keeps.
    """

    adds: str
    apply: Callable[[Run, Step, Values], Any]
    explicit: bool = False


def rule_for(step: Step) -> Rule:
    """The rule for a step. Every step has one: the general rule treats those that are not known.

    Raises:
      CannotExpose: the layer's data are laid out channels first.
    """
    operation = step.operation
    if getattr(operation, "data_format", None) == "channels_first":
        raise CannotExpose(
            f"layer {step.name!r} has data_format 'channels_first'; only 'channels_last' models can be explained"
        )
    if not type(operation).__module__.startswith("keras.") or step.trains:
        # A user's layer that was not opened up may be derived from one of Keras' and do something else. A layer in
        # training mode does something else too, such as a BatchNorm with the batch's own statistics.
        return _GENERAL
    if isinstance(operation, _BIASED):
        return _biased_rule(operation, operation.activation)
    if isinstance(operation, layers.BatchNormalization):
        return Rule("effective bias β − γ·μ/√(σ² + ε)", _batch_normalization, explicit=True)
    if isinstance(operation, layers.Rescaling | layers.Normalization):
        return Rule("constant offset", _shift)
    if isinstance(operation, layers.Activation):
        return _activation_rule(operation.activation)
    if _is_relu6(operation):
        return Rule(f"implicit bias of {step.kind}", _relu6_step)
    if (function := _ELEMENTWISE.get(_kind(operation))) is not None and function(operation):
        return Rule(f"implicit bias of {step.kind}", _elementwise)
    if _is_linear(step):
        return _LINEAR
    if _kind(operation) in _PRODUCTS:
        return Rule("product of activations, −g ⊙ y", _product)
    if _kind(operation) in _SHIFTS and _single_input(step):
        return Rule("added constant", _shift)
    return _GENERAL


# ---- linear, or piecewise linear through zero: no term


def _call(run: Run, step: Step, values: Values) -> Any:
    return step.call(values)


_LINEAR = Rule("", _call)


# ---- layers with a bias, and activations fused into them

_BIASED = (
    layers.Dense,
    layers.EinsumDense,
    layers.Conv1D,
    layers.Conv2D,
    layers.Conv3D,
    layers.Conv1DTranspose,
    layers.Conv2DTranspose,
    layers.Conv3DTranspose,
    layers.DepthwiseConv1D,
    layers.DepthwiseConv2D,
    layers.SeparableConv1D,
    layers.SeparableConv2D,
)


def _biased_rule(layer: keras.Layer, activation: Any) -> Rule:
    """g_z ⊙ b at the output z before the activation, then the activation's own term."""
    has_bias = getattr(layer, "bias", None) is not None
    of_activation = _activation_rule(activation)
    if not has_bias and not of_activation.adds and activation is layer.activation:
        return _LINEAR

    def apply(run: Run, step: Step, values: Values) -> Tensor:
        z = without_activation(step).call(values)
        if has_bias:
            z = run.tap(z)
            run.add(step, Part(z, ops.convert_to_tensor(layer.bias)), explicit=True)
        return _activate(run, step, activation, z)

    return Rule(", ".join(filter(None, ["bias" if has_bias else "", of_activation.adds])), apply, explicit=has_bias)


def without_activation(step: Step) -> Step:
    """The step without its layer's fused activation.

    It calls a copy of the layer, with the same variables. The layer itself is not changed, since other threads may be
    calling it.
    """
    layer = step.operation
    copy = object.__new__(type(layer))
    vars(copy).update(vars(layer), activation=keras.activations.linear)
    return dataclasses.replace(step, operation=copy)


def _batch_normalization(run: Run, step: Step, values: Values) -> Tensor:
    y = run.tap(step.call(values))
    _, bias = effective_scale_and_bias(step.operation)
    axis, rank = step.operation.axis % len(y.shape), len(y.shape)
    if axis != rank - 1:
        bias = ops.reshape(bias, [-1 if i == axis else 1 for i in range(rank)])
    run.add(step, Part(y, bias), explicit=True)
    return y


def effective_scale_and_bias(layer: layers.BatchNormalization) -> tuple[Tensor, Tensor]:
    """Scale and bias of the layer in inference, x ↦ scale·x + bias: γ/√(σ² + ε) and β − γ·μ/√(σ² + ε), float32 [C]."""
    scale = ops.rsqrt(ops.cast(layer.moving_variance, "float32") + layer.epsilon)
    if layer.gamma is not None:
        scale = scale * ops.cast(layer.gamma, "float32")
    bias = -ops.cast(layer.moving_mean, "float32") * scale
    if layer.beta is not None:
        bias = bias + ops.cast(layer.beta, "float32")
    return scale, bias


# ---- activations: g_y ⊙ y − g_z ⊙ z, where the activation pulls g_y back to g_z

# Positively homogeneous of degree one: by Euler's relation, the term is zero.
_HOMOGENEOUS = (keras.activations.linear, keras.activations.relu, keras.activations.leaky_relu)
_ELEMENTWISE_FUNCTIONS = tuple(
    getattr(keras.activations, name)
    for name in (
        "celu elu exponential gelu hard_shrink hard_sigmoid hard_swish hard_tanh log_sigmoid mish relu6 selu "
        "sigmoid silu soft_shrink softplus softsign sparse_plus squareplus swish tanh tanh_shrink threshold"
    ).split()
    if hasattr(keras.activations, name)
)


def _activation_rule(activation: Any) -> Rule:
    if activation is None or activation in _HOMOGENEOUS:
        return _LINEAR
    if isinstance(activation, keras.Layer):  # a layer that is another layer's activation
        return _LINEAR if _is_homogeneous_layer(activation) else Rule(_implicit(activation), _activation_layer)
    return Rule(_implicit(activation), _activation_layer)


def _implicit(activation: Any) -> str:
    return f"implicit bias of {getattr(activation, '__name__', None) or type(activation).__name__}"


def activation_suffix(operation: Any) -> str:
    """What follows a layer's name in the name of its activation's term; empty for an operation without activation."""
    activation = getattr(operation, "activation", None)
    return "" if activation is None else f" ({_implicit(activation)})"


def _activation_layer(run: Run, step: Step, values: Values) -> Tensor:
    (z,) = (values[value] for value in step.inputs)
    return _activate(run, step, step.operation.activation, z)


def _activate(run: Run, step: Step, activation: Any, z: Tensor) -> Tensor:
    if not _activation_rule(activation).adds:
        return z if activation is None else activation(z)
    suffix = activation_suffix(step.operation)
    if activation is keras.activations.relu6:
        return _relu6(run, step, z, suffix)
    z = run.tap(z)
    y = run.tap(autodiff.silu(z) if activation is keras.activations.silu else activation(z))
    # Other functions (softmax, a user's own) may mix channels: their term has a meaning only summed over channels.
    elementwise = any(activation is known for known in _ELEMENTWISE_FUNCTIONS)
    run.add(step, Part(y, y), Part(z, z, -1.0), per_channel=elementwise, suffix=suffix)
    return y


def _relu6(run: Run, step: Step, z: Tensor, suffix: str = "") -> Tensor:
    """g_y ⊙ y − g_z ⊙ z is g_y ⊙ 6 where y = 6, and 0 elsewhere. So neither z nor its gradient is needed."""
    y = run.tap(keras.activations.relu6(z))
    run.add(step, Part(y, y, threshold=6.0), suffix=suffix)
    return y


def activation_of(step: Step) -> Activation | None:
    """The activation that a step is, if it is nothing else and its pull-back can be condensed; else None."""
    function = step.operation.activation if type(step.operation) is layers.Activation else None
    if _is_relu6(step.operation) or function is keras.activations.relu6:
        return "relu6"
    return "silu" if function is keras.activations.silu or _kind(step.operation) == "ops.Silu" else None


def _elementwise(run: Run, step: Step, values: Values) -> Tensor:
    return _euler(run, step, values, per_channel=True)


def _relu6_step(run: Run, step: Step, values: Values) -> Tensor:
    return _relu6(run, step, values[step.inputs[0]])


# ---- the softmax or sigmoid at the end: undone, since the logit before it is explained


def squashing(step: Step) -> str | None:
    """`softmax` or `sigmoid` if the step ends in one, fused into a layer or alone; otherwise None."""
    kind = _kind(step.operation)
    if kind in ("layers.Softmax", "ops.Softmax", "ops.Sigmoid"):
        return step.kind.lower()
    activation = getattr(step.operation, "activation", None)
    return next((name for name in ("softmax", "sigmoid") if activation is getattr(keras.activations, name)), None)


def rule_without_squashing(step: Step) -> Rule:
    """The rule for a step whose softmax or sigmoid is undone."""
    if isinstance(step.operation, _BIASED):
        return _biased_rule(step.operation, None)
    return Rule("", lambda run, step, values: values[step.inputs[0]])


def ends_linearly(step: Step) -> bool:
    """Whether a step is a layer with weights and without an activation."""
    return isinstance(step.operation, _BIASED) and step.operation.activation in (None, keras.activations.linear)


def only_moves(step: Step) -> bool:
    """Whether a step keeps the numbers of its one input; their shape and type may change."""
    return step.kind in ("Reshape", "Flatten", "Identity", "Dropout", "Cast", "Squeeze", "Permute", "Copy") or (
        isinstance(step.operation, layers.Activation) and step.operation.activation is keras.activations.linear
    )


# ---- arithmetic


def _product(run: Run, step: Step, values: Values) -> Tensor:
    """A product of n activations is homogeneous of degree n: the term is −(n − 1) · g_y ⊙ y."""
    y = run.tap(step.call(values))
    run.add(step, Part(y, y, 1.0 - len(step.inputs)))
    return y


def _shift(run: Run, step: Step, values: Values) -> Tensor:
    """An affine step y = Ax + c: the term is g_y ⊙ c, where c is the step's output for x = 0."""
    y = run.tap(step.call(values))
    zeros = {value: ops.zeros_like(values[value][:1]) for value in step.inputs}  # c is the same for every image
    run.add(step, Part(y, step.call(zeros)))
    return y


# ---- all other steps


def _general(run: Run, step: Step, values: Values) -> Any:
    return _euler(run, step, values, per_channel=False)


_GENERAL = Rule("general: Σ g_y·y − Σ g_x·x", _general)


def _euler(run: Run, step: Step, values: Values, *, per_channel: bool) -> Any:
    """Σ g_y·y − Σ g_x·x. The inputs are tapped here, so that g_x is pulled back through this step alone."""
    floating = [value for value in step.inputs if "float" in value.dtype]
    inputs = {value: run.tap(values[value]) for value in dict.fromkeys(floating)}
    outputs = keras.tree.map_structure(
        lambda y: run.tap(y) if "float" in keras.backend.standardize_dtype(y.dtype) else y,
        step.call({**values, **inputs}),
    )
    tapped = [y for y in keras.tree.flatten(outputs) if "float" in keras.backend.standardize_dtype(y.dtype)]
    run.add(
        step,
        *(Part(y, y) for y in tapped),
        *(Part(x, x, -1.0) for x in inputs.values()),
        per_channel=per_channel,
    )
    return outputs


# ---- kinds of operations


def _kind(operation: keras.Operation) -> str:
    """`layers.Add` for a layer, `ops.Add` for a bare operation (keras.ops and keras.activations)."""
    module = type(operation).__module__
    if not module.startswith("keras."):
        return ""
    return f"{'layers' if isinstance(operation, keras.Layer) else 'ops'}.{type(operation).__name__}"


def _single_input(step: Step) -> bool:
    return len(step.inputs) == 1


def _is_homogeneous_layer(layer: keras.Layer) -> bool:
    if isinstance(layer, layers.ReLU):
        return layer.max_value is None and not layer.threshold
    return isinstance(layer, layers.LeakyReLU | layers.PReLU)


def _clipped(operation: Any) -> bool:
    """Whether a ReLU is clipped above or thresholded away from zero, so that it is not homogeneous."""
    return getattr(operation, "max_value", None) is not None or bool(getattr(operation, "threshold", 0))


def _is_relu6(operation: Any) -> bool:
    """Whether Keras computes it as ReLU6, whose gradient at 6 is 0; that of a clip is 1."""
    if _kind(operation) == "ops.Relu6":
        return True
    slope, threshold = getattr(operation, "negative_slope", 0), getattr(operation, "threshold", 0)
    return _kind(operation) in ("layers.ReLU", "ops.ReLU") and operation.max_value == 6 and not slope and not threshold


def _always(operation: Any) -> bool:
    return True


# Operations on each element alone, which have a term if the condition holds.
_ELEMENTWISE: dict[str, Callable[[Any], bool]] = {
    "layers.ReLU": _clipped,
    "ops.ReLU": _clipped,
    **dict.fromkeys(
        (
            "layers.ELU",
            *(
                f"ops.{name}"
                for name in (
                    "Celu Clip Elu Erf Exp Expm1 Gelu HardShrink HardSigmoid HardSilu HardTanh Log Log1p LogSigmoid "
                    "Mish Power Reciprocal Relu6 Rsqrt Selu Sigmoid Silu SoftShrink Softplus Softsign SparsePlus Sqrt "
                    "Square Squareplus Tanh TanhShrink Threshold"
                ).split()
            ),
        ),
        _always,
    ),
}

_LINEAR_LAYERS = frozenset(
    (
        "ActivityRegularization Add AlphaDropout Average AveragePooling1D AveragePooling2D AveragePooling3D "
        "CenterCrop Concatenate Cropping1D Cropping2D Cropping3D Dropout Flatten GaussianDropout "
        "GaussianNoise GlobalAveragePooling1D GlobalAveragePooling2D GlobalAveragePooling3D "
        "GlobalMaxPooling1D GlobalMaxPooling2D GlobalMaxPooling3D Identity LeakyReLU MaxPooling1D "
        "MaxPooling2D MaxPooling3D Maximum Minimum PReLU Permute ReLU RepeatVector Reshape Resizing "
        "SpatialDropout1D SpatialDropout2D SpatialDropout3D Subtract UpSampling1D UpSampling2D UpSampling3D "
        "ZeroPadding1D ZeroPadding2D ZeroPadding3D"
    ).split()
)
# Linear or homogeneous in all the tensors that they take.
_LINEAR_OPERATIONS = frozenset(
    (
        "Abs Absolute Amax Amin AveragePool BroadcastTo Cast Concatenate Copy ExpandDims Flatten Flip GetItem "
        "Identity LeakyRelu Max MaxPool Mean Moveaxis Negative ReLU Relu Repeat Reshape Resize Roll Split "
        "Squeeze Stack Sum Swapaxes Take TakeAlongAxis Tile Transpose Unstack"
    ).split()
)
# Products are linear if one tensor depends on the image and the other is constant. Sums are homogeneous of degree one
# if both depend on the image.
_BILINEAR = frozenset({"ops.Multiply", "ops.Matmul", "ops.Dot", "ops.Einsum", "ops.Conv", "ops.DepthwiseConv"})
_SUMS = frozenset({"ops.Add", "ops.Subtract", "ops.Maximum", "ops.Minimum"})
_SHIFTS = frozenset({"ops.Add", "ops.Subtract", "layers.Add", "layers.Subtract"})
_PRODUCTS = frozenset({"layers.Multiply", "layers.Dot"}) | _BILINEAR


def _is_linear(step: Step) -> bool:
    operation, kind = step.operation, _kind(step.operation)
    name = kind.partition(".")[2]
    if kind.startswith("layers."):
        if name in ("Add", "Subtract", "Maximum", "Minimum", "Average", "Concatenate") and _constants(step):
            return False
        return name in _LINEAR_LAYERS and not (name == "Resizing" and operation.pad_to_aspect_ratio)
    if kind in _SUMS or name in ("Concatenate", "Stack"):
        return not _constants(step)
    if kind in _BILINEAR:
        return _single_input(step)
    if kind in ("ops.Divide", "ops.TrueDivide"):
        return _single_input(step) and isinstance(step.args[0], Value)
    return kind.startswith("ops.") and name in _LINEAR_OPERATIONS


def _constants(step: Step) -> bool:
    """Whether an operand does not depend on the image: a number, an array or a variable."""
    operands = step.args if len(step.args) > 1 else keras.tree.flatten(step.args)
    return any(not isinstance(operand, Value) for operand in keras.tree.flatten(operands))
