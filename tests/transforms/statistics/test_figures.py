from __future__ import annotations

import numpy as np
import pytest

from transforms.statistics import FIGURES, map_figures, resample, unit_mass


def _figures(image: np.ndarray) -> dict[str, float]:
    return dict(zip(FIGURES, map_figures(image[None].astype(np.float32))[0].tolist(), strict=True))


def test_an_even_map_is_spread_evenly() -> None:
    figures = _figures(np.full((20, 10), 0.5))
    assert figures["total"] == 100
    assert figures["entropy"] == pytest.approx(1)
    assert figures["gini"] == pytest.approx(0, abs=1e-6)
    assert figures["area50"] == pytest.approx(0.5, abs=0.01)
    assert figures["area90"] == pytest.approx(0.9, abs=0.01)
    assert (figures["center_y"], figures["center_x"]) == pytest.approx((0.5, 0.5))
    assert figures["border_mass"] == pytest.approx(1 - 0.8 * 0.8, rel=1e-5)
    assert figures["corner_mass"] == pytest.approx(0.04, rel=1e-5)


def test_a_single_pixel_holds_everything() -> None:
    image = np.zeros((10, 20))
    image[0, 19] = -3
    figures = _figures(image)
    assert figures["total"] == -3
    assert figures["entropy"] == 0
    assert figures["gini"] == pytest.approx(1 - 1 / 200)
    assert figures["area50"] == figures["area90"] == pytest.approx(1 / 200)
    assert (figures["center_y"], figures["center_x"]) == pytest.approx((0.05, 0.975))
    assert (figures["peak_y"], figures["peak_x"]) == pytest.approx((0.05, 0.975))
    assert figures["spread"] == pytest.approx(0, abs=1e-4)
    assert figures["border_mass"] == figures["corner_mass"] == pytest.approx(1)


def test_figures_hardly_depend_on_the_resolution() -> None:
    fine = np.random.default_rng(0).gamma(1, size=(8, 8)).repeat(6, axis=0).repeat(6, axis=1)
    coarse = fine[::3, ::3]
    for name in ("center_y", "center_x", "border_mass", "corner_mass", "gini", "area50"):
        assert _figures(fine)[name] == pytest.approx(_figures(coarse)[name], rel=0.02), name


def test_a_map_without_mass_has_a_total_and_nothing_else() -> None:
    figures = map_figures(np.zeros((1, 4, 4), np.float32))[0]
    assert figures[0] == 0
    assert np.isnan(figures[1:]).all()


def test_resampling_keeps_the_mass() -> None:
    maps = np.random.default_rng(0).normal(size=(3, 32, 20))
    for size in ((14, 14), (56, 56), (32, 20)):
        np.testing.assert_allclose(resample(maps, size).sum(axis=(1, 2)), maps.sum(axis=(1, 2)))


def test_unit_mass_leaves_a_map_of_zeros_alone() -> None:
    maps = np.zeros((2, 3, 3))
    maps[1, 0, 0] = -4
    np.testing.assert_array_equal(np.abs(unit_mass(maps)).sum(axis=(1, 2)), [0, 1])
