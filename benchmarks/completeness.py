"""The completeness error of every family in keras.applications, at its full size.

    python -m benchmarks.completeness [--families ResNet50 …] [--csv FILE]

Weights are random, as in the tests. Nothing is downloaded.
"""

from __future__ import annotations

import argparse
import csv
import time

import keras
import numpy as np
from rich.console import Console
from rich.table import Table

from tests.transforms.fullgrad.networks import FAMILIES, family
from transforms.fullgrad import expose, full_gradients

FULL_SIZE = {"Xception": 299, "InceptionV3": 299, "InceptionResNetV2": 299}
COLUMNS = ("family", "input", "terms", "largest completeness error", "input term's share", "seconds")


def measure(name: str) -> tuple[str, ...]:
    """One row: the family's figures at its full size, over two images."""
    keras.utils.clear_session()
    size = FULL_SIZE.get(name, 224)
    model, images = family(name, size)
    started = time.perf_counter()
    explanation = full_gradients(expose(model), images, maps="signed", jit=False)
    seconds = time.perf_counter() - started
    whole = np.abs(explanation.layer_terms).sum(axis=1) + np.abs(explanation.input_term)
    return (
        name,
        f"{size}×{size}",
        str(len(explanation.layers)),
        f"{explanation.completeness_error.max():.1e}",
        f"{np.mean(np.abs(explanation.input_term) / whole):.1%}",
        f"{seconds:.0f}",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", nargs="+", default=list(FAMILIES), choices=list(FAMILIES), metavar="NAME")
    parser.add_argument("--csv", metavar="FILE", help="also write the table to this file")
    arguments = parser.parse_args()
    rows = []
    table = Table(*COLUMNS)
    for name in arguments.families:
        rows.append(measure(name))
        table.add_row(*rows[-1])
    Console().print(table)
    if arguments.csv:
        with open(arguments.csv, "w", newline="") as sink:
            csv.writer(sink).writerows([COLUMNS, *rows])


if __name__ == "__main__":
    main()
