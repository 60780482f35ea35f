from collections.abc import Callable

import numpy as np
import pytest

from transforms.statistics import Moments
from transforms.statistics.effects import LEAST_IMAGES, discoveries, effects, mean_interval, quantile_interval

CELLS = 14

Draw = Callable[[np.random.Generator, int], np.ndarray]


def normal(generator: np.random.Generator, count: int) -> np.ndarray:
    return generator.normal(size=(count, CELLS, CELLS))


def like_maps(generator: np.random.Generator, count: int) -> np.ndarray:
    """Of unit mass, skewed, and neighbours are alike."""
    blocks = np.exp(1.5 * generator.normal(size=(count, 5, 5)))
    maps = np.kron(blocks, np.ones((1, 3, 3)))[:, :CELLS, :CELLS]
    return maps / maps.sum(axis=(1, 2), keepdims=True)


def moments(*groups: np.ndarray) -> dict[int, Moments]:
    return {k: Moments.of(group) for k, group in enumerate(groups)}


# ---- false discoveries


@pytest.mark.parametrize(("classes", "draws"), [(2, 300), (3, 300), (8, 150), (100, 12)])
@pytest.mark.parametrize("draw", [normal, like_maps])
def test_at_most_5_percent_of_runs_discover_anything_where_classes_differ_by_chance(
    classes: int, draws: int, draw: Draw
) -> None:
    generator = np.random.default_rng(0)
    found = 0
    for _ in range(draws):
        sizes = generator.integers(LEAST_IMAGES, 60, classes)
        found += effects(moments(*(draw(generator, size) for size in sizes))).discovered().any()
    assert found <= 0.05 * draws + 2 * (0.05 * 0.95 * draws) ** 0.5


def test_a_thousand_classes_that_differ_by_chance_are_not_discovered() -> None:
    generator = np.random.default_rng(0)
    count, shape = 40, (CELLS, CELLS)
    for _ in range(5):
        drawn = {
            k: Moments(count, generator.normal(0, count**-0.5, shape), generator.chisquare(count - 1, shape))
            for k in range(1000)
        }
        assert not effects(drawn).discovered().any()


# ---- what is there is found


@pytest.mark.parametrize("classes", [2, 3, 8])
def test_a_class_with_more_in_one_cell_is_discovered_there_alone(classes: int) -> None:
    generator = np.random.default_rng(1)
    groups = [normal(generator, 200) for _ in range(classes)]
    groups[1][:, 12, 11] += 1.0
    found = effects(moments(*groups))
    assert list(zip(*np.nonzero(found.discovered()), strict=True)) == [(1, 12, 11)]
    assert found.effect[1, 12, 11] == pytest.approx(1, abs=0.25)
    assert found.gap[1, 12, 11] <= found.effect[1, 12, 11] + 1e-9


def test_the_others_mean_does_not_depend_on_how_many_images_they_have() -> None:
    generator = np.random.default_rng(2)
    found = effects(moments(normal(generator, 30), normal(generator, 3000) + 1, normal(generator, 30) + 3))
    np.testing.assert_allclose(found.others[0], (found.means[1] + found.means[2]) / 2)


def test_the_gap_is_the_distance_to_the_class_that_comes_second() -> None:
    generator = np.random.default_rng(3)
    found = effects(moments(*(normal(generator, 500) + shift for shift in (0.0, 2.0, 3.0))))
    assert found.gap[2].mean() == pytest.approx(1, abs=0.1)
    assert found.gap[1].mean() == pytest.approx(-1, abs=0.1)
    assert found.effect[2].mean() == pytest.approx(2, abs=0.1)


def test_merged_moments_give_the_same_effects_as_one_pass() -> None:
    generator = np.random.default_rng(4)
    groups = [like_maps(generator, 90) for _ in range(3)]
    parts = moments(*(group[:31] for group in groups))
    for k, rest in moments(*(group[31:] for group in groups)).items():
        parts[k].merge(rest)
    whole, merged = effects(moments(*groups)), effects(parts)
    for name in ("means", "others", "effect", "gap", "p_values"):
        np.testing.assert_allclose(getattr(merged, name), getattr(whole, name), rtol=1e-9, atol=1e-12)


# ---- small and degenerate data


def test_classes_with_few_images_are_left_out() -> None:
    generator = np.random.default_rng(5)
    sizes = (LEAST_IMAGES, LEAST_IMAGES - 1, 50)
    found = effects(moments(*(normal(generator, size) for size in sizes)))
    assert found.classes.tolist() == [0, 2]
    assert found.images.tolist() == [LEAST_IMAGES, 50]


def test_one_class_alone_or_none_has_no_effects() -> None:
    assert effects({}).discovered().size == 0
    alone = effects(moments(normal(np.random.default_rng(6), 50)))
    assert alone.effect.shape == (0, CELLS, CELLS)
    assert not alone.discovered().any()


def test_cells_that_never_vary_have_no_effect() -> None:
    found = effects(moments(np.zeros((30, 2, 2)), np.zeros((30, 2, 2))))
    assert not found.effect.any()
    assert not found.discovered().any()


def test_discoveries_follow_benjamini_and_hochberg() -> None:
    p_values = np.array([[0.001, 0.9], [0.021, 0.5], [0.02, 0.04]])
    # ascending: 0.001 ≤ 0.05/6; 0.02 > 0.1/6, but 0.021 ≤ 0.15/6; 0.04 > 0.2/6
    assert discoveries(p_values, 0.05).tolist() == [[True, False], [True, False], [True, False]]
    assert not discoveries(p_values + 0.2, 0.05).any()
    assert discoveries(np.zeros((0, 3)), 0.05).shape == (0, 3)


# ---- intervals


def test_intervals_of_means_hold_the_true_mean_in_95_percent_of_draws() -> None:
    generator = np.random.default_rng(7)
    low, high = mean_interval(Moments.of(generator.gamma(4, size=(60, 4000))))
    assert np.mean((low <= 4) & (high >= 4)) == pytest.approx(0.95, abs=0.02)


@pytest.mark.parametrize("quantile", [0.25, 0.5, 0.95])
def test_intervals_of_quantiles_hold_the_true_quantile_in_95_percent_of_draws(quantile: float) -> None:
    generator = np.random.default_rng(8)
    drawn = generator.exponential(size=(1000, 400))
    truth = -np.log(1 - quantile)
    held = [low <= truth <= high for low, high in (quantile_interval(each, quantile) for each in drawn)]
    assert np.mean(held) == pytest.approx(0.955, abs=0.02)


def test_a_single_image_has_no_interval() -> None:
    assert np.isnan(mean_interval(Moments.of(np.ones((1, 3))))).all()
    assert np.isnan(quantile_interval(np.ones(3), 0.95)).all()
