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
from transforms.statistics.classes import SUSPICIOUS, Digest, class_row, cosine, z_score
from transforms.statistics.figures import COARSE, FIGURES, map_figures, resample, unit_mass
from transforms.statistics.repeats import IdCounts, MergeIdCounts

__all__ = [
    "COARSE",
    "DATASET",
    "EXTREMES",
    "FIGURES",
    "SAMPLE_OF_CLASS",
    "SAMPLE_OF_DATASET",
    "SUSPICIOUS",
    "ClassStatistics",
    "Digest",
    "IdCounts",
    "MapRows",
    "MergeIdCounts",
    "MergeRankings",
    "Moments",
    "PartialStatistics",
    "Ranking",
    "Sample",
    "class_row",
    "cosine",
    "map_figures",
    "merged",
    "resample",
    "sample_key",
    "unit_mass",
    "z_score",
]
