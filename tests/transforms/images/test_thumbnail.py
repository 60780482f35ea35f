"""The stored image: what the model saw, small, and never enlarged."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from transforms.images import encode_thumbnail
from transforms.images.thumbnail import LOSSLESS_SIDE


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def smooth(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([y * 255 // height, x * 255 // width, np.full((height, width), 90)], axis=-1).astype(np.uint8)


def decoded(encoded: bytes | None) -> np.ndarray:
    assert encoded is not None
    image = Image.open(io.BytesIO(encoded))
    assert image.format == ("PNG" if max(image.size) <= LOSSLESS_SIDE else "WEBP")
    return np.asarray(image)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (8, 5), (32, 32), (LOSSLESS_SIDE, 2)])
def test_a_small_image_keeps_every_pixel(height: int, width: int) -> None:
    pixels = noise(height, width, 3)
    np.testing.assert_array_equal(decoded(encode_thumbnail(pixels, 96)), pixels)


def test_a_small_grey_image_stays_grey() -> None:
    pixels = noise(28, 28, 1)
    np.testing.assert_array_equal(decoded(encode_thumbnail(pixels, 96)), pixels[..., 0])
    assert decoded(encode_thumbnail(noise(100, 90, 1), 30)).shape == (30, 27)


def test_a_large_grey_image_has_three_equal_channels() -> None:
    shown = decoded(encode_thumbnail(smooth(80, 80)[..., :1], 96)).astype(int)
    assert np.ptp(shown, axis=2).max() <= 2


@pytest.mark.parametrize(
    ("shape", "longest", "size"),
    [((224, 224), 96, (96, 96)), ((100, 300), 96, (32, 96)), ((64, 80), 96, (64, 80)), ((2, 500), 10, (1, 10))],
)
def test_only_the_longer_side_is_limited(shape: tuple[int, int], longest: int, size: tuple[int, int]) -> None:
    assert decoded(encode_thumbnail(noise(*shape, 3), longest)).shape == (*size, 3)


def test_a_large_image_stays_close_to_what_it_was() -> None:
    pixels = smooth(224, 224)
    assert np.abs(decoded(encode_thumbnail(pixels, 224)).astype(int) - pixels).mean() < 3


def test_other_channels_have_no_image() -> None:
    assert encode_thumbnail(noise(16, 16, 4), 96) is None
