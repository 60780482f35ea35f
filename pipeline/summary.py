"""The totals of a run, as `summary.json` holds them and the command line prints them."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline.label_doubts import label_doubts
from transforms.statistics import DATASET, FIGURES, SUSPICIOUS, Digest, z_score
from transforms.unit import Receipt

# A class is notable if its border or corner mass lies this many standard deviations above the other classes' means.
NOTABLE_Z = 3.0


@dataclasses.dataclass(frozen=True, slots=True)
class Notable:
    """A class whose maps hold unusually much of their mass at the border or in a corner.

    Attributes:
      class_index, class_name: the class.
      figure: `border_mass` or `corner_mass`.
      mean: the mean of the figure over the class.
      others: the mean of the other classes' means.
      z: the difference of the two in standard deviations of the other classes' means.
      images: the number of maps of the class.
    """

    class_index: int
    class_name: str | None
    figure: str
    mean: float
    others: float
    z: float
    images: int

    def sentence(self) -> str:
        where = "in one corner" if self.figure == "corner_mass" else "along the border"
        name = repr(self.class_name) if self.class_name else self.class_index
        return (
            f"class {name} holds {self.mean:.0%} of its saliency {where}, the other classes {self.others:.0%} "
            f"(z = {self.z:.1f}, {self.images} maps)"
        )


@dataclasses.dataclass(frozen=True, slots=True)
class Summary:
    """The content of `summary.json`.

    Attributes:
      run: the run that wrote it.
      units, units_computed: the number of units of the output, and of those that this run computed.
      images, rows, failed: of all units; `failures` counts by kind of error.
      failed_fraction: failed over images and failed.
      seconds, images_per_second: of this run, from the start of its first unit to the end of its last; None if it
        computed none.
      labelled, correct, accuracy: images with a label, those whose label is predicted, and the ratio of the two.
      completeness: p50, p95, p99 and max of the completeness error; None without images, and for methods that do not
        decompose the logit.
      notable: the classes that stand out, largest z first.
      repeated_ids: images that share their id with another image; an estimate if there are more than 131,072 ids, and
        None in summaries of earlier versions.
      warnings: what looks wrong with the data, one sentence each.
    """

    run: str
    units: int
    units_computed: int
    images: int
    rows: int
    failed: int
    failures: dict[str, int]
    failed_fraction: float
    seconds: float | None
    images_per_second: float | None
    labelled: int
    correct: int
    accuracy: float | None
    completeness: dict[str, float] | None
    notable: list[Notable]
    repeated_ids: int | None = None
    warnings: list[str] = dataclasses.field(default_factory=list)  # summaries of earlier versions have none

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=1)

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> Summary:
        return cls(**{**value, "notable": [Notable(**each) for each in value["notable"]]})


def summarize(
    run: str,
    receipts: Sequence[Receipt],
    digests: Sequence[Digest],
    class_names: Sequence[str] | None,
    repeated_ids: int | None = None,
) -> Summary:
    """The summary of an output that consists of `receipts`."""
    computed = [receipt for receipt in receipts if receipt.run == run]
    images, failed = sum(r.images for r in receipts), sum(r.failed for r in receipts)
    seconds = max(r.ended for r in computed) - min(r.started for r in computed) if computed else None
    dataset = next((d for d in digests if d.class_index == DATASET), None)
    labelled, correct = (dataset.labelled, dataset.correct) if dataset else (0, 0)
    return Summary(
        run=run,
        units=len(receipts),
        units_computed=len(computed),
        images=images,
        rows=sum(r.rows for r in receipts),
        failed=failed,
        failures=dict(sum((Counter(r.failures) for r in receipts), Counter())),
        failed_fraction=failed / (images + failed) if failed else 0.0,
        seconds=seconds,
        images_per_second=sum(r.images for r in computed) / seconds if seconds else None,
        labelled=labelled,
        correct=correct,
        accuracy=correct / labelled if labelled else None,
        completeness=_completeness(dataset),
        notable=_notable(digests, class_names),
        repeated_ids=repeated_ids,
        warnings=label_doubts(receipts, digests),
    )


def _completeness(dataset: Digest | None) -> dict[str, float] | None:
    if dataset is None or dataset.errors is None or not len(dataset.errors):
        return None
    quantiles = np.quantile(dataset.errors, [0.5, 0.95, 0.99]).tolist()
    return dict(zip(("p50", "p95", "p99"), quantiles, strict=True)) | {"max": dataset.largest_error}


def _notable(digests: Sequence[Digest], class_names: Sequence[str] | None) -> list[Notable]:
    found = []
    for figure in SUSPICIOUS:
        column = FIGURES.index(figure)
        for digest in digests:
            z = z_score(figure, digest.class_index, digests) if digest.class_index != DATASET else None
            if z is None or z < NOTABLE_Z:
                continue
            others = [
                d.means[column]
                for d in digests
                if d.class_index not in (DATASET, digest.class_index) and np.isfinite(d.means).all()
            ]
            name = class_names[digest.class_index] if class_names else None
            mean = float(digest.means[column])
            found.append(Notable(digest.class_index, name, figure, mean, float(np.mean(others)), z, digest.images))
    return sorted(found, key=lambda notable: -notable.z)
