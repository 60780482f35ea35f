"""Terms of the decomposition: what a term is, and how a forward pass collects them.

Take one step y = s(x₁, x₂, …) of the network. Let g_y be the logit's gradient at its output, and let gᵢ be the
gradients that the step pulls back to its inputs. The step's term is the difference: ⟨g_y, y⟩ = Σᵢ ⟨gᵢ, xᵢ⟩ + term.
Summed over all steps, the inner products telescope: f = ⟨∇ₓf, x⟩ + Σ terms (Srinivas & Fleuret 2019, proposition 4,
extended from layers with biases to any step). `rules` says which layer adds which term.
"""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Generic, TypeVar

import keras
from keras import ops

from transforms.fullgrad.condensing import Activation, EarlyCondenser
from transforms.fullgrad.contributions import (
    AnyContribution,
    Condensed,
    CondensedContribution,
    Contribution,
    Product,
    merge_neighbours,
)
from transforms.fullgrad.flatten import CannotExpose, Step, Value
from transforms.fullgrad.places import IMAGE, Grid, Place
from transforms.fullgrad.tensorflow import autodiff
from transforms.fullgrad.tensorflow.autodiff import Gradients, Tap, Tensor

Values = Mapping[Value, Tensor]


@dataclasses.dataclass(frozen=True, slots=True)
class Part:
    """A summand of a term: factor · g ⊙ multiplier, where g is the logit's gradient at a tapped tensor.

    Attributes:
      tensor: the tapped tensor.
      multiplier: its shape broadcasts to the tensor's; [C] has one number for each channel.
      factor: not 0.
      threshold: a multiplier below it counts as 0; None for no threshold.
      place: where in the image the tensor lies; None for nowhere.
    """

    tensor: Tensor
    multiplier: Tensor
    factor: float = 1.0
    threshold: float | None = None
    place: Place | None = None

    def without_factor(self, gradient_at: Callable[[Tensor], Tensor]) -> Product:
        """g ⊙ multiplier. `gradient_at` gives the gradient at a tapped tensor, in float32."""
        return Product(gradient_at(self.tensor), ops.cast(self.multiplier, "float32"), self.threshold)

    def multiplied_out(self, gradients: Gradients) -> Tensor:
        """factor · g ⊙ multiplier, in float32."""
        product = self.without_factor(gradients.in_float32).tensor()
        return product if self.factor == 1.0 else product * self.factor


Found = TypeVar("Found", Contribution, CondensedContribution)


@dataclasses.dataclass(frozen=True, slots=True)
class TermContributions(Generic[Found]):
    """A term, split into what lies in the image and what does not.

    Attributes:
      located: contributions of one resolution; every number has its position in the image.
      unlocated: tensors [N, …] without a position in the image.
    """

    located: list[Found]
    unlocated: list[Tensor]


@dataclasses.dataclass(frozen=True, slots=True)
class Term:
    """What one step adds to the logit.

    Attributes:
      layer: the step's name.
      explicit: whether it is the term of a layer's own bias (of BatchNorm: the effective bias), as in the authors'
        implementation. All others are the paper's implicit biases.
      parts: the term is their sum.
      per_channel: whether each channel's sum has a meaning; otherwise only the sum over channels has.
    """

    layer: str
    explicit: bool
    parts: tuple[Part, ...]
    per_channel: bool = True

    def contributions(self, gradients: Gradients) -> TermContributions[Contribution]:
        """The term with its positions, if those of all its parts agree."""
        if (whole := self.as_one_contribution(gradients.in_float32)) is not None:
            return TermContributions([whole], [])
        products = [part.multiplied_out(gradients) for part in self.parts]
        if not self.per_channel:
            products = [ops.sum(p, axis=-1, keepdims=True) if len(p.shape) > 2 else p for p in products]
        if all(p.shape == products[0].shape for p in products):
            return _split_by_place(functools.reduce(operator.add, products), self.parts[0].place)
        split = [_split_by_place(p, part.place) for p, part in zip(products, self.parts, strict=True)]
        located = [contribution for each in split for contribution in each.located]
        if len(located) == len(products) and len({each.resolution for each in located}) == 1:
            return TermContributions(located, [tensor for each in split for tensor in each.unlocated])
        # The parts cancel only in their sum. At different places, each would show something that is not there.
        return TermContributions([], products)

    def as_one_contribution(self, gradient_at: Callable[[Tensor], Tensor]) -> Contribution | None:
        """The term as one contribution that is not multiplied out; None if it has another form.

        There are three such forms: g ⊙ b with a b for every channel, factor · g ⊙ m, and factor · (g ⊙ m − h ⊙ n).
        `gradient_at` gives the gradient at a tapped tensor, in float32.
        """
        first, *others = self.parts
        if any(part.place != IMAGE for part in self.parts) or not self.per_channel:
            return None
        if not others and len(first.multiplier.shape) == 1 and first.factor == 1.0:
            scales = ops.cast(first.multiplier, "float32")[None]
            return Contribution(Product(gradient_at(first.tensor)), scales=scales)
        shapes = {tuple(tensor.shape) for part in self.parts for tensor in (part.tensor, part.multiplier)}
        if len(shapes) > 1 or [part.factor for part in others] not in ([], [-first.factor]):
            return None
        subtracted = others[0].without_factor(gradient_at) if others else None
        return Contribution(first.without_factor(gradient_at), subtracted, first.factor)


@dataclasses.dataclass(frozen=True, slots=True)
class CondensedTerm:
    """A term that is condensed while the backward pass makes its gradient.

    Attributes:
      layer, explicit: as in a `Term`.
      tensor: the tensor [N, …] whose gradient it is made of.
      condensed: holds the result, of this term and of those condensed with it. Empty until the backward pass, and
        after it if no gradient reached the tensor.
    """

    layer: str
    explicit: bool
    tensor: Tensor
    condensed: list[Condensed]

    def contributions(self, gradients: Gradients) -> TermContributions[CondensedContribution]:
        """The condensed term; a term of zero if no gradient reached its tensor."""
        if not self.condensed:
            return TermContributions([], [ops.zeros_like(self.tensor[:, 0, 0, 0])])
        return TermContributions([CondensedContribution(self.condensed[0])], [])


AnyTerm = Term | CondensedTerm


def _split_by_place(tensor: Tensor, place: Place | None) -> TermContributions[Contribution]:
    """Splits a tensor [N, …] into what lies in the image and what does not."""
    if place is None:
        return TermContributions([], [tensor])
    if not isinstance(place, Grid):
        return TermContributions([Contribution(Product(tensor))], [])
    end = place.offset + place.size
    inside = ops.reshape(tensor[:, place.offset : end], (-1, place.height, place.width, tensor.shape[2]))
    others = [part for part in (tensor[:, : place.offset], tensor[:, end:]) if part.shape[1]]
    return TermContributions([Contribution(Product(inside))], others)


@dataclasses.dataclass(frozen=True, slots=True)
class AtCut:
    """A tapped tensor in the middle of a pass.

    Attributes:
      tensor: the tensor; all later steps depend on it alone.
      terms_before: how many of the pass's terms come before it.
    """

    tensor: Tensor
    terms_before: int


class Run:
    """One forward pass: applies taps and collects terms.

    Attributes:
      terms: the terms so far.
      at_cut: the tensor of `mark_cut`; None before.
    """

    def __init__(
        self, tap: Tap, places: Mapping[Value, Place], early: EarlyCondenser | None = None, images: int | None = None
    ):
        """Begins a pass.

        Args:
          tap: from `autodiff.tapped_gradients`.
          places: where the program's values lie.
          early: condenses terms while the backward pass makes their gradients; None to keep all terms whole.
          images: the number of images. If given, a term is refused if its first axis has another length.
        """
        self.terms: list[AnyTerm] = []
        self.at_cut: AtCut | None = None
        self._tap = tap
        self._places = places
        self._early = early
        self._images = images
        self._groups: dict[int, list[ContributionGroup]] = {}  # by the id of the tapped tensor

    def mark_cut(self, tensor: Tensor) -> Tensor:
        """Remembers a tensor whose channels' contributions are wanted, and how many terms come before it.

        Returns:
          A copy, which all later steps must use.
        """
        tapped = self._tap(tensor)
        self.at_cut = AtCut(tapped, len(self.terms))
        return tapped

    def tap(self, tensor: Tensor) -> Tensor:
        """A copy of the tensor at which terms can be added."""
        early = self._early
        if early is None:
            return self._tap(tensor)
        groups: list[ContributionGroup] = []
        tapped = self._tap(
            tensor, lambda gradient: [made for each in groups for made in each.condense(gradient, early)]
        )
        self._groups[id(tapped)] = groups
        return tapped

    def add(self, step: Step, *parts: Part, explicit: bool = False, per_channel: bool = True, suffix: str = "") -> None:
        """Adds a term of `step` and fills in where its parts lie.

        Args:
          explicit, per_channel: as in a `Term`.
          suffix: follows the step's name in the term's name.

        Raises:
          CannotExpose: the term does not have one entry for each image.
        """
        if any(self._images not in (None, part.tensor.shape[0]) for part in parts):
            raise CannotExpose(
                f"layer {step.name!r} works on a tensor whose first axis is not the images', such as all images' "
                "windows or patches: put all operations on such tensors into the call() of a layer of your own that "
                "takes and returns one tensor for each image; it is then explained as one step"
            )
        placed = tuple(dataclasses.replace(part, place=self._place(step, part.tensor)) for part in parts)
        term = Term(step.name + suffix, explicit, placed, per_channel)
        self.terms.append(self._condensed_early(term) or term)

    def _condensed_early(self, term: Term) -> CondensedTerm | None:
        """The term as one that is condensed where its gradient is made; None if that cannot be."""
        early, tensor = self._early, term.parts[0].tensor
        if early is None or len(term.parts) > 1 or not (term.explicit or early.implicit):
            return None
        contribution = term.as_one_contribution(lambda tensor: tensor)
        if contribution is None:
            return None
        groups, last = self._groups[id(tensor)], self.terms[-1] if self.terms else None
        is_bias = contribution.scales is not None
        # Biases of the same tensor are condensed together, but only neighbours: results come in the terms' order.
        if not (groups and is_bias and groups[-1].are_biases and last is groups[-1].last):
            groups.append(ContributionGroup([], [], are_biases=is_bias))
        return groups[-1].add(term)

    def _place(self, step: Step, tensor: Tensor) -> Place | None:
        """Where a tensor lies: as the step's value of the same rank, and for a sequence of the same length."""
        rank = len(tensor.shape)
        for value in (*step.outputs, *step.inputs):
            if value in self._places and len(value.shape) == rank and (rank == 4 or value.shape[1] == tensor.shape[1]):
                return self._places[value]
        return None

    def add_activated(
        self, step: Step, activation: Activation, biases: Sequence[tuple[Step, Tensor]], z: Tensor, suffix: str = ""
    ) -> Tensor:
        """Applies an activation to z, and adds its term and the terms of z's biases. Needs an early condenser.

        Args:
          step: the step of the activation.
          activation: which one it is.
          biases: at least one bias of z, float32 [C], each with the step that its term is named after.
          z: float32 [N, h, w, C]. It is not tapped, since all terms are condensed on the gradient's way back to it.
          suffix: follows the step's name in the name of its term.

        Returns:
          The step's output.
        """
        early = self._early
        assert early is not None
        scales = ops.stack([bias for _, bias in biases])
        results: list[Condensed] = []

        def pull_back(g: Tensor, y: Tensor) -> Tensor:
            g_z, condensed = early.pull_back(activation, g, y, z, scales)
            results.append(condensed)
            return g_z

        function = keras.activations.relu6 if activation == "relu6" else keras.activations.silu
        y = autodiff.with_pull_back(z, function, pull_back)
        for owner, _ in biases:
            self.terms.append(CondensedTerm(owner.name, True, y, results))
        self.terms.append(CondensedTerm(step.name + suffix, False, y, results))
        return y


@dataclasses.dataclass(slots=True)
class ContributionGroup:
    """Terms that are condensed together because they are made of the same gradient.

    Attributes:
      terms: the terms.
      condensed: their result; empty until the backward pass.
      are_biases: whether the terms are g ⊙ b with a b for every channel. Other groups have a single term.
      last: the last term, as the run has it.
    """

    terms: list[Term]
    condensed: list[Condensed]
    are_biases: bool
    last: CondensedTerm | None = None

    def add(self, term: Term) -> CondensedTerm:
        """Adds a term to the group and returns it as a condensed one."""
        self.terms.append(term)
        self.last = CondensedTerm(term.layer, term.explicit, term.parts[0].tensor, self.condensed)
        return self.last

    def condense(self, gradient: Tensor, early: EarlyCondenser) -> list[Tensor]:
        """Condenses the terms, once their gradient is known, and returns the resulting tensors."""
        gradient = ops.cast(gradient, "float32")
        found: list[AnyContribution] = []
        for term in self.terms:
            if (contribution := term.as_one_contribution(lambda _: gradient)) is not None:
                found.append(contribution)
        (merged,) = merge_neighbours(found)
        assert isinstance(merged, Contribution)
        self.condensed.append(early.condense(merged))
        made = self.condensed[0]
        return [made.map, *([] if made.evidence is made.map else [made.evidence]), made.totals]
