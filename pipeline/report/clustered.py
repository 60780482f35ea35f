"""Reads the clusters of each class, and turns them into the values of the page's data files."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
from apache_beam.io.filesystems import FileSystems

from pipeline.report.numbers import CodedMap, plain
from pipeline.report.words import percent, where
from transforms.output import Output, open_parquet

# The columns of clusters.parquet that the page shows.
_COLUMNS = "class view cluster size share labelled accuracy peak cells peak_share peak_others mean_map".split()

# So many rows are in memory at once, and those of a class.
_BATCH = 64


@dataclasses.dataclass(frozen=True, slots=True)
class ClassClusters:
    """The clusters of one class: rows of clusters.parquet in their order, the best view first."""

    class_index: int
    rows: tuple[dict[str, Any], ...] = ()


def read_clusters(output: Output) -> Iterator[ClassClusters]:
    """Yields the clusters of one class after another, in the order of the classes; nothing without clusters.parquet."""
    path = output.file("clusters.parquet")
    if not FileSystems.exists(path):
        return
    with open_parquet(path) as file:
        waiting: list[dict[str, Any]] = []
        for batch in file.iter_batches(_BATCH, columns=_COLUMNS, use_threads=False):
            for row in batch.to_pylist():
                if waiting and waiting[0]["class"] != row["class"]:
                    yield ClassClusters(waiting[0]["class"], tuple(waiting))
                    waiting = []
                waiting.append(row)
        if waiting:
            yield ClassClusters(waiting[0]["class"], tuple(waiting))


def clusters_value(clusters: ClassClusters) -> list[dict[str, Any]] | None:
    """What a class's page shows of its clusters, for each view; None for a class without clusters."""
    if not clusters.rows:
        return None
    views = list(dict.fromkeys(row["view"] for row in clusters.rows))
    return [
        {"view": view, "clusters": [_cluster(row) for row in clusters.rows if row["view"] == view]} for view in views
    ]


def _cluster(row: dict[str, Any]) -> dict[str, Any]:
    mean = np.asarray(row["mean_map"], np.float32)
    side = round(len(mean) ** 0.5)
    coded = CodedMap.of(mean.reshape(side, side))
    return {
        "cluster": row["cluster"],
        "size": row["size"],
        "share": plain(row["share"]),
        "labelled": row["labelled"],
        "accuracy": plain(row["accuracy"]),
        "peak": row["peak"],
        "cells": row["cells"],
        "sentence": cluster_sentence(row),
        "map": [coded.data, plain(coded.scale), plain(coded.offset), coded.height, coded.width],
    }


def cluster_sentence(row: dict[str, Any]) -> str:
    """What a cluster has that the rest of its class has not, in one sentence; `row` is one of clusters.parquet."""
    share = percent(row["share"])
    if row["share"] == 1:
        return "The evidence of all images is the same."
    if row["peak"] is None:
        return f"{share} of this class: their evidence lies where that of the others does."
    return (
        f"{share} of this class have more of their evidence {where(row['peak'])}: {percent(row['peak_share'])} of it; "
        f"the others {percent(row['peak_others'])}."
    )
