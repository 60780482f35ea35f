"""How fast FullGrad is: beside this project's own forward pass and input gradient, and beside PyTorch.

    python -m benchmarks.method [--models ResNet50 …] [--rounds 7] [--batch 8] [--csv FILE] [--no-peers]

Going back to the input takes the arithmetic of another forward pass, so half the forward rate is the limit of whatever
needs a gradient. With the extra `peers` (`pip install '.[peers]'`) the same networks with the same weights run in
PyTorch too: forward, the bare input gradient, and FullGrad as its authors define it, which resizes every channel of
every layer to the image and then sums.

Everything runs in one process, in turn, round by round, and ratios are taken within a round. (TensorFlow is as fast
there as in a process without PyTorch, and the other way round: neither's threads wait busily for longer than
milliseconds.) Shown are medians over the rounds, and in brackets the least and the largest. Weights are drawn as in the
tests; nothing is downloaded.

Run it on an idle machine. PyTorch's threads each do a fixed share of the work and then wait for one another, where
TensorFlow's take whatever is left to do, so that other processes slow PyTorch down out of all proportion. What share of
the cores they took meanwhile stands above each table.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import functools
import operator
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import psutil
from keras import layers, ops
from rich import box
from rich.console import Console
from rich.table import Table

from tests.transforms.fullgrad import networks
from transforms.fullgrad import Exposed, Options, autodiff, explain_batch, expose, prefers_jit
from transforms.fullgrad.flatten import Step, Value

try:
    import torch
except ImportError:  # without the extra `peers`
    torch = None  # type: ignore[assignment]

MODELS = ("ResNet50", "Xception", "MobileNetV2", "EfficientNetB0", "VGG16", "ResNet-20")
WITH_AUTHORS = ("ResNet50", "MobileNetV2", "ResNet-20")
SIZES = {"Xception": 299, "ResNet-20": 32}  # the others': 224
BATCHES = {"ResNet-20": 128}  # the others': 8

FORWARD, GRADIENT, FULLGRAD = "forward", "gradient", "FullGrad"
PEER_FORWARD, PEER_GRADIENT, AUTHORS = "PyTorch forward", "PyTorch gradient", "authors' FullGrad"
FORWARDS = {GRADIENT: FORWARD, FULLGRAD: FORWARD, PEER_GRADIENT: PEER_FORWARD, AUTHORS: PEER_FORWARD}


# ---- the networks


def network(name: str, size: int, batch: int) -> tuple[keras.Model, np.ndarray]:
    """A model with drawn weights, and images float32 [batch, size, size, 3] as it takes them.

    Args:
      name: `ResNet-20`, or a name in keras.applications.
      size: height and width of its input, in pixels.
      batch: how many images.
    """
    if name != "ResNet-20":
        return networks.family(name, size, classes=1000, count=batch)
    model = networks.randomize(resnet20(size))
    networks.calibrate(model, networks.images(model, 64, seed=5))
    return model, networks.images(model, batch)


def resnet20(size: int = 32) -> keras.Model:
    """ResNet-20 for images [size, size, 3] of 10 classes (He et al. 2015, arXiv 1512.03385, section 4.2).

    Shortcuts to other widths are projections by 1×1 convolutions (option B there). It ends in logits.
    """

    def convolution(x: Any, width: int, kernel: int, stride: int) -> Any:
        x = layers.Conv2D(width, kernel, stride, padding="same", use_bias=False)(x)
        return layers.BatchNormalization(epsilon=1e-5)(x)

    image = layers.Input((size, size, 3))
    x = layers.ReLU()(convolution(image, 16, 3, 1))
    for stage, width in enumerate((16, 32, 64)):
        for block in range(3):
            stride = 2 if stage and not block else 1
            shortcut = convolution(x, width, 1, stride) if stride > 1 else x
            inner = layers.ReLU()(convolution(x, width, 3, stride))
            x = layers.ReLU()(layers.Add()([convolution(inner, width, 3, 1), shortcut]))
    return keras.Model(image, layers.Dense(10)(layers.GlobalAveragePooling2D()(x)))


# ---- what is measured


class PeerError(ValueError):
    """PyTorch cannot compute the same; one sentence."""


class Variant(NamedTuple):
    """One thing to measure: a call that takes `images` images."""

    name: str
    images: int
    call: Callable[[], object]


def own_variants(exposed: Exposed, images: np.ndarray) -> list[Variant]:
    """This project's forward pass, input gradient and FullGrad of images [N, H, W, C], from and to NumPy arrays."""
    jit, count = prefers_jit(), len(images)
    targets = np.full(count, -1, np.int32)
    folded = exposed.folded  # made here, as what is made inside a trace ends with it
    run = autodiff.compiled(lambda x: folded.run(x, lambda tensor: tensor)[0], jit=jit)

    def explained(options: Options) -> Callable[[], object]:
        return lambda: explain_batch(exposed, images, targets, options, count)

    return [
        Variant(FORWARD, count, lambda: ops.convert_to_numpy(run(ops.convert_to_tensor(images)))),
        Variant(GRADIENT, count, explained(Options(method="gradients", jit=jit))),
        Variant(FULLGRAD, count, explained(Options(jit=jit))),
    ]


def peer_variants(exposed: Exposed, images: np.ndarray, *, with_authors: bool) -> list[Variant]:
    """The same in PyTorch, from and to its own tensors.

    Raises:
      PeerError: the network cannot be translated, or the translation's logits are not the model's.
    """
    peer = Peer(exposed)
    batch = peer.batch(images)
    check_logits(exposed, peer, images)
    found = [
        Variant(PEER_FORWARD, len(images), lambda: peer.forward(batch)),
        Variant(PEER_GRADIENT, len(images), lambda: peer.gradient(batch)),
    ]
    if with_authors:
        # Every channel of the widest layer, at the images' size: at most 512 MiB of float32, or one image's.
        widest = max(value.shape[-1] or 0 for step in exposed.program.steps for value in step.outputs if _places(value))
        some = batch[: max(1, 2**27 // (widest * images.shape[1] * images.shape[2]))]
        found.append(Variant(AUTHORS, len(some), lambda: peer.authors(some)))
    return found


def check_logits(exposed: Exposed, peer: Peer, images: np.ndarray) -> None:
    """Checks that both give the same logits for images [N, H, W, C], within 1e-3 of the largest.

    Raises:
      PeerError: they do not.
    """
    ours = ops.convert_to_numpy(exposed.run(ops.convert_to_tensor(images), lambda tensor: tensor)[0])
    difference = np.abs(peer.forward(peer.batch(images)).numpy() - ours).max() / np.abs(ours).max()
    if not difference < 1e-3:
        raise PeerError(f"{exposed.model.name}: PyTorch's logits differ by {difference:.1e} of the largest")


class Spread(NamedTuple):
    """Median, least and largest over the rounds."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(statistics.median(values), min(values), max(values))

    def shown(self) -> str:
        median, least, most = (f"{value:.0f}" if value >= 100 else f"{value:.3g}" for value in self)
        return f"{median} ({least}–{most})"


@dataclasses.dataclass(frozen=True, slots=True)
class Measured:
    """One variant of one model.

    Attributes:
      model, variant: their names.
      size: height and width of the images, in pixels.
      batch: images a call.
      rate: images/s.
      of_limit: the rate over half the forward rate of the same framework; None for forward passes.
      fullgrad_over: this project's FullGrad's rate over this rate.
      others: what share of the machine's cores other processes took meanwhile.
    """

    model: str
    size: int
    batch: int
    variant: str
    rate: Spread
    of_limit: Spread | None
    fullgrad_over: Spread
    others: float


def measure(
    name: str, *, size: int, batch: int, rounds: int, seconds: float, peers: bool, with_authors: bool
) -> list[Measured]:
    """Measures all variants of one model in turn, in every round each for at least so many seconds.

    Raises:
      PeerError: as `peer_variants`.
    """
    keras.utils.clear_session()
    model, images = network(name, size, batch)
    exposed = expose(model)
    variants = own_variants(exposed, images)
    if peers:
        variants += peer_variants(exposed, images, with_authors=with_authors)
    for variant in variants:
        variant.call()  # traces, compiles, and asks for memory
    rates: dict[str, list[float]] = {variant.name: [] for variant in variants}
    of_others, started = _seconds_of_others(), time.perf_counter()
    for each in range(rounds):
        # There and back, so that none always follows the same other one.
        for variant in variants if each % 2 == 0 else reversed(variants):
            rates[variant.name].append(_rate(variant, seconds))
    of_all = (time.perf_counter() - started) * (os.cpu_count() or 1)
    others = max(0.0, _seconds_of_others() - of_others) / of_all
    return [
        Measured(
            model=name,
            size=size,
            batch=variant.images,
            variant=variant.name,
            rate=Spread.of(rates[variant.name]),
            of_limit=_ratio(rates[variant.name], [rate / 2 for rate in rates[FORWARDS[variant.name]]])
            if variant.name in FORWARDS
            else None,
            fullgrad_over=_ratio(rates[FULLGRAD], rates[variant.name]),
            others=others,
        )
        for variant in variants
    ]


def _rate(variant: Variant, seconds: float) -> float:
    """Images/s of as many calls as take at least so many seconds."""
    calls, elapsed, started = 0, 0.0, time.perf_counter()
    while not calls or elapsed < seconds:
        variant.call()
        calls, elapsed = calls + 1, time.perf_counter() - started
    return calls * variant.images / elapsed


def _seconds_of_others() -> float:
    """Seconds that cores worked for other processes, and for other machines on the same hardware, since some time."""
    times = psutil.cpu_times()
    names = ("user", "nice", "system", "irq", "softirq", "steal")  # as far as the system counts them
    return sum(getattr(times, name, 0.0) for name in names) - time.process_time()


def _ratio(above: Sequence[float], below: Sequence[float]) -> Spread:
    return Spread.of([a / b for a, b in zip(above, below, strict=True)])


# ---- PyTorch


class Peer:
    """A model in PyTorch, ready for inference: images are NCHW, BatchNorms are layers of their own, as is usual there.

    Parameters need no gradient, so that backward passes go to the input alone.
    """

    def __init__(self, exposed: Exposed):
        """Raises PeerError where the model has something that is not translated."""
        self.module = _Translation(exposed).module().eval().requires_grad_(False)
        self._bias_layers: list[tuple[Any, Any]] = []
        for layer in self.module.modules():
            bias = _bias(layer)
            if bias is not None:
                self._bias_layers.append((layer, bias))

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

        Srinivas & Fleuret 2019 (arXiv 1905.00780), section 5, and idiap/fullgrad-saliency: Σ_c ψ(x ⊙ ∂f/∂x) plus, of
        every layer with a bias or an effective one and an output with places, Σ_c resize(ψ(b ⊙ ∂f/∂z)).
        """
        outputs: dict[Any, Any] = {}
        hooks = [
            layer.register_forward_hook(lambda layer, _, output: outputs.__setitem__(layer, output))
            for layer, _ in self._bias_layers
        ]
        in_place = [layer for layer in self.module.modules() if getattr(layer, "inplace", False)]
        for layer in in_place:  # they would overwrite the outputs at which gradients are wanted
            layer.inplace = False
        x = images.detach().requires_grad_()
        f = _objective(self.module(x))
        for hook in hooks:
            hook.remove()
        for layer in in_place:
            layer.inplace = True
        of_input, *gradients = torch.autograd.grad(f, [x, *(outputs[layer] for layer, _ in self._bias_layers)])
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
    """ψ: |t| [N, C, h, w], less its least value, over what is then its largest and 1e-6, image by image."""
    magnitude = term.abs()
    magnitude = magnitude - magnitude.amin((1, 2, 3), keepdim=True)
    return magnitude / (magnitude.amax((1, 2, 3), keepdim=True) + 1e-6)


def _bias(layer: Any) -> Any:
    """A layer's bias [C], for a BatchNorm the effective one, or None."""
    if isinstance(layer, torch.nn.BatchNorm2d):
        mean, variance = layer.get_buffer("running_mean"), layer.get_buffer("running_var")
        return layer.bias - mean * layer.weight / torch.sqrt(variance + layer.eps)
    return layer.bias if isinstance(layer, torch.nn.Conv2d | torch.nn.Linear) else None


# ---- from Keras to PyTorch


def _places(value: Value) -> bool:
    return len(value.shape) == 4


class _Translation:
    """A program as a graph of PyTorch's own modules, up to its logits.

    What costs PyTorch time, and its users do not write, is left out where the network stays the same: padding that a
    convolution can do itself, a convolution's bias that a BatchNorm follows (it goes into its mean), and activations
    that need not be made in memory of their own.
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
        module.graph.eliminate_dead_code()  # padding that convolutions do
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
        """[C], or None where there is none or the BatchNorm that follows takes it over."""
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
        if not _places(value) or layer.axis not in (-1, 3):
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
        """The step's activation function of a node, but for the softmax or sigmoid at the program's end."""
        name = step.operation.activation.__name__
        if name == "linear" or (step.outputs[0] is self._program.output and name in ("softmax", "sigmoid")):
            return node
        if name == "sigmoid":  # its result is what its gradient is made of
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
        """Whether nothing else reads the step's input, and its producer does not need it in order to go back."""
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
        if any(_pads(step, layer.pool_size)):  # means over what lies inside the image, which PyTorch pads evenly alone
            raise _untranslated(step)
        return self._call(torch.nn.AvgPool2d(layer.pool_size, layer.strides), self._input(step))

    def _global_average(self, step: Step) -> Any:
        return self._graph.call_method("mean", (self._input(step), (2, 3)), {"keepdim": step.operation.keepdims})

    def _zero_padding(self, step: Step) -> Any:
        top, bottom, left, right = _zero_pads(step)
        return self._call(torch.nn.ZeroPad2d((left, right, top, bottom)), self._input(step))

    def _padded(self, node: Any, pads: _Pads, value: float) -> tuple[Any, tuple[int, int]]:
        """The node, padded where opposite sides differ, and the padding that is left to the layer."""
        top, bottom, left, right = pads
        if top == bottom and left == right:
            return node, (top, left)
        return self._call(torch.nn.ConstantPad2d((left, right, top, bottom), value), node), (0, 0)

    # ---- the rest

    def _dense(self, step: Step) -> Any:
        if _places(step.inputs[0]):
            raise _untranslated(step)
        layer = step.operation
        kernel = _array(layer.kernel)
        inputs, outputs = kernel.shape
        module = torch.nn.Linear(inputs, outputs, bias=layer.bias is not None)
        arrays = {} if layer.bias is None else {"bias": _array(layer.bias)}
        return self._activated(self._call(_filled(module, weight=kernel.T, **arrays), self._input(step)), step)

    def _flatten(self, step: Step) -> Any:
        node = self._input(step)
        if _places(step.inputs[0]):  # in Keras' order
            node = self._graph.call_method("permute", (node, 0, 2, 3, 1))
        return self._graph.call_method("flatten", (node, 1))

    def _reshape(self, step: Step) -> Any:
        if _places(step.inputs[0]) or step.outputs[0].shape[1:3] != (1, 1):
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
        """scale ⊙ x + offset, each a number or one for every channel."""
        node = self._input(step)
        for function, factor in ((operator.mul, scale), (operator.add, offset)):
            name = f"constant_{len(self._modules)}"
            self._modules[name] = torch.tensor(np.float32(factor).reshape(-1, 1, 1))
            node = self._graph.call_function(function, (node, self._graph.get_attr(name)))
        return node


_Pads = tuple[int, int, int, int]  # top, bottom, left, right


def _pads(step: Step, window: tuple[int, int], dilation: tuple[int, int] = (1, 1)) -> _Pads:
    """What `same` pads, as TensorFlow does: the larger half below and on the right."""
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
    """[h, w, C, m] → [C·m, 1, h, w]: output channel c·m + i is made by [:, :, c, i]."""
    array = _array(kernel)
    return array.transpose(2, 3, 0, 1).reshape(-1, 1, *array.shape[:2])


def _conv2d(kernel: np.ndarray, bias: np.ndarray | None, groups: int | None = 1, **geometry: Any) -> Any:
    """A convolution by kernel [out, in / groups, h, w]."""
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


# ---- the command


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--models", nargs="+", default=MODELS, metavar="NAME", help="ResNet-20, or names in keras.applications"
    )
    parser.add_argument("--rounds", type=int, default=7, metavar="N", help="(default: 7)")
    parser.add_argument("--seconds", type=float, default=1.0, metavar="S", help="at least, a variant and round (1)")
    parser.add_argument("--batch", type=int, metavar="N", help="images a call (8, and 128 for ResNet-20)")
    parser.add_argument("--csv", metavar="FILE", help="write all figures there too")
    parser.add_argument("--no-peers", action="store_true", help="leave PyTorch out")
    parser.add_argument(
        "--authors",
        nargs="*",
        default=WITH_AUTHORS,
        metavar="NAME",
        help=f"the models of which the authors' algorithm is measured too ({' '.join(WITH_AUTHORS)})",
    )
    arguments = parser.parse_args(argv)
    for name in arguments.models:
        if name != "ResNet-20" and not callable(getattr(keras.applications, name, None)):
            parser.error(f"--models: {name} is neither ResNet-20 nor in keras.applications")
    console = Console(width=max(Console().width, 100))  # a line a variant, in log files too
    missing = _without_peers(arguments.no_peers)
    if missing:
        console.print(missing)
    else:
        torch.set_num_threads(_cores())  # as many as TensorFlow takes
    measured: list[Measured] = []
    for name in arguments.models:
        try:
            rows = measure(
                name,
                size=SIZES.get(name, 224),
                batch=arguments.batch or BATCHES.get(name, 8),
                rounds=arguments.rounds,
                seconds=arguments.seconds,
                peers=not missing,
                with_authors=name in arguments.authors,
            )
        except PeerError as error:
            sys.exit(f"{name}: {error} (--no-peers leaves PyTorch out)")
        console.print(_table(rows))
        measured += rows
        if arguments.csv:  # anew after each model, as all of them take long
            _write(arguments.csv, measured)


def _without_peers(unwanted: bool) -> str | None:
    """Why PyTorch is left out; None where it is not."""
    if unwanted:
        return "PyTorch is left out: --no-peers"
    if torch is None:
        return "PyTorch is left out: it is not installed (pip install '.[peers]')"
    if autodiff.has_accelerator():
        return "PyTorch is left out: it is compared on CPUs alone (CUDA_VISIBLE_DEVICES=-1 hides a GPU)"
    return None


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _table(rows: Sequence[Measured]) -> Table:
    first = rows[0]
    title = f"{first.model}, {first.size}×{first.size}; other processes took {first.others:.0%} of the cores"
    table = Table(title=title, title_justify="left", box=box.SIMPLE)
    table.add_column("", no_wrap=True)
    for heading in ("batch", "images/s", "over the limit", "FullGrad over it"):
        table.add_column(heading, justify="right")
    for row in rows:
        ratios = row.of_limit, row.fullgrad_over if row.variant != FULLGRAD else None
        table.add_row(
            row.variant, str(row.batch), row.rate.shown(), *(ratio.shown() if ratio else "" for ratio in ratios)
        )
    return table


def _write(path: str, rows: Sequence[Measured]) -> None:
    """One line a variant: medians, each with the least and the largest of its rounds."""
    spreads = {"rate": "images_per_second", "of_limit": "of_limit", "fullgrad_over": "fullgrad_over"}
    header = ["model", "size", "batch", "variant"]
    for name in spreads.values():
        header += [name, f"{name}_least", f"{name}_most"]
    header.append("others")
    with open(path, "w", newline="") as sink:
        writer = csv.writer(sink, lineterminator="\n")
        writer.writerow(header)
        for row in rows:
            cells = [row.model, row.size, row.batch, row.variant]
            for field in spreads:
                cells += [f"{value:.4g}" for value in getattr(row, field) or ()] or ["", "", ""]
            writer.writerow([*cells, f"{row.others:.3f}"])


if __name__ == "__main__":
    main()
