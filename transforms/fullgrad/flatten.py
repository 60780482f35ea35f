"""Turns a Keras model into a flat list of steps and opens nested models, however they were written."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import tree


class CannotExpose(ValueError):
    """The model cannot be explained; one sentence that names the layer and the reason."""


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Value:
    """One tensor between steps; `shape` has None for a size that the model leaves open."""

    shape: tuple[int | None, ...]
    dtype: str


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Step:
    """One call of a layer or of a bare operation.

    Attributes:
      name: the layer's path, `backbone/conv1`; further calls of a shared layer are `conv1 (call 2)`.
      operation: the called layer or operation.
      args, kwargs: its arguments, with `Value`s instead of tensors; `training` is among them if the call takes it.
      outputs: the values it makes, in the order of `keras.tree.flatten`.
    """

    name: str
    operation: keras.Operation
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    outputs: tuple[Value, ...]

    @property
    def inputs(self) -> list[Value]:
        return [leaf for leaf in tree.flatten((self.args, self.kwargs)) if isinstance(leaf, Value)]

    @property
    def kind(self) -> str:
        return type(self.operation).__name__

    @property
    def trains(self) -> bool:
        """Whether the layer is called in training mode, as by a user's layer that passes `training=True`."""
        return bool(self.kwargs.get("training"))

    def call(self, values: Mapping[Value, Any]) -> Any:
        """Calls the operation on the tensors of its values."""
        args, kwargs = tree.map_structure(
            lambda leaf: values[leaf] if isinstance(leaf, Value) else leaf, (self.args, dict(self.kwargs))
        )
        return self.operation(*args, **kwargs)


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Program:
    """The steps from a model's image to one of its outputs.

    Attributes:
      input, output: the image and the output.
      steps: the steps that the output needs, in an order in which they can run.
      output_index: the output's index among the model's outputs, in the order of `keras.tree.flatten`.
      opened: the calls of models and users' layers that were replaced by steps, inner calls before outer ones. The
        steps must make the same as the call.
    """

    input: Value
    steps: tuple[Step, ...]
    output: Value
    output_index: int = 0
    opened: tuple[Step, ...] = ()

    def consumers(self) -> dict[Value, list[Step]]:
        found: dict[Value, list[Step]] = {}
        for step in self.steps:
            for value in step.inputs:
                found.setdefault(value, []).append(step)
        return found

    def producer(self, value: Value) -> Step | None:
        return next((step for step in self.steps if value in step.outputs), None)


def flatten(model: keras.Model, output: int | str | None = None) -> Program:
    """Opens `model`, and every model inside it, into a `Program`.

    Args:
      model: a built `Functional`, `Sequential` or subclassed model with one image input.
      output: the index or name of the output to explain, if the model has several.

    Raises:
      CannotExpose: the model is not built or has several inputs, or `output` is unknown or missing.
    """
    graph = _graph_of(model)
    if graph is None:
        raise CannotExpose(
            f"model {model.name!r} ({type(model).__name__}) cannot be traced: call it once on a batch of images, and "
            "write its call() with Keras layers and keras.ops only"
        )
    if len(graph.inputs) != 1 or len(graph.inputs[0].shape) != 4:
        shapes = ", ".join(str(tuple(x.shape)) for x in graph.inputs)
        raise CannotExpose(
            f"model {model.name!r} must have one image input [N, H, W, C], but has {len(graph.inputs)}: {shapes}"
        )
    source = _value_of(graph.inputs[0])
    opening = _Opening()
    outputs = opening.expand(graph, [source], "", training=False, stated_wins=_is_traced(model))
    index = _output_index(model, graph, output)
    steps, known = _needed(opening.steps, source, outputs[index])
    opened = tuple(call for call in opening.opened if known.issuperset((*call.inputs, *call.outputs)))
    return Program(source, steps, outputs[index], index, opened)


def _output_index(model: keras.Model, graph: keras.Function, output: int | str | None) -> int:
    """The index of the chosen output among the flat outputs."""
    names = list(getattr(model, "output_names", None) or [f"output_{i}" for i in range(len(graph.outputs))])
    if output is None and len(graph.outputs) == 1:
        return 0
    if isinstance(output, int) and 0 <= output < len(graph.outputs):
        return output
    if output in names:
        return names.index(str(output))
    if output is None:
        raise CannotExpose(f"model {model.name!r} has {len(names)} outputs: choose one of {', '.join(names)}")
    raise CannotExpose(f"model {model.name!r} has no output {output!r}; it has {', '.join(names)}")


class _Opening:
    """Opens models up; holds the steps so far and the calls that they replace."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.opened: list[Step] = []
        self._calls: dict[int, int] = {}

    def expand(
        self, graph: keras.Function, inputs: Sequence[Value], prefix: str, *, training: bool, stated_wins: bool
    ) -> list[Value]:
        """Appends the steps of `graph`, called on `inputs`, and returns its outputs.

        Args:
          training: the mode that the graph is called in.
          stated_wins: whether a call inside keeps the `training` that it states, as in a user's traced call(). A
            Functional model instead passes its own mode on to everything in it.
        """
        values: dict[int, Value] = {id(tensor): value for tensor, value in zip(graph.inputs, inputs, strict=True)}
        # The nodes of a graph are not in Keras' public API. But only they have the arguments of every call, also of
        # shared layers, and they have not changed since 3.0.
        by_depth = graph._nodes_by_depth
        for node in (node for depth in sorted(by_depth, reverse=True) for node in by_depth[depth]):
            operation = node.operation
            if node.is_input or operation is None:
                continue
            args, kwargs = node.arguments.fill_in(values)
            mode = training
            if _takes_training(operation):
                stated = kwargs.get("training")
                mode = bool(stated) if stated_wins and stated is not None else training
                kwargs = {**kwargs, "training": mode}
            made = self._call(operation, args, kwargs, node.outputs, prefix, mode)
            values.update((id(tensor), value) for tensor, value in zip(node.outputs, made, strict=True))
        return [values[id(tensor)] for tensor in graph.outputs]

    def _call(
        self,
        operation: keras.Operation,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        outputs: Sequence[keras.KerasTensor],
        prefix: str,
        training: bool,
    ) -> list[Value]:
        """Appends one call, opened up if possible, and returns the values it makes."""
        self._calls[id(operation)] = call = self._calls.get(id(operation), 0) + 1
        name = f"{prefix}{operation.name}" + (f" (call {call})" if call > 1 else "")
        inner = _graph_of_call(operation, args, kwargs) if _opens(operation) else None
        if inner is None or [tuple(y.shape) for y in inner[0].outputs] != [tuple(y.shape) for y in outputs]:
            made = [_value_of(tensor) for tensor in outputs]
            self.steps.append(Step(name, operation, args, kwargs, tuple(made)))
            return made
        graph, inside = inner
        inside_prefix = f"{prefix}{operation.name}/"
        made = self.expand(graph, inside, inside_prefix, training=training, stated_wins=_is_traced(operation))
        self.opened.append(Step(name, operation, args, kwargs, tuple(made)))
        return made


def _needed(steps: Sequence[Step], source: Value, output: Value) -> tuple[tuple[Step, ...], set[Value]]:
    """The steps that the output depends on, and all their values."""
    wanted = {output}
    kept: list[Step] = []
    for step in reversed(steps):
        if wanted.intersection(step.outputs):
            kept.append(step)
            wanted.update(step.inputs)
    made = {value for step in kept for value in step.outputs}
    return tuple(reversed(kept)), {source, *made}


def _opens(operation: keras.Operation) -> bool:
    """Whether a call is replaced by the steps inside it.

    Models are, and layers that are not Keras' own, and layers of Keras' applications. A class that overrides __call__
    is not, since it may do more than its call().
    """
    module = type(operation).__module__
    if not type(operation).__call__.__module__.startswith("keras."):
        return False
    return isinstance(operation, keras.Model | keras.Function) or (
        isinstance(operation, keras.Layer)
        and (not module.startswith("keras.") or module.startswith("keras.src.applications."))
    )


def _is_traced(operation: keras.Operation) -> bool:
    """Whether a model or layer has a user's call(), not Keras' own call() for a graph of layers."""
    own = type(operation).call.__module__.startswith("keras.")
    return not (own and isinstance(operation, keras.Function | keras.Sequential))


def _graph_of(model: keras.Model) -> keras.Function | None:
    """The graph of a model that is called on a single image input; None if it cannot be traced."""
    if not _is_traced(model):
        return _own_graph(model)
    if not isinstance(model, keras.Layer) or not model.built:
        return None
    try:
        symbols = _symbolic_inputs(model)
        return _trace(model, symbols, (symbols,), {"training": False} if _takes_training(model) else {})
    except Exception:  # a user's call() may raise anything on symbols
        return None


def _graph_of_call(
    operation: keras.Operation, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[keras.Function, list[Value]] | None:
    """The graph of one call, and the values that it is called on, in the order of the graph's inputs.

    None if the call cannot be traced. It then stays one step, which the general rule treats.
    """
    if not _is_traced(operation):
        graph = _own_graph(operation)
        given = args[0] if args else kwargs.get("inputs")
        if graph is None or not _is_called_as_built(graph, given):
            return None
        return graph, tree.flatten(given)
    if not isinstance(operation, keras.Layer) or not operation.built:
        return None
    try:
        graph, inside = _trace_call(operation, args, kwargs, None)
        if _mixes_images(_trace_call(operation, args, kwargs, _A_NUMBER_OF_IMAGES)[0]):
            return None
    except Exception:  # a user's call() may raise anything on symbols
        return None
    return graph, inside


# A prime that no other size equals: a first axis of this length is the images' axis.
_A_NUMBER_OF_IMAGES = 7919


def _trace_call(
    layer: keras.Layer, args: tuple[Any, ...], kwargs: dict[str, Any], images: int | None
) -> tuple[keras.Function, list[Value]]:
    """The graph of a user's call for a number of images, and the values that it takes."""
    symbols: dict[Value, keras.KerasTensor] = {}

    def symbol(leaf: Any) -> Any:
        if not isinstance(leaf, Value):
            return leaf
        shape = leaf.shape if images is None else (images, *leaf.shape[1:])
        return symbols.setdefault(leaf, keras.KerasTensor(shape, leaf.dtype))

    called = tree.map_structure(symbol, (args, kwargs))
    return _trace(layer, list(symbols.values()), *called), list(symbols)


def _mixes_images(graph: keras.Function) -> bool:
    """Whether a tensor inside has a first axis other than the images', as in attention over windows.

    Terms inside could not be assigned to images. As one step, the layer still has one output for each image.
    """
    made = (tensor for nodes in graph._nodes_by_depth.values() for node in nodes for tensor in node.outputs)
    return any(tuple(tensor.shape[:1]) != (_A_NUMBER_OF_IMAGES,) for tensor in made)


def _own_graph(model: keras.Operation) -> keras.Function | None:
    """The graph that a Functional or Sequential model was built from."""
    return model if isinstance(model, keras.Function) else getattr(model, "_functional", None)


def _is_called_as_built(graph: keras.Function, given: Any) -> bool:
    """Whether a call's tensors are a graph's inputs one by one; Keras need not match or reshape them."""
    flat = tree.flatten(given)
    if len(flat) != len(graph.inputs) or not all(isinstance(each, Value) for each in flat):
        return False
    if len(flat) > 1:
        try:
            tree.assert_same_structure(tree.lists_to_tuples(given), tree.lists_to_tuples(graph._inputs_struct))
        except (TypeError, ValueError):
            return False
    return all(len(each.shape) == len(symbol.shape) for each, symbol in zip(flat, graph.inputs, strict=True))


def _trace(layer: keras.Layer, inputs: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> keras.Function:
    """The graph of a layer's call() on symbolic tensors; its __call__() would record a single node instead."""
    # As in __call__: a layer that computes in half precision casts its inputs first.
    args, kwargs = tree.map_structure(lambda leaf: _autocast(layer, leaf), (args, kwargs))
    return keras.Function(inputs, layer.call(*args, **kwargs))


def _autocast(layer: keras.Layer, leaf: Any) -> Any:
    if not isinstance(leaf, keras.KerasTensor) or not layer.autocast or "float" not in leaf.dtype:
        return leaf
    wanted = layer.compute_dtype
    return keras.ops.cast(leaf, wanted) if "float" in wanted and leaf.dtype != wanted else leaf


def _symbolic_inputs(layer: keras.Layer) -> Any:
    """The inputs that a layer was built for, as symbolic tensors."""
    given = layer._inputs_struct if isinstance(layer, keras.Function) else None
    if given is None and layer._inbound_nodes:
        given = layer._inbound_nodes[0].arguments.args[0]
    if given is not None:
        return tree.map_structure(lambda symbol: keras.KerasTensor(symbol.shape, symbol.dtype), given)
    shapes = layer.get_build_config()
    shape = shapes.get("input_shape") if shapes else None
    if shape is None:
        raise ValueError("unknown input shape")
    return keras.KerasTensor((None, *shape[1:]), dtype=layer.input_dtype or "float32")


def _takes_training(operation: keras.Operation) -> bool:
    return isinstance(operation, keras.Layer) and "training" in inspect.signature(operation.call).parameters


def _value_of(tensor: keras.KerasTensor) -> Value:
    return Value(tuple(tensor.shape), str(tensor.dtype))
