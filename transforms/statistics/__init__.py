"""Figures of single maps, and statistics of many maps per class."""

from transforms.statistics.accumulators import (
    DATASET,
    EXTREMES,
    SAMPLE_OF_CLASS,
    SAMPLE_OF_DATASET,
    ClassStatistics,
    MapRows,
    MergeRankings,
    Moments,
    PartialStatistics,
    Ranking,
    Sample,
    merged,
    sample_key,
)
from transforms.statistics.candidates import EXAMPLES_OF_KIND, KINDS, SCORES, Candidates, MergeCandidates
from transforms.statistics.classes import (
    QUANTILES,
    SUSPICIOUS,
    Digest,
    class_row,
    confusion_rows,
    cosine,
    z_score,
)
from transforms.statistics.figures import COARSE, FIGURES, map_figures, resample, unit_mass
from transforms.statistics.repeats import IdCounts, MergeIdCounts
from transforms.statistics.standout import Standout, standouts

__all__ = [
    "COARSE",
    "DATASET",
    "EXAMPLES_OF_KIND",
    "EXTREMES",
    "FIGURES",
    "KINDS",
    "QUANTILES",
    "SAMPLE_OF_CLASS",
    "SAMPLE_OF_DATASET",
    "SCORES",
    "SUSPICIOUS",
    "Candidates",
    "ClassStatistics",
    "Digest",
    "IdCounts",
    "MapRows",
    "MergeCandidates",
    "MergeIdCounts",
    "MergeRankings",
    "Moments",
    "PartialStatistics",
    "Ranking",
    "Sample",
    "Standout",
    "class_row",
    "confusion_rows",
    "cosine",
    "map_figures",
    "merged",
    "resample",
    "sample_key",
    "standouts",
    "unit_mass",
    "z_score",
]
