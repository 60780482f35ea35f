"""Small real things that tests run on: images, a model, and a configuration that puts them together."""

from __future__ import annotations

import io
import pathlib
from typing import Any

import keras
import numpy as np
from PIL import Image

from tests.transforms.fullgrad.networks import randomize

CLASS_NAMES = ("red", "green", "blue")
SIDE = 16


def encoded_images(count: int, seed: int = 0) -> list[tuple[str, bytes, int]]:
    """Ids, PNGs of noise in which one colour is strongest, and that colour as the label."""
    generator = np.random.default_rng(seed)
    samples = []
    for i in range(count):
        label = int(generator.integers(3))
        pixels = generator.integers(0, 160, (SIDE, SIDE, 3), np.uint8)
        pixels[..., label] += 90
        sink = io.BytesIO()
        Image.fromarray(pixels).save(sink, "PNG")
        samples.append((f"image{i:04d}.png", sink.getvalue(), label))
    return samples


def save_model(path: pathlib.Path, seed: int = 12, **changes: Any) -> pathlib.Path:
    """Saves a small CNN for `encoded_images`: Conv, BatchNorm, ReLU, pooling, Dense with softmax.

    With the default seed, one of the first 33 images has a map without mass, and no image is taken for red.
    """
    keras.utils.set_random_seed(seed)
    model = keras.Sequential(
        [
            keras.Input((SIDE, SIDE, 3)),
            keras.layers.Conv2D(4, 3, activation="relu", **changes),
            keras.layers.BatchNormalization(),
            keras.layers.MaxPooling2D(),
            keras.layers.Conv2D(5, 3, use_bias=False),
            keras.layers.BatchNormalization(),
            keras.layers.ReLU(),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(3, activation="softmax"),
        ]
    )
    randomize(model, seed).save(path)
    return path


def configuration(folder: pathlib.Path, shards: Any, **sections: dict[str, Any]) -> dict[str, Any]:
    """A configuration for `save_model`'s model (made if it is not there) and shards; `sections` add keys to it."""
    model = folder / "model.keras"
    if not model.exists():
        save_model(model)
    names = folder / "class_names.txt"
    names.write_text("\n".join(CLASS_NAMES) + "\n")
    value: dict[str, Any] = {
        "input": {"shards": shards},
        "model": {
            "path": str(model),
            "class_names": str(names),
            "preprocess": {"scale": {"divide": 255.0, "mean": [0.5, 0.5, 0.5]}},
        },
        "explain": {"batch_size": 8},
        "output": {"path": str(folder / "out"), "map_dtype": "float32"},
    }
    for name, keys in sections.items():
        value[name] = {**value.get(name, {}), **keys}
    return value
