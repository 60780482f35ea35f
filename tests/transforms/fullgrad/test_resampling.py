from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transforms.fullgrad import resampling

sizes = st.integers(1, 40)


@given(sizes, sizes)
def test_area_and_spread_keep_the_sum_of_every_map(old: int, new: int) -> None:
    for matrix in (resampling.area(old, new), resampling.spread(old, new)):
        assert matrix.shape == (new, old)
        np.testing.assert_allclose(matrix.sum(axis=0), 1, atol=1e-12)
        assert matrix.min() >= 0


@given(sizes, sizes)
def test_interpolation_keeps_an_even_map_even(old: int, new: int) -> None:
    for matrix in (resampling.aligned_bilinear(old, new), resampling.half_pixel_bilinear(old, new)):
        np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-12)


def test_aligned_bilinear_hits_both_corners() -> None:
    ramp = resampling.aligned_bilinear(3, 5) @ np.array([0.0, 1.0, 4.0])
    np.testing.assert_allclose(ramp, [0, 0.5, 1, 2.5, 4])


def test_half_pixel_bilinear_interpolates_between_centres() -> None:
    ramp = resampling.half_pixel_bilinear(2, 4) @ np.array([0.0, 1.0])
    np.testing.assert_allclose(ramp, [0, 0.25, 0.75, 1])


def test_area_averages_whole_blocks() -> None:
    np.testing.assert_allclose(resampling.area(4, 2) @ np.array([1.0, 2, 3, 5]), [3, 8])


@pytest.mark.parametrize("size", [1, 7])
def test_the_same_size_is_left_alone(size: int) -> None:
    for rule in (resampling.aligned_bilinear, resampling.half_pixel_bilinear, resampling.area, resampling.spread):
        np.testing.assert_allclose(rule(size, size), np.eye(size), atol=1e-12)
