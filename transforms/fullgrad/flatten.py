"""A Keras model as a flat list of steps: nested models opened up, whatever way they were written in."""

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
    """One tensor between steps; `shape` has None where the model leaves a size open."""

    shape: tuple[int | None, ...]
    dtype: str


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Step:
    """One call of a layer or of a bare operation.

    Attributes:
      name: path of the layer, `backbone/conv1`; further calls of a shared layer are `conv1 (call 2)`.
      operation: what is called.
      args, kwargs: its arguments, with `Value`s in the place of tensors.
      outputs: the values it makes, in the order in which `keras.tree.flatten` gives them.
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

    def call(self, values: Mapping[Value, Any]) -> Any:
        """Calls the operation in inference mode on the tensors that stand for its values."""
        args, kwargs = self.arguments(values)
        return self.operation(*args, **kwargs)

    def arguments(self, values: Mapping[Value, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        args, kwargs = tree.map_structure(
            lambda leaf: values[leaf] if isinstance(leaf, Value) else leaf, (self.args, dict(self.kwargs))
        )
        if _takes_training(self.operation):
            kwargs["training"] = False
        return args, kwargs


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Program:
    """The steps from a model's image to one of its outputs, in an order in which they can run; no other steps."""

    input: Value
    steps: tuple[Step, ...]
    output: Value

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
      output: the index or name of the output to explain, for a model that has several.

    Raises:
      CannotExpose: not built, several inputs, or an `output` that is missing or needed.
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
    steps: list[Step] = []
    outputs = _expand(graph, [source], "", steps, {})
    return Program(source, *_needed(steps, outputs[_output_index(model, graph, output)]))


def _output_index(model: keras.Model, graph: keras.Function, output: int | str | None) -> int:
    """Which of the flat outputs is meant."""
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


def _expand(
    graph: keras.Function, inputs: Sequence[Value], prefix: str, steps: list[Step], calls: dict[int, int]
) -> list[Value]:
    """Appends the steps of `graph`, called on `inputs`, and returns its outputs."""
    values: dict[int, Value] = {id(tensor): value for tensor, value in zip(graph.inputs, inputs, strict=True)}
    # The nodes of a graph are no public API of Keras, but the only place that has the arguments of every call, those
    # of shared layers included; they have been the same since 3.0.
    by_depth = graph._nodes_by_depth
    for node in (node for depth in sorted(by_depth, reverse=True) for node in by_depth[depth]):
        operation = node.operation
        if node.is_input or operation is None:
            continue
        args, kwargs = node.arguments.fill_in(values)
        inner = _graph_of(operation) if _opens(operation) else None
        if inner is not None:
            inside = [leaf for leaf in tree.flatten(args[:1] or kwargs) if isinstance(leaf, Value)]
            made = _expand(inner, inside, f"{prefix}{operation.name}/", steps, calls)
        else:
            calls[id(operation)] = call = calls.get(id(operation), 0) + 1
            made = [_value_of(tensor) for tensor in node.outputs]
            name = f"{prefix}{operation.name}" + (f" (call {call})" if call > 1 else "")
            steps.append(Step(name, operation, args, kwargs, tuple(made)))
        values.update((id(tensor), value) for tensor, value in zip(node.outputs, made, strict=True))
    return [values[id(tensor)] for tensor in graph.outputs]


def _needed(steps: Sequence[Step], output: Value) -> tuple[tuple[Step, ...], Value]:
    """Leaves out what the output does not depend on."""
    wanted = {output}
    kept: list[Step] = []
    for step in reversed(steps):
        if wanted.intersection(step.outputs):
            kept.append(step)
            wanted.update(step.inputs)
    return tuple(reversed(kept)), output


def _opens(operation: keras.Operation) -> bool:
    """Whether a call is replaced by what happens inside: models always, and layers that are not Keras' own, or that
    its applications made for themselves."""
    module = type(operation).__module__
    return isinstance(operation, keras.Model | keras.Function) or (
        isinstance(operation, keras.Layer)
        and (not module.startswith("keras.") or module.startswith("keras.src.applications."))
    )


def _graph_of(operation: keras.Operation) -> keras.Function | None:
    """The graph of a model or layer, or None where it cannot be had and the layer stays one step."""
    if isinstance(operation, keras.Function):  # Functional models are Functions
        return operation
    if isinstance(operation, keras.Sequential) and getattr(operation, "_functional", None) is not None:
        return operation._functional
    if not isinstance(operation, keras.Layer) or not operation.built:
        return None
    # call() on symbolic tensors records layers and keras.ops, where __call__() would record one opaque node.
    try:
        symbols = tree.map_structure(
            lambda symbol: keras.KerasTensor(symbol.shape, symbol.dtype), _symbolic_inputs(operation)
        )
        kwargs = {"training": False} if _takes_training(operation) else {}
        return keras.Function(symbols, operation.call(symbols, **kwargs))
    except Exception:  # whatever a user's call() raises on symbols: the layer is then taken whole, by the general rule
        return None


def _symbolic_inputs(layer: keras.Layer) -> Any:
    """The shapes a layer was built for, as symbolic tensors."""
    if layer._inbound_nodes:
        return layer._inbound_nodes[0].arguments.args[0]
    shapes = layer.get_build_config()
    shape = shapes.get("input_shape") if shapes else None
    if shape is None:
        raise ValueError("unknown input shape")
    return keras.KerasTensor((None, *shape[1:]), dtype=layer.input_dtype or "float32")


def _takes_training(operation: keras.Operation) -> bool:
    return isinstance(operation, keras.Layer) and "training" in inspect.signature(operation.call).parameters


def _value_of(tensor: keras.KerasTensor) -> Value:
    return Value(tuple(tensor.shape), str(tensor.dtype))
