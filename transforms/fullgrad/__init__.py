"""The method: exact decompositions of a classifier's logit into maps. Knows nothing of Beam or files."""

from transforms.fullgrad.expose import Exposed, expose
from transforms.fullgrad.flatten import CannotExpose
from transforms.fullgrad.method import Explanation, Options, explain_batch, full_gradients, prefers_jit

__all__ = [
    "CannotExpose",
    "Explanation",
    "Exposed",
    "Options",
    "explain_batch",
    "expose",
    "full_gradients",
    "prefers_jit",
]
