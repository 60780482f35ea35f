"""Assigns the weights in a Keras 2 file to the model's variables. A weight that does not fit is an error."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import h5py
import keras
import numpy as np

from transforms.models.keras2.graph import Built
from transforms.models.keras2.layers import NotTranslated
from transforms.models.keras2.saved import Saved

# Where a .keras file keeps the layers of a model; the second until TensorFlow 2.13.
_CONTAINERS = ("layers", "_layer_checkpoint_dependencies")
# The state of random generators, which is not used at inference.
_GENERATORS = re.compile(r"StateVar|seed_generator|_random_generator|random_generator")

_NAMES = frozenset("kernel bias gamma beta moving_mean moving_variance mean variance".split())
_RENAMED = {"depthwise_kernel": "kernel"}


def fill(saved: Saved, built: Built) -> None:
    """Assigns the file's weights to a model that was built from its configuration.

    Raises:
      NotTranslated: a weight is missing, unexpected, or has another shape or name.
    """
    with saved.weights() as group:
        if saved.kind == "h5":
            _from_hdf5(group, built)
        else:
            _from_archive(group, built)
    for each in built.all():
        if isinstance(each.layer, keras.layers.Normalization):
            each.layer.finalize_state()  # the layer computes with copies of its mean and variance


# ---- HDF5: a list of arrays for each layer of the outermost model


def _from_hdf5(group: h5py.Group, built: Built) -> None:
    names = [_text(name) for name in group.attrs.get("layer_names", _chunks(group.attrs, "layer_names"))]
    found = {name: _arrays(group[name]) for name in names}
    found = {name: arrays for name, arrays in found.items() if arrays}
    for each in built.inner or ():
        variables = _in_order(each)
        arrays = found.pop(each.name, [])
        _assign_all(each, variables, arrays)
    if found:
        raise NotTranslated(f"the file has weights for {next(iter(found))!r}, which the model does not have")


def _arrays(group: h5py.Group) -> list[tuple[str, np.ndarray]]:
    """The names and values of a layer's weights, without the state of random generators."""
    names = [_text(name) for name in group.attrs.get("weight_names", _chunks(group.attrs, "weight_names"))]
    return [(name, np.asarray(group[name])) for name in names if not _GENERATORS.search(name)]


def _chunks(attributes: Any, name: str) -> list[Any]:
    """A list that was too long for one attribute and was split over several."""
    parts: list[Any] = []
    while f"{name}{len(parts)}" in attributes:
        parts.append(attributes[f"{name}{len(parts)}"])
    return [each for part in parts for each in part]


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _in_order(built: Built) -> list[Any]:
    """The variables in Keras 2's order of a layer's weights: the trainable ones come first."""
    trained, others = _split(built)
    return trained + others


def _split(built: Built) -> tuple[list[Any], list[Any]]:
    """The layer's `trainable_weights` and `non_trainable_weights` as Keras 2 lists them.

    A frozen layer lists all its weights as non-trainable, one child after the other. A frozen model lists the trainable
    weights of its children first.
    """
    if built.layer is None:
        return [], []
    if built.inner is None:
        return _split_layer(built.layer, built.trainable)
    halves = [_split(each) for each in _once(built.inner)]
    trained = [variable for half, _ in halves for variable in half]
    others = [variable for _, half in halves for variable in half]
    return (trained, others) if built.trainable else ([], trained + others)


def _once(layers: Iterable[Built]) -> list[Built]:
    return list({id(each.layer or each): each for each in layers}.values())


def _split_layer(layer: keras.Layer, trainable: bool) -> tuple[list[Any], list[Any]]:
    """`_split` for a layer that is not a model. The weights of inner layers follow its own."""
    own = set(map(id, [*layer._trainable_variables, *layer._non_trainable_variables]))
    weights = {id(variable) for variable in layer.weights}
    trained = [variable for variable in layer._trainable_variables if id(variable) in weights]
    others = [variable for variable in layer._non_trainable_variables if id(variable) in weights]
    children = [_split_layer(child, True) for child in layer._layers]
    inside_trained = [variable for half, _ in children for variable in half if id(variable) not in own]
    inside_others = [variable for _, half in children for variable in half if id(variable) not in own]
    if trainable:
        return trained + inside_trained, others + inside_others
    return [], trained + others + inside_trained + inside_others


def _assign_all(built: Built, variables: Sequence[Any], arrays: Sequence[tuple[str, np.ndarray]]) -> None:
    if len(variables) != len(arrays):
        raise NotTranslated(
            f"the layer {built.name!r} ({built.kind}) has {len(variables)} weights, but the file has {len(arrays)} for "
            "it"
        )
    layers = {each.name: each.layer.name for each in built.all() if each.inner is None and each.layer is not None}
    for variable, (name, array) in zip(variables, arrays, strict=True):
        *above, last = name.removesuffix(":0").split("/")
        known = [layers[part] for part in ("/".join(above), *above[-1:]) if part in layers]
        mine = str(variable.path).split("/")
        theirs = _RENAMED.get(last, last)
        # Any other name, such as one from a user's layer, proves nothing.
        wrong = {theirs, mine[-1]} <= _NAMES and theirs != mine[-1]
        if known and not any(part in mine for part in known):
            wrong = True
        if wrong:
            raise NotTranslated(f"the weight {name!r} would go to {variable.path!r}, which has another name")
        _assign(variable, array, name)


# ---- .keras: a group for each layer, named for its class and counted


def _from_archive(group: h5py.Group, built: Built) -> None:
    filled: set[int] = set()
    _fill_group(_Paths(group), "", built.layer, built, filled)
    missing = [variable for variable in built.layer.weights if id(variable) not in filled]  # type: ignore[union-attr]
    if missing:
        raise NotTranslated(f"the file has no weights for {missing[0].path!r}")


class _Paths:
    """The groups by path. The separator is `/`, also in files where Windows wrote a backslash."""

    def __init__(self, group: h5py.Group):
        self.datasets: dict[str, h5py.Dataset] = {}
        self._children: dict[str, dict[str, None]] = {}
        group.visititems(self._note)

    def _note(self, path: str, item: Any) -> None:
        path = path.replace("\\", "/")
        parts = path.split("/")
        for depth in range(len(parts)):
            self._children.setdefault("/".join(parts[:depth]), {})[parts[depth]] = None
        if isinstance(item, h5py.Dataset):
            self.datasets[path] = item

    def children(self, path: str) -> list[str]:
        return list(self._children.get(path, ()))

    def variables(self, path: str) -> list[np.ndarray]:
        """The layer's own weights, in order."""
        start = _join(path, "vars")
        return [
            np.asarray(self.datasets[_join(start, key)])
            for key in sorted(
                self.children(start), key=lambda key: (not key.isdigit(), int(key) if key.isdigit() else 0)
            )
        ]

    def holds_any(self, path: str) -> bool:
        return any(name == path or name.startswith(f"{path}/") for name in self.datasets)


def _join(*parts: str) -> str:
    return "/".join(part for part in parts if part)


def _fill_group(paths: _Paths, path: str, layer: Any, built: Built | None, filled: set[int]) -> None:
    """Assigns the weights under `path` to a layer and to its inner layers."""
    inner = None if built is None else built.inner
    if inner is not None:
        for container in _CONTAINERS:
            if paths.holds_any(_join(path, container)):
                _fill_models(paths, _join(path, container), inner, filled)
                return
        return
    weights = {id(variable) for variable in layer.weights}
    own = [v for v in (*layer._trainable_variables, *layer._non_trainable_variables) if id(v) in weights]
    arrays = paths.variables(path)
    if len(own) != len(arrays):
        raise NotTranslated(f"the layer {layer.name!r} has {len(own)} weights, but the file has {len(arrays)} for it")
    for variable, array in zip(own, arrays, strict=True):
        _assign(variable, array, path)
        filled.add(id(variable))
    for name in paths.children(path):
        child = _join(path, name)
        if name == "vars" or not paths.holds_any(child) or _GENERATORS.search(name):
            continue
        value = getattr(layer, name, None)
        if isinstance(value, keras.Layer):
            _fill_group(paths, child, value, None, filled)
        elif isinstance(value, list | tuple | dict):
            values = list(value.values()) if isinstance(value, dict) else list(value)
            _fill_models(paths, child, [_unlisted(each) for each in values if isinstance(each, keras.Layer)], filled)
        else:
            raise NotTranslated(f"the layer {layer.name!r} has nothing called {name!r}, for which the file has weights")


def _unlisted(layer: keras.Layer) -> Built:
    return Built(layer.name, type(layer).__name__, layer)


def _fill_models(paths: _Paths, path: str, layers: Sequence[Built], filled: set[int]) -> None:
    """Assigns groups to the layers of a list. Groups are named after the layers' classes, and matched in order."""
    by_class: dict[str, list[Built]] = {}
    for each in _once(layers):
        by_class.setdefault(_snake_case(each.kind.rsplit(">", 1)[-1]), []).append(each)
    groups: dict[str, list[tuple[int, str]]] = {}
    for name in paths.children(path):
        base, _, number = name.rpartition("_")
        key = (base, int(number)) if number.isdigit() and base in by_class else (name, 0)
        groups.setdefault(key[0], []).append((key[1], name))
    for kind, members in by_class.items():
        found = [name for _, name in sorted(groups.pop(kind, []))]
        weighty = [each for each in members if each.layer is not None and each.layer.weights]
        if not weighty:
            continue
        # If there are as many groups as layers, each layer has one. Some versions leave out layers without weights.
        takers = members if len(found) == len(members) else weighty
        if len(found) != len(takers):
            raise NotTranslated(
                f"the model has {len(members)} layers of the kind {kind}, but the file has {len(found)}"
            )
        for each, name in zip(takers, found, strict=True):
            if each.layer is not None and each.layer.weights:
                _fill_group(paths, _join(path, name), each.layer, each, filled)
    for names in groups.values():
        for _, name in names:
            if paths.holds_any(_join(path, name)):
                raise NotTranslated(f"the file has weights for {name!r}, which the model does not have")


def _snake_case(name: str) -> str:
    name = re.sub(r"\W+", "", name)
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()


def _assign(variable: Any, array: np.ndarray, name: str) -> None:
    if tuple(variable.shape) != array.shape:
        raise NotTranslated(
            f"the weight {name!r} has the shape {list(array.shape)}, where {list(variable.shape)} was expected"
        )
    variable.assign(array)
