"""What `expose` and `full_gradients` take, and what they refuse in one sentence."""

from __future__ import annotations

import pathlib
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tests.transforms.fullgrad.networks import randomize
from transforms.fullgrad import Exposed, expose, full_gradients

PIXELS = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), np.uint8)
IMAGES = (PIXELS / 255).astype(np.float32)


def network(*first: keras.Layer, channels: int = 3) -> keras.Model:
    layers = [*first, keras.layers.Conv2D(3, 3, activation="relu"), keras.layers.Flatten(), keras.layers.Dense(5)]
    return randomize(keras.Sequential([keras.Input((8, 8, channels)), *layers]), 1)


@pytest.fixture(scope="module")
def plain() -> Exposed:
    return expose(network())


@pytest.fixture(scope="module")
def scaling() -> Exposed:
    return expose(network(keras.layers.Rescaling(1 / 255)))


@pytest.mark.parametrize("as_given", [str, pathlib.Path])
def test_a_model_file_is_exposed_by_its_path(tmp_path: pathlib.Path, as_given: Any) -> None:
    path = tmp_path / "m.keras"
    model = network()
    model.save(path)
    found = full_gradients(expose(as_given(path)), IMAGES, jit=False)
    np.testing.assert_allclose(found.logits, model.predict(IMAGES, verbose=0), atol=1e-4)


def test_what_is_no_model_is_refused_by_name(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ValueError, match=r"absent\.keras cannot be loaded as a Keras model"):
        expose(tmp_path / "absent.keras")
    (tmp_path / "old.h5").write_bytes(b"not what Keras 3 reads")
    with pytest.raises(ValueError, match="`fullgrad inspect` also read files of Keras 2") as error:
        expose(tmp_path / "old.h5")
    assert "\n" not in str(error.value)
    with pytest.raises(TypeError, match="the model is of type int; it must be a Keras model or the path of a file"):
        expose(5)


@pytest.mark.parametrize(
    "given",
    [
        tf.constant(IMAGES),
        list(IMAGES),
        tf.data.Dataset.from_tensor_slices(IMAGES),
        tf.data.Dataset.from_tensor_slices((IMAGES, [0, 1, 2, 3])).batch(3),
        IMAGES.astype(np.float64),
    ],
    ids=["tensor", "list", "data set", "batches and labels", "float64"],
)
def test_images_in_other_forms_are_explained_as_the_array_is(plain: Exposed, given: Any) -> None:
    found, expected = full_gradients(plain, given, jit=False), full_gradients(plain, IMAGES, jit=False)
    np.testing.assert_allclose(found.maps, expected.maps, atol=1e-6)


def test_one_image_and_an_unexposed_model_are_taken(plain: Exposed) -> None:
    assert full_gradients(plain, IMAGES[0], jit=False).maps.shape == (1, 8, 8)
    assert full_gradients(plain.model, IMAGES, jit=False).maps.shape == (4, 8, 8)


def test_pixels_pictures_and_files_are_taken_by_a_model_that_scales(scaling: Exposed, tmp_path: pathlib.Path) -> None:
    expected = full_gradients(scaling, PIXELS.astype(np.float32), jit=False).logits
    pictures = [Image.fromarray(each) for each in PIXELS]
    for i, picture in enumerate(pictures):
        picture.save(tmp_path / f"{i}.png")
    for given in (PIXELS, pictures, sorted(tmp_path.iterdir()), [str(path) for path in sorted(tmp_path.iterdir())]):
        np.testing.assert_allclose(full_gradients(scaling, given, jit=False).logits, expected, atol=1e-4)
    larger = pictures[0].resize((30, 20)).convert("RGBA")
    assert full_gradients(scaling, larger, jit=False).maps.shape == (1, 8, 8)


@pytest.mark.parametrize(
    ("given", "kind", "expected"),
    [
        (PIXELS, TypeError, "images are pixels of uint8, and this model has no layer that scales them"),
        ([Image.fromarray(PIXELS[0])], TypeError, "images are pixels of uint8, and this model has no layer"),
        ([], None, ""),
        (IMAGES[..., :1], ValueError, r"\[N, 8, 8, 3\], but have \(4, 8, 8, 1\)"),
        (IMAGES[:, :7], ValueError, r"but have \(4, 7, 8, 3\)"),
        ([IMAGES[0], IMAGES[1, :7]], ValueError, "images must all have one shape"),
        (["/nowhere/a.jpg"], ValueError, r"the image /nowhere/a\.jpg cannot be read: No such file"),
        (tf.data.Dataset.from_tensor_slices(IMAGES).repeat(), ValueError, "a data set without an end"),
        (tf.data.Dataset.from_tensor_slices({"x": IMAGES}), TypeError, "a data set of something else"),
        ({"x": 1}, TypeError, "images are of type dict"),
        (None, TypeError, "images are of type NoneType"),
        (iter(IMAGES), TypeError, "images must be float32"),
        (np.array([["a"]]), TypeError, "images are of dtype <U1"),
        (np.where(np.arange(4)[:, None, None, None] == 2, np.nan, IMAGES), ValueError, "not finite .*at index 2"),
        (np.full_like(IMAGES, np.inf), ValueError, "not finite"),
    ],
)
@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value")
def test_what_cannot_be_explained_is_refused_in_one_sentence(
    plain: Exposed, given: Any, kind: Any, expected: str
) -> None:
    if kind is None:
        assert len(full_gradients(plain, given, jit=False).maps) == 0
        return
    with pytest.raises(kind, match=expected) as refused:
        full_gradients(plain, given, jit=False)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("targets", [[0, 1], [[0], [1]], [0] * 5])
def test_a_wrong_count_of_targets_is_refused(plain: Exposed, targets: Any) -> None:
    with pytest.raises(ValueError, match="one class for all images or one for each of the 4"):
        full_gradients(plain, IMAGES, targets, jit=False)


def test_what_is_shown_of_a_model_and_an_explanation_is_one_short_line(plain: Exposed) -> None:
    found = full_gradients(plain, IMAGES, jit=False)
    assert "images [N, 8, 8, 3] → 5 classes" in repr(plain)
    assert "Explanation of 4 images: 5 classes, maps 8 × 8" in repr(found)
    assert max(len(repr(plain)), len(repr(found))) < 300
