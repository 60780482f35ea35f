"""A model that names the strongest colour of an image, and a run of it: every label has a right value, known by eye."""

from __future__ import annotations

import dataclasses
import io
import pathlib
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from PIL import Image

from pipeline.cli import run_config
from pipeline.config import Config
from tests.samples import SIDE, configuration, encoded_images
from transforms.output import Output, read_maps, read_table

IMAGES = encoded_images(12)
RIGHT = [label for _, _, label in IMAGES]


def save_colour_model(path: pathlib.Path, classes: int = 3) -> pathlib.Path:
    """Saves a model whose logits are the mean red, green and blue of an image; with 2 classes, red and green."""
    inputs = keras.Input((SIDE, SIDE, 3))
    pooled = keras.layers.GlobalAveragePooling2D()(inputs)
    dense = keras.layers.Dense(classes, activation="softmax")
    model = keras.Model(inputs, dense(pooled))
    dense.set_weights([np.eye(3, classes, dtype=np.float32) * 8, np.zeros(classes, np.float32)])
    model.save(path)
    return path


def predicted_by_keras(path: pathlib.Path) -> list[int]:
    """The classes that Keras' own `predict` gives `IMAGES`, scaled as a run scales them."""
    model = keras.models.load_model(path, compile=False)
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(image)), np.float32) for _, image, _ in IMAGES])
    return model.predict(pixels / 255 - 0.5, verbose=0).argmax(axis=1).tolist()


@dataclasses.dataclass(frozen=True)
class Ran:
    """What a run of `colour_run` came to.

    Attributes:
      code: the exit code.
      out, err: what was printed, on one line each.
      summary: of summary.json; empty where there is none.
      rows: of maps, in the order of the images.
      errors: of the error rows.
    """

    code: int
    out: str
    err: str
    summary: dict[str, Any]
    rows: list[dict[str, Any]]
    errors: list[dict[str, Any]]


def colour_config(
    folder: pathlib.Path, shards: Any, names: Sequence[str] | str | None = None, classes: int = 3, **sections: Any
) -> Config:
    """A configuration for the model of colours; `names` are the lines or the content of its class names' file."""
    if not (folder / "model.keras").exists():
        save_colour_model(folder / "model.keras", classes)
    value = configuration(folder, shards, **sections)
    if names is None:
        value["model"]["class_names"] = None
    else:
        text = names if isinstance(names, str) else "\n".join(names)
        pathlib.Path(value["model"]["class_names"]).write_text(text, encoding="utf-8")
    return Config.from_dict(value)


def colour_run(capsys: Any, config: Config, *, dry_run: bool = False) -> Ran:
    """Runs a configuration as `fullgrad run` does."""
    capsys.readouterr()
    code = run_config(config, dry_run=dry_run)
    printed = capsys.readouterr()
    out = Output(config.output.path)
    summary = out.read_json("summary.json") or {}
    rows = sorted(read_maps(out.path), key=lambda row: (row["shard"], row["index"])) if summary else []
    errors = [
        row
        for path in sorted(pathlib.Path(out.path).glob("errors/*.parquet"))
        for row in read_table(str(path)).to_pylist()
    ]
    return Ran(code, printed.out, printed.err, summary, rows, errors)
