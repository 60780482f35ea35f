"""Channel contributions: what each channel of one layer adds to f. FullGrad's law holds from any layer on."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterator, Mapping

from keras import ops

from transforms.fullgrad.flatten import CannotExpose, Program, Step, Value
from transforms.fullgrad.places import Grid, Place
from transforms.fullgrad.tensorflow.autodiff import Tensor

AUTO, NONE = "auto", "none"


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Cut:
    """A layer's output a that everything after it depends on alone.

    For a network that computes f = h(a), FullGrad's law (Srinivas & Fleuret 2019, arXiv 1905.00780, proposition 1)
    applied to h gives f = Σ_k ⟨∂f/∂a_k, a_k⟩ + the bias terms of the steps after a. The sum goes over channels k.

    Attributes:
      step: the step whose only output is a.
      value: a, [N, h, w, C] or [N, T, C].
    """

    step: Step
    value: Value

    @property
    def channels(self) -> int:
        """C."""
        return int(self.value.shape[-1] or 0)


def find_cut(program: Program, places: Mapping[Value, Place], layer: str) -> Cut | None:
    """The cut at a layer, or for `auto` the last one whose output has places in the image; None if there is none.

    Args:
      program, places: of an exposed model.
      layer: a layer's name, `auto`, or `none`, which gives None.

    Raises:
      CannotExpose: no layer has the name, its output has no channels with places, or other paths lead past it.
    """
    if layer == NONE:
        return None
    cuts = [cut for cut in _cuts(program) if _has_places(cut.value, places)]
    if layer == AUTO:
        return cuts[-1] if cuts else None
    steps = {step.name: step for step in program.steps}
    if layer not in steps:
        nearest = difflib.get_close_matches(layer, steps, 3, 0.0)
        raise CannotExpose(
            f"the model has no layer {layer!r} for channel contributions; near to it: {_listed(nearest)}"
        )
    found = next((cut for cut in cuts if cut.step is steps[layer]), None)
    if found is not None:
        return found
    usable = _listed([cut.step.name for cut in cuts[-5:]]) or "none"
    if not any(_has_places(value, places) for value in steps[layer].outputs):
        raise CannotExpose(
            f"the output of layer {layer!r} has no channels with places in the image; the last layers that have: "
            f"{usable}"
        )
    raise CannotExpose(
        f"layer {layer!r} has no channel contributions that add up, because other paths lead past it (such as a "
        f"shortcut); the last layers that all paths go through: {usable}"
    )


def _listed(names: list[str]) -> str:
    return ", ".join(repr(name) for name in names)


def _cuts(program: Program) -> Iterator[Cut]:
    """The steps after which only their own output is still used, in order."""
    last_use = {program.output: len(program.steps)}
    for index, step in enumerate(program.steps):
        for value in step.inputs:
            last_use[value] = max(index, last_use.get(value, 0))
    live = {program.input}
    for index, step in enumerate(program.steps):
        live.update(step.outputs)
        live = {value for value in live if last_use.get(value, -1) > index}
        if len(live) == 1 and len(step.outputs) == 1 and step.outputs[0] in live:
            yield Cut(step, step.outputs[0])


def _has_places(value: Value, places: Mapping[Value, Place]) -> bool:
    place = places.get(value)
    if place is None or value.shape[-1] is None:
        return False
    return isinstance(place, Grid) or value.shape[1:3] != (1, 1)


def channel_terms(gradient: Tensor, value: Tensor) -> Tensor:
    """⟨g_k, a_k⟩ for each channel k: the sum over all axes between the first and the last, float32 [N, C]."""
    product = gradient * ops.cast(value, "float32")
    while len(product.shape) > 2:  # axis by axis, because float32 loses less than in one long sum
        product = ops.sum(product, axis=1)
    return product
