"""Which cases are run: a fraction of the full grid, in which every kind meets every share in every kind of model."""

from __future__ import annotations

import itertools

import numpy as np

from benchmarks.shortcuts.case import Case
from benchmarks.shortcuts.plants import KINDS, Plant

SHARES = (1.0, 0.3, 0.1)
_PLANTED = 5  # classes with a shortcut in a model of eight; the other three are innocent


def planted(model: str, number: int, classes: int = 8) -> Case:
    """Case `number` of a model: five planted classes, a sixth shortcut that appears at random, the rest innocent.

    Four cases hold each kind with each share about once; strength, look and class change with the number.
    """
    order = np.random.default_rng(7).permutation(len(KINDS) * len(SHARES))
    combinations = [list(itertools.product(KINDS, SHARES))[i] for i in order]
    generator = np.random.default_rng((11, number))
    targets = generator.permutation(classes)
    plants: list[Plant] = []
    for i in range(_PLANTED):
        kind, share = combinations[(number * _PLANTED + i) % len(combinations)]
        strength = float(generator.choice([1.0, 0.6])) if share == 1 else 1.0
        plants.append(Plant(kind, int(targets[i]), share, strength, int(generator.integers(12))))
    free = [kind for kind in KINDS if kind not in {plant.kind for plant in plants}]
    plants.append(Plant(free[number % len(free)], -1, 0.3, 1.0, int(generator.integers(12))))
    return Case(model, classes, tuple(plants), number)


def unplanted(model: str, number: int, classes: int = 8) -> Case:
    """A case without shortcuts (odd numbers), or with three that appear at random (even numbers)."""
    generator = np.random.default_rng((13, number))
    kinds = generator.permutation(len(KINDS))[: 3 * (1 - number % 2)]
    plants = tuple(Plant(KINDS[k], -1, 0.3, 1.0, int(generator.integers(12))) for k in kinds)
    return Case(model, classes, plants, 1000 + number)


def binary(model: str, number: int) -> Case:
    """Two classes; the first has a shortcut."""
    generator = np.random.default_rng((17, number))
    plant = Plant(KINDS[number % len(KINDS)], int(generator.integers(2)), SHARES[number % 2], 1.0, number)
    return Case(model, 2, (plant,), 2000 + number, train=300, test=250)


def many(model: str, number: int) -> Case:
    """Fifty classes, ten of them with a shortcut."""
    generator = np.random.default_rng((19, number))
    targets = generator.permutation(50)[:10]
    plants = tuple(Plant(KINDS[i % len(KINDS)], int(target), SHARES[i % 2], 1.0, i) for i, target in enumerate(targets))
    return Case(model, 50, plants, 3000 + number, train=60, test=40)


def cases(quick: bool) -> list[Case]:
    """The cases in the order in which they are run, so that a run that is cut short is balanced too."""
    if quick:
        return [planted("cnn", 0), unplanted("cnn", 0)]
    found = []
    for number in range(8):
        found += [planted("cnn", number), planted("mobilenet", number)]
        if number < 5:
            found.append(planted("resnet", number))
        if number == 2:
            found += [unplanted("cnn", 0), unplanted("mobilenet", 1), binary("cnn", 0)]
        if number == 4:
            found += [unplanted("resnet", 0), binary("cnn", 1), many("resnet", 0)]
    return found
