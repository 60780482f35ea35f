"""Translates the configuration of a Keras 2 layer to the Keras 3 layer that computes the same."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from transforms.models.errors import first_line


class NotTranslated(ValueError):
    """Part of the configuration has no equivalent in Keras 3. The message says which part, without the file's name."""


class UnknownClass(NotTranslated):
    """A class that is neither Keras' own nor a custom object. `name` is the class's name."""

    def __init__(self, name: str):
        super().__init__(f"the class {name!r} is none of Keras' own")
        self.name = name


class NeedsTrust(NotTranslated):
    """The file contains code, which runs only with `trust`."""


# Classes that were renamed. They compute the same at inference.
_RENAMED = {
    "BatchNormalizationV1": "BatchNormalization",
    "BatchNormalizationV2": "BatchNormalization",
    "SyncBatchNormalization": "BatchNormalization",
    "LayerNormalizationV2": "LayerNormalization",
    "Convolution2D": "Conv2D",
    "RandomWidth": "RandomZoom",
    "RandomHeight": "RandomZoom",
}
# Layers that do nothing at inference. Their arguments have no effect, and Keras 3 may not know them.
_IDENTITIES = frozenset(
    """
    ActivityRegularization AlphaDropout Dropout GaussianDropout GaussianNoise RandomBrightness RandomContrast RandomFlip
    RandomHeight RandomRotation RandomTranslation RandomWidth RandomZoom SpatialDropout1D SpatialDropout2D
    """.split()
)
# Arguments that do not change a layer's result at inference, or only repeat its shapes.
_IGNORED = frozenset(
    """
    adjustment autocast batch_input_shape build_config experimental_autocast force_generator fused implementation
    input_dim input_length input_shape key_shape optional query_shape ragged rng_type seed sparse supports_masking
    synchronized value_shape virtual_batch_size
    """.split()
)
# Layers whose constructors read other files or run their code.
_NEED_TRUST = frozenset(
    "FlaxLayer IntegerLookup JaxLayer StringLookup TFSMLayer TextVectorization TorchModuleWrapper".split()
)
_RENAMED_ARGUMENTS = {"LeakyReLU": {"alpha": "negative_slope"}}
_ACTIVATIONS = frozenset(
    """
    elu exponential gelu leaky_relu linear log_softmax mish relu relu6 selu sigmoid silu softmax softplus softsign swish
    tanh
    """.split()
)
# The names that Keras 2 wrote for TensorFlow's own functions.
_ACTIVATION_NAMES = {"softmax_v2": "softmax", "log_softmax_v2": "log_softmax", "swish_impl": "swish"}


def hard_sigmoid(x: Any) -> Any:
    """Keras 2's hard sigmoid: 0.2 x + 0.5, clipped to 0 … 1. Keras 3 has the slope 1/6."""
    return ops.clip(0.2 * x + 0.5, 0.0, 1.0)


def layer_class(config: Mapping[str, Any], custom: Mapping[str, Any]) -> type:
    """The class that a configuration names. Custom classes come first.

    Raises:
      UnknownClass: there is no such class.
    """
    name = str(config["class_name"])
    for known in (config.get("registered_name"), name):
        if known is not None and known in custom:
            found: type = custom[known]
            return found
    for known, candidate in custom.items():  # an HDF5 file may leave out the package before the name
        if known.rsplit(">", 1)[-1] == name.rsplit(">", 1)[-1]:
            return candidate
    name = _RENAMED.get(name.rsplit(">", 1)[-1], name.rsplit(">", 1)[-1])
    cls = getattr(keras.layers, name, None) or _of_applications().get(name)
    if not isinstance(cls, type):
        raise UnknownClass(str(config["class_name"]))
    return cls


@functools.cache
def _of_applications() -> dict[str, type]:
    """Classes that keras.applications define for their own models. They are not public."""
    from keras.src.applications import convnext, inception_resnet_v2

    return {
        "CustomScaleLayer": inception_resnet_v2.CustomScaleLayer,
        "LayerScale": convnext.LayerScale,
        "StochasticDepth": convnext.StochasticDepth,
    }


def make_layer(config: Mapping[str, Any], custom: Mapping[str, Any], name: str | None, trust: bool) -> keras.Layer:
    """Makes the layer of Keras 3; it is not built yet.

    Args:
      config: the layer's entry in the model's configuration, with `class_name` and `config`.
      custom: classes and functions by name.
      name: the layer's name; None takes the one in the configuration.
      trust: whether code in the file may run.

    Raises:
      NotTranslated: Keras 3 has no layer that computes the same.
    """
    cls = layer_class(config, custom)
    values = dict(config.get("config") or {})
    label = f"the layer {values.get('name', '')!r} ({config['class_name']})"
    values["name"] = plain_name(name or str(values.get("name") or ""))
    values["dtype"] = _dtype(values.get("dtype"))
    values = {key: value for key, value in values.items() if value is not None or key in ("axis",)}
    if cls.__module__.split(".")[0] != "keras":
        values = {key: value for key, value in values.items() if key not in ("batch_input_shape", "build_config")}
        return _from_config(cls, plain(values), custom, trust, label)
    if cls.__name__ in _NEED_TRUST and not trust:
        raise NeedsTrust(f"{label} reads other files")
    if cls is keras.layers.Lambda:
        return _from_config(cls, _lambda_config(values, custom, trust, label), custom, trust, label)
    for old, new in _RENAMED_ARGUMENTS.get(cls.__name__, {}).items():
        if old in values:
            values[new] = values.pop(old)
    if cls is keras.layers.BatchNormalization and values.pop("renorm", False):
        raise NotTranslated(f"{label} has renorm=True, which Keras 3 does not have")
    for key in [key for key in values if key.endswith(("_initializer", "_regularizer", "_constraint"))]:
        del values[key]  # the file has every weight, and nothing is trained
    if config["class_name"] in _IDENTITIES:
        values = {key: values[key] for key in ("name", "dtype", "rate", "factor", "stddev") if key in values}
        if cls is keras.layers.RandomZoom:
            values = {"name": values["name"], "height_factor": 0.1}
        elif config["class_name"] == "RandomTranslation":
            values |= {"height_factor": 0.1, "width_factor": 0.1}
        elif config["class_name"] == "ActivityRegularization":
            values = {"name": values["name"]}
        return cls(**values)
    taken = _parameters(cls)
    for key in list(values):
        if key in ("activation", "recurrent_activation") and key in taken:
            values[key] = _activation(values[key], custom, label)
        elif key == "layer" or key.endswith("_layer"):
            inner = values[key]
            values[key] = make_layer(inner, custom, None, trust) if isinstance(inner, Mapping) else inner
        elif key == "cell" and isinstance(values[key], Mapping):
            values[key] = make_layer(values[key], custom, None, trust)
        elif key not in taken:
            value = values.pop(key)
            if key not in _IGNORED and value not in (None, False) and (key, value) != ("groups", 1):
                raise NotTranslated(f"{label} has {key}={value!r}, which Keras 3 does not have")
    values = {key: plain(value) for key, value in values.items()}
    axis = values.get("axis")
    if isinstance(axis, list) and len(axis) == 1:
        values["axis"] = axis[0]
    try:
        return cls(**values)
    except Exception as error:  # a layer may raise anything for an argument that it does not take
        raise NotTranslated(f"{label} cannot be made: {first_line(error)}") from error


def plain_name(name: str) -> str:
    """A name that Keras 3 accepts: without `/`, which it uses for paths."""
    return name.replace("/", ".") or "layer"


def plain(value: Any) -> Any:
    """A configuration's value, unwrapped: Keras 2 wraps arrays, tuples and numbers in mappings."""
    if isinstance(value, Mapping):
        kind = value.get("class_name")
        if kind == "__ellipsis__":
            return Ellipsis
        if kind == "__tuple__":
            return tuple(plain(item) for item in value["items"])
        if kind in ("__tensor__", "__numpy__") and isinstance(value.get("config"), Mapping):
            return np.asarray(value["config"]["value"], str(value["config"].get("dtype", "float32"))).tolist()
        if kind in ("__ndarray__", "ndarray") or value.get("type") == "ndarray":
            return np.asarray(value.get("value")).tolist()
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value


def _parameters(cls: type) -> set[str]:
    """The argument names of a layer's constructor, including those that it passes on to `keras.Layer`."""
    names = {"name", "dtype", "trainable"}
    for each in cls.__mro__:
        if each is keras.Layer:
            break
        if "__init__" in vars(each):
            signature = inspect.signature(vars(each)["__init__"])
            names |= {key for key in signature.parameters if key not in ("self", "args", "kwargs")}
            if all(parameter.kind is not parameter.VAR_KEYWORD for parameter in signature.parameters.values()):
                break
    return names


def _dtype(value: Any) -> Any:
    """The name of a dtype or of a policy, such as mixed_float16."""
    if isinstance(value, Mapping):
        inner = value.get("config") or {}
        return inner.get("name") or "float32"
    return value


def _activation(value: Any, custom: Mapping[str, Any], label: str) -> Any:
    if isinstance(value, Mapping):
        if value.get("class_name") not in ("function", None):
            return make_layer(value, custom, None, False)  # such as ReLU(6.) given as an activation
        value = value.get("config")
    name = str(value)
    if name in custom:
        return custom[name]
    if name == "hard_sigmoid":
        return hard_sigmoid
    name = _ACTIVATION_NAMES.get(name, name)
    if name not in _ACTIVATIONS:
        raise UnknownClass(name) if ">" in name else NotTranslated(f"{label} has the activation {name!r}")
    return keras.activations.get(name)


def _lambda_config(values: dict[str, Any], custom: Mapping[str, Any], trust: bool, label: str) -> dict[str, Any]:
    """A Lambda's configuration in the form of Keras 3."""
    kept: dict[str, Any] = {key: values[key] for key in ("name", "dtype", "arguments") if key in values}
    function = values.get("function")
    if isinstance(function, Mapping) and function.get("class_name") == "__lambda__":
        function = [function["config"][key] for key in ("code", "defaults", "closure")]
    if isinstance(function, Mapping):
        function = function.get("config")
    if isinstance(function, str):
        if function not in custom:
            raise UnknownClass(function)
        return {**kept, "function": custom[function]}
    if not trust:
        raise NeedsTrust(f"{label} is code in the file")
    if not isinstance(function, list) or len(function) != 3:
        raise NotTranslated(f"{label} has no function that can be read")
    code, defaults, closure = function
    inner = {"code": code, "defaults": defaults, "closure": closure}
    return {**kept, "function": {"class_name": "__lambda__", "config": inner}}


def _from_config(cls: Any, values: dict[str, Any], custom: Mapping[str, Any], trust: bool, label: str) -> keras.Layer:
    """Calls the class's `from_config`, which handles the configuration of inner objects itself."""
    try:
        if cls is keras.layers.Lambda:
            if callable(values["function"]):
                return keras.layers.Lambda(**values)
            return keras.layers.Lambda.from_config(values, custom_objects=dict(custom), safe_mode=not trust)
        with keras.saving.custom_object_scope(dict(custom)):
            layer: keras.Layer = cls.from_config(values)
            return layer
    except Exception as error:
        raise NotTranslated(f"{label} cannot be made: {first_line(error)}") from error
