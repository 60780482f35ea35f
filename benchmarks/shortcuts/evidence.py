"""What is known of a model's images: all kinds of their maps, as coarse maps."""

from __future__ import annotations

import dataclasses
import pathlib

import numpy as np


@dataclasses.dataclass(frozen=True, slots=True)
class Evidence:
    """What is known of N images.

    Attributes:
      predicted, labels: int64 [N].
      probabilities: float32 [N], of the predicted class.
      signed, reference: float32 [objectives, resolutions, N, COARSE, COARSE], sums over each cell of the maps that the
        terms of one resolution make; the maps of all terms are their sum.
      positive: float32 [objectives, N, COARSE, COARSE], sums over each cell of the signed map's positive part.
      positive_fine: as `positive`, of the terms with at least 24 × 24 places alone.
      magnitude: float32 [objectives, N, COARSE, COARSE], sums over each cell of its absolute value.
      input_signed: float32 [objectives, N, COARSE, COARSE], the input's term alone: gradient × input.
      channels: float32 [N, C], activation × gradient of each channel before the pooling.
    """

    predicted: np.ndarray
    labels: np.ndarray
    probabilities: np.ndarray
    signed: np.ndarray
    reference: np.ndarray
    positive: np.ndarray
    positive_fine: np.ndarray
    magnitude: np.ndarray
    input_signed: np.ndarray
    channels: np.ndarray


def read_evidence(path: pathlib.Path) -> Evidence:
    """Reads what `write_evidence` wrote."""
    with np.load(path) as stored:
        return Evidence(**{field.name: stored[field.name] for field in dataclasses.fields(Evidence)})
