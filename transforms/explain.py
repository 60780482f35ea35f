"""Explains units of work: read → decode → explain → figures → one committed part. The DoFn that puts these together."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import logging
import math
import os
import socket
import time
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Sequence

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.metrics import Metrics

from transforms.decode import UndecodableImage, decode_ahead, decode_image
from transforms.fullgrad import Explanation, Options, explain_batch, prefers_jit
from transforms.fullgrad.autodiff import has_accelerator, out_of_memory
from transforms.methods import METHODS
from transforms.model import LoadedModel, ModelSpec, load_once, models_loaded
from transforms.parts import ERRORS, MAPS, Output, RowWriter, encode_maps, statistics_table
from transforms.sources import DamagedShard, Fields, Record, source_for
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
from transforms.targets import Targets
from transforms.unit import Receipt, Unit

_log = logging.getLogger(__name__)

# How often a unit under way says how far it is, for progress bars elsewhere.
_HEARTBEAT_SECONDS = 2.0


@dataclasses.dataclass(frozen=True, slots=True)
class ExplainSettings:
    """All that a worker is told; small and picklable.

    Attributes:
      run: identifies this run in receipts.
      output: the folder that is written.
      model: which model.
      fields: names of features or columns in the shards.
      targets: which classes are explained.
      method, maps, biases, contrast, samples, noise_level, seed: as in `transforms.fullgrad.explain`.
      map_size: height and width of stored maps; None for the model's input size.
      map_dtype: `float16`, `float32`, `uint8` or `none`.
      grid: side of the maps that are averaged per class.
      batch_size: images a pass; None for what fits.
      jit: whether XLA compiles; None for what is faster.
    """

    run: str
    output: Output
    model: ModelSpec
    fields: Fields
    targets: Targets
    method: str
    maps: str
    biases: str
    contrast: str
    samples: int
    noise_level: float
    seed: int
    map_size: tuple[int, int] | None
    map_dtype: str
    grid: int
    batch_size: int | None
    jit: bool | None

    def options(self, model: LoadedModel) -> Options:
        return Options(
            method=self.method,
            maps=self.maps,
            biases=self.biases,
            contrast=self.contrast,
            map_size=self.map_size or model.input_size,
            samples=self.samples,
            noise_level=self.noise_level,
            seed=self.seed,
            jit=prefers_jit() if self.jit is None else self.jit,
        )


@dataclasses.dataclass(frozen=True, slots=True)
class Failure:
    """An error row: an image, or the rest of a shard, that has no map."""

    image_id: str | None
    index: int | None
    stage: str  # read, decode or explain
    error: str
    message: str


@dataclasses.dataclass(frozen=True, slots=True)
class Decoded:
    """A record ready for the model: pixels float32 [H, W, C], or why there are none."""

    record: Record
    label: int | None
    pixels: np.ndarray | None
    failure: Failure | None


class ExplainUnits(beam.DoFn):
    """Explains units; yields receipts, and to the output `PARTIALS` the (class, ClassStatistics) pairs of each.

    A unit that has a receipt is not computed again: its partial statistics are read from disk. That makes a resumed
    run, a retried bundle and a first run the same thing.
    """

    PARTIALS = "partials"

    def __init__(self, settings: ExplainSettings):
        self._settings = settings
        self._images = Metrics.counter("fullgrad", "images")
        self._failures = Metrics.counter("fullgrad", "failures")
        self._resumed = Metrics.counter("fullgrad", "units_resumed")

    def setup(self) -> None:
        load_once(self._settings.model)

    def process(self, unit: Unit) -> Iterator[Receipt | beam.pvalue.TaggedOutput]:
        receipt = self._settings.output.read_receipt(unit)
        if receipt is None:
            receipt = explain_unit(unit, self._settings)
            self._images.inc(receipt.images)
            self._failures.inc(receipt.failed)
        else:
            self._resumed.inc()
        yield receipt
        for class_index, statistics in self._settings.output.read_partials(unit):
            yield beam.pvalue.TaggedOutput(self.PARTIALS, (class_index, statistics))


def explain_unit(unit: Unit, settings: ExplainSettings) -> Receipt:
    """Computes and commits one unit: maps, errors and partial statistics, then the receipt."""
    started = time.time()
    model = load_once(settings.model)
    output = settings.output
    failures: list[Failure] = []
    partial = PartialStatistics(settings.grid)
    images = 0
    with (
        output.writing_rows(output.part("maps", unit), MAPS) as rows,
        _Heartbeat(output, unit) as heartbeat,
        contextlib.closing(_decoded(unit, settings, model, failures)) as decoded,
    ):
        explainer = _Explainer(settings, model)
        for batch in iter(lambda: list(itertools.islice(decoded, explainer.batch_size)), []):
            images += _write_batch(batch, unit, settings, model, explainer, rows, partial, failures)
            heartbeat.beat(images, len(failures))
        row_count = rows.rows
    if not images and not failures:
        failures.append(Failure(None, None, "read", "EmptyShard", f"{unit.shard.path} has no records"))
    if failures:
        output.write_table(output.part("errors", unit), _errors_table(failures, unit))
    output.write_table(output.part("partials", unit), statistics_table(partial.classes))
    receipt = Receipt(
        unit=unit,
        run=settings.run,
        images=images,
        rows=row_count,
        failures=dict(Counter(failure.error for failure in failures)),
        started=started,
        ended=time.time(),
        worker=f"{socket.gethostname()}/{os.getpid()}",
        models_loaded=models_loaded(),
    )
    output.write_json(output.receipt(unit), receipt.to_json())
    return receipt


def _decoded(
    unit: Unit, settings: ExplainSettings, model: LoadedModel, failures: list[Failure]
) -> Generator[Decoded, None, None]:
    """The unit's images, decoded in threads at least two batches ahead; what has no pixels goes to `failures`."""
    source = source_for(unit.shard.format, settings.fields)
    records = source.read(unit.shard, unit.start, unit.stop)
    ahead = 2 * batch_size_of(settings, model)
    threads = min(8, os.cpu_count() or 1)
    try:
        decoding = decode_ahead(records, lambda record: _decode(record, settings, model), threads=threads, ahead=ahead)
        with contextlib.closing(decoding) as results:
            for decoded in results:
                if decoded.failure is not None:
                    failures.append(decoded.failure)
                else:
                    yield decoded
    except DamagedShard as damage:
        failures.append(Failure(None, damage.index, "read", "DamagedShard", str(damage)))


def _decode(record: Record, settings: ExplainSettings, model: LoadedModel) -> Decoded:
    def failed(stage: str, error: str, message: str) -> Decoded:
        return Decoded(record, None, None, Failure(record.image_id, record.index, stage, error, message))

    if record.image is None:
        return failed("read", "NoImage", record.problem or "the record has no image")
    try:
        label = model.index_of(record.label)
        settings.targets.requests(label)
    except ValueError as error:
        return failed("read", "UnusableLabel", str(error))
    try:
        pixels = decode_image(record.image, model.resize, model.channels)
    except UndecodableImage as error:
        return failed("decode", "UndecodableImage", str(error))
    # Without its encoded bytes, which nobody needs any more and which would wait in memory with the pixels.
    record = dataclasses.replace(record, image=None)
    return Decoded(record, label, model.preprocess(pixels[None])[0], None)


class _Explainer:
    """Explains batches of one fixed size, which it halves where memory does not suffice."""

    def __init__(self, settings: ExplainSettings, model: LoadedModel):
        self._model = model
        self._options = settings.options(model)
        self.batch_size = batch_size_of(settings, model)

    def explain(self, images: np.ndarray, targets: np.ndarray) -> list[Explanation | None]:
        """Explanations of images [n, H, W, C], one image each; None for an image that does not fit the memory alone."""
        explained: list[Explanation | None] = []
        start = 0
        while start < len(images):
            size = self._model.batch_limit or self.batch_size
            part = slice(start, start + size)
            try:
                with self._model.compute:
                    batch = explain_batch(self._model.exposed, images[part], targets[part], self._options, size)
                explained.extend(batch.split())
            except out_of_memory():
                if size > 1:
                    self._model.batch_limit = size // 2
                    _log.warning("a batch of %d images does not fit the memory; going on with %d", size, size // 2)
                    continue
                explained.append(None)
            start += size
        return explained


def batch_size_of(settings: ExplainSettings, model: LoadedModel) -> int:
    """The configured batch size, or one whose activations take about an eighth of the memory, 2 GiB at most on CPUs."""
    if settings.batch_size is not None:
        return settings.batch_size
    height, width = model.input_size
    floats = 0
    for value in itertools.chain.from_iterable(step.outputs for step in model.exposed.program.steps):
        shape = value.shape[1:]
        floats += math.prod(size for size in shape if size is not None) * (height * width if None in shape else 1)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    budget, most = (16 << 30, 512) if has_accelerator() else (min(2 << 30, memory // 8), 128)
    # Every activation is held for the backward pass, and its gradient for a while.
    fits = budget // max(1, 6 * floats)
    return max(1, min(most, 1 << (max(1, fits).bit_length() - 1)))


def _write_batch(
    batch: Sequence[Decoded],
    unit: Unit,
    settings: ExplainSettings,
    model: LoadedModel,
    explainer: _Explainer,
    rows: RowWriter,
    partial: PartialStatistics,
    failures: list[Failure],
) -> int:
    """Explains a batch for each of its targets, writes its rows and adds them to the statistics; returns how many
    images that were."""
    images = np.stack([decoded.pixels for decoded in batch if decoded.pixels is not None])
    requests = np.asarray([settings.targets.requests(decoded.label) for decoded in batch], np.int32)
    by_target = [explainer.explain(images, requests[:, t]) for t in range(requests.shape[1])]

    kept: list[tuple[Decoded, Explanation]] = []
    first: list[bool] = []
    explained = 0
    for decoded, explanations in zip(batch, zip(*by_target, strict=True), strict=True):
        problem = _problem(explanations, settings.method)
        if problem is not None:
            failures.append(Failure(decoded.record.image_id, decoded.record.index, "explain", *problem))
            continue
        explained += 1
        for rank, explanation in enumerate(explanations):
            kept.append((decoded, explanation))
            first.append(rank == 0)
    if kept:
        joined = Explanation.join([explanation for _, explanation in kept])
        sources = [decoded for decoded, _ in kept]
        statistics = _statistics_rows(sources, joined, np.asarray(first), unit, model)
        rows.write(_map_rows(sources, joined, statistics, unit, settings, model))
        partial.add(statistics)
    return explained


def _problem(explanations: Iterable[Explanation | None], method: str) -> tuple[str, str] | None:
    """Why an image has no rows: the error's name and a sentence; None where all is well."""
    terms = ("input_term", "bias_term") if METHODS[method].complete else ()
    for explanation in explanations:
        if explanation is None:
            return "OutOfMemory", "one image alone does not fit the accelerator's memory"
        for name in ("logits", "maps", *terms):
            if not np.isfinite(getattr(explanation, name)).all():
                return "NotFinite", f"the {name.replace('_', ' ')} of this image is not finite"
    return None


def _statistics_rows(
    sources: Sequence[Decoded], explanation: Explanation, first: np.ndarray, unit: Unit, model: LoadedModel
) -> MapRows:
    targets = explanation.targets.astype(np.int64)
    each = np.arange(len(targets))
    return MapRows(
        targets=targets,
        labels=np.asarray([-1 if s.label is None else s.label for s in sources], np.int64),
        predicted=explanation.logits.argmax(axis=1).astype(np.int64),
        first=first,
        image_ids=[s.record.image_id for s in sources],
        keys=np.asarray(
            [sample_key(unit.shard.path, s.record.index, t) for s, t in zip(sources, targets, strict=True)], np.uint64
        ),
        logits=explanation.logits[each, targets],
        probabilities=model.exposed.probabilities(explanation.logits)[each, targets],
        completeness=explanation.completeness_error,
        maps=explanation.maps,
        figures=map_figures(explanation.maps),
    )


def _map_rows(
    sources: Sequence[Decoded],
    explanation: Explanation,
    rows: MapRows,
    unit: Unit,
    settings: ExplainSettings,
    model: LoadedModel,
) -> pa.RecordBatch:
    """One row of `MAPS` for each explanation."""
    count, height, width = explanation.maps.shape
    encoded = encode_maps(explanation.maps, settings.map_dtype)
    coarse = resample(unit_mass(explanation.maps), (COARSE, COARSE)).reshape(count, -1)
    labels = [s.label for s in sources]
    predicted, targets = rows.predicted.tolist(), rows.targets.tolist()
    columns = {
        "image_id": list(rows.image_ids),
        "shard": [unit.shard.path] * count,
        "index": [s.record.index for s in sources],
        "label": labels,
        "label_name": [model.name_of(label) for label in labels],
        "predicted": predicted,
        "predicted_name": [model.name_of(p) for p in predicted],
        "correct": [None if label is None else label == p for label, p in zip(labels, predicted, strict=True)],
        "target": targets,
        "target_name": [model.name_of(t) for t in targets],
        "target_rank": (explanation.logits > rows.logits[:, None]).sum(axis=1),
        "logit": rows.logits,
        "probability": rows.probabilities,
        **{
            name: _null_for_nan(getattr(explanation, name))
            for name in ("input_term", "bias_term", "unlocated_term", "completeness_error")
        },
        "map": encoded.data,
        "map_dtype": [settings.map_dtype] * count,
        "map_scale": encoded.scale,
        "map_offset": encoded.offset,
        "map_height": [height] * count,
        "map_width": [width] * count,
        "coarse_map": list(coarse),
        **{name: _null_for_nan(rows.figures[:, i]) for i, name in enumerate(FIGURES)},
    }
    return pa.RecordBatch.from_arrays(
        [
            pa.array(columns[field.name], field.type)
            if not isinstance(columns[field.name], pa.Array)
            else columns[field.name]
            for field in MAPS
        ],
        schema=MAPS,
    )


def _null_for_nan(values: np.ndarray) -> pa.Array:
    """NaN, as where a map has no mass or a method no terms, becomes null: SQL would sort it as the largest number."""
    return pa.array(values, pa.float32(), mask=np.isnan(values))


def _errors_table(failures: Sequence[Failure], unit: Unit) -> pa.Table:
    return pa.Table.from_pylist([{**dataclasses.asdict(f), "shard": unit.shard.path} for f in failures], ERRORS)


class _Heartbeat:
    """Says in a small file how far a unit is, now and then, until it is committed or given up."""

    def __init__(self, output: Output, unit: Unit):
        self._output = output
        self._path = output.heartbeat(unit)
        self._interval = _HEARTBEAT_SECONDS if "://" not in output.path else 5 * _HEARTBEAT_SECONDS
        self._started = time.time()
        self._next = time.monotonic() + self._interval
        self._written = False

    def __enter__(self) -> _Heartbeat:
        return self

    def beat(self, images: int, failed: int) -> None:
        if time.monotonic() < self._next:
            return
        beat = {"images": images, "failed": failed, "started": self._started, "time": time.time()}
        self._output.write_json(self._path, json.dumps(beat))
        self._written = True
        self._next = time.monotonic() + self._interval

    def __exit__(self, *_: object) -> None:
        if self._written:
            with contextlib.suppress(Exception):  # a leftover heartbeat is ignored when it is old
                self._output.delete(self._path)
