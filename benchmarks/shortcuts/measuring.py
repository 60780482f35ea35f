"""Measures a case: trains its model, finds which shortcuts it uses, and explains its test images; all cached."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from typing import Any

import numpy as np

from benchmarks.shortcuts.case import Case, Truth
from benchmarks.shortcuts.evidence import Evidence, read_evidence


@dataclasses.dataclass(frozen=True, slots=True)
class Measured:
    """A case and all that statistics are made of.

    Attributes:
      case: the case.
      evidence: of its test images.
      truths: of its shortcuts, in their order.
    """

    case: Case
    evidence: Evidence
    truths: list[Truth]


def measure(case: Case, folder: pathlib.Path, package: str | None) -> Measured:
    """Trains, explains and tests a case, as far as the folder does not hold it yet."""
    explained = folder / f"{case.name}.npz"
    if not is_measured(case, folder):
        import keras  # slow, and not needed to count what is cached

        from benchmarks.shortcuts import models
        from benchmarks.shortcuts.explaining import write_evidence

        model = trained_and_tested(case, folder, package)
        data = models.dataset(case, models.TEST)
        write_evidence(model, data.images, data.labels, explained)
        keras.utils.clear_session()
    return Measured(case, read_evidence(explained), read_truths(case, folder))


def trained_and_tested(case: Case, folder: pathlib.Path, package: str | None) -> Any:
    """The case's Keras model. Which shortcuts it uses is in the folder afterwards; see `read_truths`."""
    from benchmarks.shortcuts import models

    folder.mkdir(parents=True, exist_ok=True)
    model = models.trained(case, folder, package)
    known = folder / f"{case.name}.json"
    if not known.exists():
        truths = models.truths(case, model)
        known.write_text(json.dumps([{k: v.tolist() for k, v in dataclasses.asdict(t).items()} for t in truths]))
    return model


def read_truths(case: Case, folder: pathlib.Path) -> list[Truth]:
    """Which shortcuts a tested model uses, in their order."""
    stored = json.loads((folder / f"{case.name}.json").read_text())
    return [Truth(**{k: np.asarray(v) for k, v in each.items()}) for each in stored]


def is_measured(case: Case, folder: pathlib.Path) -> bool:
    """Whether the folder holds all of a case's results."""
    return all((folder / f"{case.name}.{ending}").exists() for ending in ("json", "npz"))
