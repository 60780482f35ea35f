"""Networks that tests take apart, with weights drawn so that activations saturate and no term vanishes."""

from __future__ import annotations

import keras
import numpy as np


def randomize(model: keras.Model, seed: int = 0) -> keras.Model:
    """Draws all weights: biases and BatchNorm statistics too, which Keras begins at 0 and 1, where nothing shows."""
    generator = np.random.default_rng(seed)
    for weight in model.weights:
        name, shape = weight.path.rsplit("/", 1)[-1], tuple(weight.shape)
        if name in ("moving_variance", "variance"):
            value = generator.uniform(0.5, 2.0, shape)
        elif name in ("gamma", "scale"):
            value = generator.uniform(0.7, 1.6, shape)
        elif "kernel" in name:
            inputs = np.prod(shape[:2]) if "depthwise" in name else np.prod(shape[:-1])
            value = generator.normal(0, np.sqrt(2.0 / inputs), shape)
        elif np.issubdtype(np.dtype(weight.dtype if weight.dtype != "bfloat16" else "float32"), np.floating):
            value = generator.normal(0, 0.4, shape)  # biases, means, embeddings, PReLU's slopes
            value += np.copysign(0.1, value)  # none so near zero that its term is lost among the others
        else:
            continue  # counters and seeds
        weight.assign(value)
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()  # it computes with copies of its mean and variance
    return model


def images(model: keras.Model, count: int = 3, seed: int = 1, scale: float = 1.0) -> np.ndarray:
    """Images float32 of the size that the model takes."""
    _, height, width, channels = model.inputs[0].shape
    return np.random.default_rng(seed).normal(0, scale, size=(count, height, width, channels)).astype(np.float32)


def calibrate(model: keras.Model, batch: np.ndarray, seed: int = 0) -> keras.Model:
    """Gives every BatchNorm about the statistics of a batch, as training would, and a spread that saturates ReLU6.

    In a deep network with statistics that fit nothing, signals die or explode, and with them most terms.
    """
    generator = np.random.default_rng(seed)
    norms = [layer for layer in model._flatten_layers() if isinstance(layer, keras.layers.BatchNormalization)]
    if not norms:
        return model
    dropouts = [layer for layer in model._flatten_layers() if isinstance(layer, keras.layers.Dropout)]
    rates = [layer.rate for layer in dropouts]
    for layer in dropouts:
        layer.rate = 0.0  # its seed, and so the statistics, would be others in every run
    momenta = [layer.momentum for layer in norms]
    for layer in norms:
        layer.momentum = 0.0
        if layer.gamma is not None:
            layer.gamma.assign(generator.uniform(1.0, 4.0, layer.gamma.shape))
    model(batch, training=True)
    for layer, rate in zip(dropouts, rates, strict=True):
        layer.rate = rate
    for layer, momentum in zip(norms, momenta, strict=True):
        layer.momentum = momentum
        variance = np.asarray(layer.moving_variance)
        shift = generator.normal(0, 0.3, variance.shape) * np.sqrt(variance)
        layer.moving_mean.assign(np.asarray(layer.moving_mean) + shift)
        layer.moving_variance.assign(variance * generator.uniform(0.9, 1.3, variance.shape) + 1e-3)
    return model


def open_and_shut(model: keras.Model, seed: int = 0) -> keras.Model:
    """Draws the biases of squeeze-and-excitation gates so widely that some are shut and some open all the way."""
    generator = np.random.default_rng(seed)
    for layer in model._flatten_layers():
        if layer.name.endswith(("squeeze_excite_conv_1", "se_expand")):
            layer.bias.assign(generator.normal(0, 3, layer.bias.shape))
    return model


# The smallest sizes at which each family still has places to tell apart at its end.
FAMILIES = {
    "VGG16": 32,
    "ResNet50": 64,
    "ResNet50V2": 64,
    "Xception": 96,
    "InceptionV3": 96,
    "InceptionResNetV2": 96,
    "DenseNet121": 64,
    "MobileNet": 64,
    "MobileNetV2": 64,
    "MobileNetV3Small": 64,
    "MobileNetV3Large": 64,
    "EfficientNetB0": 64,
    "EfficientNetV2B0": 64,
    "ConvNeXtTiny": 64,
    "NASNetMobile": 64,
}


def family(name: str, size: int, classes: int = 10, count: int = 2) -> tuple[keras.Model, np.ndarray]:
    """A model of keras.applications with drawn weights, and images [count, size, size, 3] as it takes them."""
    model = getattr(keras.applications, name)(weights=None, input_shape=(size, size, 3), classes=classes)
    rescalings = [layer for layer in model._flatten_layers() if isinstance(layer, keras.layers.Rescaling)]
    for layer in rescalings:
        if not np.any(layer.offset):
            layer.offset = -0.5  # EfficientNet's only scale, and what is linear has no term to lose
    own_preprocessing = rescalings or any(
        isinstance(layer, keras.layers.Normalization) for layer in model._flatten_layers()
    )

    def pixels(count: int, seed: int) -> np.ndarray:
        drawn = images(model, count, seed)
        return np.clip(drawn * 60 + 120, 0, 255) if own_preprocessing else drawn

    calibrate(open_and_shut(randomize(model)), pixels(16, 5))
    return model, pixels(count, 0)
