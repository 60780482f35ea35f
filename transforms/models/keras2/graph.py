"""Builds a Keras 2 model from its configuration: makes its layers and calls them again."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras

from transforms.models.keras2 import operations
from transforms.models.keras2.layers import (
    NotTranslated,
    UnknownClass,
    first_line,
    layer_class,
    make_layer,
    plain,
    plain_name,
)

_MODELS = ("Functional", "Model", "Sequential")
_FUNCTIONS = ("TFOpLambda", "SlicingOpLambda", "ClassMethod", "InstanceMethod", "InstanceProperty")
_CONSTANT = "_CONSTANT_VALUE"


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Built:
    """A layer or model of Keras 3, and its entry in the file.

    Attributes:
      name, kind: the layer's name and class in the file.
      layer: the layer of Keras 3; None for a function, which has no weights.
      inner: a model's layers in the file's order, including its inputs; None for any other layer.
      trainable: the flag in the file; it decides the order of the weights there.
    """

    name: str
    kind: str
    layer: keras.Layer | None
    inner: tuple[Built, ...] | None = None
    trainable: bool = True

    def all(self) -> Iterator[Built]:
        """This layer and all layers inside it. A model comes before its layers."""
        yield self
        for each in self.inner or ():
            yield from each.all()


def build(config: Mapping[str, Any], custom: Mapping[str, Any], trust: bool) -> Built:
    """Builds a model without its weights.

    Args:
      config: the model's configuration, as a file has it.
      custom: the file's own classes and functions, by name.
      trust: whether code in the file may run.

    Raises:
      NotTranslated: part of it has no equivalent in Keras 3.
    """
    return _Builder(custom, trust).layer(config, None)


class _Builder:
    def __init__(self, custom: Mapping[str, Any], trust: bool):
        self._custom = custom
        self._trust = trust

    def layer(self, config: Mapping[str, Any], name: str | None) -> Built:
        """Builds any layer or model. `name` replaces the name in the configuration."""
        inner = config.get("config")
        kind = str(config["class_name"])
        graph = isinstance(inner, Mapping) and {"layers", "input_layers", "output_layers"} <= set(inner)
        if kind == "Sequential" or (isinstance(inner, list) and kind not in _MODELS):
            return self._sequential(config, name)
        if graph:
            make = keras.Model if kind in _MODELS else layer_class(config, self._custom)
            return self._functional(inner, kind, make, name)  # type: ignore[arg-type]
        layer = make_layer(config, self._custom, name, self._trust)
        if isinstance(layer, keras.Model) and not layer.built:
            _build_as_it_was(layer, config)
        trainable = bool((inner or {}).get("trainable", True)) if isinstance(inner, Mapping) else True
        return Built(str((inner or {}).get("name", layer.name)), kind, layer, None, trainable)

    def _sequential(self, config: Mapping[str, Any], name: str | None) -> Built:
        inner = config["config"]
        entries = inner if isinstance(inner, list) else inner["layers"]
        own_name = str(config.get("name") or (inner["name"] if isinstance(inner, Mapping) else "sequential"))
        taken: set[str] = set()
        found = []
        shape, dtype = None, None
        for position, entry in enumerate(entries):
            if entry["class_name"] == "InputLayer":
                shape, dtype = _input_shape(entry["config"]), entry["config"].get("dtype")
                continue
            if position == 0 and "batch_input_shape" in (entry.get("config") or {}):
                shape = entry["config"]["batch_input_shape"]
            found.append(self.layer(entry, _unique(_name_in(entry), taken)))
        layers = [each.layer for each in found]
        if shape is not None:
            layers.insert(0, keras.Input(batch_shape=tuple(shape), dtype=dtype or "float32"))
        try:
            model = keras.Sequential(layers, name=plain_name(name or own_name))
        except Exception as error:
            raise NotTranslated(f"the layers of {own_name!r} do not fit together: {first_line(error)}") from error
        if not model.built:
            _build_as_it_was(model, config)
        return Built(own_name, "Sequential", model, tuple(found))

    def _functional(self, inner: Mapping[str, Any], kind: str, make: Callable[..., Any], name: str | None) -> Built:
        model_name = str(inner.get("name") or "model")
        graph = _Graph(self, inner["layers"])
        try:
            inputs = graph.get(inner["input_layers"])
            outputs = graph.get(inner["output_layers"])
        except (KeyError, IndexError, RecursionError) as error:
            raise NotTranslated(f"the graph of the model {model_name!r} is not complete") from error
        _name_functions(outputs, [each.layer for each in graph.built if each.layer is not None])
        try:
            model = make(inputs=_one(inputs), outputs=_one(outputs), name=plain_name(name or model_name))
        except Exception as error:
            raise NotTranslated(f"the model {model_name!r} cannot be put together: {first_line(error)}") from error
        return Built(model_name, kind, model, tuple(graph.built), bool(inner.get("trainable", True)))


class _Graph:
    """The calls of a functional model's layers. Each call is made when its result is first needed."""

    def __init__(self, builder: _Builder, entries: list[Mapping[str, Any]]):
        self._nodes: dict[tuple[str, int], tuple[int, Any]] = {}
        self._made: dict[tuple[str, int], list[Any]] = {}
        self._entries = entries
        self._positions: dict[str, int] = {}
        taken: set[str] = set()
        self.built: list[Built] = []
        for position, entry in enumerate(entries):
            name = _name_in(entry)
            self._positions[name] = position
            self.built.append(_entry(builder, entry, _unique(name, taken)))
            # A model already has one call, which the configuration does not list.
            first = 1 if self.built[-1].inner is not None else 0
            for index, node in enumerate(entry.get("inbound_nodes") or []):
                self._nodes[name, first + index] = position, node
        self._in_order()

    def _in_order(self) -> None:
        """Calls all layers whose inputs are ready, in rounds. A deep network then needs no deep recursion."""
        waiting = list(self._nodes)
        while waiting:
            left = [key for key in waiting if not self._ready(key)]
            if len(left) == len(waiting):
                return  # the outputs report what is missing
            waiting = left

    def _ready(self, key: tuple[str, int]) -> bool:
        _, node = self._nodes[key]
        if any(self._at(ref) not in self._made for ref in self._references(node) if not self._is_input(ref[0])):
            return False
        self._call(key)
        return True

    def _is_input(self, name: str) -> bool:
        return self._entries[self._positions[name]]["class_name"] == "InputLayer"

    def _at(self, reference: Any) -> tuple[str, int]:
        name, index = str(reference[0]), int(reference[1])
        if (name, index) not in self._nodes and (name, index + 1) in self._nodes:
            return name, index + 1  # some versions do not count the model's own call
        return name, index

    def _is_reference(self, value: Any) -> bool:
        return (
            isinstance(value, list)
            and len(value) in (3, 4)
            and isinstance(value[0], str)
            and value[0] in self._positions
            and all(isinstance(index, int) for index in value[1:3])
        )

    def _references(self, value: Any) -> Iterator[list[Any]]:
        if self._is_reference(value):
            yield value
            value = value[3] if len(value) == 4 else None
        elif isinstance(value, list) and value[:1] == [_CONSTANT]:
            value = value[3] if len(value) == 4 else None
        if isinstance(value, Mapping):
            value = list(value.values())
        for each in value if isinstance(value, list) else ():
            yield from self._references(each)

    def get(self, value: Any) -> Any:
        """The value with each reference replaced by its tensor."""
        if self._is_reference(value):
            name, which = str(value[0]), int(value[2])
            if self._is_input(name):
                return self.built[self._positions[name]].layer.output  # type: ignore[union-attr]
            return self._made[self._at(value)][which]
        if isinstance(value, list) and value[:1] == [_CONSTANT]:
            return plain(value[2])
        if isinstance(value, Mapping) and "class_name" not in value:
            return {key: self.get(each) for key, each in value.items()}
        if isinstance(value, list):
            return [self.get(each) for each in value]
        return plain(value)

    def _call(self, key: tuple[str, int]) -> None:
        """Makes one call of a layer and keeps the result."""
        position, node = self._nodes[key]
        entry, built = self._entries[position], self.built[position]
        arguments = {name: self.get(value) for name, value in _keywords(node).items()}
        first = self.get(node)
        if built.layer is None:
            function = str(entry["config"]["function"])
            try:
                result = operations.call(function, first, arguments)
            except NotTranslated as error:
                raise NotTranslated(f"in the layer {key[0]!r}, {error}") from error
        else:
            if isinstance(node, list) and len(node) == 1 and isinstance(node[0], list):
                first = first[0]
            result = self._result(built, first, arguments)
        self._made[key] = (
            list(result)
            if isinstance(result, list | tuple) and not _is_shape(result)
            else list(result.values())
            if isinstance(result, Mapping)
            else [result]
        )

    def _result(self, built: Built, first: Any, arguments: dict[str, Any]) -> Any:
        assert built.layer is not None
        given = {name: value for name, value in arguments.items() if value is not None}
        try:
            return built.layer(first, **given)
        except Exception as error:
            raise NotTranslated(
                f"the layer {built.name!r} ({built.kind}) cannot be called: {first_line(error)}"
            ) from error


def _entry(builder: _Builder, entry: Mapping[str, Any], name: str) -> Built:
    kind = str(entry["class_name"])
    config = entry.get("config") or {}
    if kind == "InputLayer":
        shape = _input_shape(config)
        layer = keras.layers.InputLayer(batch_shape=tuple(shape), dtype=config.get("dtype") or "float32", name=name)
        return Built(_name_in(entry), kind, layer)
    if kind in _FUNCTIONS:
        if "function" not in config:
            raise NotTranslated(f"the layer {_name_in(entry)!r} ({kind}) calls a method of TensorFlow's tensors")
        return Built(_name_in(entry), kind, None)
    if kind == "TensorFlowOpLayer":
        raise NotTranslated(
            f"the layer {_name_in(entry)!r} ({kind}) is a bare operation of TensorFlow, as Keras before 2.4 wrote them"
        )
    return builder.layer(entry, name)


def _input_shape(config: Mapping[str, Any]) -> list[int | None]:
    shape = config.get("batch_input_shape", config.get("batch_shape"))
    if shape is None:
        raise NotTranslated(f"the input {config.get('name', '')!r} has no shape")
    return list(plain(shape))


def _name_in(entry: Mapping[str, Any]) -> str:
    inner = entry.get("config")
    return str(entry.get("name") or (inner.get("name") if isinstance(inner, Mapping) else None) or "layer")


def _unique(name: str, taken: set[str]) -> str:
    """A name that Keras 3 accepts and that is not taken yet."""
    wanted = unique = plain_name(name)
    further = 1
    while unique in taken:
        unique = f"{wanted}_{further}"
        further += 1
    taken.add(unique)
    return unique


def _keywords(node: Any) -> Mapping[str, Any]:
    """The keyword arguments. Keras 2 writes them after each tensor of the first argument."""
    if isinstance(node, list):
        if len(node) == 4 and isinstance(node[0], str) and isinstance(node[3], Mapping):
            return node[3]
        for each in node:
            if found := _keywords(each):
                return found
    if isinstance(node, Mapping):
        for each in node.values():
            if found := _keywords(each):
                return found
    return {}


def _is_shape(value: Any) -> bool:
    return isinstance(value, tuple) and all(size is None or isinstance(size, int) for size in value)


def _one(values: Any) -> Any:
    return values[0] if isinstance(values, list) and len(values) == 1 else values


def _name_functions(outputs: Any, layers: list[keras.Layer]) -> None:
    """Gives the operations that are not layers their own names: Keras requires all names in a model to differ."""
    taken = {layer.name for layer in layers}
    seen: set[int] = set()
    open_tensors = keras.tree.flatten(outputs)
    while open_tensors:
        tensor = open_tensors.pop()
        history = getattr(tensor, "_keras_history", None)
        if history is None or id(history.operation) in seen:
            continue
        operation = history.operation
        seen.add(id(operation))
        if not isinstance(operation, keras.Layer):
            operation.name = _unique(operation.name, taken)
        for node in operation._inbound_nodes:
            open_tensors.extend(node.input_tensors)


def _build_as_it_was(model: keras.Model, config: Mapping[str, Any]) -> None:
    """Builds a model without an input layer for the shape in the file, if there is one."""
    inner = config.get("config")
    shape = (config.get("build_config") or {}).get("input_shape")
    if shape is None and isinstance(inner, Mapping):
        shape = inner.get("build_input_shape")
    if shape is None:
        return
    try:
        model(keras.KerasTensor(tuple(shape)))
        if not model.built:
            model.build(tuple(shape))
    except Exception as error:
        raise NotTranslated(f"the model {model.name!r} cannot be built: {first_line(error)}") from error


__all__ = ["Built", "NotTranslated", "UnknownClass", "build"]
