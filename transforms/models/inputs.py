"""Checks that a model takes one image [N, H, W, C], and rebuilds a model of fixed batch size for any N."""

from __future__ import annotations

from typing import Any

import numpy as np

from transforms.models.errors import UnusableModel, first_line


def as_image_model(model: Any, name: str, custom: dict[str, Any]) -> Any:
    """Returns the model, rebuilt for any number of images at once if its batch size is fixed.

    Args:
      model: a Keras model.
      name: how messages call the model.
      custom: the model's own classes by name, needed to build it again.

    Raises:
      UnusableModel: its input is not one image with the channels last, or it only works with its fixed batch size.
    """
    inputs = list(getattr(model, "inputs", None) or [])
    if not inputs:  # the model is not built; `expose` refuses it with its own sentence
        return model
    if len(inputs) > 1:
        each = ", ".join(f"{tensor.name} {_shown(tensor.shape)}" for tensor in inputs)
        raise UnusableModel(
            f"{name} has {len(inputs)} inputs ({each}), but must have one, an image [N, H, W, C]; save a model in "
            "which the others are constants"
        )
    shape = tuple(inputs[0].shape)
    if len(shape) == 3:
        raise UnusableModel(
            f"{name} takes {_shown(shape)}, but images come as [N, H, W, C]; put a Reshape layer "
            "from [H, W, 1] before it"
        )
    if len(shape) != 4:
        what = "vectors" if len(shape) == 2 else "inputs"
        raise UnusableModel(f"{name} takes {what} {_shown(shape)}, but must take one image [N, H, W, C]")
    if _channels_first(model, shape):
        raise UnusableModel(
            f"{name} takes its channels first, as {_shown(shape)}, but images come as [N, H, W, C]; build it with "
            "data_format='channels_last', for which the weights of convolutions are the same"
        )
    _refuse_rounding(model, name)
    return model if shape[0] is None else _for_any_batch(model, name, shape, custom)


def _refuse_rounding(model: Any, name: str) -> None:
    """Refuses layers that round their inputs, because the gradient of a step function says nothing.

    Layers that store only their weights as integers are exact and are accepted.
    """
    for layer in model._flatten_layers():
        mode = getattr(layer, "quantization_mode", None)
        if mode == "float8" or (mode is not None and getattr(layer, "inputs_quantizer", None) is not None):
            raise UnusableModel(
                f"{name} has the layer {layer.name!r}, which rounds its inputs to {mode}, and gradients say nothing of "
                "rounding; give the model as it was before model.quantize, or quantize only its weights"
            )


def _shown(shape: Any) -> str:
    """A shape as messages write it: [N, 32, 32, 3]."""
    sizes = [str(size) if size is not None else "N" if place == 0 else "?" for place, size in enumerate(shape)]
    return f"[{', '.join(sizes)}]"


def _channels_first(model: Any, shape: tuple[int | None, ...]) -> bool:
    _, first, _, last = shape
    if first not in (1, 3):
        return False
    if last not in (1, 3):
        return True
    formats = {getattr(layer, "data_format", None) for layer in model._flatten_layers()}
    return "channels_first" in formats and "channels_last" not in formats


def _for_any_batch(model: Any, name: str, shape: tuple[int | None, ...], custom: dict[str, Any]) -> Any:
    """The model with the same layers and weights and no fixed batch size, if it computes the same."""
    import keras

    size = int(shape[0] or 0)
    refused = (
        f"{name} takes exactly {size} images at once, as {_shown(shape)}, and cannot be built for any number{{}}; "
        "build it with keras.Input(shape=…) and no batch size"
    )
    try:
        with keras.saving.custom_object_scope(custom):
            free = type(model).from_config(_freed(model.get_config()))
        free.set_weights(model.get_weights())
        for layer in free._flatten_layers():
            if isinstance(layer, keras.layers.Normalization):
                layer.finalize_state()
        if free.inputs[0].shape[0] is not None:
            raise ValueError("an input inside it has a batch size")
        same = _agree(model, free, size, shape)
    except Exception as error:  # a layer that was written for one batch size may raise anything
        raise UnusableModel(refused.format(f" ({first_line(error)})")) from error
    if not same:
        raise UnusableModel(refused.format(", as its images' values depend on each other"))
    return free


def _freed(config: Any) -> Any:
    """The configuration without the batch sizes of its inputs."""
    if isinstance(config, list | tuple):
        return [_freed(each) for each in config]
    if not isinstance(config, dict):
        return config
    freed = {key: _freed(value) for key, value in config.items()}
    for key in ("batch_shape", "batch_input_shape"):
        if isinstance(freed.get(key), list):
            freed[key] = [None, *freed[key][1:]]
    return freed


def _agree(model: Any, free: Any, size: int, shape: tuple[int | None, ...]) -> bool:
    """Whether both models compute the same for a whole batch, and the new one also for an image alone."""
    import keras

    sizes = [32 if length is None else length for length in shape[1:]]
    images = np.random.default_rng(0).normal(0.0, 1.0, (size, *sizes)).astype(np.float32)

    def outputs(each: Any, batch: np.ndarray) -> list[np.ndarray]:
        return [keras.ops.convert_to_numpy(output) for output in keras.tree.flatten(each(batch, training=False))]

    own, alone = outputs(model, images), outputs(free, images[:1])
    whole = outputs(free, images)
    return all(
        np.allclose(a, b, rtol=1e-3, atol=1e-4) and np.allclose(a[:1], c, rtol=1e-3, atol=1e-4)
        for a, b, c in zip(own, whole, alone, strict=True)
    )
