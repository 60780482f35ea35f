"""Exposes a model: finds its logits, undoes the softmax or sigmoid after them, and plans how each step is treated."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import keras
from keras import ops

from transforms.fullgrad import terms
from transforms.fullgrad.autodiff import Tap, Tensor
from transforms.fullgrad.flatten import CannotExpose, Program, Step, Value, flatten
from transforms.fullgrad.folding import fold
from transforms.fullgrad.operations import Reading
from transforms.fullgrad.places import Place, places

_TOLERANCES = {"float16": 5e-3, "bfloat16": 3e-2}


@dataclasses.dataclass(frozen=True, eq=False)
class Exposed:
    """A model whose logits are found and whose every bias is tapped; what `full_gradients` takes.

    Attributes:
      model: the model as given; it is not changed.
      program: its steps, from the image to the explained output.
      rules: how each step of the program is treated.
      places: where in the image the values of the program lie.
      squashing: `softmax` or `sigmoid`, as undone at the end; for a model that ends in logits, what fits their number.
      classes: number of classes K. A single output is the logit z of class 1 against class 0, and counts as two
        classes with the logits −z and z.
      compiled: functions that `full_gradients` compiled for this model, by their options.
    """

    model: keras.Model
    program: Program
    rules: tuple[terms.Rule, ...]
    places: Mapping[Value, Place]
    squashing: str
    classes: int
    compiled: dict[Any, Callable[..., Any]] = dataclasses.field(default_factory=dict, repr=False)

    @property
    def tolerance(self) -> float:
        """The largest completeness_error that rounding explains, by the coarsest type that a layer computes in.

        Measured on networks of ten to three hundred layers, it is at most 2e-6 in float32; the limit leaves room for
        deeper ones. Half precision carries 11 and bfloat16 8 bits, and small gradients underflow in the former.
        """
        computed = {getattr(step.operation, "compute_dtype", "float32") for step in self.program.steps}
        return max(_TOLERANCES.get(str(dtype), 1e-4) for dtype in computed)

    @property
    def input_shape(self) -> tuple[int | None, int | None, int]:
        """Height, width and channels of the images that the model takes; None where any size will do."""
        _, height, width, channels = self.program.input.shape
        assert channels is not None, "checked by expose"
        return height, width, channels

    @functools.cached_property
    def folded(self) -> Exposed:
        """The same with each BatchNorm folded into the convolution before it: faster, with the same terms.

        Its weights are those that the model has when this is first asked for.
        """
        return self._folded(activations=False)

    @functools.cached_property
    def folded_for_operations(self) -> Exposed:
        """The same as `folded`, with the terms around activations as `operations` read them: in the step back."""
        return self._folded(activations=True)

    def _folded(self, *, activations: bool) -> Exposed:
        rules = fold(self.program, self.rules, self.places, activations=activations)
        return dataclasses.replace(self, rules=rules, compiled={})

    def run(self, images: Tensor, tap: Tap, reading: Reading | None = None) -> tuple[Tensor, list[terms.AnyTerm]]:
        """One forward pass: logits [N, K] float32 and the terms met, with every tensor that they need tapped.

        What is `folded_for_operations` needs to be told what is to be read.
        """
        run = terms.Run(tap, self.places, reading)
        values = {self.program.input: images}
        for step, rule in zip(self.program.steps, self.rules, strict=True):
            outputs = keras.tree.flatten(rule.apply(run, step, values))
            values.update(zip(step.outputs, outputs, strict=True))
        logits = ops.cast(ops.reshape(values[self.program.output], (ops.shape(images)[0], -1)), "float32")
        return ops.concatenate([-logits, logits], axis=-1) if logits.shape[-1] == 1 else logits, run.terms

    def probabilities(self, logits: Any) -> Any:
        """What the model's own softmax or sigmoid makes of logits [N, K], as a NumPy array [N, K]."""
        squash = ops.sigmoid if self.squashing == "sigmoid" else ops.softmax
        return ops.convert_to_numpy(squash(logits))


def expose(model: keras.Model, output: int | str | None = None) -> Exposed:
    """Prepares a classifier for `full_gradients`.

    Args:
      model: a built Keras model with one input [N, H, W, C] and, for each image, logits or probabilities [K]. Models
        inside it, layers called several times, and subclassed models written with keras.ops are opened up.
      output: which output, by index or name, where the model has several.

    The weights are those that the model has when it is first explained; after a change, expose it again.

    Raises:
      CannotExpose: in one sentence, with the layer's name and the reason.
    """
    program = flatten(model, output)
    shape = program.output.shape
    if program.input.shape[-1] is None:
        raise CannotExpose(f"model {model.name!r} leaves the number of channels open: build it for a fixed number")
    if len(shape) < 2 or None in shape[1:] or any(size != 1 for size in shape[1:-1]):
        raise CannotExpose(
            f"model {model.name!r} is no classifier: its output has shape {shape}, but one logit a class, [N, K], is "
            "needed; model.output chooses another output"
        )
    undone = _squashing_step(program)
    rules = tuple(
        terms.rule_without_squashing(step) if step is undone else terms.rule_for(step) for step in program.steps
    )
    classes = int(shape[-1] or 0)
    squashing = terms.squashing(undone) if undone else None
    return Exposed(
        model=model,
        program=program,
        rules=rules,
        places=places(program),
        squashing=squashing or ("sigmoid" if classes == 1 else "softmax"),
        classes=2 if classes == 1 else classes,
    )


def _squashing_step(program: Program) -> Step | None:
    """The softmax or sigmoid that the program ends in, behind steps that only reshape."""
    value = program.output
    while (step := program.producer(value)) is not None:
        if terms.squashing(step):
            return step
        if not terms.only_moves(step) or len(step.inputs) != 1:
            return None
        value = step.inputs[0]
    return None
