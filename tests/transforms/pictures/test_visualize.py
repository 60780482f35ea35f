"""`visualize` takes images and maps as people have them, and draws what belongs together side by side."""

from __future__ import annotations

import pathlib
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from PIL import Image

from transforms import visualize
from transforms.pictures import Scale, as_text

IMAGES = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8)
MAPS = np.random.default_rng(1).random((4, 8, 8), np.float32)


def bare(*arguments: Any, **keywords: Any) -> np.ndarray:
    """The pixels of a picture without text, whose panels of 32 pixels have one pixel between them."""
    return np.asarray(visualize(*arguments, **{"text": False, "side": 32, "columns": 1, **keywords}))


def test_image_map_and_overlay_stand_side_by_side() -> None:
    drawn = bare(IMAGES, MAPS)
    assert drawn.shape == (4 * 32, 3 * 32 + 2, 3)
    np.testing.assert_array_equal(drawn[32:64, :32], IMAGES[1])
    [scale] = [Scale.of(MAPS[1])]
    top_left = scale.colours(MAPS[1])[0, 0]
    np.testing.assert_array_equal(drawn[32, 33], top_left)
    assert (drawn[32:64, 66:] != IMAGES[1]).any()


def test_a_marked_pixel_a_map_cell_and_its_overlay_line_up() -> None:
    image = np.zeros((16, 16, 3), np.uint8)
    image[4:8, 12:16] = 255
    values = np.zeros((4, 4), np.float32)
    values[1, 3] = 1
    drawn = bare(image, values, side=64, smooth=False)
    panels = [drawn[:, i * 65 : i * 65 + 64].astype(int).sum(axis=2) for i in range(3)]
    for panel in panels:
        bright = np.argwhere(panel > 400)
        assert bright.min(axis=0).tolist() == [16, 48]
        assert bright.max(axis=0).tolist() == [31, 63]


def test_the_call_of_the_page_that_this_project_grew_from_works() -> None:
    drawn = bare(images=[*IMAGES, *MAPS, *IMAGES], overlays=[None] * 8 + [*MAPS], columns=4, side=32)
    assert drawn.shape == (3 * 32, 4 * 32, 3)
    np.testing.assert_array_equal(drawn[:32, 32:64], IMAGES[1])
    np.testing.assert_array_equal(drawn[32, 32], Scale.of(MAPS[1]).colours(MAPS[1])[0, 0])
    np.testing.assert_array_equal(drawn[64:, 32:64], bare(IMAGES, MAPS)[32:64, 66:])


@pytest.mark.parametrize(
    "images",
    [
        list(IMAGES),
        [Image.fromarray(each) for each in IMAGES],
        IMAGES.astype(np.float32),
        IMAGES.astype(np.float64) / 255,
        tuple(IMAGES),
        (each for each in IMAGES),
    ],
    ids=["list", "Pillow", "float 0 to 255", "float 0 to 1", "tuple", "generator"],
)
def test_images_come_in_many_forms(images: Any) -> None:
    np.testing.assert_array_equal(bare(images, MAPS), bare(IMAGES, MAPS))


def test_paths_of_image_files_are_taken(tmp_path: pathlib.Path) -> None:
    paths = [tmp_path / f"{i}.png" for i in range(len(IMAGES))]
    for path, pixels in zip(paths, IMAGES, strict=True):
        Image.fromarray(pixels).save(path)
    np.testing.assert_array_equal(bare(paths, MAPS), bare(IMAGES, MAPS))
    np.testing.assert_array_equal(bare(str(paths[0]), MAPS[0]), bare(IMAGES[:1], MAPS[:1]))


@pytest.mark.parametrize(
    ("content", "reason"), [(None, "No such file or directory"), (b"text", "it is no image that Pillow reads")]
)
def test_a_path_that_is_no_image_is_refused_in_one_sentence(
    tmp_path: pathlib.Path, content: bytes | None, reason: str
) -> None:
    path = tmp_path / "a.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"the image {path} cannot be read: {reason}$"):
        visualize(path)


def test_preprocessed_images_are_stretched_to_the_range_of_a_picture() -> None:
    drawn = bare(IMAGES.astype(np.float32) / 127.5 - 1, MAPS)[:32, :32].astype(int)
    assert np.abs(drawn - IMAGES[0]).max() <= 1


def test_one_image_and_one_map_need_no_axis_of_images() -> None:
    np.testing.assert_array_equal(bare(IMAGES[0], MAPS[0]), bare(IMAGES[:1], MAPS[:1]))
    np.testing.assert_array_equal(bare(MAPS[0]), bare([MAPS[0]]))


def test_grey_images_and_maps_with_an_axis_of_channels_are_taken() -> None:
    grey = IMAGES[..., :1]
    np.testing.assert_array_equal(bare(grey, MAPS[..., None]), bare(grey.repeat(3, axis=-1), MAPS))
    np.testing.assert_array_equal(bare(IMAGES[..., 0], MAPS), bare(grey, MAPS))


def test_overlays_may_be_other_maps_or_left_out() -> None:
    assert bare(IMAGES, MAPS, False).shape[1] == 2 * 32 + 1
    np.testing.assert_array_equal(bare(IMAGES, MAPS, MAPS[::-1])[:32, 66:], bare(IMAGES[:1], MAPS[3:])[:32, 66:])
    without = bare(IMAGES, [None, *MAPS[1:]])
    assert (without[:32, 33:] == 255).all()


def test_one_signed_map_makes_the_colours_of_all_maps_diverge() -> None:
    signed = MAPS.copy()
    signed[0] -= 0.5
    np.testing.assert_array_equal(bare(IMAGES, signed)[32:], bare(IMAGES, MAPS, signed=True)[32:])
    assert (bare(IMAGES, signed)[32:] != bare(IMAGES, MAPS)[32:]).any()


def test_a_title_and_a_colour_bar_are_drawn_where_text_is_wanted() -> None:
    drawn = visualize(IMAGES[:1], MAPS[:1], titles=["cat\nprobability 0.9"])
    without = visualize(IMAGES[:1], MAPS[:1])
    assert drawn.height > without.height
    dark = np.asarray(drawn.convert("L"))[: drawn.height - without.height + 14] < 100
    assert dark.sum() > 100, "letters"
    # The bar is a column of the scale's colours, from the largest at the top.
    scale = Scale.of(MAPS[0])
    pixels = np.asarray(without)
    column = next(x for x in range(14 + 3 * 224 + 2 * 6, without.width) if tuple(pixels[200, x]) != (255, 255, 255))
    strip = pixels[:, column]
    assert (strip == scale.colours(np.array(scale.high))).all(axis=1).any()
    assert (strip == scale.colours(np.array(scale.low))).all(axis=1).any()


def test_numbers_have_three_digits_and_no_letter_that_the_font_lacks() -> None:
    values = (0.0, -0.0, 5.12e-5, -12.345, 1e20, 7)
    assert [as_text(value) for value in values] == ["0", "0", "5.12e-05", "-12.3", "1e+20", "7"]


def test_a_long_title_does_not_widen_the_picture_and_strange_letters_do_not_break_it() -> None:
    plain = visualize(IMAGES[:1], MAPS[:1], titles=["x"])
    for title in ("a" * 5000, "<script>alert('x')</script>", "图\x00\x1b[31m\u202e"):
        assert visualize(IMAGES[:1], MAPS[:1], titles=[title]).size == plain.size


def test_many_images_make_a_grid() -> None:
    images, maps = IMAGES.repeat(4, axis=0), MAPS.repeat(4, axis=0)
    drawn = visualize(images, maps)
    assert 0.5 < drawn.width / drawn.height < 3
    assert visualize(images, maps, columns=16).width > 4 * drawn.width


def test_it_shows_itself_in_a_notebook() -> None:
    assert visualize(IMAGES, MAPS)._repr_png_().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "keywords", "message"),
    [
        ((IMAGES, MAPS[:3]), {}, "there are 3 maps for 4 images; there must be one for each"),
        ((IMAGES, MAPS, MAPS[:3]), {}, "there are 3 overlays for 4 images; there must be one for each"),
        ((IMAGES, MAPS), {"titles": ["x"]}, "there are 1 titles for 4 images; there must be one for each"),
        (([], []), {}, "there are no images to draw"),
        ((IMAGES, MAPS), {"columns": 0}, "both must be 1 or more"),
        (([IMAGES], None), {}, r"an image has the shape \[4, 32, 32, 3\]"),
        (([IMAGES[0]], [MAPS]), {}, r"a map has the shape \[4, 8, 8\]; it must be \[height, width\]"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_sentence(
    arguments: tuple[Any, ...], keywords: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        visualize(*arguments, **keywords)


def test_importing_transforms_does_not_import_what_draws() -> None:
    code = "import sys, transforms; print([m for m in ('PIL', 'numpy', 'transforms.pictures') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
