"""FullGrad, the exact decomposition of a classifier's logit, and its siblings. It knows nothing of Beam or files.

Read `terms` (what a term is), `rules` (which layer adds which term), `maps` (from terms to maps) and `method`.
"""

from transforms.fullgrad.agreement import Agreement, Disagreement
from transforms.fullgrad.explanation import Explanation, Options
from transforms.fullgrad.expose import Exposed, expose
from transforms.fullgrad.flatten import CannotExpose
from transforms.fullgrad.method import channel_layer, explain, explain_batch, full_gradients, prefers_jit
from transforms.fullgrad.siblings import check_method

__all__ = [
    "Agreement",
    "CannotExpose",
    "Disagreement",
    "Explanation",
    "Exposed",
    "Options",
    "channel_layer",
    "check_method",
    "explain",
    "explain_batch",
    "expose",
    "full_gradients",
    "prefers_jit",
]
