"""Turns encoded images into the arrays that the model takes: decodes, resizes and preprocesses them."""

from transforms.images.ahead import decode_ahead
from transforms.images.budget import DECODING_BYTES, use_decoding_bytes
from transforms.images.decode import EXIF, FORMATS, Exif, decode_image, open_image, resize_image
from transforms.images.limits import UndecodableImage
from transforms.images.preprocess import (
    MODES,
    Affine,
    KerasPreprocessing,
    Preprocessing,
    application_family,
    preprocessing,
)
from transforms.images.resize import FILTERS, Resize, resized
from transforms.images.thumbnail import encode_thumbnail

__all__ = [
    "DECODING_BYTES",
    "EXIF",
    "FILTERS",
    "FORMATS",
    "MODES",
    "Affine",
    "Exif",
    "KerasPreprocessing",
    "Preprocessing",
    "Resize",
    "UndecodableImage",
    "application_family",
    "decode_ahead",
    "decode_image",
    "encode_thumbnail",
    "open_image",
    "preprocessing",
    "resize_image",
    "resized",
    "use_decoding_bytes",
]
