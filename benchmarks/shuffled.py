"""A model with the kernels of some layers shuffled, as a second side for `fullgrad compare`.

    python -m benchmarks.shuffled MODEL.keras SHUFFLED.keras --layers layer3_2 [--seed 0]

The values of a kernel stay, and so does their distribution; what the layer has learned is gone. Adebayo et al. 2018
(arXiv 1810.03292) test with such models whether maps depend on what a model has learned.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

import keras
import numpy as np


def shuffle_kernels(model: keras.Model, prefixes: Sequence[str], seed: int = 0) -> list[str]:
    """Puts the values of each kernel of some layers in a random order; the same seed gives the same order.

    Args:
      model: is changed.
      prefixes: the layers whose names begin with one of these are shuffled, if they have a kernel.
      seed: of the permutations.

    Returns:
      The names of the layers that were shuffled, in the model's order.

    Raises:
      ValueError: a prefix names no layer with a kernel.
    """
    layers = [layer for layer in model.layers if hasattr(layer, "kernel")]
    for prefix in prefixes:
        if not any(layer.name.startswith(prefix) for layer in layers):
            names = ", ".join(layer.name for layer in layers)
            raise ValueError(f"no layer with a kernel has a name that begins with {prefix!r}; there are {names}")
    generator = np.random.default_rng(seed)
    shuffled = [layer for layer in layers if layer.name.startswith(tuple(prefixes))]
    for layer in shuffled:
        kernel = np.asarray(layer.kernel)
        layer.kernel.assign(generator.permutation(kernel.ravel()).reshape(kernel.shape))
    return [layer.name for layer in shuffled]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", metavar="MODEL.keras")
    parser.add_argument("shuffled", metavar="SHUFFLED.keras", help="the file that is written")
    parser.add_argument("--layers", nargs="+", required=True, metavar="PREFIX", help="how the layers' names begin")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    model = keras.models.load_model(arguments.model, compile=False)
    try:
        names = shuffle_kernels(model, arguments.layers, arguments.seed)
    except ValueError as error:
        parser.error(str(error))
    temporary = f"{arguments.shuffled}.tmp.keras"  # so that an interrupt leaves no half of a model
    model.save(temporary)
    os.replace(temporary, arguments.shuffled)
    print(f"shuffled the kernels of {', '.join(names)}; written to {arguments.shuffled}")


if __name__ == "__main__":
    main()
