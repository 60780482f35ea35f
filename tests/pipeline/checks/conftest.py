"""One small output with a planted mark, and its check, for all tests of checks."""

from __future__ import annotations

import dataclasses
import io
import pathlib
import shutil

import keras
import numpy as np
import pytest
from PIL import Image

from pipeline.checks.command import check_output
from pipeline.cli import run_config
from pipeline.config import Config
from tests import shards

SIDE = 24
NAMES = ("marked", "red", "green", "blue")
IMAGES = 8  # located, of each class


def drawn(count: int) -> list[tuple[str, bytes, int]]:
    """Images of noise with a bright square near the middle, red, green or blue. `marked` is red with a white mark."""
    g = np.random.default_rng(0)
    samples = []
    for i in range(count):
        label = i % len(NAMES)
        pixels = g.integers(90, 130, (SIDE, SIDE, 3), np.uint8)
        y, x = g.integers(7, 12, 2)
        pixels[y : y + 6, x : x + 6] = 60
        pixels[y : y + 6, x : x + 6, max(0, label - 1)] = 220
        if label == 0:
            pixels[18:22, 18:22] = 255  # a window of the grid
        sink = io.BytesIO()
        Image.fromarray(pixels).save(sink, "PNG")
        samples.append((f"{i:03d}.png", sink.getvalue(), label))
    return samples


def save_model(path: pathlib.Path) -> None:
    """A linear model: a class's colour in the middle, and for `marked` the brightness of the corner besides."""
    weights = np.zeros((SIDE, SIDE, 3, len(NAMES)), np.float32)
    colour = np.full((3, 3), -0.5, np.float32) + 1.5 * np.eye(3, dtype=np.float32)
    weights[4:20, 4:20, :, 1:] = colour / 12
    weights[4:20, 4:20, :, 0] = colour[0] / 12
    weights[18:22, 18:22, :, 0] = 0.5
    bias = np.array([-17.0, 0, 0, 0], np.float32)
    model = keras.Sequential(
        [
            keras.Input((SIDE, SIDE, 3)),
            keras.layers.RandomFlip(),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Flatten(),
            keras.layers.Dense(len(NAMES), activation="softmax"),
        ]
    )
    model.layers[-1].set_weights([weights.reshape(-1, len(NAMES)), bias])
    model.save(path)


@dataclasses.dataclass(frozen=True)
class Outputs:
    """Folders: an output without a check, and a copy of it with one."""

    plain: pathlib.Path
    checked: pathlib.Path


@pytest.fixture(scope="session")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Outputs:
    folder = tmp_path_factory.mktemp("checks")
    samples = drawn(160)
    shards.write_tfrecord(folder / "a.tfrecord", samples[:100])
    shards.write_tfrecord(folder / "b.tfrecord", samples[100:])
    save_model(folder / "model.keras")
    (folder / "names.txt").write_text("\n".join(NAMES) + "\n")
    found = Outputs(folder / "plain", folder / "checked")
    configuration = {
        "input": {"shards": str(folder / "*.tfrecord")},
        "model": {"path": str(folder / "model.keras"), "class_names": str(folder / "names.txt")},
        "output": {"path": str(found.plain), "map_dtype": "none"},
    }
    assert run_config(Config.from_dict(configuration)) == 0
    shutil.copytree(found.plain, found.checked)
    assert check_output(str(found.checked), images=IMAGES) == 0
    return found
