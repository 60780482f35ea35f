"""Brings what people have, as models and images, into the form that the method takes, or refuses it in one sentence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

_RIGHT = "images must be float32 [N, H, W, C] as the model takes them, such as pixels / 255 if it was trained so"
_SCALING = ("Rescaling", "Normalization")


def model_given(model: Any) -> keras.Model:
    """A Keras model, loaded if it is the path of a file.

    Raises:
      ValueError: the file cannot be loaded.
      TypeError: it is neither a model nor a path.
    """
    if isinstance(model, keras.Model):
        return model
    if not isinstance(model, str) and not hasattr(model, "__fspath__"):
        raise TypeError(f"the model is of type {type(model).__name__}; it must be a Keras model or the path of a file")
    path = str(model)
    try:
        return keras.saving.load_model(path, compile=False)
    except Exception as error:  # Keras raises whatever its readers raise
        reason = " ".join(str(error).split())[:200].rstrip(".: ")
        raise ValueError(
            f"{path} cannot be loaded as a Keras model (.keras or .h5): {reason}; `fullgrad run` and "
            "`fullgrad inspect` also read files of Keras 2 and of layers of your own"
        ) from error


def images_given(images: Any, shape: tuple[int | None, int | None, int], layers: Sequence[str]) -> np.ndarray:
    """Images as the method takes them.

    Args:
      images: floating-point [N, H, W, C], one image [H, W, C], a tensor, a batched or unbatched `tf.data.Dataset` (of
        images, or of pairs whose first item is the images), or a list of arrays. Pixels 0 … 255, which are whole
        numbers, Pillow images and paths of image files, are taken only if the model scales pixels itself: what another
        model was trained with cannot be known. Pillow images and files are resized to the model's size (bilinear).
      shape: height, width and channels that the model takes; None for any.
      layers: the class names of the model's layers.

    Returns:
      float32 [N, H, W, C].

    Raises:
      ValueError: the shape is not the model's, a value is not finite, or a file cannot be read.
      TypeError: these are no images, or pixels whose scale is not known.
    """
    array = _as_array(images, shape)
    if array.dtype.kind in "uib" and array.size and not set(layers) & set(_SCALING):
        raise TypeError(
            f"images are pixels of {array.dtype}, and this model has no layer that scales them; {_RIGHT}, or "
            "pixels.astype('float32') if it takes 0 to 255"
        )
    if array.dtype.kind not in "uibf":
        raise TypeError(f"images are of dtype {array.dtype}; {_RIGHT}")
    array = np.asarray(array, np.float32)
    channels = shape[2]
    if (array.ndim == 2 and channels == 1) or (array.ndim == 3 and channels == 1 and array.shape[-1] != 1):
        array = array[..., None]
    if array.ndim == 3 and array.shape[-1] == channels:
        array = array[None]
    if array.ndim != 4 or any(w not in (None, g) for w, g in zip(shape, array.shape[1:], strict=False)):
        shown = ", ".join("any" if size is None else str(size) for size in shape)
        raise ValueError(f"images must have the shape that the model takes, [N, {shown}], but have {array.shape}")
    wrong = np.flatnonzero(~np.isfinite(array).reshape(len(array), -1).all(axis=1)) if array.size else np.empty(0)
    if len(wrong):
        which = ", ".join(str(i) for i in wrong[:5]) + (", …" if len(wrong) > 5 else "")
        raise ValueError(f"images hold values that are not finite (NaN or infinite), at index {which}")
    return array


def _as_array(images: Any, shape: tuple[int | None, int | None, int]) -> np.ndarray:
    if isinstance(images, np.ndarray) and images.dtype != object:
        return images
    if hasattr(images, "as_numpy_iterator"):
        return _of_dataset(images, shape)
    if _is_picture(images):
        return _of_picture(images, shape)[None]
    if isinstance(images, list | tuple) or (isinstance(images, np.ndarray) and images.ndim == 1):
        items = [_of_picture(each, shape) if _is_picture(each) else _as_tensor(each) for each in images]
        if not items:
            return np.zeros((0, shape[0] or 1, shape[1] or 1, shape[2]), np.float32)
        if len(sizes := {item.shape for item in items}) > 1:
            raise ValueError(f"images must all have one shape, but have {' and '.join(map(str, sorted(sizes)[:3]))}")
        return np.stack(items)
    return _as_tensor(images)


def _as_tensor(value: Any) -> np.ndarray:
    if not hasattr(value, "shape") and not isinstance(value, list | tuple | int | float):
        raise TypeError(f"images are of type {type(value).__name__}; {_RIGHT}")
    try:
        return np.asarray(ops.convert_to_numpy(value) if hasattr(value, "shape") else value)
    except (TypeError, ValueError):
        raise TypeError(f"images of type {type(value).__name__} are no array of numbers; {_RIGHT}") from None


def _of_dataset(dataset: Any, shape: tuple[int | None, int | None, int]) -> np.ndarray:
    cardinality = getattr(dataset, "cardinality", None)
    if cardinality is not None and int(cardinality()) == -1:  # tf.data.INFINITE_CARDINALITY
        raise ValueError("images are a data set without an end; give a part of it, such as dataset.take(10)")
    parts = []
    for element in dataset.as_numpy_iterator():
        batch = element[0] if isinstance(element, tuple) else element
        if not isinstance(batch, np.ndarray) or batch.ndim not in (3, 4) or batch.dtype.kind not in "uibf":
            raise TypeError("images are a data set of something else; map it to images [H, W, C] or (images, labels)")
        parts.append(batch if batch.ndim == 4 else batch[None])
    if not parts:
        return np.zeros((0, shape[0] or 1, shape[1] or 1, shape[2]), np.float32)
    if len({part.shape[1:] for part in parts}) > 1:
        raise ValueError("images of the data set must all have one shape; resize them to the model's")
    return np.concatenate(parts)


def _is_picture(value: Any) -> bool:
    """Whether a value is a Pillow image or the path of a file."""
    return (
        isinstance(value, str) or hasattr(value, "__fspath__") or (hasattr(value, "convert") and hasattr(value, "size"))
    )


def _of_picture(picture: Any, shape: tuple[int | None, int | None, int]) -> np.ndarray:
    """A Pillow image or a file's, as uint8 [H, W, C] of the model's size."""
    height, width, channels = shape
    if channels not in (1, 3):
        raise ValueError(f"images from files have 1 or 3 channels, but the model takes {channels}; give arrays")
    if not hasattr(picture, "convert"):
        try:
            picture = keras.utils.load_img(str(picture))
        except Exception as error:
            reason = getattr(error, "strerror", None) or " ".join(str(error).split())
            raise ValueError(f"the image {picture} cannot be read: {reason}") from error
    picture = picture.convert("L" if channels == 1 else "RGB")
    if height is not None and width is not None:
        picture = picture.resize((width, height), 2)  # Pillow's number for bilinear
    pixels = np.asarray(picture, np.uint8)
    return pixels[..., None] if channels == 1 else pixels


def targets_given(targets: Any, count: int, classes: int) -> np.ndarray:
    """Targets as int32 [N]: one for each image, or one for all; None stands for the predicted class, −1.

    Raises:
      ValueError: their number is not that of the images, or one is no class.
    """
    given = np.asarray(-1 if targets is None else targets)
    if given.size and not np.issubdtype(given.dtype, np.integer):
        raise ValueError(f"targets must be class indices, but have dtype {given.dtype}")
    if given.ndim > 1 or (given.ndim == 1 and given.size not in (1, count)):
        raise ValueError(f"targets must be one class for all images or one for each of the {count}, not {given.shape}")
    chosen = np.broadcast_to(given, (count,))
    if chosen.size and (chosen.max() >= classes or chosen.min() < -classes):
        raise ValueError(
            f"targets must lie in 0 … {classes - 1} (or −{classes} … −1 for ranks), but reach from "
            f"{chosen.min()} to {chosen.max()}"
        )
    return chosen.astype(np.int32)
