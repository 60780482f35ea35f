"""Contributions with places in the image, and the sums and extremes over them that terms and maps are made of.

What FullGrad costs beyond an input gradient is reading tensors as large as all activations together. So none is read
more often than it must be, and the bias terms of one tensor, t = g ⊙ b with a b for every channel, share what is read
of g: no g ⊙ b is ever made.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from keras import ops

from transforms.fullgrad import autodiff
from transforms.fullgrad.autodiff import Tensor


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Located:
    """T contributions tensor ⊙ scales[t], each number at its place in the image.

    Attributes:
      tensor: float32 [N, h, w, C].
      scales: float32 [T, C]; None for the tensor itself, T = 1.
    """

    tensor: Tensor
    scales: Tensor | None = None

    @property
    def resolution(self) -> tuple[int, int]:
        """h and w."""
        return int(self.tensor.shape[1]), int(self.tensor.shape[2])

    def each(self) -> list[Tensor]:
        """The contributions themselves, T times [N, h, w, C]."""
        return [self.tensor] if self.scales is None else [self.tensor * scale for scale in ops.unstack(self.scales)]

    def totals(self) -> Tensor:
        """Σ over places and channels, [N, T]."""
        if self.scales is None:
            return total(self.tensor)[:, None]
        height, width = self.resolution
        return ops.matmul(autodiff.channel_means(self.tensor) * (height * width), ops.transpose(self.scales))

    def sums(self) -> Tensor:
        """Σ over channels and the T contributions, [N, h, w]."""
        if self.scales is None:
            return ops.sum(self.tensor, axis=-1)
        return _weighted(self.tensor, ops.sum(self.scales, axis=0, keepdims=True))[..., 0]

    def magnitudes(self) -> Magnitudes:
        return Magnitudes(ops.abs(self.tensor), None if self.scales is None else ops.abs(self.scales))


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Magnitudes:
    """The absolute values of T contributions, tensor ⊙ scales[t]; both as in `Located`, and not negative."""

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
        if self.scales is None:
            return self._least(1), ops.max(self.tensor, axis=(1, 2, 3))[:, None]
        high = autodiff.channel_maxima(self.tensor)
        return self._least(int(self.scales.shape[0])), ops.max(high[:, None] * self.scales, axis=-1)

    def channel_extremes(self) -> tuple[Tensor, Tensor]:
        """The least and the largest value of each channel of the tensor alone, [N, C] each."""
        return ops.min(self.tensor, axis=(1, 2)), autodiff.channel_maxima(self.tensor)

    def _least(self, terms: int) -> Tensor:
        """[N, T]. Behind a ReLU it is nearly always 0, and then the first row of places tells."""
        above = ops.min(self.tensor[:, :1], axis=(1, 2, 3))

        def of_all_places() -> Tensor:
            if self.scales is None:
                return ops.min(self.tensor, axis=(1, 2, 3))[:, None]
            return ops.min(ops.min(self.tensor, axis=(1, 2))[:, None] * self.scales, axis=-1)

        return ops.cond(ops.all(above == 0), lambda: ops.repeat(above[:, None], terms, axis=1), of_all_places)


def together(located: Iterable[Located]) -> list[Located]:
    """Joins neighbours of the same tensor into one, so that it is read once; the order stays."""
    joined: list[Located] = []
    for each in located:
        last = joined[-1] if joined else None
        if last is not None and last.tensor is each.tensor and last.scales is not None and each.scales is not None:
            joined[-1] = Located(each.tensor, ops.concatenate([last.scales, each.scales]))
        else:
            joined.append(each)
    return joined


def total(tensor: Tensor) -> Tensor:
    """Sum over all but the first axis, [N]; in steps, which loses less in float32 than one long sum."""
    while len(tensor.shape) > 1:
        tensor = ops.sum(tensor, axis=-1)
    return tensor


def _weighted(tensor: Tensor, scales: Tensor) -> Tensor:
    """Σ over channels of tensor ⊙ scales[t], [N, h, w, T], as a single product of matrices, the fastest such sum."""
    height, width, channels = (int(size) for size in tensor.shape[1:])
    product = ops.matmul(ops.reshape(tensor, (-1, channels)), ops.transpose(scales))
    return ops.reshape(product, (-1, height, width, int(scales.shape[0])))
