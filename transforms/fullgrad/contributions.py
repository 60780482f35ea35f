"""Contributions: numbers that lie in the image and add up to a term, and the sums and extremes that maps are made of.

The cost of FullGrad beyond the bare gradient is memory traffic: it reads tensors as large as all activations together.
A contribution is therefore kept as its factors and multiplied out only when it is read. A `Contribution` leaves that
to TensorFlow's operations; a condenser may do it in one pass (`condensing`). The bias terms t = g ⊙ b of one tensor,
with a b for every channel, share what is read of the gradient g.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from keras import ops

from transforms.fullgrad.tensorflow import autodiff
from transforms.fullgrad.tensorflow.autodiff import Tensor


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Product:
    """gradient ⊙ multiplier, float32 [N, h, w, C] each.

    Attributes:
      gradient: the logit's gradient at a tensor.
      multiplier: None stands for 1.
      threshold: a multiplier below it counts as 0; None for no threshold.
    """

    gradient: Tensor
    multiplier: Tensor | None = None
    threshold: float | None = None

    def tensor(self) -> Tensor:
        """The product, multiplied out."""
        if self.multiplier is None:
            return self.gradient
        product = self.gradient * self.multiplier
        return product if self.threshold is None else ops.where(self.multiplier >= self.threshold, product, 0.0)


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Contribution:
    """T contributions factor · (product − subtracted) ⊙ scales[t]; every number has its position in the image.

    Attributes:
      product: [N, h, w, C].
      subtracted: what is subtracted from the product; both then have multipliers. None for nothing.
      factor: not 0.
      scales: float32 [T, C], only with a product without multiplier; None for a single 1, T = 1.
    """

    product: Product
    subtracted: Product | None = None
    factor: float = 1.0
    scales: Tensor | None = None

    @property
    def resolution(self) -> tuple[int, int]:
        """h and w."""
        _, height, width, _ = self.product.gradient.shape
        return int(height), int(width)

    @property
    def count(self) -> int:
        """T."""
        return 1 if self.scales is None else int(self.scales.shape[0])

    def unscaled(self) -> Tensor:
        """factor · (product − subtracted), [N, h, w, C]."""
        tensor = self.product.tensor() if self.subtracted is None else self.product.tensor() - self.subtracted.tensor()
        return tensor if self.factor == 1.0 else tensor * self.factor

    def tensors(self) -> list[Tensor]:
        """The contributions themselves, T tensors [N, h, w, C]."""
        tensor = self.unscaled()
        return [tensor] if self.scales is None else [tensor * scale for scale in ops.unstack(self.scales)]

    def totals(self) -> Tensor:
        """Σ over positions and channels, [N, T]."""
        if self.scales is None:
            return total(self.unscaled())[:, None]
        height, width = self.resolution
        return ops.matmul(autodiff.channel_means(self.unscaled()) * (height * width), ops.transpose(self.scales))

    def sums(self) -> Tensor:
        """Σ over channels and the T contributions, [N, h, w]."""
        if self.scales is None:
            return ops.sum(self.unscaled(), axis=-1)
        return _weighted_sums(self.unscaled(), ops.sum(self.scales, axis=0, keepdims=True))[..., 0]

    def magnitudes(self) -> Magnitudes:
        """The absolute values."""
        return Magnitudes(ops.abs(self.unscaled()), None if self.scales is None else ops.abs(self.scales))


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Condensed:
    """What a map and an account need of T contributions to N images.

    Attributes:
      map: float32 [N, h, w], the contributions condensed by a `maps.MapRule` and added up.
      evidence: float32 [N, h, w], the sum over channels of the contributions themselves.
      totals: float32 [N, T], the sum of each contribution over positions and channels.
    """

    map: Tensor
    evidence: Tensor
    totals: Tensor


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class CondensedContribution:
    """Contributions that were condensed where their gradient was made: `count` of those in `condensed`."""

    condensed: Condensed
    count: int = 1


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Magnitudes:
    """The absolute values of T contributions, tensor ⊙ scales[t].

    Attributes:
      tensor: float32 [N, h, w, C], not negative.
      scales: float32 [T, C], not negative; None for a single 1, T = 1.
    """

    tensor: Tensor
    scales: Tensor | None

    @property
    def channels(self) -> int:
        """C."""
        return int(self.tensor.shape[3])

    def sums(self) -> Tensor:
        """Σ over channels, [N, h, w, T]."""
        if self.scales is None:
            return ops.sum(self.tensor, axis=-1, keepdims=True)
        return _weighted_sums(self.tensor, self.scales)

    def extremes(self) -> tuple[Tensor, Tensor]:
        """The least and the largest value over positions and channels, [N, T] each."""
        low, high = self.channel_extremes()
        if self.scales is None:
            return ops.min(low, axis=-1, keepdims=True), ops.max(high, axis=-1, keepdims=True)
        return ops.min(low[:, None] * self.scales, axis=-1), ops.max(high[:, None] * self.scales, axis=-1)

    def channel_extremes(self) -> tuple[Tensor, Tensor]:
        """The least and the largest value in each channel of the unscaled tensor, [N, C] each."""
        return ops.min(self.tensor, axis=(1, 2)), ops.max(self.tensor, axis=(1, 2))


AnyContribution = Contribution | CondensedContribution


def merge_neighbours(contributions: Iterable[AnyContribution]) -> list[AnyContribution]:
    """Merges neighbours that are made of the same gradient, so that it is read once; keeps the order."""
    merged: list[AnyContribution] = []
    for each in contributions:
        both = _merge(merged[-1], each) if merged else None
        if both is None:
            merged.append(each)
        else:
            merged[-1] = both
    return merged


def _merge(first: AnyContribution, second: AnyContribution) -> AnyContribution | None:
    """Both as one; None if they are not made of the same gradient in the same way."""
    if isinstance(first, CondensedContribution) and isinstance(second, CondensedContribution):
        same = first.condensed is second.condensed
        return dataclasses.replace(first, count=first.count + second.count) if same else None
    if isinstance(first, CondensedContribution) or isinstance(second, CondensedContribution):
        return None
    if first.scales is None or second.scales is None or first.product.gradient is not second.product.gradient:
        return None
    return Contribution(second.product, scales=ops.concatenate([first.scales, second.scales]))


def total(tensor: Tensor) -> Tensor:
    """The sum over all but the first axis, [N]. It goes axis by axis: float32 loses less than in one long sum."""
    while len(tensor.shape) > 1:
        tensor = ops.sum(tensor, axis=-1)
    return tensor


def _weighted_sums(tensor: Tensor, scales: Tensor) -> Tensor:
    """Σ over channels of tensor ⊙ scales[t], [N, h, w, T]; as one matrix product, which is the fastest way."""
    height, width, channels = (int(size) for size in tensor.shape[1:])
    product = ops.matmul(ops.reshape(tensor, (-1, channels)), ops.transpose(scales))
    return ops.reshape(product, (-1, height, width, int(scales.shape[0])))
