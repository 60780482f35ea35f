"""BatchNorm folded into the convolution before it: one layer where there were two, and the same terms."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import keras
from keras import layers, ops

from transforms.fullgrad import autodiff
from transforms.fullgrad.autodiff import Tensor
from transforms.fullgrad.flatten import Program, Step
from transforms.fullgrad.terms import Part, Rule, Run, Values, effective_scale_and_bias


def fold(program: Program, rules: tuple[Rule, ...]) -> tuple[Rule, ...]:
    """Replaces the rules of every convolution and the BatchNorm that alone takes its output.

    With z = Wx + b and y = s ⊙ z + c, the folded layer is y = (s ⊙ W)x + (s ⊙ b + c). Since g_z = s ⊙ g_y, the terms
    g_z ⊙ b and g_y ⊙ c are both read from g_y: as g_y ⊙ (s ⊙ b) and g_y ⊙ c. The convolution's own bias keeps its term.

    The weights are those that the model has now.
    """
    consumers = program.consumers()
    folded = dict(zip(program.steps, rules, strict=True))
    for step in program.steps:
        following = consumers.get(step.outputs[0], [])
        if len(following) == 1 and step.outputs[0] is not program.output and _fits(step, following[0]):
            folded[step] = _folded_rule(step, following[0], folded[step])
            folded[following[0]] = dataclasses.replace(folded[following[0]], apply=_pass)
    return tuple(folded.values())


def _fits(convolution: Step, norm: Step) -> bool:
    layer, following = convolution.operation, norm.operation
    return (
        type(layer) in _CALLS
        and type(following) is layers.BatchNormalization
        and layer.activation is keras.activations.linear
        and following.axis in (-1, len(convolution.outputs[0].shape) - 1)
        and layer.compute_dtype == following.compute_dtype == layer.variable_dtype == "float32"
    )


def _pass(run: Run, step: Step, values: Values) -> Tensor:
    return values[step.inputs[0]]


def _folded_rule(convolution: Step, norm: Step, rule: Rule) -> Rule:
    layer = convolution.operation
    scale, shift = effective_scale_and_bias(norm.operation)
    bias = None if layer.bias is None else ops.convert_to_tensor(layer.bias) * scale
    offset = shift if bias is None else bias + shift
    call = _CALLS[type(layer)](layer, scale)

    def apply(run: Run, step: Step, values: Values) -> Tensor:
        y = run.tap(ops.add(call(values[step.inputs[0]]), offset))
        if bias is not None:
            run.add(step, Part(y, bias), explicit=True)
        run.add(norm, Part(y, shift), explicit=True)
        return y

    return dataclasses.replace(rule, apply=apply)


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
