"""The layers that prepare the image are found wherever they stand before the first layer that does something else."""

from __future__ import annotations

import keras
import numpy as np

from transforms.fullgrad import expose
from transforms.models import preprocessing_layers

SHAPE = (16, 16, 3)


def found(*layers: keras.layers.Layer, inputs: keras.KerasTensor | None = None) -> list[tuple[str, str, str]]:
    image = keras.Input(SHAPE) if inputs is None else inputs
    x = image
    for layer in layers:
        x = layer(x)
    x = keras.layers.Conv2D(2, 3)(x)
    x = keras.layers.Rescaling(3.0)(x)  # scales features, not the image
    outputs = keras.layers.Dense(2)(keras.layers.GlobalAveragePooling2D()(x))
    exposed = expose(keras.Model(image, outputs))
    return [(layer.kind, layer.does, layer.details) for layer in preprocessing_layers(exposed)]


def test_scaling_resizing_and_augmentation_in_order() -> None:
    layers = (keras.layers.Resizing(12, 12), keras.layers.RandomFlip(), keras.layers.Rescaling(1 / 127.5, -1))
    assert found(*layers) == [
        ("Resizing", "resizes", "to 12×12"),
        ("RandomFlip", "augments", ""),
        ("Rescaling", "scales", "× 0.00784314 − 1"),
    ]


def test_layers_in_nested_models() -> None:
    inner = keras.Sequential([keras.layers.RandomRotation(0.1), keras.layers.Rescaling(1 / 255)], name="prepare")
    assert [does for _, does, _ in found(keras.Sequential([keras.Input(SHAPE), inner]))] == ["augments", "scales"]


def test_a_normalization_with_its_numbers() -> None:
    layer = keras.layers.Normalization(mean=np.asarray([1.0, 2.0, 3.0]), variance=np.asarray([4.0, 4.0, 4.0]))
    assert found(layer) == [("Normalization", "scales", "mean 1, 2, 3, standard deviation 2, 2, 2")]


def test_a_preprocess_input_that_was_called_inside_the_model() -> None:
    image = keras.Input(SHAPE)
    x = keras.applications.mobilenet_v2.preprocess_input(image)
    outputs = keras.layers.Dense(2)(keras.layers.Flatten()(keras.layers.Conv2D(2, 3)(x)))
    layers = preprocessing_layers(expose(keras.Model(image, outputs)))
    assert [(layer.does, layer.details) for layer in layers] == [("scales", "÷ 127.5"), ("scales", "− 1")]


def test_a_model_without_any_has_none() -> None:
    assert found() == []
