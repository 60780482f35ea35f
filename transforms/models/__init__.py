"""Loads the model of a run, from a file or from Keras' applications, ready to be explained."""

from transforms.models.errors import OpenSize, UnusableModel
from transforms.models.model import (
    LoadedModel,
    ModelSpec,
    fingerprint_of,
    load_once,
    models_loaded,
    noise_images,
    read_class_names,
    with_class_names,
)
from transforms.models.preprocessing_layers import PreprocessingLayer, preprocessing_layers

__all__ = [
    "LoadedModel",
    "ModelSpec",
    "OpenSize",
    "PreprocessingLayer",
    "UnusableModel",
    "fingerprint_of",
    "load_once",
    "models_loaded",
    "noise_images",
    "preprocessing_layers",
    "read_class_names",
    "with_class_names",
]
