"""Layers that are called with more than one argument, and models that are called in ways of their own.

The right value is what `model.predict` gives. Public reports of the kind: keras-team/keras #21530 (arguments of a call
that reach inner layers), keras-team/keras #21546 (models with a class of their own), keras-team/keras #9412 (layers
that stay in training mode).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops

from tests.transforms.fullgrad.networks import randomize
from transforms.fullgrad import Disagreement, expose, full_gradients


class Scale(layers.Layer):
    def call(self, x: Any, by: float = 1.0) -> Any:
        return x * by


class Skip(layers.Layer):
    def call(self, x: Any, skip: Any = None) -> Any:
        return ops.tanh(x) if skip is None else ops.tanh(x) + 0.5 * skip


class Mixture(layers.Layer):
    """Takes a list, and a mapping by keyword."""

    def call(self, tensors: Any, *, weights: Any) -> Any:
        return sum(weight * tensor for weight, tensor in zip(weights["of"], tensors, strict=True))


class Pick(layers.Layer):
    """Makes two tensors, of which a caller takes one."""

    def call(self, x: Any, order: tuple[int, int] = (0, 1)) -> Any:
        made = (ops.relu(x), ops.sigmoid(x))
        return made[order[0]], made[order[1]]


class Outer(layers.Layer):
    """Passes an argument on to a layer inside."""

    def __init__(self, **options: Any):
        super().__init__(**options)
        self.inner = Scale()

    def call(self, x: Any, times: float = 2.0) -> Any:
        return self.inner(ops.silu(x), by=times) + x


class Doubled(keras.Model):
    """A functional model whose call() does more than its graph."""

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        return 2.0 * super().call(inputs, training=training)


class Around(layers.Layer):
    """Does something around its call()."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return 3.0 * super().__call__(*args, **kwargs)

    def call(self, x: Any) -> Any:
        return ops.relu(x)


class Twofold(keras.Model):
    def __init__(self) -> None:
        super().__init__()
        self.convolution = layers.Conv2D(6, 3)
        self.scale = Scale()
        self.head = layers.Dense(4, activation="softmax")

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        x = self.scale(ops.relu(self.convolution(inputs)), by=0.25)
        return self.head(ops.mean(self.scale(x, by=3.0), axis=(1, 2)))


def _classifier(middle: Callable[[Any], Any], cls: type = keras.Model, **head: Any) -> keras.Model:
    image = keras.Input((12, 12, 3))
    x = middle(layers.Conv2D(6, 3, padding="same")(image))
    x = layers.GlobalAveragePooling2D()(x)
    return cls(image, layers.Dense(4, **head)(x))


def _shared(x: Any) -> Any:
    scale, skip = Scale(), Skip()
    return skip(scale(x, by=-1.5), skip=skip(scale(x, by=3.0)))


def _nested(x: Any) -> Any:
    first, second = keras.Input(x.shape[1:], name="b"), keras.Input(x.shape[1:], name="a")
    inner = keras.Model({"b": first, "a": second}, Skip()(layers.ReLU()(first), skip=Scale()(second, by=2.0)))
    return inner({"b": x, "a": layers.Conv2D(6, 1)(x)})


def _by_name(x: Any) -> Any:
    """A model built from a list, and called with a mapping."""
    first, second = keras.Input(x.shape[1:], name="first"), keras.Input(x.shape[1:], name="second")
    inner = keras.Model([first, second], layers.Subtract()([layers.ReLU()(first), second]))
    return inner({"second": x, "first": layers.Conv2D(6, 1)(x)})


MIDDLES: dict[str, Callable[[Any], Any]] = {
    "a number by keyword": lambda x: Scale()(x, by=3.0),
    "a tensor by keyword": lambda x: Skip()(x, skip=layers.Conv2D(6, 1)(x)),
    "the same tensor twice": lambda x: Skip()(x, skip=x),
    "a shared layer called differently": _shared,
    "a list and a mapping": lambda x: Mixture()([x, ops.relu(x)], weights={"of": [0.5, -2.0]}),
    "a tuple of options": lambda x: Pick()(x, order=(1, 0))[0],
    "an argument passed on": lambda x: Outer()(x, times=-0.7),
    "a nested model with two inputs": _nested,
    "a nested model called by names": _by_name,
    "a nested functional model of one's own class": lambda x: _own_class(x),
    "something around call()": Around(),
}


def _own_class(x: Any) -> Any:
    inside = keras.Input(x.shape[1:])
    return Doubled(inside, layers.Activation("gelu")(layers.Conv2D(5, 3)(inside)))(x)


def _assert_explains_the_model(model: keras.Model, count: int = 3) -> None:
    randomize(model)
    images = np.random.default_rng(0).normal(size=(count, 12, 12, 3)).astype(np.float32)
    exposed = expose(model)
    explanation = full_gradients(exposed, images)
    own = model.predict(images, verbose=0)
    made = explanation.logits if exposed.ends_in == "logits" else exposed.probabilities(explanation.logits)
    np.testing.assert_allclose(made, own, rtol=0, atol=1e-5 * max(1.0, np.abs(own).max()))
    assert explanation.completeness_error.max() <= exposed.tolerance


@pytest.mark.parametrize("middle", MIDDLES)
def test_a_layer_is_explained_as_it_was_called(middle: str) -> None:
    _assert_explains_the_model(_classifier(MIDDLES[middle], activation="softmax"))


def test_a_functional_model_with_a_call_of_its_own_is_explained_by_that() -> None:
    _assert_explains_the_model(_classifier(layers.ReLU(), Doubled))


def test_a_subclassed_model_passes_arguments_to_its_layers() -> None:
    model = Twofold()
    model(np.zeros((1, 12, 12, 3), np.float32))
    _assert_explains_the_model(model)


def test_dropout_that_a_functional_model_calls_in_training_mode_is_off_in_predict_and_so_here() -> None:
    _assert_explains_the_model(_classifier(lambda x: layers.Dropout(0.5)(x, training=True)))


class AlwaysDrops(layers.Layer):
    def __init__(self) -> None:
        super().__init__()
        self.dropout = layers.Dropout(0.5)

    def call(self, x: Any) -> Any:
        return self.dropout(x, training=True)


class OfTheBatch(layers.Layer):
    def __init__(self) -> None:
        super().__init__()
        self.norm = layers.BatchNormalization()

    def build(self, shape: Any) -> None:
        self.norm.build(shape)

    def call(self, x: Any) -> Any:
        return self.norm(x, training=True)


@pytest.mark.parametrize(
    ("layer", "complaint"),
    [
        (AlwaysDrops, "gives another answer each time it is called on the same image"),
        (OfTheBatch, "gives an image another answer beside other images"),
    ],
)
def test_a_layer_that_stays_in_training_mode_is_refused(layer: type, complaint: str) -> None:
    model = randomize(_classifier(layer()))
    images = np.random.default_rng(0).normal(size=(3, 12, 12, 3)).astype(np.float32)
    with pytest.raises(Disagreement, match=complaint):
        full_gradients(expose(model), images)
