"""Contributions with places in the image, and the sums and extremes over them that terms and maps are made of.

What FullGrad costs beyond an input gradient is reading tensors as large as all activations together. So a contribution
is kept as what it is made of, to be multiplied out only while it is read: by TensorFlow's operations here, or at once
by `operations` of our own. The bias terms of one tensor, t = g ⊙ b with a b for every channel, share what is read of g.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from keras import ops

from transforms.fullgrad import autodiff
from transforms.fullgrad.autodiff import Tensor


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Product:
    """gradient ⊙ multiplier, float32 [N, h, w, C] each; no multiplier stands for 1.

    Where the multiplier is less than `reaching`, it counts as 0.
    """

    gradient: Tensor
    multiplier: Tensor | None = None
    reaching: float | None = None

    def tensor(self) -> Tensor:
        if self.multiplier is None:
            return self.gradient
        product = self.gradient * self.multiplier
        return product if self.reaching is None else ops.where(self.multiplier >= self.reaching, product, 0.0)


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Located:
    """T contributions factor · (product − less) ⊙ scales[t], each number at its place in the image.

    Attributes:
      product: [N, h, w, C].
      less: what is subtracted from it, with both multipliers there; None for nothing.
      factor: not 0.
      scales: float32 [T, C], for a product without multiplier; None for 1, T = 1.
    """

    product: Product
    less: Product | None = None
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

    def tensor(self) -> Tensor:
        """factor · (product − less), [N, h, w, C]."""
        tensor = self.product.tensor() if self.less is None else self.product.tensor() - self.less.tensor()
        return tensor if self.factor == 1.0 else tensor * self.factor

    def each(self) -> list[Tensor]:
        """The contributions themselves, T times [N, h, w, C]."""
        tensor = self.tensor()
        return [tensor] if self.scales is None else [tensor * scale for scale in ops.unstack(self.scales)]

    def totals(self) -> Tensor:
        """Σ over places and channels, [N, T]."""
        if self.scales is None:
            return total(self.tensor())[:, None]
        height, width = self.resolution
        return ops.matmul(autodiff.channel_means(self.tensor()) * (height * width), ops.transpose(self.scales))

    def sums(self) -> Tensor:
        """Σ over channels and the T contributions, [N, h, w]."""
        if self.scales is None:
            return ops.sum(self.tensor(), axis=-1)
        return _weighted(self.tensor(), ops.sum(self.scales, axis=0, keepdims=True))[..., 0]

    def magnitudes(self) -> Magnitudes:
        return Magnitudes(ops.abs(self.tensor()), None if self.scales is None else ops.abs(self.scales))


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Condensed:
    """What is left of T contributions to N images once they were read.

    Attributes:
      map: float32 [N, h, w], as a `maps.MapRule` condenses them, added up.
      totals: float32 [N, T], each one's sum over places and channels.
    """

    map: Tensor
    totals: Tensor


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Read:
    """Contributions that were read where the gradient was made, `count` of those that `condensed` is of."""

    condensed: Condensed
    count: int = 1


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Magnitudes:
    """The absolute values of T contributions, tensor ⊙ scales[t].

    Attributes:
      tensor: float32 [N, h, w, C], not negative.
      scales: float32 [T, C], not negative; None for 1, T = 1.
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
        return _weighted(self.tensor, self.scales)

    def extremes(self) -> tuple[Tensor, Tensor]:
        """The least and the largest value over places and channels, [N, T] each."""
        low, high = self.channel_extremes()
        if self.scales is None:
            return ops.min(low, axis=-1, keepdims=True), ops.max(high, axis=-1, keepdims=True)
        return ops.min(low[:, None] * self.scales, axis=-1), ops.max(high[:, None] * self.scales, axis=-1)

    def channel_extremes(self) -> tuple[Tensor, Tensor]:
        """The least and the largest value of each channel of the tensor alone, [N, C] each."""
        return ops.min(self.tensor, axis=(1, 2)), ops.max(self.tensor, axis=(1, 2))


Contribution = Located | Read


def together(contributions: Iterable[Contribution]) -> list[Contribution]:
    """Joins neighbours that are read alike from the same gradient, so that it is read once; the order stays."""
    joined: list[Contribution] = []
    for each in contributions:
        both = _join(joined[-1], each) if joined else None
        if both is None:
            joined.append(each)
        else:
            joined[-1] = both
    return joined


def _join(first: Contribution, second: Contribution) -> Contribution | None:
    """The contributions of both, or None where they are not read alike."""
    if isinstance(first, Read) and isinstance(second, Read):
        same = first.condensed is second.condensed
        return dataclasses.replace(first, count=first.count + second.count) if same else None
    if isinstance(first, Read) or isinstance(second, Read) or first.scales is None or second.scales is None:
        return None
    if first.product.gradient is not second.product.gradient:
        return None
    return Located(second.product, scales=ops.concatenate([first.scales, second.scales]))


def total(tensor: Tensor) -> Tensor:
    """Sum over all but the first axis, [N]; in steps, which loses less in float32 than one long sum."""
    while len(tensor.shape) > 1:
        tensor = ops.sum(tensor, axis=-1)
    return tensor


def _weighted(tensor: Tensor, scales: Tensor) -> Tensor:
    """Σ over channels of tensor ⊙ scales[t], [N, h, w, T], as one product of matrices, the fastest such sum."""
    height, width, channels = (int(size) for size in tensor.shape[1:])
    product = ops.matmul(ops.reshape(tensor, (-1, channels)), ops.transpose(scales))
    return ops.reshape(product, (-1, height, width, int(scales.shape[0])))
