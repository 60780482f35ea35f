"""From terms to a map: each term is made comparable at its own resolution, summed, and only then resized.

All rules sum over channels and resizing is linear, so that summing first gives the same map as resizing every channel
of every layer, which is how the method is defined and what makes other implementations slow.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from keras import ops

from transforms import resampling
from transforms.fullgrad.autodiff import Tensor
from transforms.fullgrad.located import Located

# The authors' guard against division by zero, in their own normalisation (idiap/fullgrad-saliency).
_EPSILON = 1e-6


@dataclasses.dataclass(frozen=True, slots=True)
class MapRule:
    """How located contributions become a map.

    Attributes:
      condense: contributions [N, h, w, C] → [N, h, w], what is summed over them.
      resize: the matrix a side, (h, H) → float64 [H, h], to the input's size.
      reduce: the same from the input's size to the map's.
    """

    condense: Callable[[Located], Tensor]
    resize: Callable[[int, int], np.ndarray]
    reduce: Callable[[int, int], np.ndarray]


def _reference(located: Located) -> Tensor:
    """ψ = |t|, minus its minimum, over its maximum, both over all places and channels; summed over channels.

    Srinivas & Fleuret 2019, section 5, as in the authors' code: (a − min a) / (max(a − min a) + 1e-6), a = |t|.
    """
    magnitudes = located.magnitudes()
    low, high = (extreme[:, None, None] for extreme in magnitudes.extremes())
    # Σ_c (a_c − low) / (high − low + ε), with the sum taken first.
    return ops.sum((magnitudes.sums() - magnitudes.channels * low) / (high - low + _EPSILON), axis=-1)


def _channelwise(located: Located) -> Tensor:
    """ψ as above, but minimum and maximum of each channel alone; the mean over channels."""
    magnitudes = located.magnitudes()
    low, high = (extreme[:, None] for extreme in magnitudes.channel_extremes())  # [N, 1, C]
    scales = ops.ones_like(low[0]) if magnitudes.scales is None else magnitudes.scales
    # Σ_t s_t·(a − low) / (s_t·(high − low) + ε), with all that the places share taken first. The difference comes
    # before the weight: in a channel that is everywhere the same, their quotient would be rounding over ε.
    weights = ops.sum(scales / (scales * (high - low) + _EPSILON), axis=1)
    return ops.mean((magnitudes.tensor - low[:, None]) * weights[:, None, None], axis=-1)


def _signed(located: Located) -> Tensor:
    """The term itself: its sum over channels."""
    return located.sums()


def _mean_area(old: int, new: int) -> np.ndarray:
    return resampling.area(old, new) * (new / old)


RULES = {
    "reference": MapRule(_reference, resampling.aligned_bilinear, _mean_area),
    "channelwise": MapRule(_channelwise, resampling.half_pixel_bilinear, _mean_area),
    "signed": MapRule(_signed, resampling.spread, resampling.area),
}


def combine(rule: MapRule, contributions: list[Located], input_size: tuple[int, int], map_size: tuple[int, int]) -> Any:
    """Adds up contributions of any resolutions to maps [N, *map_size] float32."""
    by_resolution: dict[tuple[int, int], Tensor] = {}
    for contribution in contributions:
        condensed = rule.condense(contribution)
        size = contribution.resolution
        by_resolution[size] = by_resolution[size] + condensed if size in by_resolution else condensed
    total = 0.0
    for (height, width), condensed in by_resolution.items():
        rows = _side(rule, height, input_size[0], map_size[0])
        columns = _side(rule, width, input_size[1], map_size[1])
        total = total + ops.matmul(ops.matmul(rows, condensed), ops.transpose(columns))
    return total


def _side(rule: MapRule, old: int, full: int, new: int) -> Tensor:
    """One side's matrix [new, old], by way of the input's size, at which the maps are defined."""
    matrix = rule.resize(old, full)
    if new != full:
        matrix = rule.reduce(full, new) @ matrix
    return ops.convert_to_tensor(matrix.astype(np.float32))
