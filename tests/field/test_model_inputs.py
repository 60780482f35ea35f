"""What models take that people have: fixed batches are freed, everything else than images is refused by what it is."""

from __future__ import annotations

import pathlib
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops

from tests.transforms.fullgrad.networks import randomize
from tests.transforms.models.test_model import refusal, saved, spec
from transforms.fullgrad import full_gradients
from transforms.models import LoadedModel


def head(x: Any, classes: int = 3) -> Any:
    return layers.Dense(classes)(layers.Flatten()(x))


@pytest.mark.parametrize(
    ("shape", "data_format"),
    [((3, 32, 32), "channels_first"), ((1, 28, 28), "channels_first"), ((3, 8, 8), "channels_last")],
)
def test_channels_first_is_called_so(tmp_path: pathlib.Path, shape: tuple[int, ...], data_format: str) -> None:
    inputs = keras.Input(shape)
    x = layers.Permute((2, 3, 1))(inputs) if data_format == "channels_last" else inputs
    model = keras.Model(inputs, head(layers.Conv2D(4, 3, data_format=data_format)(x)))
    path = saved(model, tmp_path / "model.keras")
    sentence = refusal(lambda: LoadedModel(spec(path)))
    assert f"{path} takes its channels first, as [N, {', '.join(map(str, shape))}]" in sentence
    assert "images come as [N, H, W, C]; build it with data_format='channels_last'" in sentence


def test_channels_first_of_any_size_is_called_so_too(tmp_path: pathlib.Path) -> None:
    inputs = keras.Input((3, None, None))
    x = layers.Conv2D(4, 3, data_format="channels_first")(inputs)
    model = keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling2D(data_format="channels_first")(x)))
    path = saved(model, tmp_path / "model.keras")
    assert "takes its channels first, as [N, 3, ?, ?]" in refusal(lambda: LoadedModel(spec(path)))


def test_images_three_pixels_high_are_images(tmp_path: pathlib.Path) -> None:
    inputs = keras.Input((3, 32, 3))
    path = saved(keras.Model(inputs, head(layers.Conv2D(4, 3)(inputs))), tmp_path / "model.keras")
    assert LoadedModel(spec(path)).input_size == (3, 32)


def test_several_inputs_are_named(tmp_path: pathlib.Path) -> None:
    image, size = keras.Input((8, 8, 3), name="photo"), keras.Input((2,), name="size")
    joined = layers.Concatenate()([layers.Flatten()(image), size])
    path = saved(keras.Model([image, size], layers.Dense(3)(joined)), tmp_path / "model.keras")
    sentence = refusal(lambda: LoadedModel(spec(path)))
    assert "has 2 inputs (photo [N, 8, 8, 3], size [N, 2]), but must have one, an image [N, H, W, C]" in sentence


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((784,), "takes vectors [N, 784], but must take one image [N, H, W, C]"),
        ((28, 28), "takes [N, 28, 28], but images come as [N, H, W, C]; put a Reshape layer from [H, W, 1] before it"),
        ((4, 8, 8, 3), "takes inputs [N, 4, 8, 8, 3], but must take one image"),
    ],
)
def test_what_is_no_image_is_called_what_it_is(tmp_path: pathlib.Path, shape: tuple[int, ...], words: str) -> None:
    inputs = keras.Input(shape)
    path = saved(keras.Model(inputs, head(inputs)), tmp_path / "model.keras")
    assert f"{path} {words}" in refusal(lambda: LoadedModel(spec(path)))


@pytest.mark.quick_cases(every=4)
@pytest.mark.parametrize("kind", ["functional", "sequential", "nested", "flattened", "batch_norm"])
@pytest.mark.parametrize("extension", ["keras", "h5"])
def test_a_fixed_batch_is_freed_and_gives_the_same(tmp_path: pathlib.Path, kind: str, extension: str) -> None:
    inputs = keras.Input(batch_shape=(8, 16, 16, 3))
    x = layers.Conv2D(4, 3, activation="silu")(inputs)
    if kind == "nested":
        inner = keras.Input(batch_shape=(8, 14, 14, 4))
        x = keras.Model(inner, layers.Conv2D(4, 3, activation="relu")(inner))(x)
    if kind == "batch_norm":
        x = layers.BatchNormalization()(layers.Rescaling(2.0)(x))
    if kind == "flattened":
        x = layers.Reshape((14 * 14, 4))(x)
    model = keras.Model(inputs, head(x))
    if kind == "sequential":
        model = keras.Sequential([inputs, layers.Normalization(mean=[1, 2, 3], variance=[4, 5, 6]), *model.layers[1:]])
    randomize(model)
    images = np.random.default_rng(0).normal(0, 1, (8, 16, 16, 3)).astype(np.float32)
    expected = np.asarray(model(images, training=False))
    loaded = LoadedModel(spec(saved(model, tmp_path / f"model.{extension}")))
    for count in (8, 3, 1):
        explanation = full_gradients(loaded.exposed, images[:count], maps="signed")
        np.testing.assert_allclose(explanation.logits, expected[:count], rtol=1e-4, atol=1e-4)
        assert explanation.completeness_error.max() <= loaded.exposed.tolerance


def test_a_batch_that_cannot_be_freed_is_refused(tmp_path: pathlib.Path) -> None:
    inputs = keras.Input(batch_shape=(8, 16, 16, 3))
    x = ops.reshape(layers.Conv2D(4, 3)(inputs), (8, 14 * 14 * 4))
    path = saved(keras.Model(inputs, layers.Dense(3)(x)), tmp_path / "model.keras")
    sentence = refusal(lambda: LoadedModel(spec(path)))
    assert f"{path} takes exactly 8 images at once, as [8, 16, 16, 3], and cannot be built for any number" in sentence
    mean = ops.mean(inputs, axis=0, keepdims=True)
    path = saved(keras.Model(inputs, head(layers.Conv2D(4, 3)(inputs - mean))), tmp_path / "mean.keras")
    assert "as its images' values depend on each other" in refusal(lambda: LoadedModel(spec(path)))
