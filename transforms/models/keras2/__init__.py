"""Models that Keras 2 wrote, built anew with the layers of Keras 3.

Keras 3 refuses most of these files, and reads some as another function than Keras 2 computed: `hard_sigmoid` has
another formula, and the weights of a partly frozen inner model come in another order. So the file is read here: `saved`
finds configuration and weights, `graph` calls the layers, `layers` translates a layer's configuration, `operations` has
what TensorFlow's functions are in `keras.ops`, and `weights` puts every array into its variable.
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
