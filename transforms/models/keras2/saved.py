"""Reads what a model file holds: the version of Keras that wrote it, the model's configuration, its weights."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import zipfile
from collections.abc import Iterator
from typing import Any

import h5py

_HDF5 = b"\x89HDF\r\n\x1a\n"
_ZIP = b"PK"


class Unreadable(ValueError):
    """The file is not a complete Keras model. The message is the reason, written to stand in brackets."""


@dataclasses.dataclass(frozen=True, slots=True)
class Saved:
    """A model file.

    Attributes:
      path: the file's local path.
      kind: `keras` for a zip archive or `h5` for HDF5, by its content, whatever its name.
      version: the version of Keras that wrote it; empty if the file does not say.
      config: the model's configuration; None if the file has only weights.
    """

    path: str
    kind: str
    version: str
    config: dict[str, Any] | None

    @property
    def by_keras_2(self) -> bool:
        """Whether Keras 2 or an older version wrote it. Before 2.0, files did not say their version."""
        return self.config is not None and not self.version.startswith("3")

    @contextlib.contextmanager
    def weights(self) -> Iterator[h5py.Group]:
        """The HDF5 group of the weights."""
        if self.kind == "h5":
            with h5py.File(self.path, "r") as file:
                yield file.get("model_weights", file)
            return
        with zipfile.ZipFile(self.path) as archive:
            content = io.BytesIO(archive.read("model.weights.h5"))
        with h5py.File(content, "r") as file:
            yield file


def read_saved(path: str) -> Saved:
    """Reads a local file's configuration, without loading the model.

    Raises:
      Unreadable: the file is neither a Keras zip archive nor HDF5, or it is damaged.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(len(_HDF5))
    except OSError as error:
        raise Unreadable("there is no such file, or no access to it") from error
    try:
        if start.startswith(_ZIP):
            return _of_zip(path)
        if start == _HDF5:
            return _of_hdf5(path)
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise Unreadable("the file is damaged or not complete") from error
    raise Unreadable("it is empty" if not start else "it is neither a .keras archive nor HDF5")


def _of_zip(path: str) -> Saved:
    with zipfile.ZipFile(path) as archive:
        names = set(archive.namelist())
        if not {"config.json", "metadata.json"} <= names:
            raise Unreadable("it is a zip archive without config.json and metadata.json, which a .keras file has")
        version = json.loads(archive.read("metadata.json")).get("keras_version", "")
        return Saved(path, "keras", str(version), json.loads(archive.read("config.json")))


def _of_hdf5(path: str) -> Saved:
    with h5py.File(path, "r") as file:
        config = file.attrs.get("model_config")
        version = file.attrs.get("keras_version")
        if version is None and "model_weights" in file:
            version = file["model_weights"].attrs.get("keras_version")
        text = version.decode() if isinstance(version, bytes) else str(version or "")
        return Saved(path, "h5", text, None if config is None else json.loads(config))
