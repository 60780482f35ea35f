"""A case of the benchmark: what is planted into which model, and what is true of it."""

from __future__ import annotations

import dataclasses
import hashlib
import json

import numpy as np

from benchmarks.shortcuts.plants import Plant

TEST = 1  # the split of the images that are explained

# A shortcut is used if it turns this share of other classes' clean images, beyond those that turn without it.
USED_FLIPS = 0.1


@dataclasses.dataclass(frozen=True, slots=True)
class Case:
    """One dataset and the model that learns it.

    Attributes:
      model: `mobilenet`, `resnet` or `cnn`.
      classes: K.
      plants: the shortcuts; at most one for a class.
      seed: of the pictures and the training.
      train, test: images of each class.
    """

    model: str
    classes: int
    plants: tuple[Plant, ...]
    seed: int
    train: int = 140
    test: int = 100

    @property
    def name(self) -> str:
        text = json.dumps(dataclasses.asdict(self), sort_keys=True)
        return f"{self.model}-{self.classes}-{self.seed}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


@dataclasses.dataclass(frozen=True, slots=True)
class Truth:
    """What a shortcut does to clean images of other classes.

    Attributes:
      flips: for each class, the share of the images that the shortcut turns to it: float64 [K].
      before: the share that was predicted so without it: float64 [K].
    """

    flips: np.ndarray
    before: np.ndarray

    def used_by(self, target: int) -> bool:
        return bool(self.flips[target] - self.before[target] >= USED_FLIPS)


def drawn_carriers(case: Case, labels: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Which images [N] carry which shortcuts [P]: bool [N, P]."""
    carries = np.zeros((len(labels), len(case.plants)), bool)
    for p, plant in enumerate(case.plants):
        able = np.flatnonzero(labels == plant.target) if plant.target >= 0 else np.arange(len(labels))
        carries[generator.permutation(able)[: round(plant.share * len(able))], p] = True
    return carries


def carriers(case: Case, labels: np.ndarray) -> np.ndarray:
    """Which of the test images [N] carry which shortcuts [P]: bool [N, P]."""
    return drawn_carriers(case, labels, np.random.default_rng((case.seed, TEST, 99)))
