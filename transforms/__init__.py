"""The data's way from a shard's bytes to maps and their statistics.

`__all__` has the names for your own Beam pipelines (docs/pipelines.md). Each is imported on first use, because
`transforms.fullgrad` must work without Beam.
"""

from __future__ import annotations

import importlib
import os
import platform
from typing import TYPE_CHECKING, Any

# By default TensorFlow uses oneDNN only on CPUs with instructions for neural networks (AVX512-VNNI and later). Its
# convolutions are up to twice as fast on other CPUs too. TensorFlow reads this variable during its import. A value that
# is already set is kept.
if platform.machine() in ("x86_64", "AMD64"):
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

if TYPE_CHECKING:
    from transforms.images import Affine, Resize
    from transforms.inference import (
        CannotExplain,
        ExplainImages,
        FullGradModelHandler,
        ImageExplanation,
        ImageFailure,
    )
    from transforms.pictures import visualize

__all__ = [
    "Affine",
    "CannotExplain",
    "ExplainImages",
    "FullGradModelHandler",
    "ImageExplanation",
    "ImageFailure",
    "Resize",
    "visualize",
]

_MODULES = {"Affine": "images", "Resize": "images", "visualize": "pictures"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES.get(name, 'inference')}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
