"""Turns explanations into figures, statistics and rows of maps, and failures into rows of errors."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from transforms.byte_names import as_text, printable
from transforms.clock import Clock
from transforms.fullgrad import Explanation
from transforms.models import LoadedModel
from transforms.output import ERRORS, IMAGE, MAPS, SMALL_MAPS, RowWriter, encode_maps, round_keeping_sums
from transforms.sources import Record
from transforms.statistics import (
    COARSE,
    FIGURES,
    MapRows,
    PartialStatistics,
    map_figures,
    resample,
    sample_key,
    unit_mass,
)
from transforms.unit import LabelCounts, Unit


@dataclasses.dataclass(frozen=True, slots=True)
class Failure:
    """An error row: an image without a map, or the unreadable rest of a shard."""

    image_id: str | None
    index: int | None
    stage: str  # read, decode or explain
    error: str
    message: str


@dataclasses.dataclass(frozen=True, slots=True)
class Decoded:
    """A record that is ready for the model, or its failure.

    Attributes:
      pixels: [H, W, C], uint8 after decoding, float32 after preprocessing; None after a failure or once in a batch.
      image: the encoded image that is stored with its maps; None if images are not stored.
    """

    record: Record
    label: int | None
    pixels: np.ndarray | None
    image: bytes | None
    failure: Failure | None


class UnitResults:
    """Turns a unit's explanations into figures, statistics and rows. Not for several threads at once.

    Attributes:
      partial: the statistics so far.
      labels: the counts of labels and predictions so far, without labels beyond the classes.
    """

    def __init__(
        self,
        unit: Unit,
        model: LoadedModel,
        rows: RowWriter,
        small: RowWriter,
        clock: Clock,
        *,
        map_dtype: str,
        grid: int,
    ):
        self._unit = unit
        self._small = small
        self._map_dtype = map_dtype
        self._model = model
        self._rows = rows
        self._clock = clock
        self.partial = PartialStatistics(grid)
        self.labels = LabelCounts(model.exposed.classes)

    def add(self, images: Sequence[Decoded], explanation: Explanation) -> None:
        """Adds images and their explanations. Each image has the same number of explanations, one after the other."""
        each = len(explanation.targets) // len(images)
        sources = [image for image in images for _ in range(each)]
        first = np.arange(len(sources)) % each == 0
        with self._clock.processor("statistics"):
            statistics = _statistics_rows(sources, explanation, first, self._unit, self._model)
            self.partial.add(statistics)
            self.labels = LabelCounts.sum([self.labels, _label_counts(statistics, self.labels.classes)])
        with self._clock.processor("write"):
            self._rows.write(_map_rows(sources, explanation, statistics, self._unit, self._map_dtype, self._model))
            self._small.write(_small_maps(sources, explanation, self.partial.grid))


def _statistics_rows(
    sources: Sequence[Decoded], explanation: Explanation, first: np.ndarray, unit: Unit, model: LoadedModel
) -> MapRows:
    targets = explanation.targets.astype(np.int64)
    each = np.arange(len(targets))
    scores = explanation.logits[each, targets]
    evidence = resample(np.maximum(explanation.maps, 0), (COARSE, COARSE))
    return MapRows(
        targets=targets,
        labels=np.asarray([-1 if s.label is None else s.label for s in sources], np.int64),
        predicted=explanation.logits.argmax(axis=1).astype(np.int64),
        first=first,
        image_ids=[s.record.image_id for s in sources],
        keys=np.asarray(
            [sample_key(unit.shard.path, s.record.index, t) for s, t in zip(sources, targets, strict=True)], np.uint64
        ),
        logits=np.full_like(scores, np.nan) if model.exposed.ends_in == "probabilities" else scores,
        probabilities=model.exposed.probabilities(explanation.logits)[each, targets],
        completeness=explanation.completeness_error,
        maps=explanation.maps,
        coarse=resample(unit_mass(explanation.maps), (COARSE, COARSE)),
        evidence=evidence,
        speaking=explanation.evidence if explanation.evidence.size else evidence,
        figures=map_figures(explanation.maps),
    )


def _label_counts(rows: MapRows, classes: int) -> LabelCounts:
    labelled = rows.first & (rows.labels >= 0)
    above = rows.labels[labelled] - rows.predicted[labelled]
    return LabelCounts(classes, len(above), *(int(np.count_nonzero(above == difference)) for difference in (0, 1, -1)))


def _map_rows(
    sources: Sequence[Decoded],
    explanation: Explanation,
    rows: MapRows,
    unit: Unit,
    map_dtype: str,
    model: LoadedModel,
) -> pa.RecordBatch:
    """One row of `MAPS` for each explanation."""
    count, height, width = explanation.maps.shape
    encoded = encode_maps(explanation.maps, map_dtype)
    labels = [s.label for s in sources]
    predicted, targets = rows.predicted.tolist(), rows.targets.tolist()
    columns = {
        "image_id": list(rows.image_ids),
        "shard": [as_text(unit.shard.path)] * count,
        "index": [s.record.index for s in sources],
        "label": labels,
        "label_name": [model.name_of(label) for label in labels],
        "predicted": predicted,
        "predicted_name": [model.name_of(p) for p in predicted],
        "correct": [None if label is None else label == p for label, p in zip(labels, predicted, strict=True)],
        "target": targets,
        "target_name": [model.name_of(t) for t in targets],
        "target_rank": (explanation.logits > explanation.logits[np.arange(count), targets][:, None]).sum(axis=1),
        "logit": _null_for_nan(rows.logits),
        "probability": rows.probabilities,
        "explained": explanation.explained,
        "contrast_class": _null_for_none(explanation.contrast_class),
        **{
            name: _null_for_nan(getattr(explanation, name))
            for name in ("input_term", "bias_term", "unlocated_term", "completeness_error", "after_term")
        },
        "channel_terms": _channel_terms(explanation),
        "map": encoded.data,
        "map_dtype": [map_dtype] * count,
        "map_scale": encoded.scale,
        "map_offset": encoded.offset,
        "map_height": [height] * count,
        "map_width": [width] * count,
        "coarse_map": _cells(rows.coarse),
        "evidence_map": _cells(rows.speaking),
        **{name: _null_for_nan(rows.figures[:, i]) for i, name in enumerate(FIGURES)},
        "image": _images(sources),
    }
    return _record_batch(columns, MAPS)


def _small_maps(sources: Sequence[Decoded], explanation: Explanation, grid: int) -> pa.RecordBatch:
    """One row of `SMALL_MAPS` for each explanation. Maps are reduced to the grid; smaller ones are kept as they are."""
    count, *size = explanation.maps.shape
    height, width = (min(side, grid) for side in size)
    small = explanation.maps if size == [height, width] else resample(explanation.maps, (height, width))
    encoded = encode_maps(small, "uint8")
    columns = {
        "index": [s.record.index for s in sources],
        "target": explanation.targets,
        "map": encoded.data,
        "map_dtype": ["uint8"] * count,
        "map_scale": encoded.scale,
        "map_offset": encoded.offset,
        "map_height": [height] * count,
        "map_width": [width] * count,
    }
    return _record_batch(columns, SMALL_MAPS)


def _record_batch(columns: Mapping[str, Any], schema: pa.Schema) -> pa.RecordBatch:
    arrays = [
        columns[field.name] if isinstance(columns[field.name], pa.Array) else pa.array(columns[field.name], field.type)
        for field in schema
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _channel_terms(explanation: Explanation) -> pa.Array:
    """Lists of float32; null if there are no terms."""
    count, channels = explanation.channel_terms.shape
    if not channels:
        return pa.nulls(count, MAPS.field("channel_terms").type)
    terms = round_keeping_sums(explanation.channel_terms)
    return pa.ListArray.from_arrays(np.arange(count + 1, dtype=np.int32) * channels, pa.array(terms.ravel()))


def _cells(maps: np.ndarray) -> pa.Array:
    """Lists of float32, one for each of the maps [N, COARSE, COARSE]."""
    offsets = np.arange(len(maps) + 1, dtype=np.int32) * COARSE**2
    return pa.ListArray.from_arrays(offsets, maps.astype(np.float32, copy=False).ravel())


def _images(sources: Sequence[Decoded]) -> pa.Array:
    """A column of images: their bytes, and the file name of their id. Null where no image is stored."""
    absent = np.asarray([s.image is None for s in sources])
    paths = [None if s.image is None else s.record.image_id.rsplit("/", 1)[-1] for s in sources]
    parts = [pa.array([s.image for s in sources], pa.binary()), pa.array(paths, pa.string())]
    return pa.StructArray.from_arrays(parts, fields=list(IMAGE), mask=pa.array(absent))


def _null_for_nan(values: np.ndarray) -> pa.Array:
    """Replaces NaN by null, because SQL sorts NaN as the largest number. Maps without mass have NaN, for example."""
    return pa.array(values, pa.float32(), mask=np.isnan(values))


def _null_for_none(classes: np.ndarray) -> pa.Array:
    """Replaces −1, which stands for no class, by null."""
    return pa.array(classes, pa.int32(), mask=classes < 0)


def errors_table(failures: Sequence[Failure], unit: Unit) -> pa.Table:
    """The error rows in the order of the records. Failures without an index come last."""
    ordered = sorted(failures, key=lambda failure: (failure.index is None, failure.index))
    shard = as_text(unit.shard.path)
    return pa.Table.from_pylist(
        [{**dataclasses.asdict(f), "message": printable(f.message), "shard": shard} for f in ordered], ERRORS
    )
