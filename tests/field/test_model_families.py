"""Families of models that people have: explained exactly, or refused in one sentence; never another function."""

from __future__ import annotations

import pathlib
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops

from tests.transforms.fullgrad.networks import images, randomize
from tests.transforms.models.test_model import refusal, saved, spec
from transforms.fullgrad import CannotExpose, expose, full_gradients
from transforms.models import LoadedModel

TOLERANCE = 1e-5


def is_exact(model: keras.Model, batch: np.ndarray, tolerance: float = TOLERANCE) -> None:
    """The model's own logits, taken apart without a rest."""
    explanation = full_gradients(expose(model), batch, maps="signed")
    logits = model.predict(batch, verbose=0)
    np.testing.assert_allclose(explanation.logits, logits, rtol=1e-4, atol=1e-5 * np.abs(logits).max())
    assert explanation.completeness_error.max() <= tolerance
    assert np.abs(explanation.input_term).max() > 0
    rest = explanation.logits.max(axis=-1) - explanation.maps.sum(axis=(1, 2)) - explanation.unlocated_term
    assert np.abs(rest).max() <= 1e-3 * np.abs(logits).max()


@pytest.mark.slow
def test_convnext(tmp_path: pathlib.Path) -> None:
    keras.utils.clear_session()
    build = keras.applications.ConvNeXtTiny
    model = build(weights=None, input_shape=(32, 32, 3), classes=5, classifier_activation=None)
    batch = np.clip(images(randomize(model), 2) * 60 + 120, 0, 255)
    is_exact(model, batch)
    loaded = LoadedModel(spec(saved(model, tmp_path / "model.keras")))
    np.testing.assert_allclose(loaded.exposed.model.predict(batch, verbose=0), model.predict(batch, verbose=0))


# ---- vision transformers as keras-hub writes them: layers of their own with layers inside


@keras.saving.register_keras_serializable("families")
class PatchesAndPositions(layers.Layer):
    """Patches, a class token before them, and position embeddings looked up by index."""

    def __init__(self, patch: int = 8, width: int = 16, **rest: Any):
        super().__init__(**rest)
        self.patch, self.width = patch, width

    def build(self, input_shape: Any) -> None:
        self.class_token = self.add_weight(shape=(1, 1, self.width), name="class_token")
        self.count = (input_shape[1] // self.patch) * (input_shape[2] // self.patch)
        self.embed = layers.Conv2D(self.width, self.patch, self.patch, name="patch_embedding")
        self.embed.build(input_shape)
        self.positions = layers.Embedding(self.count + 1, self.width, name="position_embedding")
        self.positions.build((1, self.count + 1))

    def call(self, inputs: Any) -> Any:
        patches = ops.reshape(self.embed(inputs), (-1, self.count, self.width))
        token = ops.tile(self.class_token, (ops.shape(patches)[0], 1, 1))
        indices = ops.expand_dims(ops.arange(self.count + 1), axis=0)
        return ops.concatenate([token, patches], axis=1) + self.positions(indices)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return (input_shape[0], (input_shape[1] // self.patch) * (input_shape[2] // self.patch) + 1, self.width)


@keras.saving.register_keras_serializable("families")
class EncoderBlock(layers.Layer):
    def __init__(self, width: int = 16, **rest: Any):
        super().__init__(**rest)
        self.width = width

    def build(self, input_shape: Any) -> None:
        self.first_norm = layers.LayerNormalization(epsilon=1e-6)
        self.first_norm.build(input_shape)
        self.attention = layers.MultiHeadAttention(2, self.width // 2)
        self.attention.build(input_shape, input_shape)
        self.second_norm = layers.LayerNormalization(epsilon=1e-6)
        self.second_norm.build(input_shape)
        self.wide = layers.Dense(2 * self.width, activation="gelu")
        self.wide.build(input_shape)
        self.narrow = layers.Dense(self.width)
        self.narrow.build((*input_shape[:-1], 2 * self.width))
        self.dropout = layers.Dropout(0.1)

    def call(self, hidden: Any, mask: Any = None, training: bool | None = None) -> Any:
        x = self.first_norm(hidden)
        x = self.attention(x, x, attention_mask=mask)
        hidden = self.dropout(x, training=training) + hidden
        return hidden + self.dropout(self.narrow(self.wide(self.second_norm(hidden))), training=training)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape


# keras-team/keras-hub: ViTBackbone and ViTImageClassifier.
def test_a_vision_transformer_with_a_class_token() -> None:
    inputs = keras.Input((32, 32, 3))
    hidden = EncoderBlock()(EncoderBlock()(PatchesAndPositions()(inputs)))
    token = layers.LayerNormalization(epsilon=1e-6)(hidden)[:, 0]
    model = randomize(keras.Model(inputs, layers.Dense(5)(token)))
    is_exact(model, images(model))


# ---- Swin: attention inside windows, which are shifted


@keras.saving.register_keras_serializable("families")
class WindowAttention(layers.Layer):
    """Attention inside windows of 4 × 4 places, shifted by `shift`, with a bias for each relative position."""

    def __init__(self, shift: int = 0, heads: int = 2, **rest: Any):
        super().__init__(**rest)
        self.shift, self.heads, self.window = shift, heads, 4

    def build(self, input_shape: Any) -> None:
        _, self.height, self.width, self.channels = input_shape
        self.qkv = layers.Dense(3 * self.channels)
        self.qkv.build((None, self.window**2, self.channels))
        self.out = layers.Dense(self.channels)
        self.out.build((None, self.window**2, self.channels))
        self.table = self.add_weight(shape=((2 * self.window - 1) ** 2, self.heads), name="relative_bias_kernel")
        places = np.stack(np.meshgrid(range(self.window), range(self.window), indexing="ij")).reshape(2, -1)
        relative = places[:, :, None] - places[:, None, :] + self.window - 1
        self.index = (relative[0] * (2 * self.window - 1) + relative[1]).reshape(-1)

    def call(self, x: Any) -> Any:
        window, heads, each = self.window, self.heads, self.channels // self.heads
        rows, columns = self.height // window, self.width // window
        x = ops.roll(x, (-self.shift, -self.shift), axis=(1, 2)) if self.shift else x
        x = ops.reshape(x, (-1, rows, window, columns, window, self.channels))
        x = ops.reshape(ops.transpose(x, (0, 1, 3, 2, 4, 5)), (-1, window**2, self.channels))
        qkv = ops.transpose(ops.reshape(self.qkv(x), (-1, window**2, 3, heads, each)), (2, 0, 3, 1, 4))
        scores = ops.matmul(qkv[0] * each**-0.5, ops.transpose(qkv[1], (0, 1, 3, 2)))
        bias = ops.reshape(ops.take(self.table, self.index, axis=0), (window**2, window**2, heads))
        weights = ops.softmax(scores + ops.transpose(bias, (2, 0, 1))[None])
        x = ops.transpose(ops.matmul(weights, qkv[2]), (0, 2, 1, 3))
        x = self.out(ops.reshape(x, (-1, window**2, self.channels)))
        x = ops.transpose(ops.reshape(x, (-1, rows, columns, window, window, self.channels)), (0, 1, 3, 2, 4, 5))
        x = ops.reshape(x, (-1, self.height, self.width, self.channels))
        return ops.roll(x, (self.shift, self.shift), axis=(1, 2)) if self.shift else x

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape


# rishigami/Swin-Transformer-TF 25 has such a model. Inside the layer, all images' windows lie on the first axis.
@pytest.mark.slow
def test_a_transformer_with_shifted_windows() -> None:
    inputs = keras.Input((32, 32, 3))
    x = layers.LayerNormalization()(layers.Conv2D(8, 4, 4)(inputs))
    for shift in (0, 2):
        x = x + WindowAttention(shift)(layers.LayerNormalization()(x))
        x = x + layers.Dense(8)(layers.Dense(16, activation="gelu")(layers.LayerNormalization()(x)))
    # Patch merging: every second place, four times.
    merged = ops.concatenate([x[:, i::2, j::2, :] for i in (0, 1) for j in (0, 1)], axis=-1)
    x = layers.Dense(16, use_bias=False)(layers.LayerNormalization()(merged))
    model = randomize(keras.Model(inputs, layers.Dense(5)(layers.GlobalAveragePooling2D()(x))))
    is_exact(model, images(model))


def test_windows_that_no_layer_holds_are_refused() -> None:
    inputs = keras.Input((16, 16, 3))
    x = layers.Conv2D(8, 4, 4)(inputs)
    windows = ops.reshape(x, (-1, 2, 2, 2, 2, 8))
    windows = ops.reshape(ops.transpose(windows, (0, 1, 3, 2, 4, 5)), (-1, 4, 8))
    windows = windows + layers.Dense(8, activation="gelu")(windows)
    x = ops.reshape(windows, (-1, 4, 4, 8))
    model = randomize(keras.Model(inputs, layers.Dense(5)(layers.GlobalAveragePooling2D()(x))))
    with pytest.raises(CannotExpose, match="works on a tensor whose first axis is not the images'"):
        full_gradients(expose(model), images(model))


# ---- quantised models


def small(activation: str = "relu") -> keras.Model:
    return randomize(
        keras.Sequential(
            [
                keras.Input((16, 16, 3)),
                layers.Conv2D(8, 3, activation=activation),
                layers.BatchNormalization(),
                layers.MaxPooling2D(),
                layers.Flatten(),
                layers.Dense(16, activation=activation),
                layers.Dense(5),
            ]
        )
    )


@pytest.mark.slow
def test_whole_numbers_as_weights_are_exact(tmp_path: pathlib.Path) -> None:
    for mode in ("int4", keras.quantizers.Int8QuantizationConfig(activation_quantizer=None)):
        model = small()
        batch = images(model)
        float_logits = model.predict(batch, verbose=0)
        model.quantize(mode) if isinstance(mode, str) else model.quantize(config=mode)
        logits = model.predict(batch, verbose=0)
        assert np.abs(logits - float_logits).max() > 1e-3, "it is another model"
        loaded = LoadedModel(spec(saved(model, tmp_path / "model.keras")))
        explanation = full_gradients(loaded.exposed, batch, maps="signed")
        np.testing.assert_allclose(explanation.logits, logits, rtol=1e-4, atol=1e-4)
        assert explanation.completeness_error.max() <= TOLERANCE


@pytest.mark.parametrize("mode", ["int8", "float8"])
def test_a_layer_that_rounds_its_inputs_is_refused(tmp_path: pathlib.Path, mode: str) -> None:
    model = small()
    model.quantize(mode)
    sentence = refusal(lambda: LoadedModel(spec(saved(model, tmp_path / "model.keras"))))
    assert f"has the layer {model.layers[-2].name!r}, which rounds its inputs to {mode}" in sentence
    assert "give the model as it was before model.quantize" in sentence


# ---- layers that hold a graph of TensorFlow


def test_a_layer_around_a_saved_model_is_one_step(tmp_path: pathlib.Path) -> None:
    """`TFSMLayer` is how Keras 3 takes TF-Hub's and other SavedModels: what is inside has one term together."""
    inner = small()
    inner.export(tmp_path / "exported", verbose=False)
    inputs = keras.Input((16, 16, 3))
    model = keras.Model(inputs, keras.layers.TFSMLayer(str(tmp_path / "exported"), call_endpoint="serve")(inputs))
    batch = images(inner)
    np.testing.assert_allclose(model.predict(batch, verbose=0), inner.predict(batch, verbose=0), rtol=1e-5, atol=1e-5)
    is_exact(model, batch)
    path = saved(model, tmp_path / "model.keras")
    assert "set model.trust: true" in refusal(lambda: LoadedModel(spec(path)))
    loaded = LoadedModel(spec(path, trust=True))
    np.testing.assert_allclose(full_gradients(loaded.exposed, batch).logits, model.predict(batch, verbose=0), atol=1e-4)


def test_a_layer_of_tensorflow_hub_is_called_so(tmp_path: pathlib.Path) -> None:
    class KerasLayer(layers.Layer):
        def call(self, inputs: Any) -> Any:
            return inputs

    model = keras.Sequential([keras.Input((8, 8, 3)), KerasLayer(), layers.Flatten(), layers.Dense(2)])
    sentence = refusal(lambda: LoadedModel(spec(saved(model, tmp_path / "model.keras"))))
    assert "'KerasLayer', which is none of Keras' own but TensorFlow Hub's, which Keras 3 cannot load" in sentence
