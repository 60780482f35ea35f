"""Covering: the imputation solves its equations, and changes nothing else."""

import numpy as np
import pytest

from transforms.probing import Box, Grid, cover, mask_of
from transforms.probing.covering import NOISE
from transforms.probing.places import inside, ring


def images(count=3, height=14, width=11, channels=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, channels), np.uint8)


def dense_solution(image, mask):
    """Each missing pixel as the weighted mean of its neighbours, by a dense solve of ROAD's equations: one channel."""
    missing = [tuple(each) for each in np.argwhere(mask)]
    a, b = np.eye(len(missing)), np.zeros(len(missing))
    for row, (y, x) in enumerate(missing):
        weights = {
            (y + dy, x + dx): 1 / 12 if dy and dx else 1 / 6
            for dy in (-1, 0, 1)
            for dx in (-1, 0, 1)
            if (dy or dx) and 0 <= y + dy < mask.shape[0] and 0 <= x + dx < mask.shape[1]
        }
        for place, weight in weights.items():
            share = weight / sum(weights.values())
            if place in missing:
                a[row, missing.index(place)] -= share
            else:
                b[row] += share * image[place]
    return np.linalg.solve(a, b)


@pytest.mark.parametrize(
    "boxes",
    [
        (Box(3, 4, 8, 9),),
        (Box(0, 0, 4, 3),),
        (Box(10, 0, 14, 11),),
        ring(Box(0, 0, 14, 11), inside(Grid(14, 11), 1 / 10)),
    ],
    ids=["inside", "in a corner", "along an edge", "a frame"],
)
def test_the_imputation_equals_a_dense_solve(boxes):
    batch, mask = images(), mask_of(boxes, 14, 11)
    covered = cover(batch, mask, np.random.default_rng(0), noise=0.0)
    for before, after in zip(batch, covered, strict=True):
        for channel in range(3):
            expected = dense_solution(before[..., channel].astype(float), mask)
            np.testing.assert_allclose(after[mask, channel], expected, atol=0.5 + 1e-6)


@pytest.mark.parametrize("filling", ["imputation", "blur"])
@pytest.mark.parametrize("channels", [1, 3])
def test_only_the_masked_pixels_change(filling, channels):
    batch, mask = images(channels=channels), mask_of((Box(2, 2, 7, 7),), 14, 11)
    covered = cover(batch, mask, np.random.default_rng(0), filling)
    np.testing.assert_array_equal(covered[:, ~mask], batch[:, ~mask])
    assert (covered[:, mask] != batch[:, mask]).mean() > 0.9


def test_an_even_image_stays_even_but_for_the_noise():
    even = np.full((200, 14, 11, 1), 128, np.uint8)
    covered = cover(even, mask_of((Box(2, 2, 7, 7),), 14, 11), np.random.default_rng(0))[:, 2:7, 2:7]
    assert abs(covered.mean() - 128) < 0.2
    assert covered.std() == pytest.approx(NOISE, rel=0.1)


def test_a_mask_of_the_whole_image_is_refused():
    with pytest.raises(ValueError, match="nothing to fill it from"):
        cover(images(), np.ones((14, 11), bool), np.random.default_rng(0))
