"""The classifiers that learn the planted shortcuts, cached in a folder, and the truth: which shortcuts they use."""

from __future__ import annotations

import dataclasses
import functools
import io
import pathlib
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers
from PIL import Image

from benchmarks.shortcuts.backbone import load_weights
from benchmarks.shortcuts.case import Case, Truth, drawn_carriers
from benchmarks.shortcuts.drawing import SIDE, Picture, draw

TRAIN, TEST, CLEAN = 0, 1, 2  # splits
_PICTURE_SEEDS = 3


@dataclasses.dataclass(frozen=True, slots=True)
class Data:
    """N images.

    Attributes:
      images: uint8 [N, SIDE, SIDE, 3].
      labels: int64 [N].
      carries: bool [N, P], which of the case's shortcuts an image carries.
    """

    images: np.ndarray
    labels: np.ndarray
    carries: np.ndarray


@functools.lru_cache(maxsize=16)
def pictures(classes: int, split: int, count: int, seed: int) -> tuple[list[Picture], np.ndarray]:
    """`count` clean pictures of each class, and their labels. Cases share them, since drawing takes long."""
    drawn, labels = [], []
    for label in range(classes):
        for i in range(count):
            drawn.append(draw(label, classes, np.random.default_rng((seed, split, label, i))))
            labels.append(label)
    return drawn, np.asarray(labels)


def dataset(case: Case, split: int) -> Data:
    """The images of a split as the model meets them: planted, then compressed as JPEG."""
    count = case.train if split == TRAIN else case.test
    drawn, labels = pictures(case.classes, split, count, case.seed % _PICTURE_SEEDS)
    generator = np.random.default_rng((case.seed, split, 99))
    carries = drawn_carriers(case, labels, generator)
    images = []
    for picture, own in zip(drawn, carries, strict=True):
        for plant, there in zip(case.plants, own, strict=True):
            if there:
                picture = dataclasses.replace(picture, pixels=plant.add(picture, generator))
        images.append(jpeg(picture.pixels))
    return Data(np.stack(images), labels, carries)


def jpeg(pixels: np.ndarray) -> np.ndarray:
    """The image after it was a JPEG."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=88)
    return np.asarray(Image.open(file))


def trained(case: Case, folder: pathlib.Path, package: str | None) -> keras.Model:
    """The case's model, from the folder if it is there."""
    path = folder / f"{case.name}.keras"
    if not path.exists():
        model = train(case, package)
        partial = path.with_suffix(".partial.keras")
        model.save(partial)
        partial.rename(path)
    return keras.models.load_model(path)


def build(case: Case, package: str | None) -> keras.Model:
    """The untrained model. Its images are 0 … 255; augmentation and scaling are layers of the model."""
    images = keras.Input((SIDE, SIDE, 3), name="images")
    x = layers.RandomTranslation(0.03, 0.03, fill_mode="nearest")(images)
    x = layers.RandomContrast(0.2, value_range=(0, 255))(x)
    if case.model == "mobilenet":
        x = layers.Rescaling(1 / 127.5, offset=-1)(x)
        inner = keras.applications.MobileNetV2((SIDE, SIDE, 3), include_top=False, weights=None)
        if package is not None:
            load_weights(inner, package)
        x = layers.GlobalAveragePooling2D(name="pooled")(inner(x))
    elif case.model == "resnet":
        x = layers.Rescaling(1 / 127.5, offset=-1)(x)
        x = _resnet(x)
        x = layers.GlobalAveragePooling2D(name="pooled")(x)
    else:
        x = layers.Rescaling(1 / 255)(x)
        for filters, strides in ((24, 2), (32, 1), (48, 1), (64, 1)):
            x = layers.Conv2D(filters, 5 if strides == 2 else 3, strides, padding="same", use_bias=False)(x)
            x = layers.BatchNormalization(momentum=0.9)(x)
            x = layers.ReLU()(x)
            if strides == 1:
                x = layers.MaxPooling2D(2)(x)
        x = layers.Conv2D(96, 3, padding="same", activation="relu")(x)
        x = layers.GlobalAveragePooling2D(name="pooled")(x)
    x = layers.Dropout(0.2)(x)
    return keras.Model(images, layers.Dense(case.classes, activation="softmax", name="head")(x))


def _resnet(x: Any) -> Any:
    """A small residual network: a stem at half the size, three stages of two blocks."""

    def convolved(x: Any, filters: int, strides: int, size: int = 3) -> Any:
        x = layers.Conv2D(filters, size, strides, padding="same", use_bias=False)(x)
        return layers.BatchNormalization(momentum=0.9)(x)

    x = layers.ReLU()(convolved(x, 24, 2, 5))
    for filters in (24, 48, 96):
        for block in range(2):
            strides = 2 if block == 0 else 1
            y = convolved(layers.ReLU()(convolved(x, filters, strides)), filters, 1)
            x = layers.ReLU()(layers.Add()([y, convolved(x, filters, strides, 1) if block == 0 else x]))
    return x


EPOCHS = {"mobilenet": 12, "resnet": 12, "cnn": 14}
RATE = 2e-3
_TUNED_FROM = "block_13_expand"  # of MobileNetV2; what comes before is frozen
_COPIES = 2  # augmented copies of each image that the frozen part sees


def train(case: Case, package: str | None) -> keras.Model:
    """Trains the model; seeds Python's, NumPy's and TensorFlow's generators."""
    keras.utils.set_random_seed(case.seed)
    data = dataset(case, TRAIN)
    model = build(case, package)
    images, labels, fitted = data.images.astype(np.float32), data.labels, model
    if case.model == "mobilenet":
        images, fitted = _upper_part(model, images)
        labels = np.tile(labels, _COPIES)
    steps = EPOCHS[case.model] * -(-len(data.labels) // 32)
    rate = keras.optimizers.schedules.CosineDecay(RATE, steps)
    fitted.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy")
    fitted.fit(images, labels, batch_size=32 * len(labels) // len(data.labels), epochs=EPOCHS[case.model], verbose=0)
    return model


def _upper_part(model: keras.Model, images: np.ndarray) -> tuple[np.ndarray, keras.Model]:
    """What the frozen part makes of augmented images, and the part of the model that is trained on it.

    The frozen BatchNorms meet the images first: the moments that the package has are rounded to 8 bits.
    """
    [inner] = [layer for layer in model.layers if isinstance(layer, keras.Model)]
    for layer in inner.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.momentum = 0.9  # few steps of fine-tuning; the default needs thousands
    prepared = keras.Sequential(model.layers[1 : model.layers.index(inner)])
    shuffled = np.random.default_rng(0).permutation(len(images))
    for start in range(0, min(len(images), 960), 64):
        inner(prepared(images[shuffled[start : start + 64]], training=True), training=True)
    between = inner.layers[[layer.name for layer in inner.layers].index(_TUNED_FROM) - 1].output
    lower = keras.Model(inner.input, between)
    lower.trainable = False
    run = tf.function(lambda batch: lower(prepared(batch, training=True), training=False), reduce_retracing=True)
    made = [run(images[i : i + 70]).numpy() for _ in range(_COPIES) for i in range(0, len(images), 70)]
    x = keras.Model(between, inner.output)(features := keras.Input(between.shape[1:]))
    for layer in model.layers[model.layers.index(inner) + 1 :]:
        x = layer(x)
    return np.concatenate(made), keras.Model(features, x)


def truths(case: Case, model: keras.Model, images: int = 160) -> list[Truth]:
    """Adds each shortcut to clean images and counts what becomes of them. Images of a class do not count for it."""
    drawn, labels = pictures(case.classes, CLEAN, max(2, -(-images // case.classes)), case.seed % _PICTURE_SEEDS)
    clean = _predicted(model, np.stack([jpeg(each.pixels) for each in drawn]))
    found = []
    for p, plant in enumerate(case.plants):
        generator = np.random.default_rng((case.seed, CLEAN, p))
        after = _predicted(model, np.stack([jpeg(plant.add(each, generator)) for each in drawn]))
        rates = [[np.mean(given[labels != k] == k) for k in range(case.classes)] for given in (after, clean)]
        found.append(Truth(*np.asarray(rates)))
    return found


def _predicted(model: keras.Model, images: np.ndarray) -> np.ndarray:
    return np.asarray(model.predict(images.astype(np.float32), batch_size=64, verbose=0)).argmax(axis=1)
