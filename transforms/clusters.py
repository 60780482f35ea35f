"""Clusters the images of each class and writes `clusters.parquet` and `cluster_members.parquet`, a class at a time.

A class is clustered from a uniform sample of its maps: the one that its statistics keep for quantiles. So any division
into units gives the same clusters. Rows travel through files, not through the runner.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam.io.filesystems import FileSystems
from apache_beam.transforms.combiners import ToList

from transforms.output import CLUSTER_MEMBERS, CLUSTERS, Output, class_block, open_file, open_parquet
from transforms.statistics import (
    CLUSTER,
    COARSE,
    DATASET,
    EXAMPLES_OF_KIND,
    LEAST_IMAGES_OF_CLUSTERS,
    VIEWS,
    Candidates,
    Clusters,
    Digest,
    cosine,
    find_clusters,
    peak_of,
    sample_key,
    view_rows,
)
from transforms.statistics.candidates import ROW
from transforms.unit import Receipt, Unit

FILES = {"clusters": CLUSTERS, "cluster_members": CLUSTER_MEMBERS}

# The tagged output of a group's clusters with (block of classes, candidates for examples).
_CANDIDATES = "candidates"

# So many classes share a file, and their rows are in memory together; they are clustered one after the other.
_CLASSES_TOGETHER = 8

# Rows of a unit are collected up to this size before they are written.
_BYTES_TOGETHER = 64 << 20

# The columns of maps that clusters need.
_COLUMNS = ["image_id", "shard", "index", "target", "target_name", "correct", "channel_terms", "coarse_map"]

_COMPRESSED = pa.ipc.IpcWriteOptions(compression="zstd")


class WriteClusters(beam.PTransform):
    """Writes the files of clusters. It takes all receipts.

    Yields (block of classes, `Candidates`): the examples of the clusters of each class, in the best view that it has.

    Args:
      output: the output folder, with the units' maps.
      digests: the side input of all classes' `Digest`.
    """

    def __init__(self, output: Output, digests: beam.pvalue.AsList):
        super().__init__()
        self._output = output
        self._digests = digests

    def expand(self, receipts: beam.PCollection) -> beam.PCollection:
        clustered = (
            receipts
            | "Sample" >> beam.FlatMap(_sample_unit, self._output, self._digests)
            | "OfGroup" >> beam.GroupByKey()
            | "Cluster"
            >> beam.FlatMap(_cluster_group, self._output, self._digests).with_outputs(_CANDIDATES, main="groups")
        )
        _ = clustered["groups"] | "Groups" >> ToList() | "WriteFiles" >> beam.Map(_write_files, self._output)
        return clustered[_CANDIDATES]


def forget_clusters(output: Output) -> None:
    """Deletes the clusters of an earlier run, for a run that makes none: they may lack its images."""
    for name in FILES:
        if FileSystems.exists(output.file(f"{name}.parquet")):
            output.delete(output.file(f"{name}.parquet"))


@dataclasses.dataclass(frozen=True, slots=True)
class Sampled:
    """Where a unit's sampled rows of one group of classes are.

    Attributes:
      unit: the unit.
      path: a temporary Arrow file with the columns `_COLUMNS` and `key`.
      batch: the number of the record batch in it.
    """

    unit: Unit
    path: str
    batch: int


@dataclasses.dataclass(frozen=True, slots=True)
class ClassRows:
    """The sampled rows of one class, in the order of their keys, so that the order of units does not matter.

    Attributes:
      table: n rows of `_COLUMNS`.
      units: the units that the rows belong to.
      unit: int32 [n], the number of each row's unit.
      coarse: float32 [n, COARSE²].
      channels: float32 [n, C]; None if the run has no channel terms.
      similarity: float64 [n], as in `examples.parquet`.
    """

    table: pa.Table
    units: tuple[Unit, ...]
    unit: np.ndarray
    coarse: np.ndarray
    channels: np.ndarray | None
    similarity: np.ndarray

    @property
    def class_index(self) -> int:
        return int(self.table["target"][0].as_py())


def _sample_unit(receipt: Receipt, output: Output, digests: Sequence[Digest]) -> Iterator[tuple[int, Sampled]]:
    """Copies the rows of a unit that are in the sample of their class to a temporary file.

    Yields:
      (group of classes, where its rows are).
    """
    if not receipt.rows:
        return
    unit = receipt.unit
    last_keys = {
        digest.class_index: digest.last_key
        for digest in digests
        if digest.class_index != DATASET and digest.images >= LEAST_IMAGES_OF_CLUSTERS
    }
    path = output.temporary(f"clusters-{unit.id}.arrow")
    groups: list[int] = []
    with output.open_part("maps", unit) as file, output.writing(path) as sink:
        schema = pa.schema([*(file.schema_arrow.field(name) for name in _COLUMNS), ("key", pa.uint64())])
        with pa.ipc.new_file(sink, schema, options=_COMPRESSED) as writer:
            for table in _together(_sampled_rows(file, unit, last_keys)):
                of_row = table["target"].to_numpy() // _CLASSES_TOGETHER
                for group in np.unique(of_row).tolist():
                    writer.write_table(table.filter(pa.array(of_row == group)).combine_chunks())
                    groups.append(group)
    for number, group in enumerate(groups):
        yield group, Sampled(unit, path, number)


def _sampled_rows(file: pq.ParquetFile, unit: Unit, last_keys: dict[int, int]) -> Iterator[pa.Table]:
    """The rows of a unit that are in the sample of their class, with their keys; one row group at a time."""
    for group in range(file.num_row_groups):
        places = file.read_row_group(group, ["index", "target"], use_threads=False).to_pydict()
        rows = list(zip(places["index"], places["target"], strict=True))
        keys = np.asarray([sample_key(unit.shard.path, index, target) for index, target in rows], np.uint64)
        # No key is below 0, and a class without a last key has no clusters.
        last = np.asarray([last_keys.get(target, 0) for _, target in rows], np.uint64)
        chosen = keys <= last
        if chosen.any():
            table = file.read_row_group(group, _COLUMNS, use_threads=False)
            yield table.append_column("key", pa.array(keys)).filter(pa.array(chosen))


def _together(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Tables of about `_BYTES_TOGETHER`."""
    waiting: list[pa.Table] = []
    for table in tables:
        waiting.append(table)
        if sum(each.nbytes for each in waiting) >= _BYTES_TOGETHER:
            yield pa.concat_tables(waiting)
            waiting = []
    if waiting:
        yield pa.concat_tables(waiting)


def _cluster_group(
    element: tuple[int, Iterable[Sampled]], output: Output, digests: Sequence[Digest]
) -> Iterator[int | beam.pvalue.TaggedOutput]:
    """Writes the clusters of a group of classes and their members to temporary files.

    Yields the group, and in the output `_CANDIDATES` the examples of each class.
    """
    group, sampled = element
    parts = sorted(sampled, key=lambda each: (each.unit.shard.path, each.unit.start, each.batch))
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in FILES}
    means = {digest.class_index: digest.coarse for digest in digests}
    for own in _classes(parts, means):
        best = True
        for view in VIEWS:
            values = view_rows(view, own.coarse, own.channels)
            chosen = np.flatnonzero(values.any(axis=1))
            if len(chosen) < LEAST_IMAGES_OF_CLUSTERS:
                continue
            names = _names(own.table, chosen)
            clusters = find_clusters(values[chosen], names)
            members = _members(clusters, names)
            rows["clusters"] += _cluster_rows(own, view, chosen, clusters, members, names)
            rows["cluster_members"] += _member_rows(own, view, clusters, members, names)
            if best:
                candidates = _candidates(own, chosen, clusters, members)
                yield beam.pvalue.TaggedOutput(_CANDIDATES, (class_block(own.class_index), candidates))
            best = False
    for name, schema in FILES.items():
        output.write_table(_file_of(group, name, output), pa.Table.from_pylist(rows[name], schema))
    yield group


def _classes(parts: Sequence[Sampled], means: dict[int, np.ndarray]) -> Iterator[ClassRows]:
    """The classes of a group, in order. The rows of all are in memory, those of one are copied."""
    tables = [_read(part) for part in parts]
    units = tuple(dict.fromkeys(part.unit for part in parts))
    number = {unit: i for i, unit in enumerate(units)}
    of_rows = np.repeat([number[part.unit] for part in parts], [each.num_rows for each in tables]).astype(np.int32)
    whole = pa.concat_tables(tables)
    targets, keys = whole["target"].to_numpy(), whole["key"].to_numpy()
    for target in np.unique(targets).tolist():
        own = np.flatnonzero(targets == target)
        own = own[np.argsort(keys[own], kind="stable")]
        table = whole.take(pa.array(own))
        coarse = _matrix(table["coarse_map"])
        assert coarse is not None
        similarity = cosine(coarse.reshape(-1, COARSE, COARSE), means[target])
        yield ClassRows(table, units, of_rows[own], coarse, _matrix(table["channel_terms"]), similarity)


def _read(part: Sampled) -> pa.Table:
    with open_file(part.path) as source:
        return pa.Table.from_batches([pa.ipc.open_file(source).get_batch(part.batch)])


def _matrix(lists: pa.ChunkedArray) -> np.ndarray | None:
    """A column of lists of one length as [n, length]; None if it has nulls."""
    if lists.null_count:
        return None
    return lists.combine_chunks().flatten().to_numpy().reshape(len(lists), -1)


def _names(table: pa.Table, rows: np.ndarray) -> list[tuple[str, str, int]]:
    """Id, shard and index of rows."""
    chosen = table.select(["image_id", "shard", "index"]).take(pa.array(rows)).to_pydict()
    return list(zip(*chosen.values(), strict=True))


def _members(clusters: Clusters, names: Sequence[tuple[str, str, int]]) -> list[np.ndarray]:
    """The members of each cluster, the closest to its centre first; equally close ones by shard and index."""
    places = np.empty(len(names), np.int64)
    places[sorted(range(len(names)), key=lambda i: names[i][1:])] = np.arange(len(names))
    order = np.lexsort((places, -clusters.closeness.astype(np.float32), clusters.labels))
    return np.split(order, np.cumsum(clusters.sizes)[:-1])


def _cluster_rows(
    own: ClassRows,
    view: str,
    chosen: np.ndarray,
    clusters: Clusters,
    members: Sequence[np.ndarray],
    names: Sequence[tuple[str, str, int]],
) -> Iterator[dict[str, Any]]:
    """The rows of `CLUSTERS` of a class and view; `chosen` are the rows that were clustered."""
    correct = np.asarray([-1 if each is None else int(each) for each in own.table["correct"].to_pylist()])[chosen]
    coarse = own.coarse[chosen]
    for cluster, size in enumerate(clusters.sizes.tolist()):
        inside = members[cluster]
        labelled, right = (int((correct[inside] >= least).sum()) for least in (0, 1))
        peak = peak_of(coarse, clusters.labels == cluster)
        typical = [names[i] for i in inside[:EXAMPLES_OF_KIND]]
        yield {
            "class": own.class_index,
            "class_name": own.table["target_name"][0].as_py(),
            "view": view,
            "cluster": cluster,
            "size": size,
            "share": size / len(chosen),
            "labelled": labelled,
            "correct": right,
            "accuracy": right / labelled if labelled else None,
            "separation": _null_for_nan(clusters.separation[cluster]),
            "silhouette": _null_for_nan(clusters.silhouette[cluster]),
            "peak": peak.place,
            "cells": peak.cells,
            "peak_share": _null_for_nan(peak.share),
            "peak_others": _null_for_nan(peak.others),
            "mean_map": coarse[inside].mean(axis=0, dtype=np.float64).astype(np.float32),
            "typical_ids": [image_id for image_id, _, _ in typical],
            "typical_shards": [shard for _, shard, _ in typical],
            "typical_indices": [index for _, _, index in typical],
        }


def _member_rows(
    own: ClassRows,
    view: str,
    clusters: Clusters,
    members: Sequence[np.ndarray],
    names: Sequence[tuple[str, str, int]],
) -> Iterator[dict[str, Any]]:
    """The rows of `CLUSTER_MEMBERS` of a class and view."""
    for i in np.concatenate(members).tolist():
        image_id, shard, index = names[i]
        yield {
            "class": own.class_index,
            "view": view,
            "cluster": int(clusters.labels[i]),
            "image_id": image_id,
            "shard": shard,
            "index": index,
            "closeness": float(clusters.closeness[i]),
        }


def _candidates(own: ClassRows, chosen: np.ndarray, clusters: Clusters, members: Sequence[np.ndarray]) -> Candidates:
    """The members of each cluster that are closest to its centre, as candidates for examples."""
    parts = []
    for cluster, inside in enumerate(members):
        typical = inside[:EXAMPLES_OF_KIND]
        places = chosen[typical]
        rows = np.zeros(len(typical), ROW)
        rows["class"], rows["kind"], rows["cluster"] = own.class_index, CLUSTER, cluster
        rows["score"], rows["similarity"] = clusters.closeness[typical], own.similarity[places]
        rows["unit"], rows["index"] = own.unit[places], own.table["index"].to_numpy()[places]
        parts.append(rows)
    return Candidates.join([Candidates(own.units, np.concatenate(parts))])


def _null_for_nan(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _file_of(group: int, name: str, output: Output) -> str:
    return output.temporary(f"{name}-{group:06d}.parquet")


def _write_files(groups: Sequence[int], output: Output) -> None:
    """Writes the files of clusters from those of all groups, in the order of the classes."""
    for name, schema in FILES.items():
        with output.writing_rows(output.file(f"{name}.parquet"), schema) as rows:
            for group in sorted(groups):
                with open_parquet(_file_of(group, name, output)) as file:
                    for batch in file.iter_batches(use_threads=False):
                        rows.write(batch)
    # The launcher deletes the files: another attempt at this step may still need them.
