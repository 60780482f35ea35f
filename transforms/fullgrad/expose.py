"""Exposes a model: finds its logits, undoes the softmax or sigmoid after them, and gives every step its rule."""

from __future__ import annotations

import collections
import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, Literal

import keras
import numpy as np
from keras import ops

from transforms.fullgrad import rules, terms
from transforms.fullgrad.arguments import model_given
from transforms.fullgrad.channels import Cut
from transforms.fullgrad.condensing import EarlyCondenser
from transforms.fullgrad.flatten import CannotExpose, Program, Step, Value, flatten
from transforms.fullgrad.places import Place, places
from transforms.fullgrad.tensorflow.autodiff import Tap, Tensor
from transforms.fullgrad.tensorflow.folding import fold

_TOLERANCES = {"float16": 5e-3, "bfloat16": 3e-2}

EndsIn = Literal["softmax", "sigmoid", "logits", "probabilities"]


@dataclasses.dataclass(frozen=True, eq=False)
class Exposed:
    """A model with known logits and a rule for every step; `full_gradients` takes it.

    Attributes:
      model: the model as given; it is not changed.
      program: its steps, from the image to the explained output.
      rules: the rule of each step.
      places: where in the image the program's values lie.
      ends_in: what the model's output is. `softmax` and `sigmoid` are undone, so that the logits before them are
        explained. `logits` are explained as they are. `probabilities` that no final softmax makes, such as an average
        of several softmaxes, are explained as they are too: they take the place of logits. For a single output, this
        is how far its probability lies above one half.
      classes: the number of classes K. A single output is the logit z of class 1 against class 0; it counts as two
        classes with the logits −z and z.
      compiled: the functions that `full_gradients` compiled for this model, by their options.
      agreements: how far the logits of the first explained images were from the model's own; empty before.
    """

    model: keras.Model
    program: Program
    rules: tuple[rules.Rule, ...]
    places: Mapping[Value, Place]
    ends_in: EndsIn
    classes: int
    compiled: dict[Any, Callable[..., Any]] = dataclasses.field(default_factory=dict, repr=False)
    agreements: list[Any] = dataclasses.field(default_factory=list, repr=False)

    def __repr__(self) -> str:
        kinds = collections.Counter(type(step.operation).__name__ for step in self.program.steps)
        common = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(5))
        shape = ", ".join("any" if size is None else str(size) for size in self.input_shape)
        return (
            f"<Exposed {self.model.name}: images [N, {shape}] → {self.classes} classes, ends in {self.ends_in}, "
            f"{len(self.program.steps)} steps ({common}{', …' if len(kinds) > 5 else ''})>"
        )

    @property
    def squashing(self) -> Literal["softmax", "sigmoid", "none"]:
        """What turns the logits into probabilities. If the model ends in logits, their number decides."""
        if self.ends_in == "probabilities":
            return "none"
        if self.ends_in == "logits":
            return "sigmoid" if self.single_output else "softmax"
        return self.ends_in

    @property
    def single_output(self) -> bool:
        """Whether the model gives a single number for an image, class 1 against class 0."""
        return self.program.output.shape[-1] == 1

    @property
    def offset(self) -> float:
        """The number that is added to the model's output before it is explained."""
        return -0.5 if self.single_output and self.ends_in == "probabilities" else 0.0

    @property
    def tolerance(self) -> float:
        """The largest completeness_error that rounding explains; the coarsest type in the model decides.

        On networks of ten to three hundred layers, the error is at most 2e-6 in float32. The limit leaves room for
        deeper networks. Half precision has 11 bits and bfloat16 has 8; small gradients underflow in half precision.
        """
        computed = {getattr(step.operation, "compute_dtype", "float32") for step in self.program.steps}
        return max(_TOLERANCES.get(str(dtype), 1e-4) for dtype in computed)

    @property
    def input_shape(self) -> tuple[int | None, int | None, int]:
        """Height, width and channels of the images that the model takes; None if it takes any size."""
        _, height, width, channels = self.program.input.shape
        assert channels is not None, "checked by expose"
        return height, width, channels

    @functools.cached_property
    def folded(self) -> Exposed:
        """The model with each BatchNorm folded into the convolution before it: faster, with the same terms.

        The weights are those that the model has at the first use.
        """
        return self._folded(activations=False)

    @functools.cached_property
    def folded_with_activations(self) -> Exposed:
        """As `folded`, but the pull-backs of activations condense the terms on both sides. Needs an early condenser."""
        return self._folded(activations=True)

    def folded_beside(self, kept: Value, *, activations: bool) -> Exposed:
        """As `folded` or `folded_with_activations`, but a value is computed as the model computes it."""
        return self._folded(activations=activations, kept=kept)

    def _folded(self, *, activations: bool, kept: Value | None = None) -> Exposed:
        folded = fold(self.program, self.rules, self.places, activations=activations, kept=kept)
        return dataclasses.replace(self, rules=folded, compiled={})

    def run(self, images: Tensor, tap: Tap, early: EarlyCondenser | None = None) -> tuple[Tensor, list[terms.AnyTerm]]:
        """Runs one forward pass and taps every tensor that terms need.

        `early` condenses terms during the backward pass; `folded_with_activations` cannot run without it.

        Returns:
          The logits [N, K] float32, and the terms.
        """
        run = terms.Run(tap, self.places, early, images.shape[0])
        return self.forward(run, images), run.terms

    def forward(self, run: terms.Run, images: Tensor, cut: Cut | None = None) -> Tensor:
        """Runs one forward pass with a given `Run`, which collects the terms and marks the cut.

        Returns:
          The logits [N, K] float32.
        """
        values = {self.program.input: images}
        for step, rule in zip(self.program.steps, self.rules, strict=True):
            outputs = keras.tree.flatten(rule.apply(run, step, values))
            if cut is not None and step is cut.step:
                outputs = [run.mark_cut(outputs[0])]
            values.update(zip(step.outputs, outputs, strict=True))
        logits = ops.cast(ops.reshape(values[self.program.output], (ops.shape(images)[0], -1)), "float32")
        return ops.concatenate([-logits, logits], axis=-1) if logits.shape[-1] == 1 else logits

    def probabilities(self, logits: Any) -> Any:
        """The probabilities that the model's own softmax or sigmoid makes of logits [N, K], as a NumPy array [N, K]."""
        if self.squashing == "none":
            return ops.convert_to_numpy(logits) - self.offset
        squash = ops.sigmoid if self.squashing == "sigmoid" else ops.softmax
        return ops.convert_to_numpy(squash(logits))


def expose(model: keras.Model | Any, output: int | str | None = None) -> Exposed:
    """Prepares a classifier for `full_gradients`.

    Args:
      model: a built Keras model with one input [N, H, W, C] and, for each image, logits or probabilities [K]. Models
        inside it, layers called several times, and subclassed models written with keras.ops are opened up. Or the path
        of a .keras or .h5 file of Keras 3, as text or a `pathlib.Path`.
      output: the index or name of an output, if the model has several.

    The weights are those that the model has when it is first explained. After a change, expose it again.

    Raises:
      CannotExpose: one sentence with the layer's name and the reason.
      ValueError: the file cannot be loaded.
      TypeError: it is neither a model nor a path.
    """
    model = model_given(model)
    program = flatten(model, output)
    shape = program.output.shape
    if program.input.shape[-1] is None:
        raise CannotExpose(f"model {model.name!r} leaves the number of channels open: build it for a fixed number")
    if len(shape) < 2 or None in shape[1:] or any(size != 1 for size in shape[1:-1]):
        raise CannotExpose(
            f"model {model.name!r} is no classifier: its output has shape {shape}, but it must have one logit for each "
            "class, [N, K]; model.output chooses another output"
        )
    undone = _squashing_step(program)
    ends_in = _ends_in(model, program, undone)
    if ends_in == "probabilities" and shape[-1] == 1:
        program = _less_one_half(program)
    rules_of_steps = tuple(
        rules.rule_without_squashing(step) if step is undone else rules.rule_for(step) for step in program.steps
    )
    classes = int(shape[-1] or 0)
    return Exposed(
        model=model,
        program=program,
        rules=rules_of_steps,
        places=places(program),
        ends_in=ends_in,
        classes=2 if classes == 1 else classes,
    )


def own_output(exposed: Exposed, images: np.ndarray) -> np.ndarray:
    """The output of the model's own call() for images float32 [N, H, W, C]: float32 [N, K], K may be 1."""
    return _output_of(exposed.model, exposed.program.output_index, images)


def _output_of(model: keras.Model, index: int, images: np.ndarray) -> np.ndarray:
    output = keras.tree.flatten(model(ops.convert_to_tensor(images), training=False))[index]
    return np.asarray(ops.convert_to_numpy(ops.cast(output, "float32"))).reshape(len(images), -1)


def _ends_in(model: keras.Model, program: Program, undone: Step | None) -> EndsIn:
    if undone is not None:
        return "softmax" if rules.squashing(undone) == "softmax" else "sigmoid"
    if _has_negative_weights(_last_step(program)):  # the usual head, whose output has any size
        return "logits"
    return "probabilities" if _are_probabilities(model, program) else "logits"


def _has_negative_weights(step: Step | None) -> bool:
    kernel = getattr(step.operation, "kernel", None) if step is not None and rules.ends_linearly(step) else None
    return kernel is not None and bool(ops.any(ops.less(kernel, 0)))


def _are_probabilities(model: keras.Model, program: Program) -> bool:
    """Whether the output looks like probabilities, on images of noise at the scales that models take.

    Probabilities lie in 0 … 1 for pixels around 0, up to 1, up to 255 and far beyond. They need not sum to one, since
    each may be the probability of its class alone.
    """
    count, height, width, channels = program.input.shape
    generator = np.random.default_rng(0)
    shape = (height or 96, width or 96, channels)
    scales = (("normal", 1.0), ("uniform", 1.0), ("uniform", 255.0), ("normal", 1000.0))
    images = np.stack([scale * getattr(generator, kind)(size=shape) for kind, scale in scales]).astype(np.float32)
    try:
        found = [_output_of(model, program.output_index, images[i : i + 1].repeat(count or 1, 0)) for i in range(4)]
    except Exception:  # a user's call() refuses the size; the first real images will tell
        return False
    values = np.concatenate(found)
    rounding = 1e-5 if "float32" in program.output.dtype else 1e-2
    return bool(np.isfinite(values).all() and values.min() >= -rounding and values.max() <= 1 + rounding)


def _less_one_half(program: Program) -> Program:
    """The program with one half subtracted from its single probability, which makes it positive for class 1."""
    output = program.output
    symbol = ops.subtract(keras.KerasTensor(output.shape, output.dtype), 0.5)
    less = Value(output.shape, output.dtype)
    step = Step("less one half", symbol._keras_history.operation, (output, 0.5), {}, (less,))
    return dataclasses.replace(program, steps=(*program.steps, step), output=less)


def _last_step(program: Program) -> Step | None:
    """The step that makes the output, before steps that only reshape it."""
    value = program.output
    while (step := program.producer(value)) is not None and rules.only_moves(step) and len(step.inputs) == 1:
        value = step.inputs[0]
    return step


def _squashing_step(program: Program) -> Step | None:
    """The softmax or sigmoid that the program ends in; steps that only reshape may follow it."""
    step = _last_step(program)
    return step if step is not None and rules.squashing(step) else None
