"""The law on every kind of layer and bare operation that classifiers of images are made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops

from tests.transforms.fullgrad.networks import images, randomize
from transforms.fullgrad import CannotExpose, Explanation, expose, full_gradients

Block = Callable[[Any], Any]


def _between(*steps: Block, shape: tuple[int, int, int] = (12, 10, 3), head: str = "mean") -> keras.Model:
    """Conv → the steps → pooling → logits."""
    inputs = keras.Input(shape)
    x = layers.Conv2D(8, 3, strides=2, padding="same")(inputs)
    for step in steps:
        x = step(x)
    if len(x.shape) > 2:
        x = ops.mean(x, axis=tuple(range(1, len(x.shape) - 1))) if head == "mean" else layers.Flatten()(x)
    return randomize(keras.Model(inputs, layers.Dense(4)(x)))


def _squeeze_and_excite(x: Any) -> Any:
    s = layers.GlobalAveragePooling2D(keepdims=True)(x)
    s = layers.Conv2D(3, 1, activation="silu")(s)
    return layers.Multiply()([x, layers.Conv2D(x.shape[-1], 1, activation="sigmoid")(s)])


def _bare_mobilenet_v3(x: Any) -> Any:
    x = x * ops.relu6(x + 3.0) * (1.0 / 6.0)
    s = ops.mean(x, axis=(1, 2), keepdims=True)
    s = ops.clip(layers.Conv2D(8, 1)(s) / 6.0 + 0.5, 0.0, 1.0)
    return ops.subtract(1.5, x * s)


def _attention(x: Any) -> Any:
    x = layers.Reshape((-1, x.shape[-1]))(x)
    return x + layers.MultiHeadAttention(2, 4)(layers.LayerNormalization()(x), layers.LayerNormalization()(x))


def _bare_attention(x: Any) -> Any:
    x = ops.reshape(x, (-1, 30, 8))
    query, key = layers.Dense(8)(x), layers.EinsumDense("abc,cd->abd", (None, 8), bias_axes="d")(x)
    weights = ops.softmax(ops.matmul(query, ops.transpose(key, (0, 2, 1))) / 3.0, axis=-1)
    return ops.einsum("nij,njc->nic", weights, x)


BLOCKS: dict[str, tuple[Block, ...]] = {
    **{
        name: (layers.Activation(name),)
        for name in (
            "relu relu6 leaky_relu silu gelu sigmoid tanh elu selu softplus softsign hard_sigmoid hard_swish mish "
            "exponential softmax log_softmax celu log_sigmoid hard_tanh tanh_shrink squareplus"
        ).split()
    },
    "relu, clipped and shifted": (layers.ReLU(max_value=1.0, threshold=0.3, negative_slope=0.1),),
    "leaky relu layer": (layers.LeakyReLU(0.2),),
    "prelu": (layers.PReLU(),),
    "elu layer": (layers.ELU(),),
    "softmax layer": (layers.Softmax(),),
    "fused": (layers.Conv2D(5, 3, activation="gelu"), layers.Conv2D(6, 1, activation=layers.LeakyReLU(0.3))),
    "layer normalization": (layers.LayerNormalization(),),
    "layer normalization over places": (layers.LayerNormalization(axis=(1, 2, 3)),),
    "group normalization": (layers.GroupNormalization(4),),
    **({"rms normalization": (layers.RMSNormalization(),)} if hasattr(layers, "RMSNormalization") else {}),  # Keras 3.9
    "unit normalization": (layers.UnitNormalization(),),
    "batch normalization over rows": (layers.BatchNormalization(axis=1),),
    "spectral normalization": (layers.SpectralNormalization(layers.Conv2D(4, 3, activation="relu")),),
    "rescaling": (layers.Rescaling(0.5, offset=0.7),),
    "normalization": (layers.Normalization(mean=0.4, variance=2.0),),
    "squeeze and excite": (_squeeze_and_excite,),
    "mobilenet v3 of bare operations": (_bare_mobilenet_v3,),
    "attention": (_attention,),
    "attention of bare operations": (_bare_attention,),
    "attention over places": (lambda x: layers.MultiHeadAttention(2, 4, attention_axes=(1, 2))(x, x),),
    "added constant": (lambda x: 2.0 - ops.subtract(x, np.linspace(0, 1, 8, dtype="float32")),),
    "divided": (lambda x: x / 3.0 + 1.0 / (ops.exp(x) + 2.0),),
    "squared": (lambda x: ops.square(x) + x**3,),
    "a product with itself": (lambda x: x * x,),
    "dot of activations": (lambda x: layers.Dot(axes=-1)([layers.Reshape((30, 8))(x), layers.Reshape((30, 8))(x)]),),
    "maximum with a constant": (lambda x: ops.maximum(x, 0.3),),
    "where": (lambda x: ops.where(x > 0.1, x, 0.2 * x - 0.5),),
    "transposed and back": (layers.Permute((3, 1, 2)), layers.Permute((2, 3, 1))),
    "one dimension": (layers.Reshape((30, 8)), layers.Conv1D(4, 3, activation="silu"), layers.MaxPooling1D()),
    "transposed convolution": (layers.Conv2DTranspose(4, 3, strides=2, activation="relu6"),),
    "resized": (layers.UpSampling2D(interpolation="bilinear"), layers.Resizing(7, 5), layers.CenterCrop(4, 4)),
    "padded and cropped": (layers.ZeroPadding2D(2), layers.Cropping2D(1), layers.MaxPooling2D(2)),
    "noise and dropout": (layers.GaussianNoise(1.0), layers.SpatialDropout2D(0.5), layers.AlphaDropout(0.5)),
    "stopped gradient": (lambda x: x + ops.stop_gradient(ops.sigmoid(x)),),
    "lambda": (layers.Lambda(lambda x: x + 0.5 * x**2, output_shape=lambda shape: shape),),
    "global response": (lambda x: x * (ops.sqrt(ops.mean(x**2, axis=(1, 2), keepdims=True) + 1e-3) + 1.0),),
    "split and joined": (lambda x: ops.concatenate(ops.split(x, 2, axis=-1)[::-1], axis=-1) + 0.1,),
    "patches": (lambda x: ops.image.extract_patches(x, 2),),
}


def _complete(explanation: Explanation, tolerance: float = 1e-5) -> None:
    f = explanation.logits[np.arange(len(explanation.targets)), explanation.targets]
    assert explanation.completeness_error.max() <= tolerance
    np.testing.assert_allclose(
        explanation.maps.sum(axis=(1, 2)) + explanation.unlocated_term, f, rtol=10 * tolerance, atol=10 * tolerance
    )


@pytest.mark.parametrize("head", ["mean", pytest.param("flatten", marks=pytest.mark.slow)])
@pytest.mark.parametrize("block", BLOCKS)
def test_the_decomposition_is_complete(block: str, head: str) -> None:
    model = _between(*BLOCKS[block], head=head)
    x = images(model)
    explanation = full_gradients(expose(model), x, maps="signed", jit=False)
    np.testing.assert_allclose(explanation.logits, model(x), rtol=1e-4, atol=1e-5)
    _complete(explanation)


def test_what_is_known_to_add_nothing_has_no_rule() -> None:
    for block in ("relu", "leaky_relu", "prelu", "padded and cropped", "noise and dropout", "resized"):
        exposed = expose(_between(*BLOCKS[block]))
        assert [step.kind for step, rule in zip(exposed.program.steps, exposed.rules, strict=True) if rule.adds] == [
            "Conv2D",
            "Dense",
        ], block


class CustomLayer(keras.Layer):
    """A user's own layer with weights, a bias that is no Keras layer's, and operations of its own."""

    def build(self, shape: Any) -> None:
        self.kernel = self.add_weight(shape=(shape[-1], 5), name="kernel")
        self.offset = self.add_weight(shape=(5,), name="bias")

    def call(self, x: Any) -> Any:
        return ops.silu(ops.matmul(x, self.kernel) + self.offset) * 2.0


class OpaqueLayer(keras.Layer):
    """A layer that cannot be traced with symbols."""

    def call(self, x: Any) -> Any:
        import tensorflow as tf

        return tf.nn.elu(x) + 0.25

    def compute_output_shape(self, shape: Any) -> Any:
        return shape


def test_a_user_s_layer_is_opened_up_and_one_that_cannot_be_is_taken_whole() -> None:
    model = _between(CustomLayer(), OpaqueLayer())
    exposed = expose(model)
    kinds = [step.kind for step in exposed.program.steps]
    assert {"Matmul", "Add", "Silu", "OpaqueLayer"} <= set(kinds)
    assert "CustomLayer" not in kinds
    _complete(full_gradients(exposed, images(model), maps="signed"))


class _Block(keras.Model):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = layers.Conv2D(width, 3, padding="same", activation="relu")
        self.inner = keras.Sequential([layers.Conv2D(width, 1), layers.BatchNormalization(), layers.ReLU(6.0)])

    def call(self, x: Any, training: bool | None = None) -> Any:
        x = self.conv(x)
        return x + self.inner(x, training=training) + self.inner(ops.relu(x) + 0.1, training=training)


def test_models_within_models_and_layers_used_twice() -> None:
    inputs = keras.Input((9, 9, 3))
    backbone = keras.Model(inputs, _Block(4)(_Block(4)(inputs)), name="backbone")
    model = randomize(keras.Sequential([keras.Input((9, 9, 3)), backbone, layers.Flatten(), layers.Dense(3)]))
    exposed = expose(model)
    names = [step.name for step in exposed.program.steps]
    assert len(set(names)) == len(names)
    assert any(name.startswith("backbone/") and name.endswith("(call 2)") for name in names)
    x = images(model)
    explanation = full_gradients(exposed, x, maps="signed")
    np.testing.assert_allclose(explanation.logits, model(x), rtol=1e-4, atol=1e-5)
    _complete(explanation)


class _ClassToken(keras.Layer):
    def build(self, shape: Any) -> None:
        self.token = self.add_weight(shape=(1, 1, shape[-1]), name="token_embedding")

    def call(self, x: Any) -> Any:
        return ops.concatenate([ops.zeros_like(x[:, :1]) + self.token, x], axis=1)


class _Positions(keras.Layer):
    def build(self, shape: Any) -> None:
        self.embedding = layers.Embedding(shape[1], shape[2])
        self.embedding.build((None,))
        self.length = shape[1]

    def call(self, x: Any) -> Any:
        return x + self.embedding(ops.arange(self.length))


def vision_transformer(depth: int = 2, class_token: bool = True) -> keras.Model:
    """A small ViT: patches of 4×4, a class token, positions, pre-norm blocks of attention and GELU."""
    inputs = keras.Input((16, 12, 3))
    x = layers.Conv2D(8, 4, strides=4, name="patches")(inputs)
    x = layers.Reshape((12, 8))(x)
    if class_token:
        x = _ClassToken()(x)
    x = _Positions()(x)
    for _ in range(depth):
        y = layers.LayerNormalization(epsilon=1e-3)(x)
        x = layers.Add()([x, layers.MultiHeadAttention(2, 4)(y, y)])
        y = layers.LayerNormalization(epsilon=1e-3)(x)
        x = layers.Add()([x, layers.Dense(8)(layers.Dense(16, activation="gelu")(y))])
    x = layers.LayerNormalization(epsilon=1e-3)(x)
    x = x[:, 0] if class_token else layers.GlobalAveragePooling1D()(x)
    return randomize(keras.Model(inputs, layers.Dense(4)(x)))


@pytest.mark.parametrize("class_token", [True, False])
def test_a_vision_transformer_is_complete_and_its_tokens_lie_in_the_image(class_token: bool) -> None:
    model = vision_transformer(class_token=class_token)
    exposed = expose(model)
    _complete(full_gradients(exposed, images(model), maps="signed"))
    sequences = [value for step in exposed.program.steps for value in step.outputs if len(value.shape) == 3]
    placed = [value for value in sequences if value in exposed.places]
    assert len(placed) > 0.7 * len(sequences)
    offsets = {exposed.places[value].offset for value in placed}  # type: ignore[union-attr]
    assert offsets == ({0, 1} if class_token else {0})


def test_a_term_of_tokens_lies_where_its_patch_lies() -> None:
    inputs = keras.Input((8, 8, 3))
    x = layers.Reshape((4, 2))(layers.Conv2D(2, 4, strides=4)(inputs))
    positions = np.zeros((1, 4, 2), np.float32)
    positions[0, 2] = 1.0  # the patch at the bottom left
    logits = layers.Dense(2)(layers.GlobalAveragePooling1D()(x + positions))
    model = randomize(keras.Model(inputs, logits))
    with_bias, without = (
        full_gradients(expose(m), np.zeros((1, 8, 8, 3)), 0, maps="signed").maps[0]
        for m in (model, _without_positions(model))
    )
    difference = np.abs(with_bias - without)
    assert difference[5:, :3].min() > 0
    assert difference[:2, 6:].max() < 1e-7


def _without_positions(model: keras.Model) -> keras.Model:
    inputs = keras.Input((8, 8, 3))
    x = model.layers[2](model.layers[1](inputs))
    return keras.Model(inputs, model.layers[-1](layers.GlobalAveragePooling1D()(x)))


@pytest.mark.parametrize(("policy", "tolerance"), [("mixed_float16", 5e-3), ("mixed_bfloat16", 3e-2)])
def test_mixed_precision_keeps_the_law_within_its_tolerance(policy: str, tolerance: float) -> None:
    keras.config.set_dtype_policy(policy)
    try:
        inputs = keras.Input((16, 16, 3))
        x = layers.Conv2D(8, 3, activation="silu")(inputs)
        x = layers.BatchNormalization()(x)
        x = layers.Conv2D(8, 3, strides=2, activation="relu")(x)
        x = layers.GlobalAveragePooling2D()(_squeeze_and_excite(x))
        model = randomize(keras.Model(inputs, layers.Dense(4, activation="softmax", dtype="float32")(x)))
    finally:
        keras.config.set_dtype_policy("float32")
    exposed = expose(model)
    explanation = full_gradients(exposed, images(model), maps="signed")
    assert exposed.tolerance == tolerance
    assert 1e-5 < explanation.completeness_error.max() <= tolerance
    assert expose(_between()).tolerance == 1e-4


class _WithTensorFlow(keras.Model):
    def __init__(self) -> None:
        super().__init__()
        self.head = layers.Dense(2)

    def call(self, x: Any) -> Any:
        import tensorflow as tf

        return self.head(tf.reduce_mean(x, axis=(1, 2)))


def test_a_model_that_cannot_be_traced_is_refused_with_the_reason() -> None:
    model = _WithTensorFlow()
    model(np.zeros((1, 4, 4, 3), np.float32))
    with pytest.raises(CannotExpose, match=r"cannot be traced: .*keras\.ops"):
        expose(model)
    with pytest.raises(CannotExpose, match="call it once on a batch of images"):
        expose(_WithTensorFlow())
