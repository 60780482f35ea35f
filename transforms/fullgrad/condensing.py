"""Condensing: from contributions [N, h, w, C] to the little that maps and terms need of them, in one of two ways.

`PlainCondenser` uses TensorFlow's operations and runs anywhere. `NativeCondenser` uses operations of our own, which
read every tensor once; it runs on CPUs. `choose` is the only place that decides between them.
"""

from __future__ import annotations

import dataclasses
from typing import Literal, Protocol

import numpy as np

from transforms.fullgrad import maps
from transforms.fullgrad.contributions import Condensed, Contribution
from transforms.fullgrad.tensorflow import autodiff
from transforms.fullgrad.tensorflow.autodiff import Tensor
from transforms.fullgrad.tensorflow.native.graph import NativeCondenser
from transforms.fullgrad.tensorflow.native.selftest import usable

# The activations of which an `EarlyCondenser` knows the pull-back.
Activation = Literal["relu6", "silu"]


class Condenser(Protocol):
    """Condenses contributions and adds their maps up."""

    @property
    def early(self) -> EarlyCondenser | None:
        """What condenses terms while the backward pass makes their gradients; None if nothing does."""

    def condense(self, contribution: Contribution) -> Condensed:
        """Condenses float32 contributions."""

    def add_resized(
        self, total: Tensor | None, small: Tensor, rows: np.ndarray | None, columns: np.ndarray | None
    ) -> Tensor:
        """As `maps.add_resized`."""


class EarlyCondenser(Protocol):
    """Condenses terms while the backward pass makes their gradients, before anything else reads these."""

    @property
    def implicit(self) -> bool:
        """Whether implicit biases count, or only the explicit ones."""

    def condense(self, contribution: Contribution) -> Condensed:
        """Condenses float32 contributions."""

    def pull_back(
        self, activation: Activation, g: Tensor, y: Tensor, z: Tensor, scales: Tensor
    ) -> tuple[Tensor, Condensed]:
        """Goes back through y = σ(z), and condenses the terms on both sides of it.

        Args:
          activation: σ.
          g, y, z: float32 [N, h, w, C]; g is the gradient at y.
          scales: float32 [T, C], the biases of z; at least one.

        Returns:
          g_z = g ⊙ σ′(z), and the condensed g_z ⊙ scales[t], followed by the activation's own g ⊙ y − g_z ⊙ z if
          implicit biases count.
        """


@dataclasses.dataclass(frozen=True, slots=True)
class PlainCondenser:
    """Condenses with TensorFlow's operations, by a map's own rule, after the backward pass."""

    rule: maps.MapRule

    @property
    def early(self) -> None:
        """Nothing: TensorFlow fuses no reading with the making of a gradient."""

    def condense(self, contribution: Contribution) -> Condensed:
        """Condenses by the rule; the totals are sums."""
        return Condensed(self.rule.condense(contribution), contribution.sums(), contribution.totals())

    def add_resized(
        self, total: Tensor | None, small: Tensor, rows: np.ndarray | None, columns: np.ndarray | None
    ) -> Tensor:
        """As `maps.add_resized`."""
        return maps.add_resized(total, small, rows, columns)


def choose(rule: maps.MapRule, *, implicit: bool, jit: bool) -> Condenser:
    """The condenser for a rule: the native one where it can run, since it is faster.

    Args:
      rule: how contributions become a map.
      implicit: whether implicit biases count.
      jit: whether XLA compiles, which takes no operations of our own.
    """
    if rule.native is None or jit or autodiff.has_accelerator() or not usable(rule):
        return PlainCondenser(rule)
    return NativeCondenser(
        signed=rule.native == "signed",
        epsilon=maps.EPSILON,
        implicit=implicit,
        threads=autodiff.threads_a_call(),
    )
