"""From terms to a map: each term is made comparable at its own resolution, then added up, and only then resized.

Every rule sums over channels, and resizing is linear. So adding first gives the same map as the method's definition,
which resizes every channel of every layer; other implementations do that and are slow.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, Literal

import numpy as np
from keras import ops

from transforms.fullgrad import resampling
from transforms.fullgrad.contributions import Contribution
from transforms.fullgrad.tensorflow.autodiff import Tensor

# The authors' guard against division by zero, in their own normalisation (idiap/fullgrad-saliency).
EPSILON = 1e-6


@dataclasses.dataclass(frozen=True, slots=True)
class MapRule:
    """How contributions become a map.

    Attributes:
      condense: contributions [N, h, w, C] → their condensed sum [N, h, w].
      resize: gives the matrix for one side, (h, H) → float64 [H, h], that resizes to the input's size.
      reduce: the same from the input's size to the map's.
      native: what `NativeCondenser` has to sum up for the same result: the contributions themselves (`signed`), or
        their normalised magnitudes ψ; None if it cannot.
    """

    condense: Callable[[Contribution], Tensor]
    resize: Callable[[int, int], np.ndarray]
    reduce: Callable[[int, int], np.ndarray]
    native: Literal["signed", "normalised"] | None = None


def _reference(contribution: Contribution) -> Tensor:
    """Σ_c ψ(t), with ψ: |t| less its minimum, over the maximum of that; both extremes over all positions and channels.

    Srinivas & Fleuret 2019, section 5, as in the authors' code: (a − min a) / (max(a − min a) + 1e-6), a = |t|.
    """
    magnitudes = contribution.magnitudes()
    low, high = (extreme[:, None, None] for extreme in magnitudes.extremes())
    # Σ_c (a_c − low) / (high − low + ε), with the sum taken first.
    return ops.sum((magnitudes.sums() - magnitudes.channels * low) / (high - low + EPSILON), axis=-1)


def _channelwise(contribution: Contribution) -> Tensor:
    """The mean of ψ over channels, with the minimum and maximum of each channel alone."""
    magnitudes = contribution.magnitudes()
    low, high = (extreme[:, None] for extreme in magnitudes.channel_extremes())  # [N, 1, C]
    scales = ops.ones_like(low[0]) if magnitudes.scales is None else magnitudes.scales
    # Σ_t s_t·(a − low) / (s_t·(high − low) + ε). The factor that all positions share is computed first. The difference
    # comes before the weight: in a constant channel, the difference of two quotients would be rounding errors over ε.
    weights = ops.sum(scales / (scales * (high - low) + EPSILON), axis=1)
    return ops.mean((magnitudes.tensor - low[:, None]) * weights[:, None, None], axis=-1)


def _signed(contribution: Contribution) -> Tensor:
    """Σ_c t, the term itself."""
    return contribution.sums()


def _mean_area(old: int, new: int) -> np.ndarray:
    return resampling.area(old, new) * (new / old)


RULES = {
    "reference": MapRule(_reference, resampling.aligned_bilinear, _mean_area, "normalised"),
    "channelwise": MapRule(_channelwise, resampling.half_pixel_bilinear, _mean_area),
    "signed": MapRule(_signed, resampling.spread, resampling.area, "signed"),
}


def by_resolution(condensed: Iterable[Any]) -> list[Any]:
    """Adds up what has the same resolution: tensors [N, h, w] → one for each (h, w)."""
    found: dict[tuple[int, int], Any] = {}
    for each in condensed:
        size = int(each.shape[1]), int(each.shape[2])
        found[size] = found[size] + each if size in found else each
    return list(found.values())


def add_resized(total: Tensor | None, small: Tensor, rows: np.ndarray | None, columns: np.ndarray | None) -> Tensor:
    """total + rows · small · columnsᵀ.

    Args:
      total: float32 [N, H, W]; None for 0.
      small: float32 [N, h, w].
      rows, columns: float32 [H, h] and [W, w]; None for the identity.
    """
    small = small if rows is None else ops.matmul(ops.convert_to_tensor(rows), small)
    small = small if columns is None else ops.matmul(small, ops.convert_to_tensor(columns.T))
    return small if total is None else total + small


def combine(
    rule: MapRule,
    condensed: list[Tensor],
    input_size: tuple[int, int],
    map_size: tuple[int, int],
    add_resized: Callable[[Any, Tensor, np.ndarray | None, np.ndarray | None], Tensor] = add_resized,
) -> Any:
    """Adds up condensed contributions [N, h, w] of any resolutions to maps [N, *map_size] float32.

    `add_resized` may be a condenser's own.
    """
    total = None
    for each in by_resolution(condensed):
        rows = _side(rule, int(each.shape[1]), input_size[0], map_size[0])
        columns = _side(rule, int(each.shape[2]), input_size[1], map_size[1])
        total = add_resized(total, each, rows, columns)
    return total


# The positive part of a signed map is taken at so many times the resolution of the evidence, or at the image's own, if
# that is lower: at the evidence's own, what speaks for the class would cancel with what speaks against it close by.
_FINER = 4


def evidence(sums: list[Tensor], input_size: tuple[int, int], size: tuple[int, int]) -> Any:
    """The positive part of the signed map, added up over the area of each cell.

    Args:
      sums: float32 [N, h, w] of any resolutions, the sums of contributions over channels.
      input_size: height and width of the images.
      size: height and width of the result.

    Returns:
      float32 [N, *size].
    """
    fine = min(input_size[0], _FINER * size[0]), min(input_size[1], _FINER * size[1])
    positive = ops.maximum(combine(RULES["signed"], sums, input_size, fine), 0.0)
    rows, columns = (resampling.area(old, new).astype(np.float32) for old, new in zip(fine, size, strict=True))
    return add_resized(None, positive, rows, columns)


def _side(rule: MapRule, old: int, full: int, new: int) -> np.ndarray | None:
    """The matrix for one side, float32 [new, old]; None for the identity, as usual for the input's own term.

    It goes by way of the input's size, at which maps are defined.
    """
    matrix = rule.resize(old, full)
    if new != full:
        matrix = rule.reduce(full, new) @ matrix
    return None if old == new and np.array_equal(matrix, np.eye(old)) else matrix.astype(np.float32)
