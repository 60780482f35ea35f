"""Locates evidence: covers window after window of an image. What a class loses by it shows where its evidence is."""

from __future__ import annotations

import numpy as np

from transforms.probing.covering import cover
from transforms.probing.places import Grid, mask_of


def covered_windows(image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """An image and its copies in which each window of its `Grid` is covered in turn.

    Args:
      image: uint8 [H, W, C], decoded and not yet preprocessed.
      generator: makes the noise of the fillings.

    Returns:
      uint8 [1 + P, H, W, C], the image itself first.
    """
    grid = Grid(*image.shape[:2])
    variants = np.repeat(image[None], 1 + len(grid), axis=0)
    for i, box in enumerate(grid.boxes, 1):
        variants[i] = cover(image[None], mask_of((box,), grid.height, grid.width), generator)[0]
    return variants
