"""Locating, on models whose answers are known exactly."""

import numpy as np
import pytest

from transforms.probing import Grid, covered_windows, in_words, located_findings, mask_of


def test_windows_cover_the_whole_image_and_lie_inside_it():
    for height, width in ((96, 96), (64, 48), (224, 224), (5, 7)):
        grid = Grid(height, width)
        assert mask_of(grid.boxes, height, width).all()
        assert max(box.bottom for box in grid.boxes) == height
        assert len(set(grid.boxes)) == len(grid) == len(grid.boxes)


def test_a_linear_model_loses_exactly_what_a_window_holds():
    """On a black image with one bright pixel, the imputation is nearly black: a window costs its weights' sum."""
    grid = Grid(48, 48)
    image = np.zeros((48, 48, 1), np.uint8)
    image[40, 5] = 200
    variants = covered_windows(image, np.random.default_rng(0)).astype(float)
    drops = variants[0].sum() - variants[1:].sum(axis=(1, 2, 3))
    holds = np.array([box.top <= 40 < box.bottom and box.left <= 5 < box.right for box in grid.boxes])
    assert holds.any()
    noise = 64 * 2.55  # of a window of 8 × 8 black pixels, which are never below 0
    assert (drops[holds] > 200 - noise).all()
    assert (drops[~holds] <= 0).all()


def test_a_window_whose_neighbour_is_bright_is_filled_from_it():
    image = np.full((48, 48, 1), 100, np.uint8)
    variants = covered_windows(image, np.random.default_rng(0)).astype(float)
    np.testing.assert_allclose(variants.mean(axis=(1, 2, 3)), 100, atol=0.2)


@pytest.mark.parametrize(
    ("y", "x", "words"),
    [(90, 90, "bottom right"), (5, 48, "top"), (48, 3, "left"), (48, 48, "centre"), (90, 48, "bottom")],
)
def test_findings_name_the_place_where_covering_costs_most(y, x, words):
    grid = Grid(96, 96)
    drops = np.array([[box.top <= y < box.bottom and box.left <= x < box.right for box in grid.boxes]] * 3, np.float32)
    findings = {finding.kind: finding for finding in located_findings(4, drops, drops[:0], grid)}
    assert findings["place"].place == words
    assert all(finding.class_index == 4 for finding in findings.values())
    assert findings["look"].boxes == ()


def test_what_a_part_of_the_images_has_is_found_beside_what_all_have():
    grid = Grid(96, 96)
    windows = {in_words(box, 96, 96): i for i, box in enumerate(grid.boxes)}
    generator = np.random.default_rng(0)
    drops, others = (generator.normal(0, 0.1, (n, len(grid))).astype(np.float32) for n in (40, 200))
    drops[:, windows["centre"]] += 3  # the object
    drops[:12, windows["top right"]] += 1.5
    findings = {finding.kind: finding for finding in located_findings(0, drops, others, grid)}
    assert findings["place"].place == "centre"
    assert findings["part"].boxes == (grid.boxes[windows["top right"]],)
    # What other classes lose there as well is no part of this class alone.
    others[:60, windows["top right"]] += 1.5
    drops[:6, windows["left"]] += 1.5
    findings = {finding.kind: finding for finding in located_findings(0, drops, others, grid)}
    assert findings["part"].boxes == (grid.boxes[windows["left"]],)


def test_controls_do_not_touch_what_they_are_compared_with():
    grid = Grid(96, 96)
    drops = np.zeros((2, len(grid)), np.float32)
    drops[:, 7] = 1
    for finding in located_findings(0, drops, drops[:0], grid):
        own = mask_of(finding.boxes, 96, 96)
        for control in finding.controls:
            assert not (mask_of(control, 96, 96) & own).any()
            if finding.kind in ("place", "part", "edge"):
                assert mask_of(control, 96, 96).sum() == own.sum()


def test_words_are_by_thirds():
    grid = Grid(90, 90)
    assert {in_words(box, 90, 90) for box in grid.boxes} == {
        *("top left", "top", "top right", "left", "centre", "right", "bottom left", "bottom", "bottom right")
    }
