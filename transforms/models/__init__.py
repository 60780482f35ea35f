"""Loads the model of a run, from a file or from Keras' applications, ready to be explained."""

from transforms.models.errors import UnusableModel
from transforms.models.model import (
    LoadedModel,
    ModelSpec,
    fingerprint_of,
    load_once,
    models_loaded,
    noise_images,
    read_class_names,
)

__all__ = [
    "LoadedModel",
    "ModelSpec",
    "UnusableModel",
    "fingerprint_of",
    "load_once",
    "models_loaded",
    "noise_images",
    "read_class_names",
]
