"""BatchNorm folded into the convolution before it: one layer where there were two, and the same terms."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import keras
from keras import layers, ops

from transforms.fullgrad import autodiff
from transforms.fullgrad.autodiff import Tensor
from transforms.fullgrad.flatten import Program, Step, Value
from transforms.fullgrad.places import IMAGE, Place
from transforms.fullgrad.terms import Part, Rule, Run, Values, activation_of, effective_scale_and_bias


def fold(
    program: Program, rules: tuple[Rule, ...], places: Mapping[Value, Place], *, activations: bool
) -> tuple[Rule, ...]:
    """Replaces the rules of every convolution and the BatchNorm that alone takes its output.

    With z = Wx + b and y = s ⊙ z + c, the folded layer is y = (s ⊙ W)x + (s ⊙ b + c). Since g_z = s ⊙ g_y, the terms
    g_z ⊙ b and g_y ⊙ c are both read from g_y: as g_y ⊙ (s ⊙ b) and g_y ⊙ c. The convolution's own bias keeps its term.

    With `activations`, also the rule of a ReLU6 or SiLU that alone takes the BatchNorm's output: the terms of all three
    are then read in the step back through the activation, and the gradient before it by nothing else.

    The weights are those that the model has now.
    """
    consumers = program.consumers()
    folded = dict(zip(program.steps, rules, strict=True))
    for step in program.steps:
        norm = _alone(step, program, consumers)
        if norm is None or not _fits(step, norm):
            continue
        apply, biases = _folded(step, norm)
        folded[norm] = dataclasses.replace(folded[norm], apply=_pass)
        activation = _alone(norm, program, consumers) if activations else None
        if activation is not None and _is_read_behind(activation, norm, places):
            folded[step] = dataclasses.replace(folded[step], apply=_untapped(apply))
            folded[activation] = dataclasses.replace(folded[activation], apply=_activated(biases))
        else:
            folded[step] = dataclasses.replace(folded[step], apply=_tapped(apply, biases))
    return tuple(folded.values())


def _alone(step: Step, program: Program, consumers: Mapping[Value, list[Step]]) -> Step | None:
    """The step that alone takes what a step makes; None where there are several, or it is the model's output."""
    following = consumers.get(step.outputs[0], [])
    return following[0] if len(following) == 1 and step.outputs[0] is not program.output else None


def _fits(convolution: Step, norm: Step) -> bool:
    layer, following = convolution.operation, norm.operation
    return (
        type(layer) in _CALLS
        and type(following) is layers.BatchNormalization
        and layer.activation is keras.activations.linear
        and not norm.trains
        and following.axis in (-1, len(convolution.outputs[0].shape) - 1)
        and layer.compute_dtype == following.compute_dtype == layer.variable_dtype == "float32"
    )


def _pass(run: Run, step: Step, values: Values) -> Tensor:
    return values[step.inputs[0]]


def _is_read_behind(activation: Step, norm: Step, places: Mapping[Value, Place]) -> bool:
    """Whether the terms up to an activation can be read from its output's gradient."""
    return (
        activation_of(activation) is not None
        and getattr(activation.operation, "compute_dtype", "float32") == "float32"
        and places.get(norm.outputs[0]) == places.get(activation.outputs[0]) == IMAGE
    )


_Biases = list[tuple[Step, Tensor]]


def _folded(convolution: Step, norm: Step) -> tuple[Callable[[Tensor], Tensor], _Biases]:
    """The convolution and the BatchNorm as one function, and the biases that its output has, each its step's."""
    layer = convolution.operation
    scale, shift = effective_scale_and_bias(norm.operation)
    bias = None if layer.bias is None else ops.convert_to_tensor(layer.bias) * scale
    offset = shift if bias is None else bias + shift
    call = _CALLS[type(layer)](layer, scale)
    biases = [(norm, shift)] if bias is None else [(convolution, bias), (norm, shift)]
    return lambda x: ops.add(call(x), offset), biases


def _untapped(function: Callable[[Tensor], Tensor]) -> Callable[[Run, Step, Values], Tensor]:
    return lambda run, step, values: function(values[step.inputs[0]])


def _tapped(function: Callable[[Tensor], Tensor], biases: _Biases) -> Callable[[Run, Step, Values], Tensor]:
    def apply(run: Run, step: Step, values: Values) -> Tensor:
        y = run.tap(function(values[step.inputs[0]]))
        for owner, bias in biases:
            run.add(owner, Part(y, bias), explicit=True)
        return y

    return apply


def _activated(biases: _Biases) -> Callable[[Run, Step, Values], Tensor]:
    return lambda run, step, values: run.add_activated(step, biases, values[step.inputs[0]])


def _convolution(layer: layers.Conv2D, scale: Tensor) -> Callable[[Tensor], Tensor]:
    kernel = layer.kernel * scale
    # The first layer, as a rule: its pull-back is worth a way of its own.
    if layer.strides[0] == layer.strides[1] > 1 and kernel.shape[2] <= 4 and layer.dilation_rate == (1, 1):
        return lambda x: autodiff.convolve(x, kernel, layer.strides[0], layer.padding)
    return lambda x: layer.convolution_op(x, kernel)


def _depthwise(layer: layers.DepthwiseConv2D, scale: Tensor) -> Callable[[Tensor], Tensor]:
    # Output channel c·m + i is made by the kernel's [:, :, c, i].
    kernel = layer.kernel * ops.reshape(scale, layer.kernel.shape[2:])
    return lambda x: ops.depthwise_conv(x, kernel, **_geometry(layer))


def _separable(layer: layers.SeparableConv2D, scale: Tensor) -> Callable[[Tensor], Tensor]:
    depthwise, pointwise = ops.convert_to_tensor(layer.depthwise_kernel), layer.pointwise_kernel * scale
    return lambda x: ops.separable_conv(x, depthwise, pointwise, **_geometry(layer))


def _geometry(layer: keras.Layer) -> dict[str, object]:
    return {
        "strides": layer.strides,
        "padding": layer.padding,
        "dilation_rate": layer.dilation_rate,
        "data_format": layer.data_format,
    }


# By a layer and the scale of its output's channels: the call without bias of the layer so scaled.
_CALLS: dict[type, Callable[[keras.Layer, Tensor], Callable[[Tensor], Tensor]]] = {
    layers.Conv2D: _convolution,
    layers.DepthwiseConv2D: _depthwise,
    layers.SeparableConv2D: _separable,
}
