"""Makes the finished row of a class from its merged statistics and the comparison with other classes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from math import isfinite
from typing import Any

import numpy as np

from transforms.statistics.accumulators import DATASET, ClassStatistics, Moments, Ranking
from transforms.statistics.effects import mean_interval, quantile_ranks
from transforms.statistics.figures import FIGURES
from transforms.statistics.tails import Tops

QUANTILES = {"p05": 0.05, "p25": 0.25, "p50": 0.5, "p75": 0.75, "p95": 0.95}

# What is known of each figure of a class: mean and standard deviation, quantiles, and the ends of the 95 % intervals of
# the mean and of the quantiles.
FIGURE_COLUMNS = (
    "mean",
    "std",
    *QUANTILES,
    *(f"{what}_{end}" for what in ("mean", *QUANTILES) for end in ("low", "high")),
)

# The figures that reveal shortcuts: the object is seldom in a corner or along the border.
SUSPICIOUS = ("border_mass", "corner_mass")


@dataclasses.dataclass(frozen=True, slots=True)
class Digest:
    """The small part of a class's statistics that other classes and the similarity ranking need.

    Attributes:
      class_index: the class; `DATASET` for all classes together.
      images: the number of its maps.
      labelled, correct: as in `ClassStatistics`.
      means: float64 [len(FIGURES)], the mean figures; NaN if no map has mass.
      coarse: float64 [14, 14], the mean coarse map.
      evidence, share: of [14, 14], as in `ClassStatistics`.
      tops: the largest shares of evidence in each cell. Only for the dataset; None for a class.
      map: float64 [grid, grid], the mean map. Only for the dataset; None for a class.
      errors: float64 [n], the sample's completeness errors without NaN. Only for the dataset; None for a class.
      largest_error: the largest completeness error; 0 if there are none.
      last_key: the largest key in the class's sample: the maps with smaller keys are in the sample, and it itself.
    """

    class_index: int
    images: int
    labelled: int
    correct: int
    means: np.ndarray
    coarse: np.ndarray
    evidence: Moments
    share: Moments
    tops: Tops | None
    map: np.ndarray | None
    errors: np.ndarray | None
    largest_error: float
    last_key: int = 0

    @classmethod
    def of(cls, class_index: int, statistics: ClassStatistics) -> Digest:
        whole = class_index == DATASET
        figures = statistics.figures
        return cls(
            class_index=class_index,
            images=statistics.logit.count,
            labelled=statistics.labelled,
            correct=statistics.correct,
            means=figures.mean if figures.count else np.full_like(figures.mean, np.nan),
            coarse=statistics.coarse.mean,
            evidence=statistics.evidence,
            share=statistics.share,
            tops=Tops.of(statistics.cells) if whole else None,
            map=statistics.map.mean if whole else None,
            errors=_completeness_errors(statistics) if whole else None,
            largest_error=statistics.largest_error,
            last_key=int(statistics.sample.keys.max(initial=0)),
        )


def z_score(figure: str, class_index: int, digests: Iterable[Digest]) -> float | None:
    """How many standard deviations a class's mean figure lies above the other classes' means.

    Mean and sample standard deviation (n − 1) are computed without the class itself, so that it cannot hide behind its
    own value. None if fewer than two other classes have maps, or if their means are all equal.
    """
    column = FIGURES.index(figure)
    # If one figure is finite, all are. Checking only one keeps the comparison of a thousand classes fast.
    means = {d.class_index: d.means[column] for d in digests if d.class_index != DATASET and isfinite(d.means[column])}
    own = means.pop(class_index, None)
    others = np.asarray(list(means.values()))
    if own is None or len(others) < 2 or not (std := others.std(ddof=1)):
        return None
    return float((own - others.mean()) / std)


def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The cosine of the angle between each map of a [N, …] and the map b […]: float64 [N], NaN without mass."""
    flat, other = a.reshape(len(a), -1).astype(np.float64), b.ravel().astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        return flat @ other / (np.linalg.norm(flat, axis=1) * np.linalg.norm(other))


def confusion_rows(
    class_index: int, statistics: ClassStatistics, class_names: Sequence[str] | None
) -> list[dict[str, Any]]:
    """The rows of `output.CONFUSION` about the images whose label is a class, one for each class that they are
    predicted as."""

    def name(index: int) -> str | None:
        return class_names[index] if class_names else None

    return [
        {
            "label": class_index,
            "label_name": name(class_index),
            "predicted": predicted,
            "predicted_name": name(predicted),
            "images": statistics.predictions[predicted],
        }
        for predicted in sorted(statistics.predictions)
    ]


def class_row(
    class_index: int,
    statistics: ClassStatistics,
    digests: Sequence[Digest],
    rankings: Mapping[int, Ranking],
    class_names: Sequence[str] | None,
) -> dict[str, Any]:
    """One row of `output.CLASSES`."""
    dataset = next((d for d in digests if d.class_index == DATASET), None)
    has_maps = statistics.map.count > 0
    mean_map = statistics.map.mean
    ranking = rankings.get(class_index, Ranking())
    row: dict[str, Any] = {
        "class": class_index,
        "class_name": class_names[class_index] if class_names and class_index >= 0 else None,
        "images": statistics.logit.count,
        "labelled": statistics.labelled,
        "correct": statistics.correct,
        **_mean_columns("mean_logit", statistics.logit),
        **_mean_columns("mean_probability", statistics.probability),
        "mean_map": mean_map.ravel() if has_maps else None,
        "std_map": statistics.map.std().ravel() if has_maps else None,
        "contrast_map": None,
        "wrong_map": statistics.wrong.mean.ravel() if statistics.wrong.count else None,
        "similarity": None,
        **{f"{name}_z": z_score(name, class_index, digests) for name in SUSPICIOUS},
        "top_logit_ids": [image_id for _, image_id in statistics.by_logit.top],
        "bottom_logit_ids": [image_id for _, image_id in statistics.by_logit.bottom],
        "top_similarity_ids": [image_id for _, image_id in ranking.top],
        "bottom_similarity_ids": [image_id for _, image_id in ranking.bottom],
    }
    if has_maps and dataset is not None and dataset.map is not None:
        row["contrast_map"] = (mean_map - dataset.map).ravel()
        row["similarity"] = float(cosine(mean_map[None], dataset.map)[0])
    row.update(_figure_columns(statistics))
    errors = _completeness_errors(statistics)
    for name in ("p50", "p95"):
        row[f"completeness_error_{name}"] = float(np.quantile(errors, QUANTILES[name])) if len(errors) else None
    row["completeness_error_max"] = statistics.largest_error if len(errors) else None
    return row


def _completeness_errors(statistics: ClassStatistics) -> np.ndarray:
    """The sample's completeness errors without NaN, float64 [n]. Methods that do not decompose the logit have none."""
    errors = statistics.sample.rows[:, -1].astype(np.float64)
    return errors[~np.isnan(errors)]


def _mean_columns(name: str, moments: Moments) -> dict[str, float | None]:
    """A mean and the ends of its 95 % interval; None where there are too few values, or none."""
    low, high = mean_interval(moments)
    mean = moments.mean if moments.count else np.nan
    return {name: _known(mean), f"{name}_low": _known(low), f"{name}_high": _known(high)}


def _known(value: Any) -> float | None:
    return float(value) if isfinite(value) else None


def _figure_columns(statistics: ClassStatistics) -> dict[str, float | None]:
    columns: dict[str, float | None] = {}
    std = statistics.figures.std()
    rows = statistics.sample.rows[:, : len(FIGURES)].astype(np.float64)
    rows = rows[np.isfinite(rows).all(axis=1)]  # as for the means: a map without mass has no figures
    lows, highs = mean_interval(statistics.figures)
    ordered = np.sort(rows, axis=0)
    ends = {what: quantile_ranks(len(rows), q) for what, q in QUANTILES.items()}
    quantiles = np.quantile(ordered, list(QUANTILES.values()), axis=0) if len(rows) else None
    for i, name in enumerate(FIGURES):
        columns[f"{name}_mean"] = float(statistics.figures.mean[i]) if statistics.figures.count else None
        columns[f"{name}_std"] = float(std[i]) if statistics.figures.count else None
        columns[f"{name}_mean_low"], columns[f"{name}_mean_high"] = _known(lows[i]), _known(highs[i])
        for j, what in enumerate(QUANTILES):
            columns[f"{name}_{what}"] = None if quantiles is None else float(quantiles[j, i])
            for end, rank in zip(("low", "high"), ends[what] or (None, None), strict=True):
                columns[f"{name}_{what}_{end}"] = None if rank is None else float(ordered[rank, i])
    return columns
