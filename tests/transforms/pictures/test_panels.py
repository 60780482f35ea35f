"""Maps are drawn in the right colours, and at the right places of their images."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest
from PIL import Image

from transforms.images import Resize, resize_image
from transforms.pictures import DIVERGING, SEQUENTIAL, Scale, draw_map, draw_overlay, resample_map


def rgb(anchor: str) -> tuple[int, int, int]:
    return int(anchor[1:3], 16), int(anchor[3:5], 16), int(anchor[5:7], 16)


def luminance(colours: np.ndarray) -> np.ndarray:
    return colours.astype(float) @ (0.2126, 0.7152, 0.0722)


def test_the_sequential_colours_become_lighter_all_the_way() -> None:
    drawn = Scale(0, 1, False).colours(np.linspace(0, 1, 200))
    assert (np.diff(luminance(drawn)) >= -1).all(), "but for rounding"
    assert tuple(drawn[0]) == rgb(SEQUENTIAL[0])
    assert tuple(drawn[-1]) == rgb(SEQUENTIAL[-1])


def test_the_diverging_colours_are_blue_against_grey_without_and_red_for() -> None:
    against, none, favour = Scale.of(np.array([-2.0, 0.0, 1.0])).colours(np.array([-2.0, 0.0, 2.0]))
    assert tuple(against) == rgb(DIVERGING[0])
    assert tuple(none) == rgb(DIVERGING[8])
    assert tuple(favour) == rgb(DIVERGING[-1])
    assert colorsys.rgb_to_hsv(*(none / 255))[1] < 0.02
    assert against[2] > against[0]
    assert favour[0] > favour[2]


def test_a_scale_spans_the_values_and_is_even_around_zero_if_they_are_signed() -> None:
    assert Scale.of(np.array([2.0, 5.0])) == Scale(2, 5, False)
    assert Scale.of(np.array([-1.0, 3.0])) == Scale(-3, 3, True)
    assert Scale.of(np.array([1.0, 3.0]), signed=True) == Scale(-3, 3, True)
    assert Scale.of(np.array([np.nan, 1.0, np.inf, 2.0])) == Scale(1, 2, False)


@pytest.mark.parametrize("values", [np.zeros((3, 3)), np.full((3, 3), 7.0), np.full((3, 3), np.nan)])
def test_a_map_without_differences_is_drawn_without_evidence(values: np.ndarray) -> None:
    image = Image.new("RGB", (3, 3), (10, 20, 30))
    scale = Scale.of(values)
    assert not scale.strengths(values).any()
    np.testing.assert_array_equal(np.asarray(draw_overlay(image, values.astype(np.float32), scale)), np.asarray(image))


def test_values_at_the_ends_of_float32_have_colours() -> None:
    values = np.array([[-3e38, 0, 3e38]], np.float32)
    np.testing.assert_allclose(Scale.of(values).places(values), [[0, 0.5, 1]])


@pytest.mark.parametrize(("cells", "pixels"), [(4, 32), (7, 56), (14, 224), (5, 17), (64, 16)])
def test_a_cell_covers_the_same_part_of_the_image_in_any_size(cells: int, pixels: int) -> None:
    for cell in (0, cells // 2, cells - 1):
        values = np.zeros((cells, cells), np.float32)
        values[cell, cells - 1 - cell] = 1
        for smooth in (True, False):
            if not smooth and pixels < cells:
                continue  # which of the cells a pixel takes is then chance
            drawn = resample_map(values, (pixels, pixels), smooth=smooth)
            assert drawn.shape == (pixels, pixels)
            rows, columns = (drawn.sum(axis=axis) @ (np.arange(pixels) + 0.5) / drawn.sum() / pixels for axis in (1, 0))
            # Half a cell lies beyond the edge where the outer centres are continued to it.
            slack = 0.51 / min(cells, pixels) if smooth and cell in (0, cells - 1) else 0.51 / pixels
            assert rows == pytest.approx((cell + 0.5) / cells, abs=slack)
            assert columns == pytest.approx((cells - 0.5 - cell) / cells, abs=slack)


def test_without_smoothing_each_cell_is_a_block_with_sharp_edges() -> None:
    values = np.array([[0, 1], [2, 3]], np.float32)
    drawn = np.asarray(draw_map(values, Scale.of(values), (6, 4), smooth=False))
    expected = Scale.of(values).colours(values).repeat(3, axis=0).repeat(2, axis=1)
    np.testing.assert_array_equal(drawn, expected)


@pytest.mark.parametrize(
    "resize",
    [
        Resize((24, 32), filter="nearest"),
        Resize((24, 32), "center_crop", filter="nearest"),
        Resize((30, 30), "center_crop", short_side=40, filter="nearest"),
    ],
    ids=["stretch", "crop", "crop of a short side"],
)
@pytest.mark.parametrize(("row", "column"), [(20, 33), (31, 40), (45, 62)])
def test_an_overlay_lies_on_the_marked_pixel(resize: Resize, row: int, column: int) -> None:
    original = np.zeros((64, 96, 3), np.uint8)
    original[row : row + 4, column : column + 4] = 255
    seen = resize_image(original, resize, 3)
    marked = seen[..., 0] > 0
    assert marked.any()
    values = marked.astype(np.float32)  # what looks at the mark alone
    overlay = np.asarray(draw_overlay(Image.fromarray(seen), values, Scale.of(values)))
    np.testing.assert_array_equal((overlay != seen).any(axis=2), marked)


def test_an_overlay_covers_the_more_the_stronger_the_evidence() -> None:
    image = Image.new("RGB", (3, 1), (0, 200, 0))
    values = np.array([[0, 1, 2]], np.float32)
    overlay = np.asarray(draw_overlay(image, values, Scale.of(values), opacity=0.5))[0].astype(float)
    np.testing.assert_array_equal(overlay[0], (0, 200, 0))
    np.testing.assert_allclose(overlay[2], (np.array((0, 200, 0)) + rgb(SEQUENTIAL[-1])) / 2, atol=1)
    assert 100 < overlay[1][1] < 200
