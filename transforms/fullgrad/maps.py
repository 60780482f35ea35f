"""From terms to a map: each term is made comparable at its own resolution, summed, and only then resized.

All rules sum over channels and resizing is linear, so that summing first gives the same map as resizing every channel
of every layer, which is how the method is defined and what makes other implementations slow.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from keras import ops

from transforms import resampling
from transforms.fullgrad import operations
from transforms.fullgrad.autodiff import Tensor
from transforms.fullgrad.located import Located
from transforms.fullgrad.operations import Reading

# The authors' guard against division by zero, in their own normalisation (idiap/fullgrad-saliency).
_EPSILON = 1e-6


@dataclasses.dataclass(frozen=True, slots=True)
class MapRule:
    """How located contributions become a map.

    Attributes:
      condense: contributions [N, h, w, C] → [N, h, w], what is summed over them.
      resize: the matrix a side, (h, H) → float64 [H, h], to the input's size.
      reduce: the same from the input's size to the map's.
      reading: how `operations` do the same in one reading; None where they do not.
    """

    condense: Callable[[Located], Tensor]
    resize: Callable[[int, int], np.ndarray]
    reduce: Callable[[int, int], np.ndarray]
    reading: Reading | None = None


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
    "reference": MapRule(
        _reference,
        resampling.aligned_bilinear,
        _mean_area,
        Reading(signed=False, epsilon=_EPSILON),
    ),
    "channelwise": MapRule(_channelwise, resampling.half_pixel_bilinear, _mean_area),
    "signed": MapRule(_signed, resampling.spread, resampling.area, Reading(signed=True, epsilon=_EPSILON)),
}


def by_resolution(condensed: Iterable[Any]) -> list[Any]:
    """Adds up what is of the same resolution: tensors [N, h, w] → one of each (h, w)."""
    found: dict[tuple[int, int], Any] = {}
    for each in condensed:
        size = int(each.shape[1]), int(each.shape[2])
        found[size] = found[size] + each if size in found else each
    return list(found.values())


def combine(
    rule: MapRule,
    condensed: list[Tensor],
    input_size: tuple[int, int],
    map_size: tuple[int, int],
    *,
    by_operations: bool = False,
) -> Any:
    """Adds up condensed contributions [N, h, w] of any resolutions to maps [N, *map_size] float32.

    `by_operations` says whether our own may do it, which only compute what the two numbers in a row of an interpolation
    are multiplied with.
    """
    total = None
    for each in by_resolution(condensed):
        rows = _side(rule, int(each.shape[1]), input_size[0], map_size[0])
        columns = _side(rule, int(each.shape[2]), input_size[1], map_size[1])
        if by_operations and total is not None and rows is not None and columns is not None:
            down, across = operations.two_taps(rows), operations.two_taps(columns)
            if down is not None and across is not None:
                total = operations.add_resized(total, each, down, across)
                continue
        each = each if rows is None else ops.matmul(ops.convert_to_tensor(rows), each)
        each = each if columns is None else ops.matmul(each, ops.convert_to_tensor(columns.T))
        total = each if total is None else total + each
    return total


def _side(rule: MapRule, old: int, full: int, new: int) -> np.ndarray | None:
    """One side's matrix, float32 [new, old], by way of the input's size, at which maps are defined; None for none.

    The input's own term is the largest to be resized, and as a rule stays as it is.
    """
    matrix = rule.resize(old, full)
    if new != full:
        matrix = rule.reduce(full, new) @ matrix
    return None if old == new and np.array_equal(matrix, np.eye(old)) else matrix.astype(np.float32)
