"""A Keras model in PyTorch: the same network with the same weights, and FullGrad as its authors define it.

What `benchmarks.method` compares itself with; needs the extra `peers`.
"""

from __future__ import annotations

import copy
import functools
import operator
import threading
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from transforms.fullgrad import Exposed
from transforms.fullgrad.flatten import Step, Value

try:
    import torch
except ImportError:  # without the extra `peers`
    torch = None  # type: ignore[assignment]

INSTALLED = torch is not None


class PeerError(ValueError):
    """PyTorch cannot compute the same network; one sentence."""


def use_threads(count: int) -> None:
    """Lets PyTorch compute in so many threads."""
    torch.set_num_threads(count)


def check_logits(exposed: Exposed, peer: Peer, images: np.ndarray) -> None:
    """Checks that both give the same logits for images [N, H, W, C], within 1e-3 of the largest.

    Raises:
      PeerError: they do not.
    """
    ours = ops.convert_to_numpy(exposed.run(ops.convert_to_tensor(images), lambda tensor: tensor)[0])
    difference = np.abs(peer.forward(peer.batch(images)).numpy() - ours).max() / np.abs(ours).max()
    if not difference < 1e-3:
        raise PeerError(f"{exposed.model.name}: PyTorch's logits differ by {difference:.1e} of the largest")


class Peer:
    """A model in PyTorch, ready for inference. As usual in PyTorch, images are NCHW and BatchNorms are separate layers.

    Parameters need no gradient, so backward passes go only to the input.
    """

    def __init__(self, exposed: Exposed):
        """Raises PeerError if the model has a step that is not translated."""
        self.module = _Translation(exposed).module().eval().requires_grad_(False)
        # The authors' algorithm has its own module: in-place activations would overwrite the outputs whose gradients it
        # needs.
        self._watched = copy.deepcopy(self.module)
        self._outputs = threading.local()  # outputs of the layers with a bias, in the forward pass of each thread
        self._bias_layers: list[tuple[Any, Any]] = []
        for layer in self._watched.modules():
            if getattr(layer, "inplace", False):
                layer.inplace = False
            bias = _bias(layer)
            if bias is not None:
                self._bias_layers.append((layer, bias))
                layer.register_forward_hook(lambda layer, _, output: self._outputs.of.__setitem__(layer, output))

    def batch(self, images: np.ndarray) -> Any:
        """Images [N, H, W, C] as a tensor [N, C, H, W]."""
        return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()

    def forward(self, images: Any) -> Any:
        """Logits [N, K] of images [N, C, H, W]."""
        with torch.inference_mode():
            return self.module(images)

    def gradient(self, images: Any) -> Any:
        """∂f/∂x [N, C, H, W], f being the largest logit."""
        x = images.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(_objective(self.module(x)), x)
        return gradient

    def authors(self, images: Any) -> Any:
        """FullGrad's maps [N, H, W] of images [N, C, H, W], as the authors compute them.

        Srinivas & Fleuret 2019 (arXiv 1905.00780), section 5, and idiap/fullgrad-saliency: Σ_c ψ(x ⊙ ∂f/∂x), plus
        Σ_c resize(ψ(b ⊙ ∂f/∂z)) for every layer that has a bias (or an effective one) and a spatial output.
        """
        self._outputs.of = {}
        x = images.detach().requires_grad_()
        f = _objective(self._watched(x))
        outputs = [self._outputs.of[layer] for layer, _ in self._bias_layers]
        of_input, *gradients = torch.autograd.grad(f, [x, *outputs])
        saliency = _rescaled(of_input * images).sum(1)
        for (_, bias), gradient in zip(self._bias_layers, gradients, strict=True):
            if gradient.dim() == 4:
                resized = torch.nn.functional.interpolate(
                    _rescaled(gradient * bias[:, None, None]), images.shape[2:], mode="bilinear", align_corners=True
                )
                saliency += resized.sum(1)
        return saliency


def _objective(logits: Any) -> Any:
    return logits.amax(dim=1).sum()


def _rescaled(term: Any) -> Any:
    """ψ(|t|) [N, C, h, w] for each image: minus its least value, then divided by its largest plus 1e-6."""
    magnitude = term.abs()
    magnitude = magnitude - magnitude.amin((1, 2, 3), keepdim=True)
    return magnitude / (magnitude.amax((1, 2, 3), keepdim=True) + 1e-6)


def _bias(layer: Any) -> Any:
    """The bias [C] of a layer, for a BatchNorm the effective one, or None."""
    if isinstance(layer, torch.nn.BatchNorm2d):
        mean, variance = layer.get_buffer("running_mean"), layer.get_buffer("running_var")
        return layer.bias - mean * layer.weight / torch.sqrt(variance + layer.eps)
    return layer.bias if isinstance(layer, torch.nn.Conv2d | torch.nn.Linear) else None


# ---- from Keras to PyTorch


def has_places(value: Value) -> bool:
    """Whether a value is [N, h, w, C]."""
    return len(value.shape) == 4


class _Translation:
    """Translates a program to a graph of PyTorch's own modules, up to the logits.

    The translation leaves out what costs time and PyTorch's users would not write, as long as the network stays the
    same: padding that a convolution can do itself, the bias of a convolution before a BatchNorm (it goes into the
    BatchNorm's mean), and separate memory for activations that can be computed in place.
    """

    def __init__(self, exposed: Exposed):
        self._program = exposed.program
        self._consumers = exposed.program.consumers()
        self._graph = torch.fx.Graph()
        self._modules: dict[str, Any] = {}
        self._nodes: dict[Value, Any] = {self._program.input: self._graph.placeholder("images")}
        translate: Mapping[str, Callable[[Step], Any]] = {
            "Activation": lambda step: self._activated(self._input(step), step, in_place=self._may_overwrite(step)),
            "Add": lambda step: self._joined(operator.add, step),
            "AveragePooling2D": self._average_pooling,
            "BatchNormalization": self._batch_norm,
            "Concatenate": self._concatenate,
            "Conv2D": self._convolution,
            "Dense": self._dense,
            "DepthwiseConv2D": self._depthwise,
            "Dropout": self._input,
            "Flatten": self._flatten,
            "GlobalAveragePooling2D": self._global_average,
            "MaxPooling2D": self._max_pooling,
            "Multiply": lambda step: self._joined(operator.mul, step),
            "Normalization": self._normalization,
            "ReLU": self._relu,
            "Rescaling": self._rescaling,
            "Reshape": self._reshape,
            "SeparableConv2D": self._separable,
            "ZeroPadding2D": self._zero_padding,
        }
        for step in self._program.steps:
            if step.kind not in translate:
                raise _untranslated(step)
            self._nodes[step.outputs[0]] = translate[step.kind](step)
        self._graph.output(self._nodes[self._program.output])

    def module(self) -> Any:
        module = torch.fx.GraphModule(self._modules, self._graph)
        module.graph.eliminate_dead_code()  # padding that the convolutions do themselves
        module.recompile()
        return module

    def _input(self, step: Step) -> Any:
        return self._nodes[step.inputs[0]]

    def _call(self, module: Any, node: Any) -> Any:
        name = f"layer_{len(self._modules)}"
        self._modules[name] = module
        return self._graph.call_module(name, (node,))

    # ---- convolutions

    def _convolution(self, step: Step) -> Any:
        kernel = _array(step.operation.kernel).transpose(3, 2, 0, 1)
        return self._activated(self._convolved(step, kernel, self._bias(step), step.operation.groups), step)

    def _depthwise(self, step: Step) -> Any:
        kernel = _depthwise_kernel(step.operation.kernel)
        groups = step.inputs[0].shape[-1]
        return self._activated(self._convolved(step, kernel, self._bias(step), groups), step)

    def _separable(self, step: Step) -> Any:
        depthwise = self._convolved(
            step, _depthwise_kernel(step.operation.depthwise_kernel), None, step.inputs[0].shape[-1]
        )
        pointwise = _conv2d(_array(step.operation.pointwise_kernel).transpose(3, 2, 0, 1), self._bias(step))
        return self._activated(self._call(pointwise, depthwise), step)

    def _convolved(self, step: Step, kernel: np.ndarray, bias: np.ndarray | None, groups: int | None) -> Any:
        layer, value = step.operation, step.inputs[0]
        pads = _pads(step, layer.kernel_size, layer.dilation_rate)
        before = self._program.producer(value)
        if before is not None and before.kind == "ZeroPadding2D" and not any(pads):
            pads, value = _zero_pads(before), before.inputs[0]
        node, padding = self._padded(self._nodes[value], pads, 0.0)
        module = _conv2d(
            kernel, bias, stride=layer.strides, dilation=layer.dilation_rate, groups=groups, padding=padding
        )
        return self._call(module, node)

    def _bias(self, step: Step) -> np.ndarray | None:
        """[C], or None if there is none, or if the following BatchNorm contains it."""
        layer = step.operation
        return None if layer.bias is None or self._norm_after(step) else _array(layer.bias)

    def _norm_after(self, step: Step) -> bool:
        following = self._consumers.get(step.outputs[0], [])
        return (
            step.operation.activation is keras.activations.linear
            and len(following) == 1
            and following[0].kind == "BatchNormalization"
        )

    def _batch_norm(self, step: Step) -> Any:
        layer, (value,) = step.operation, step.inputs
        if not has_places(value) or layer.axis not in (-1, 3):
            raise _untranslated(step)
        mean, variance = _array(layer.moving_mean), _array(layer.moving_variance)
        before = self._program.producer(value)
        if before is not None and getattr(before.operation, "bias", None) is not None and self._norm_after(before):
            mean = mean - _array(before.operation.bias)
        weight = np.ones_like(mean) if layer.gamma is None else _array(layer.gamma)
        bias = np.zeros_like(mean) if layer.beta is None else _array(layer.beta)
        module = torch.nn.BatchNorm2d(len(mean), eps=layer.epsilon)
        return self._call(
            _filled(module, weight=weight, bias=bias, running_mean=mean, running_var=variance), self._input(step)
        )

    # ---- activations

    def _activated(self, node: Any, step: Step, *, in_place: bool = True) -> Any:
        """The node after the step's activation function; the final softmax or sigmoid of the program is left out."""
        name = step.operation.activation.__name__
        if name == "linear" or (step.outputs[0] is self._program.output and name in ("softmax", "sigmoid")):
            return node
        if name == "sigmoid":  # its gradient is computed from its result
            return self._call(torch.nn.Sigmoid(), node)
        modules = {"relu": torch.nn.ReLU, "relu6": torch.nn.ReLU6, "silu": torch.nn.SiLU}
        if name not in modules:
            raise _untranslated(step)
        return self._call(modules[name](inplace=in_place), node)

    def _relu(self, step: Step) -> Any:
        layer = step.operation
        if layer.max_value not in (None, 6.0) or layer.negative_slope or layer.threshold:
            raise _untranslated(step)
        module = torch.nn.ReLU if layer.max_value is None else torch.nn.ReLU6
        return self._call(module(inplace=self._may_overwrite(step)), self._input(step))

    def _may_overwrite(self, step: Step) -> bool:
        """Whether no other step reads the step's input, and its producer does not need it for the backward pass."""
        (value,) = step.inputs
        before = self._program.producer(value)
        makes_new = before is not None and (
            before.kind in ("Add", "BatchNormalization")
            or getattr(before.operation, "activation", None) is keras.activations.linear
        )
        return makes_new and len(self._consumers[value]) == 1

    # ---- pooling and padding

    def _max_pooling(self, step: Step) -> Any:
        layer = step.operation
        node, padding = self._padded(self._input(step), _pads(step, layer.pool_size), -np.inf)
        return self._call(torch.nn.MaxPool2d(layer.pool_size, layer.strides, padding), node)

    def _average_pooling(self, step: Step) -> Any:
        layer = step.operation
        # Keras averages over the pixels inside the image. PyTorch can do that only if opposite sides have equal
        # padding.
        if any(_pads(step, layer.pool_size)):
            raise _untranslated(step)
        return self._call(torch.nn.AvgPool2d(layer.pool_size, layer.strides), self._input(step))

    def _global_average(self, step: Step) -> Any:
        return self._graph.call_method("mean", (self._input(step), (2, 3)), {"keepdim": step.operation.keepdims})

    def _zero_padding(self, step: Step) -> Any:
        top, bottom, left, right = _zero_pads(step)
        return self._call(torch.nn.ZeroPad2d((left, right, top, bottom)), self._input(step))

    def _padded(self, node: Any, pads: _Pads, value: float) -> tuple[Any, tuple[int, int]]:
        """The node, padded if opposite sides differ, and the padding that the layer does itself."""
        top, bottom, left, right = pads
        if top == bottom and left == right:
            return node, (top, left)
        return self._call(torch.nn.ConstantPad2d((left, right, top, bottom), value), node), (0, 0)

    # ---- the rest

    def _dense(self, step: Step) -> Any:
        if has_places(step.inputs[0]):
            raise _untranslated(step)
        layer = step.operation
        kernel = _array(layer.kernel)
        inputs, outputs = kernel.shape
        module = torch.nn.Linear(inputs, outputs, bias=layer.bias is not None)
        arrays = {} if layer.bias is None else {"bias": _array(layer.bias)}
        return self._activated(self._call(_filled(module, weight=kernel.T, **arrays), self._input(step)), step)

    def _flatten(self, step: Step) -> Any:
        node = self._input(step)
        if has_places(step.inputs[0]):  # in Keras' order
            node = self._graph.call_method("permute", (node, 0, 2, 3, 1))
        return self._graph.call_method("flatten", (node, 1))

    def _reshape(self, step: Step) -> Any:
        if has_places(step.inputs[0]) or step.outputs[0].shape[1:3] != (1, 1):
            raise _untranslated(step)
        return self._graph.call_method("reshape", (self._input(step), -1, step.outputs[0].shape[-1], 1, 1))

    def _joined(self, function: Callable[[Any, Any], Any], step: Step) -> Any:
        return functools.reduce(
            lambda a, b: self._graph.call_function(function, (a, b)), [self._nodes[value] for value in step.inputs]
        )

    def _concatenate(self, step: Step) -> Any:
        if step.operation.axis not in (-1, len(step.inputs[0].shape) - 1):
            raise _untranslated(step)
        return self._graph.call_function(torch.cat, ([self._nodes[value] for value in step.inputs], 1))

    def _rescaling(self, step: Step) -> Any:
        return self._affine(step, step.operation.scale, step.operation.offset)

    def _normalization(self, step: Step) -> Any:
        layer = step.operation
        if layer.invert:
            raise _untranslated(step)
        deviation = np.maximum(np.sqrt(_array(layer.variance)), keras.config.epsilon())
        return self._affine(step, 1 / deviation, -_array(layer.mean) / deviation)

    def _affine(self, step: Step, scale: Any, offset: Any) -> Any:
        """scale ⊙ x + offset; each is one number, or one number for every channel."""
        node = self._input(step)
        for function, factor in ((operator.mul, scale), (operator.add, offset)):
            name = f"constant_{len(self._modules)}"
            self._modules[name] = torch.tensor(np.float32(factor).reshape(-1, 1, 1))
            node = self._graph.call_function(function, (node, self._graph.get_attr(name)))
        return node


_Pads = tuple[int, int, int, int]  # top, bottom, left, right


def _pads(step: Step, window: tuple[int, int], dilation: tuple[int, int] = (1, 1)) -> _Pads:
    """The padding of `same`, as in TensorFlow: the larger half is below and on the right."""
    if step.operation.padding == "valid":
        return 0, 0, 0, 0
    pads: list[int] = []
    for axis, stride in enumerate(step.operation.strides):
        length = step.inputs[0].shape[1 + axis]
        assert length is not None, "the benchmark's networks have fixed sizes"
        reach = (window[axis] - 1) * dilation[axis] + 1
        whole = max((-(-length // stride) - 1) * stride + reach - length, 0)
        pads += [whole // 2, whole - whole // 2]
    top, bottom, left, right = pads
    return top, bottom, left, right


def _zero_pads(step: Step) -> _Pads:
    (top, bottom), (left, right) = step.operation.padding
    return top, bottom, left, right


def _depthwise_kernel(kernel: Any) -> np.ndarray:
    """[h, w, C, m] → [C·m, 1, h, w]: [:, :, c, i] makes output channel c·m + i."""
    array = _array(kernel)
    return array.transpose(2, 3, 0, 1).reshape(-1, 1, *array.shape[:2])


def _conv2d(kernel: np.ndarray, bias: np.ndarray | None, groups: int | None = 1, **geometry: Any) -> Any:
    """A convolution with the kernel [out, in / groups, h, w]."""
    outputs, inputs, height, width = kernel.shape
    groups = groups or 1
    channels, window = inputs * groups, (height, width)
    module = torch.nn.Conv2d(channels, outputs, window, groups=groups, bias=bias is not None, **geometry)
    return _filled(module, weight=kernel, **({} if bias is None else {"bias": bias}))


def _filled(module: Any, **arrays: np.ndarray) -> Any:
    with torch.no_grad():
        for name, array in arrays.items():
            getattr(module, name).copy_(torch.from_numpy(np.ascontiguousarray(array)))
    return module


def _array(variable: Any) -> np.ndarray:
    return np.asarray(ops.convert_to_numpy(variable), np.float32)


def _untranslated(step: Step) -> PeerError:
    return PeerError(f"{step.name} ({step.kind}) cannot be translated to PyTorch here")
