"""Rebuilds models that Keras 2 wrote, with the layers of Keras 3.

Keras 3 refuses most of these files. It reads some as another function than Keras 2 computed: `hard_sigmoid` has another
formula, and the weights of a partly frozen inner model are in another order. This package therefore reads the files
itself. `saved` reads configuration and weights, `graph` calls the layers, `layers` translates a layer's configuration,
`operations` translates TensorFlow's functions to `keras.ops`, and `weights` assigns every array to its variable.
"""

from transforms.models.keras2.graph import build
from transforms.models.keras2.layers import NeedsTrust, NotTranslated, UnknownClass
from transforms.models.keras2.saved import Saved, Unreadable, read_saved
from transforms.models.keras2.weights import fill

__all__ = [
    "NeedsTrust",
    "NotTranslated",
    "Saved",
    "UnknownClass",
    "Unreadable",
    "build",
    "fill",
    "read_saved",
]
