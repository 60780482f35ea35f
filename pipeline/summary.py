"""The totals of a run, as `summary.json` holds them and the command line prints them."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.label_doubts import label_doubts
from transforms.statistics import DATASET, Digest, Exceeding, part_standouts, standouts
from transforms.unit import Receipt


@dataclasses.dataclass(frozen=True, slots=True)
class Notable:
    """A class with more evidence at a place than the other classes have there, or a part of whose images has more.

    Attributes:
      class_index, class_name: the class.
      place: where, in words.
      y, x: the centre of the cell that stands out most, as fractions of the image's height and width.
      mean: the part of the class's evidence at the place, on average over its maps. Where only a part of the class
        stands out, the part of its images that have more evidence there than 99 % of the other classes' images.
      others: the same of the other classes, on average.
      effect, gap: as in `Standout`: the distances to the mean of the other classes and to the next class. The effect is
        None where only a part of the class stands out.
      images: the number of maps of the class.
    """

    class_index: int
    class_name: str | None
    place: str
    y: float
    x: float
    mean: float
    others: float
    effect: float | None
    gap: float
    images: int

    def sentence(self) -> str:
        """What was found, how much of it, and what to do next."""
        name = repr(self.class_name) if self.class_name else self.class_index
        digits = 0 if round(100 * self.mean) != round(100 * self.others) else 1
        where = self.place if self.place in ("along the border", "over most of the image") else f"at the {self.place}"
        if self.effect is None:
            return (
                f"{self.mean:.0%} of the images of class {name} have more of their evidence {where} than 99% of the "
                f"other classes' images ({self.images:,} maps); fullgrad check tells whether the model uses it"
            )
        return (
            f"class {name} holds {self.mean:.{digits}%} of its evidence {where}, the other classes "
            f"{self.others:.{digits}%} ({self.effect:.1f} standard deviations more, {self.images:,} maps); "
            "fullgrad check tells whether the model uses it"
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
      notable: the classes that stand out somewhere, the largest effect first; then those of which a part does.
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
        # Earlier versions flagged classes by figures of the whole map, without a place.
        notable = [Notable(**each) for each in value["notable"] if "place" in each]
        return cls(**{**value, "notable": notable})


def summarize(
    run: str,
    receipts: Sequence[Receipt],
    digests: Sequence[Digest],
    class_names: Sequence[str] | None,
    repeated_ids: int | None = None,
    exceeding: Mapping[int, Exceeding] | None = None,
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
        notable=_notable(digests, class_names, exceeding or {}),
        repeated_ids=repeated_ids,
        warnings=label_doubts(receipts, digests),
    )


def _completeness(dataset: Digest | None) -> dict[str, float] | None:
    if dataset is None or dataset.errors is None or not len(dataset.errors):
        return None
    quantiles = np.quantile(dataset.errors, [0.5, 0.95, 0.99]).tolist()
    return dict(zip(("p50", "p95", "p99"), quantiles, strict=True)) | {"max": dataset.largest_error}


def _notable(
    digests: Sequence[Digest], class_names: Sequence[str] | None, exceeding: Mapping[int, Exceeding]
) -> list[Notable]:
    classes = [digest for digest in digests if digest.class_index != DATASET]
    found = standouts(
        {digest.class_index: digest.share for digest in classes},
        {digest.class_index: digest.evidence for digest in classes},
    )
    # What a whole class has, parts of it have too.
    known = {each.class_index for each in found}
    found += [each for each in part_standouts(exceeding) if each.class_index not in known]
    return [
        Notable(
            class_index=each.class_index,
            class_name=class_names[each.class_index] if class_names else None,
            place=each.place,
            y=each.y,
            x=each.x,
            mean=each.share,
            others=each.others,
            effect=each.effect,
            gap=each.gap,
            images=each.images,
        )
        for each in found
    ]
