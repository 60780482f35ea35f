"""Small networks that tests take apart, with weights drawn so that no term vanishes."""

from __future__ import annotations

import keras
import numpy as np


def randomize(model: keras.Model, seed: int = 0) -> keras.Model:
    """Draws biases and BatchNorm statistics, which Keras begins at 0 and 1, where nothing shows."""
    generator = np.random.default_rng(seed)
    for weight in model.weights:
        name = weight.path.rsplit("/", 1)[-1]
        shape = weight.shape
        if name in ("moving_variance", "variance"):
            weight.assign(generator.uniform(0.5, 2.0, shape))
        elif name in ("gamma", "scale"):
            weight.assign(generator.uniform(0.5, 1.5, shape))
        elif name in ("bias", "beta", "moving_mean", "mean") or "embedding" in name:
            weight.assign(generator.normal(0, 0.5, shape))
    return model


def images(model: keras.Model, count: int = 3, seed: int = 1) -> np.ndarray:
    """Images float32 of the size that the model takes."""
    _, height, width, channels = model.inputs[0].shape
    return np.random.default_rng(seed).normal(size=(count, height, width, channels)).astype(np.float32)
