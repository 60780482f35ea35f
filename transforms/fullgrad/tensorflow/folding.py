"""Folds each BatchNorm into the convolution before it: one layer instead of two, with the same terms."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import keras
from keras import layers, ops

from transforms.fullgrad.condensing import Activation
from transforms.fullgrad.flatten import Program, Step, Value
from transforms.fullgrad.places import IMAGE, Place
from transforms.fullgrad.rules import Rule, activation_of, activation_suffix, effective_scale_and_bias
from transforms.fullgrad.tensorflow import autodiff
from transforms.fullgrad.tensorflow.autodiff import Tensor
from transforms.fullgrad.terms import Part, Run, Values


def fold(
    program: Program,
    rules: tuple[Rule, ...],
    places: Mapping[Value, Place],
    *,
    activations: bool,
    kept: Value | None = None,
) -> tuple[Rule, ...]:
    """New rules for every convolution whose output only a BatchNorm takes, and for that BatchNorm.

    With z = Wx + b and y = s ⊙ z + c, the folded layer is y = (s ⊙ W)x + (s ⊙ b + c). Since g_z = s ⊙ g_y, both terms
    g_z ⊙ b and g_y ⊙ c can be made of g_y: as g_y ⊙ (s ⊙ b) and g_y ⊙ c. The convolution's own bias keeps its term.

    With `activations`, a ReLU6 or SiLU that alone takes the BatchNorm's output gets a new rule too. The terms of all
    three are then condensed on the way back through the activation, and nothing else reads the gradient before it.

    A value that is `kept` stays as the model computes it, with the terms of the steps before it added before it. The
    weights are those that the model has now.
    """
    consumers = {value: steps for value, steps in program.consumers().items() if value is not kept}
    folded = dict(zip(program.steps, rules, strict=True))
    for step in program.steps:
        norm = _only_consumer(step, program, consumers)
        if norm is None or not _fits(step, norm):
            continue
        apply, biases = _folded(step, norm)
        folded[norm] = dataclasses.replace(folded[norm], apply=_pass)
        following = _only_consumer(norm, program, consumers) if activations else None
        activation = None if following is None else _foldable_activation(following, norm, places)
        if following is not None and activation is not None:
            folded[step] = dataclasses.replace(folded[step], apply=_untapped(apply))
            folded[following] = dataclasses.replace(folded[following], apply=_activated(activation, biases))
        else:
            folded[step] = dataclasses.replace(folded[step], apply=_tapped(apply, biases))
    return tuple(folded.values())


def _only_consumer(step: Step, program: Program, consumers: Mapping[Value, list[Step]]) -> Step | None:
    """The only step that takes a step's output; None if there are several, or if it is the model's output."""
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


def _foldable_activation(step: Step, norm: Step, places: Mapping[Value, Place]) -> Activation | None:
    """The activation that follows a BatchNorm, if its pull-back can condense the terms before it; else None."""
    fits = (
        getattr(step.operation, "compute_dtype", "float32") == "float32"
        and places.get(norm.outputs[0]) == places.get(step.outputs[0]) == IMAGE
    )
    return activation_of(step) if fits else None


_Biases = list[tuple[Step, Tensor]]


def _folded(convolution: Step, norm: Step) -> tuple[Callable[[Tensor], Tensor], _Biases]:
    """The convolution and the BatchNorm as one function, and the biases of its output, each with its step."""
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


def _activated(activation: Activation, biases: _Biases) -> Callable[[Run, Step, Values], Tensor]:
    return lambda run, step, values: run.add_activated(
        step, activation, biases, values[step.inputs[0]], activation_suffix(step.operation)
    )


def _convolution(layer: layers.Conv2D, scale: Tensor) -> Callable[[Tensor], Tensor]:
    kernel = layer.kernel * scale
    # Usually the first layer: a faster pull-back pays off there.
    if layer.strides[0] == layer.strides[1] > 1 and kernel.shape[2] <= 4 and layer.dilation_rate == (1, 1):
        return lambda x: autodiff.convolve(x, kernel, layer.strides[0], layer.padding)
    return lambda x: layer.convolution_op(x, kernel)


def _depthwise(layer: layers.DepthwiseConv2D, scale: Tensor) -> Callable[[Tensor], Tensor]:
    # Output channel c·m + i comes from the kernel's [:, :, c, i].
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


# From a layer and a scale for each output channel: the call of the scaled layer, without its bias.
_CALLS: dict[type, Callable[[keras.Layer, Tensor], Callable[[Tensor], Tensor]]] = {
    layers.Conv2D: _convolution,
    layers.DepthwiseConv2D: _depthwise,
    layers.SeparableConv2D: _separable,
}
