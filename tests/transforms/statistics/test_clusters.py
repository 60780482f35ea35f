"""Clusters of one class: planted groups are found, whatever the order of the images; nothing is NaN by accident."""

from __future__ import annotations

import numpy as np
import pytest

from transforms.statistics import COARSE, VIEWS, find_clusters, peak_of, view_rows

CORNER = (np.arange(11, 14)[:, None] * COARSE + np.arange(11, 14)).ravel()


def planted(count: int, share: float, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Coarse maps [n, 196] and channel terms [n, 32] of which the last `share` have something of their own."""
    generator = np.random.default_rng(seed)
    carries = np.arange(count) >= count * (1 - share)
    coarse = generator.gamma(2.0, 1.0, (count, COARSE**2)).astype(np.float32)
    coarse[np.ix_(carries, CORNER)] += 6
    channels = generator.normal(0, 1, (count, 32)).astype(np.float32)
    channels[carries, :4] += 4
    return coarse / coarse.sum(axis=1, keepdims=True), channels, carries


def f1(found: np.ndarray, carries: np.ndarray) -> float:
    return float(2 * (found & carries).sum() / (found.sum() + carries.sum()))


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize(("count", "share"), [(60, 0.3), (200, 0.1), (600, 0.4)])
def test_a_planted_group_is_one_of_the_clusters(view: str, count: int, share: float) -> None:
    coarse, channels, carries = planted(count, share, count)
    clusters = find_clusters(view_rows(view, coarse, channels), range(count))
    best = max(range(len(clusters.sizes)), key=lambda c: f1(clusters.labels == c, carries))
    assert f1(clusters.labels == best, carries) > 0.9
    assert clusters.sizes.tolist() == sorted(clusters.sizes, reverse=True)
    assert np.isfinite(clusters.separation).all()
    assert clusters.silhouette[best] > 0
    peak = peak_of(coarse, clusters.labels == best)
    assert peak.place == "bottom right"
    assert set(peak.cells) == set(CORNER)
    assert peak.share > 2 * peak.others


@pytest.mark.parametrize("count", [100, 400])
def test_the_order_of_the_images_does_not_matter(count: int) -> None:
    coarse, _, _ = planted(count, 0.3, 1)
    order = np.random.default_rng(2).permutation(count)
    clusters = find_clusters(coarse, range(count))
    shuffled = find_clusters(coarse[order], order.tolist())
    np.testing.assert_array_equal(shuffled.labels, clusters.labels[order])
    np.testing.assert_allclose(shuffled.silhouette, clusters.silhouette, atol=1e-5)
    np.testing.assert_allclose(shuffled.separation, clusters.separation, rtol=1e-4)
    np.testing.assert_allclose(shuffled.closeness, clusters.closeness[order], atol=1e-6)


@pytest.mark.parametrize("size", [20, 60])  # few images use another solver than many
def test_groups_of_equal_rows_are_clusters_numbered_by_size(size: int) -> None:
    rows = np.random.default_rng(0).random((5, 40)).astype(np.float32)
    truth = np.repeat(np.arange(5), [size + 5 * i for i in range(5)])
    clusters = find_clusters(rows[truth], range(len(truth)))
    np.testing.assert_array_equal(clusters.labels, 4 - truth)
    np.testing.assert_allclose(clusters.silhouette, 1, atol=1e-3)
    np.testing.assert_allclose(clusters.closeness, 1, atol=1e-6)
    assert np.isfinite(clusters.separation).all()


def test_clusters_of_equal_size_are_numbered_by_the_smallest_name() -> None:
    rows = np.repeat(np.eye(2, 8, dtype=np.float32), 30, axis=0)
    names = [*(f"b{i}" for i in range(30)), *(f"a{i}" for i in range(30))]
    assert find_clusters(rows, names).labels.tolist() == [1] * 30 + [0] * 30


def test_equal_rows_are_one_cluster_that_nothing_separates() -> None:
    clusters = find_clusters(np.full((40, 6), 0.1, np.float32), range(40))
    assert (clusters.sizes.tolist(), set(clusters.labels.tolist())) == ([40], {0})
    assert np.isnan([*clusters.separation, *clusters.silhouette]).all()
    np.testing.assert_allclose(clusters.closeness, 1)


@pytest.mark.parametrize("count", [30, 300])
def test_a_class_without_groups_has_clusters_without_a_place(count: int) -> None:
    coarse, _, _ = planted(count, 0.0, 3)
    clusters = find_clusters(coarse, range(count))
    assert 2 <= len(clusters.sizes) <= 8
    assert np.abs(clusters.silhouette).max() < 0.1
    assert np.isfinite([*clusters.separation, *clusters.silhouette]).all()


def test_a_view_takes_the_positive_part_and_leaves_out_what_has_no_evidence() -> None:
    coarse = np.asarray([[2, -1, 0], [0, 0, 0], [-1, -1, 0]], np.float32)
    channels = np.asarray([[1, -3], [0, 0], [np.nan, 1]], np.float32)
    assert view_rows("maps", coarse, channels).tolist() == [[1, 0, 0], [0, 0, 0], [0, 0, 0]]
    assert view_rows("channels", coarse, channels).tolist() == [[0.25, -0.75], [0, 0], [0, 0]]
    assert view_rows("channels", coarse, None).shape == (3, 0)


def test_a_whole_class_and_maps_that_are_all_equal_have_no_peak() -> None:
    coarse = np.full((40, COARSE**2), 1 / COARSE**2, np.float32)
    for own in (np.ones(40, bool), np.arange(40) < 10):
        peak = peak_of(coarse, own)
        assert (peak.place, peak.cells.tolist()) == (None, [])
