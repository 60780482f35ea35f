"""How often classes are flagged that differ by chance alone.

    python -m benchmarks.shortcuts.nulls [--draws N] [--cache FOLDER] [--csv FILE]

Each draw makes K classes of 20 to 60 images from one population: normal cells, skewed maps of unit mass whose
neighbours are alike, or the maps of the cached cases less the mean of their class. Flags need a discovery; `standouts`
asks for a least effect and a least gap too. More classes take longer, so they get fewer draws: N, N, N/2, N/20, N/100.
"""

from __future__ import annotations

import argparse
import pathlib

import numpy as np

from benchmarks.shortcuts.design import cases
from benchmarks.shortcuts.evidence import read_evidence
from benchmarks.shortcuts.measuring import is_measured
from benchmarks.shortcuts.scores import parts_of, unit
from benchmarks.tables import Report
from transforms.statistics import COARSE, Moments, standouts
from transforms.statistics.effects import effects

CLASSES = {2: 1, 3: 1, 8: 2, 100: 20, 1000: 100}  # and by what the number of draws is divided


def normal(generator: np.random.Generator, count: int) -> np.ndarray:
    return generator.normal(size=(count, COARSE, COARSE))


def skewed(generator: np.random.Generator, count: int) -> np.ndarray:
    blocks = np.exp(1.5 * generator.normal(size=(count, 5, 5)))
    maps = np.repeat(np.repeat(blocks, 3, axis=1), 3, axis=2)[:, :COARSE, :COARSE]
    return maps / maps.sum(axis=(1, 2), keepdims=True)


def residuals(folder: pathlib.Path) -> np.ndarray:
    """The maps of all cached cases (positive part, unit mass) less the mean map of their class: [N, 14, 14]."""
    found = []
    for case in cases(False):
        if is_measured(case, folder):
            evidence = read_evidence(folder / f"{case.name}.npz")
            maps = unit(evidence.positive[0])
            for k in range(case.classes):
                own = maps[evidence.predicted == k]
                found.append(own - own.mean(axis=0))
    return np.concatenate(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--cache", type=pathlib.Path, default=pathlib.Path.home() / ".cache" / "fullgrad-shortcuts")
    parser.add_argument("--csv", metavar="FILE", help="also write the table to this file")
    arguments = parser.parse_args()
    real = residuals(arguments.cache)
    generator = np.random.default_rng(0)
    populations = {
        "normal": normal,
        "skewed maps": skewed,
        "real maps, centred": lambda generator, count: real[generator.integers(0, len(real), count)],
    }
    rows = []
    for name, draw in populations.items():
        cells = []
        for classes, divisor in CLASSES.items():
            draws = max(1, arguments.draws // divisor)
            discovered = flagged = 0
            for _ in range(draws):
                images = [draw(generator, int(generator.integers(20, 60))) for _ in range(classes)]
                groups = {k: Moments.of(own) for k, own in enumerate(images)}
                targets = np.repeat(np.arange(classes), [len(own) for own in images])
                # Two kinds of evidence that do not depend on each other give chance the most room.
                together = np.abs(np.concatenate(images))
                parts = parts_of(together, together[:, ::-1, ::-1], targets)
                discovered += bool(effects(groups).discovered().any())
                flagged += bool(standouts(groups, groups) or parts)
            cells.append(f"{discovered / draws:.1%}, {flagged / draws:.1%} of {draws}")
        rows.append((name, *cells))
    report = Report()
    report.table("runs with a discovery, with a flag", ("population", *(f"{k} classes" for k in CLASSES)), rows)
    if arguments.csv:
        report.write(arguments.csv)


if __name__ == "__main__":
    main()
