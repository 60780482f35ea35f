"""Adds a part of one image to others: does what was found in one class alone make others look like it to the model?"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from transforms.probing.places import Box


@dataclasses.dataclass(frozen=True, slots=True)
class Donor:
    """An image whose evidence was located.

    Attributes:
      pixels: uint8 [H, W, C], decoded to the model's size.
      peak: the window whose covering cost most in it.
    """

    pixels: np.ndarray
    peak: Box


def pasted(image: np.ndarray, donor: np.ndarray, boxes: Sequence[Box]) -> np.ndarray:
    """The image uint8 [H, W, C] with the boxes' pixels of a donor of the same size; a copy."""
    changed = image.copy()
    for box in boxes:
        changed[box.slices] = donor[box.slices]
    return changed
