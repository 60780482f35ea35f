"""The model of a run: from its file, or from Keras' applications, to a model that is ready to be explained."""

from transforms.models.files import UnusableModel
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
