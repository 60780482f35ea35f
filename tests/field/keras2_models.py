"""Models as Keras 2 makes them, with weights drawn so that no layer could be left out unseen."""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras

layers = tf_keras.layers


def drawn(model: tf_keras.Model, seed: int = 0) -> tf_keras.Model:
    """Draws all weights, and for BatchNorm statistics that fit, as in training."""
    generator = np.random.default_rng(seed)
    for weight in model.weights:
        name, shape = weight.name.rsplit("/", 1)[-1], tuple(weight.shape)
        if "variance" in name:
            value = generator.uniform(0.5, 2.0, shape)
        elif "gamma" in name:
            value = generator.uniform(0.7, 1.6, shape)
        elif "kernel" in name:
            inputs = np.prod(shape[:2]) if "depthwise" in name else np.prod(shape[:-1])
            value = generator.normal(0, np.sqrt(2.0 / inputs), shape)
        elif weight.dtype.is_floating:
            value = generator.normal(0, 0.4, shape)
        else:
            continue  # counters and random states
        weight.assign(value.astype(weight.dtype.as_numpy_dtype))
    for layer in model._flatten_layers():
        if isinstance(layer, layers.Normalization):
            layer.finalize_state()
    return model


def images(model: tf_keras.Model, count: int = 3) -> np.ndarray:
    """Pixels float32 [count, H, W, C] between 0 and 255."""
    _, height, width, channels = model.input_shape
    pixels = np.random.default_rng(1).normal(120, 60, (count, height, width, channels))
    return pixels.clip(0, 255).astype(np.float32)


def saved(model: tf_keras.Model, path: pathlib.Path, **options: Any) -> pathlib.Path:
    model.save(path, **options)
    return path


def sequential() -> tf_keras.Model:
    return tf_keras.Sequential(
        [
            layers.Rescaling(1 / 127.5, offset=-1, input_shape=(16, 16, 3)),
            layers.Conv2D(4, 3, activation="relu"),
            layers.BatchNormalization(),
            layers.DepthwiseConv2D(3),
            layers.ReLU(6.0),
            layers.SeparableConv2D(6, 3, activation="swish"),
            layers.LeakyReLU(0.2),
            layers.Conv2DTranspose(4, 3, strides=2, activation=tf.nn.relu6),
            layers.GroupNormalization(2),
            layers.PReLU(shared_axes=[1, 2]),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dropout(0.5),
            layers.Dense(5, activation="softmax"),
        ]
    )


def hard_sigmoids() -> tf_keras.Model:
    inputs = tf_keras.Input((12, 12, 3))
    shared = layers.Conv2D(3, 3, padding="same", activation="hard_sigmoid")
    y = shared(layers.Rescaling(1 / 64, offset=-2)(inputs))
    y = layers.Activation("hard_sigmoid")(layers.Rescaling(8, offset=-4)(shared(y)))
    return tf_keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling2D()(y)))


def augmented_and_frozen() -> tf_keras.Model:
    """Transfer learning as in TensorFlow's tutorial: augmentation, preprocess_input, a frozen inner model."""
    inputs = tf_keras.Input((32, 32, 3))
    augmentation = tf_keras.Sequential(
        [
            layers.RandomFlip("horizontal"),
            layers.RandomRotation(0.1),
            layers.RandomZoom(0.1),
            layers.RandomContrast(0.1),
            layers.RandomTranslation(0.1, 0.1),
        ]
    )
    base = tf_keras.applications.MobileNetV2(include_top=False, weights=None, input_shape=(32, 32, 3))
    base.trainable = False
    y = tf_keras.applications.mobilenet_v2.preprocess_input(augmentation(inputs))
    y = layers.GlobalAveragePooling2D()(base(y, training=False))
    return tf_keras.Model(inputs, layers.Dense(5, activation="softmax", name="head/out")(layers.Dropout(0.2)(y)))


def partly_frozen() -> tf_keras.Model:
    """Fine-tuning: the first layers of the inner model are frozen, so its weights are in an order of their own."""
    inputs = tf_keras.Input((16, 16, 3))
    inside = tf_keras.Sequential(
        [tf_keras.Input((16, 16, 3))]
        + [each for _ in range(3) for each in (layers.Conv2D(4, 3, activation="relu"), layers.BatchNormalization())]
    )
    for layer in inside.layers[:4]:
        layer.trainable = False
    y = tf_keras.applications.densenet.preprocess_input(inputs)
    return tf_keras.Model(inputs, layers.Dense(5)(layers.GlobalAveragePooling2D()(inside(y))))


def named_with_slashes() -> tf_keras.Model:
    inputs = tf_keras.Input((16, 16, 3), name="in/put")
    y = layers.Conv2D(4, 3, name="block1/conv")(layers.Rescaling(1 / 255)(inputs))
    y = layers.Activation("relu", name="block1/relu")(layers.BatchNormalization(name="block1/bn")(y))
    z = layers.Conv2D(4, 3, padding="same", name="block1.conv")(y)
    y = layers.GlobalAveragePooling2D(name="pool/avg")(layers.Add(name="block2/add")([y, z]))
    return tf_keras.Model(inputs, layers.Dense(5, name="head/dense")(y), name="my/model")


def functions() -> tf_keras.Model:
    """Functions of TensorFlow and operators, each as a layer of its own: TFOpLambda and SlicingOpLambda."""
    inputs = tf_keras.Input((16, 16, 3))
    y = 1.0 - tf.math.subtract(inputs / 255.0, [0.4, 0.5, 0.6])
    y = layers.Conv2D(8, 3, padding="same")(-(y * 2 + 1))
    a, b = tf.split(y, 2, axis=-1)
    y = tf.concat([tf.nn.relu(a), tf.nn.relu6(b), tf.nn.silu(a), tf.nn.gelu(b), tf.sigmoid(a), tf.tanh(b)], -1)
    y = tf.concat([y, tf.nn.leaky_relu(a), tf.nn.elu(b), tf.nn.selu(a), tf.nn.softplus(b)], axis=-1)
    y = tf.clip_by_value(y[:, 1:-1, ::2, :], -1.0, 3.0)
    y = tf.math.pow(tf.abs(y) + 0.1, 0.5)
    y = tf.minimum(tf.maximum(y, 0.2), 1.5)
    y = tf.transpose(tf.image.resize(y, (8, 8)), [0, 2, 1, 3])
    y = tf.pad(y, [[0, 0], [1, 1], [1, 1], [0, 0]])
    y = tf.square(y) + tf.sqrt(y + 0.1) + tf.exp(-y) + tf.math.log(y + 1.0)
    y = tf.nn.avg_pool2d(y * tf.nn.softmax(tf.reduce_mean(y, [1, 2], keepdims=True)), 2, 2, "VALID")
    y = tf.reshape(tf.reduce_mean(y, axis=[1, 2]), (-1, 20, 2))
    y = tf.reduce_max(y, axis=-1) + tf.reduce_sum(y, -1)
    y = tf.cast(tf.squeeze(tf.expand_dims(y, 1), 1), tf.float32)
    y = tf.nn.l2_normalize(layers.Dense(6)(y), -1)
    y = tf.unstack(tf.stack([y, y * 2], 1), axis=1)[1]
    return tf_keras.Model(inputs, tf.nn.softmax(layers.Dense(5)(y)))


def shapes_and_attention() -> tf_keras.Model:
    """Sizes taken from tensors, as vision transformers do."""
    inputs = tf_keras.Input((16, 16, 3))
    y = layers.Conv2D(4, 4, strides=4)(layers.Rescaling(1 / 255)(inputs))
    shape = tf.shape(y)
    y = tf.reshape(y, (shape[0], shape[1] * shape[2], 4))
    y = y + layers.MultiHeadAttention(2, 3)(layers.LayerNormalization(epsilon=1e-6)(y), y)
    y = layers.TimeDistributed(layers.Dense(4, activation=tf_keras.activations.gelu))(y)
    return tf_keras.Model(inputs, layers.Dense(5)(tf.reshape(y, [tf.shape(y)[0], 64])))


def channels_reversed() -> tf_keras.Model:
    """A caffe model's preprocess_input: `x[..., ::-1]` and bias_add."""
    inputs = tf_keras.Input((16, 16, 3))
    y = tf_keras.applications.resnet50.preprocess_input(inputs)
    y = layers.GlobalMaxPooling2D()(layers.Conv2D(4, 3, activation="relu")(y))
    return tf_keras.Model(inputs, layers.Dense(5)(y))


def normalized_and_resized() -> tf_keras.Model:
    normalization = layers.Normalization(axis=-1, mean=[120.0, 110.0, 100.0], variance=[3600.0, 3000.0, 2500.0])
    inputs = tf_keras.Input((16, 16, 3))
    y = layers.UpSampling2D(2, interpolation="bilinear")(normalization(inputs))
    y = layers.Resizing(20, 20)(layers.Cropping2D(2)(layers.ZeroPadding2D(1)(y)))
    y = layers.Conv2D(4, 3, activation="gelu")(layers.CenterCrop(16, 16)(y))
    y = layers.Permute((2, 1))(layers.Reshape((-1, 4))(layers.AveragePooling2D(3, 2, "same")(y)))
    return tf_keras.Model(inputs, layers.Dense(5)(layers.GlobalAveragePooling1D()(y)))


def inner_models_called_twice() -> tf_keras.Model:
    inputs = tf_keras.Input((12, 12, 3))
    inner_inputs = tf_keras.Input((None, None, 3))
    inner = tf_keras.Model(inner_inputs, [layers.Conv2D(4, 3)(inner_inputs), layers.Conv2D(4, 3)(inner_inputs)])
    scaled = layers.Rescaling(1 / 255)(inputs)
    p, q = inner(scaled)
    r, s = inner(layers.Rescaling(-2.0)(scaled))
    y = layers.GlobalMaxPooling2D()(layers.Concatenate()([q, p, r, s]))
    return tf_keras.Model(inputs, layers.Dense(1, activation="sigmoid")(y))


def without_an_input_layer() -> tf_keras.Model:
    model = tf_keras.Sequential(
        [layers.Conv2D(4, 3, activation="relu"), layers.BatchNormalization(), layers.Flatten(), layers.Dense(4)]
    )
    model.build((None, 8, 8, 3))
    return model


MODELS: dict[str, Callable[[], tf_keras.Model]] = {
    each.__name__: each
    for each in (
        sequential,
        hard_sigmoids,
        augmented_and_frozen,
        partly_frozen,
        named_with_slashes,
        functions,
        shapes_and_attention,
        channels_reversed,
        normalized_and_resized,
        inner_models_called_twice,
        without_an_input_layer,
    )
}
# Keras 2 itself cannot write `...` in an index into its newer format.
NOT_AS_KERAS = {"channels_reversed"}
