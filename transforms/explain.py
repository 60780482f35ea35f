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
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.metrics import Metrics

from transforms.decode import UndecodableImage, decode_ahead, decode_image
from transforms.fullgrad import Explanation, Options, explain_batch, prefers_jit
from transforms.fullgrad.autodiff import has_accelerator, out_of_memory
from transforms.memory import accelerator_memory, memory_at_hand, sensible_batch, usable_cores
from transforms.methods import METHODS
from transforms.model import LoadedModel, ModelSpec, load_once, models_loaded
from transforms.parts import ERRORS, MAPS, Output, RowWriter, encode_maps
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

T = TypeVar("T")
U = TypeVar("U")

_log = logging.getLogger(__name__)

# How often a unit under way says how far it is, for progress bars elsewhere.
_HEARTBEAT_SECONDS = 2.0


@dataclasses.dataclass(frozen=True, slots=True)
class MethodSettings:
    """How images are explained, wherever they come from; small and picklable.

    Attributes:
      targets: which classes are explained.
      method, maps, biases, contrast, samples, noise_level, seed: as in `transforms.fullgrad.explain`.
      map_size: height and width of maps; None for the model's input size.
      batch_size: images a pass; None for what is sensible.
      unit_images: how many images there are at once, such as in the largest unit; None where nobody counted them.
      jit: whether XLA compiles; None for what is faster.
    """

    targets: Targets
    method: str
    maps: str
    biases: str
    contrast: str
    samples: int
    noise_level: float
    seed: int
    map_size: tuple[int, int] | None
    batch_size: int | None
    unit_images: int | None
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
class ExplainSettings(MethodSettings):
    """All that a worker is told; small and picklable.

    Attributes:
      run: identifies this run in receipts.
      output: the folder that is written.
      model: which model.
      fields: names of features or columns in the shards.
      map_dtype: of stored maps: `float16`, `float32`, `uint8` or `none`.
      grid: side of the maps that are averaged per class.
    """

    run: str
    output: Output
    model: ModelSpec
    fields: Fields
    map_dtype: str
    grid: int


@dataclasses.dataclass(frozen=True, slots=True)
class Problem:
    """Why an image has no explanation: the kind of error, and one sentence."""

    error: str
    message: str


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
    """A record ready for the model, or why it is not.

    Attributes:
      pixels: [H, W, C], uint8 as decoded, then float32 as the model takes them; None where there are none.
    """

    record: Record
    label: int | None
    pixels: np.ndarray | None
    failure: Failure | None


@dataclasses.dataclass(frozen=True, slots=True)
class _Batch:
    """Images that are explained at once.

    Attributes:
      decoded: n of them, all with pixels.
      pixels: float32 [n, H, W, C].
    """

    decoded: list[Decoded]
    pixels: np.ndarray

    @classmethod
    def of(cls, images: Iterator[Decoded], size: int) -> _Batch | None:
        """The next so many images, or as many as there are; None where there are none."""
        decoded = list(itertools.islice(images, size))
        if not decoded:
            return None
        pixels = np.stack([each.pixels for each in decoded if each.pixels is not None])
        # One copy is enough to wait in memory.
        return cls([dataclasses.replace(each, pixels=None) for each in decoded], pixels)


class ExplainUnits(beam.DoFn):
    """Explains units; yields receipts, and to the output `BLOCKS` (block of classes, unit) for each that it has.

    A unit that has a receipt is not computed again, and partial statistics are always read from disk. That makes a
    resumed run, a retried bundle and a first run the same thing.
    """

    BLOCKS = "blocks"

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
        for block in self._settings.output.read_blocks(unit):
            yield beam.pvalue.TaggedOutput(self.BLOCKS, (block, unit))


def explain_unit(unit: Unit, settings: ExplainSettings) -> Receipt:
    """Computes and commits one unit: maps, errors and partial statistics, then the receipt.

    Three things go on at once: images are read and decoded ahead, batches are explained, and those before them become
    figures, statistics and rows, in order.
    """
    started = time.time()
    model = load_once(settings.model)
    output = settings.output
    clock = Clock()
    failures: list[Failure] = []
    with output.writing_rows(output.part("maps", unit), MAPS) as rows:
        results = _Results(unit, settings, model, rows, clock)
        with (
            _Heartbeat(output, unit) as heartbeat,
            contextlib.closing(_decoded(unit, settings, model, failures, clock)) as decoded,
            ThreadPoolExecutor(1, thread_name_prefix="ahead") as ahead,
            ThreadPoolExecutor(model.batches_at_once, thread_name_prefix="explain") as explaining,
            ThreadPoolExecutor(1, thread_name_prefix="behind") as behind,
        ):
            explainer = Explainer(settings, model, clock)
            batches = _batches(decoded, explainer.batch_size, ahead)
            explained = _in_order(
                explaining, lambda batch: _explain(batch, settings, explainer, failures), batches, model.batches_at_once
            )
            images = 0
            written: Future[None] | None = None
            for kept, explanation in explained:
                clock.first("first_batch", time.time() - started)
                images += len(kept)
                heartbeat.beat(images, len(failures))
                if written is not None:
                    written.result()  # one batch behind and not more, so that memory is bounded
                if explanation is not None:
                    written = behind.submit(results.add, kept, explanation)
            if written is not None:
                written.result()
    if not images and not failures:
        failures.append(Failure(None, None, "read", "EmptyShard", f"{unit.shard.path} has no records"))
    if failures:
        output.write_table(output.part("errors", unit), _errors_table(failures, unit))
    with clock.processor("write"):
        output.write_partials(unit, results.partial.classes)
    ended = time.time()
    receipt = Receipt(
        unit=unit,
        run=settings.run,
        images=images,
        rows=rows.rows,
        failures=dict(Counter(failure.error for failure in failures)),
        started=started,
        ended=ended,
        seconds=clock.seconds(ended - started),
        batch_size=model.batch_limit or explainer.batch_size,
        worker=f"{socket.gethostname()}/{os.getpid()}",
        models_loaded=models_loaded(),
    )
    output.write_json(output.receipt(unit), receipt.to_json())
    return receipt


def _batches(images: Iterator[Decoded], size: int, ahead: ThreadPoolExecutor) -> Iterator[_Batch]:
    """Batches of so many images, each assembled by a thread while the one before it is used."""
    following = ahead.submit(_Batch.of, images, size)
    while (batch := following.result()) is not None:
        following = ahead.submit(_Batch.of, images, size)
        yield batch


def _in_order(pool: ThreadPoolExecutor, function: Callable[[T], U], items: Iterator[T], further: int) -> Iterator[U]:
    """Yields function(item) for each item, in order; while one is waited for, so many further ones are under way."""
    under_way: deque[Future[U]] = deque()
    for item in items:
        under_way.append(pool.submit(function, item))
        if len(under_way) > further:
            yield under_way.popleft().result()
    while under_way:
        yield under_way.popleft().result()


class Clock:
    """Where the time of a unit goes; for any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seconds = dict.fromkeys(("read", "decode", "compute", "statistics", "write"), 0.0)

    def add(self, stage: str, seconds: float) -> None:
        with self._lock:
            self._seconds[stage] += seconds

    def first(self, stage: str, seconds: float) -> None:
        """Notes a time unless it was noted before."""
        self._seconds.setdefault(stage, seconds)

    @contextlib.contextmanager
    def wall(self, stage: str, now: Callable[[], float] = time.perf_counter, at_once: int = 1) -> Iterator[None]:
        """Adds the time that passes in the block, shared out among as many blocks as go on at once."""
        started = now()
        try:
            yield
        finally:
            self.add(stage, (now() - started) / at_once)

    def processor(self, stage: str) -> contextlib.AbstractContextManager[None]:
        """Adds what the block takes of its thread's processor time: others' turns on a shared core do not count."""
        return self.wall(stage, time.thread_time)

    def seconds(self, elapsed: float) -> dict[str, float]:
        """What was added so far, and under `idle` the rest of so many seconds, in which nothing was computed."""
        seconds = {**self._seconds, "idle": max(0.0, elapsed - self._seconds["compute"])}
        return {stage: round(value, 4) for stage, value in seconds.items()}


def _decoded(
    unit: Unit, settings: ExplainSettings, model: LoadedModel, failures: list[Failure], clock: Clock
) -> Generator[Decoded, None, None]:
    """The unit's images, decoded in threads at least two batches ahead; what has no pixels goes to `failures`."""
    size, threads = batch_size_of(settings, model), min(8, usable_cores())
    # Handing a small image to a thread costs as much as decoding it: several at once, where a batch has them for all.
    together = min(16, max(1, size // (4 * threads)))
    records = source_for(unit.shard.format, settings.fields).read(unit.shard, unit.start, unit.stop)

    def decode(group: list[Record]) -> list[Decoded]:
        with clock.processor("decode"):
            return _preprocessed([_decode(record, settings, model) for record in group], model)

    groups = _grouped(records, together, clock)
    try:
        decoding = decode_ahead(groups, decode, threads=threads, ahead=math.ceil(2 * size / together))
        with contextlib.closing(decoding) as results:
            for decoded in itertools.chain.from_iterable(results):
                if decoded.failure is not None:
                    failures.append(decoded.failure)
                else:
                    yield decoded
    except DamagedShard as damage:
        failures.append(Failure(None, damage.index, "read", "DamagedShard", str(damage)))


def _grouped(records: Iterator[Record], size: int, clock: Clock) -> Iterator[list[Record]]:
    """Records in lists of so many; those before a damage are given before it is raised."""
    damage: DamagedShard | None = None
    while damage is None:
        group: list[Record] = []
        with clock.processor("read"):
            try:
                group.extend(itertools.islice(records, size))
            except DamagedShard as error:
                damage = error
        if group:
            yield group
        elif damage is None:
            return
    raise damage


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
    return Decoded(record, label, pixels, None)


def _preprocessed(group: list[Decoded], model: LoadedModel) -> list[Decoded]:
    """The same with pixels as the model takes them, all of the group in one go."""
    pixels = [decoded.pixels for decoded in group if decoded.pixels is not None]
    if not pixels:
        return group
    ready = iter(model.preprocess(np.stack(pixels)))
    return [each if each.pixels is None else dataclasses.replace(each, pixels=next(ready)) for each in group]


class Explainer:
    """Explains images in batches of one fixed size, which it halves where memory does not suffice."""

    def __init__(self, settings: MethodSettings, model: LoadedModel, clock: Clock):
        self._model = model
        self._options = settings.options(model)
        self._clock = clock
        self.batch_size = batch_size_of(settings, model)

    def explain(self, images: np.ndarray, requests: np.ndarray) -> tuple[list[Problem | None], Explanation | None]:
        """Explains each image for each of its targets.

        Args:
          images: float32 [n, H, W, C], n at least 1.
          requests: int32 [n, T], the targets of each as `Targets.requests` gives them.

        Returns:
          For each image why it has no explanation, or None; and the explanations of those that have, for all targets,
          those of one image together. None where no image has any.
        """
        count, targets = requests.shape
        parts = [part for t in range(targets) for part in self._explain(images, requests[:, t])]

        # One row an image and target, target by target.
        sizes = [1 if part is None else len(part.targets) for part in parts]
        explained = np.repeat([part is not None for part in parts], sizes)
        found: np.ndarray = np.full(targets * count, None, object)
        found[~explained] = Problem("OutOfMemory", "one image alone does not fit the accelerator's memory")
        present = [part for part in parts if part is not None]
        if not present:
            return found[:count].tolist(), None
        joined = Explanation.join(present) if len(present) > 1 else present[0]
        found[explained] = _not_finite(joined, self._options.method)
        problems = [next(filter(None, found[i::count]), None) for i in range(count)]
        kept = np.asarray([problem is None for problem in problems])
        if not kept.any():
            return problems, None
        if targets > 1 or not kept.all():
            rows = np.arange(targets * count).reshape(targets, count)[:, kept].T.ravel()
            joined = _take(joined, (np.cumsum(explained) - 1)[rows])
        return problems, joined

    def _explain(self, images: np.ndarray, targets: np.ndarray) -> list[Explanation | None]:
        """Explanations of images [n, H, W, C], in order; None for an image that does not fit the memory alone."""
        explained: list[Explanation | None] = []
        start = 0
        while start < len(images):
            size = self._model.batch_limit or self.batch_size
            part = slice(start, start + size)
            try:
                with self._model.compute, self._clock.wall("compute", at_once=self._model.batches_at_once):
                    batch = explain_batch(self._model.exposed, images[part], targets[part], self._options, size)
                explained.append(batch)
            except out_of_memory():
                if size > 1:
                    self._model.batch_limit = size // 2
                    _log.warning("a batch of %d images does not fit the memory; going on with %d", size, size // 2)
                    continue
                explained.append(None)
            start += size
        return explained


def batch_size_of(settings: MethodSettings, model: LoadedModel) -> int:
    """The configured batch size, or the one that `sensible_batch` finds when this is first asked of a model."""
    if settings.batch_size is not None:
        return settings.batch_size
    if model.batch_size is None:
        accelerator = has_accelerator()
        model.batch_size = sensible_batch(
            activation_bytes(model),
            accelerator_memory() if accelerator else memory_at_hand(),
            accelerator=accelerator,
            cores=1 if model.batches_at_once > 1 else usable_cores(),
            batches_at_once=model.batches_at_once,
            unit_images=settings.unit_images,
        )
    return model.batch_size


def activation_bytes(model: LoadedModel) -> int:
    """Bytes of one image's activations, of all layers, in float32."""
    height, width = model.input_size
    floats = 0
    for value in itertools.chain.from_iterable(step.outputs for step in model.exposed.program.steps):
        shape = value.shape[1:]
        floats += math.prod(size for size in shape if size is not None) * (height * width if None in shape else 1)
    return 4 * floats


def _explain(
    batch: _Batch, settings: ExplainSettings, explainer: Explainer, failures: list[Failure]
) -> tuple[list[Decoded], Explanation | None]:
    """Explains a batch for each of its targets.

    Returns:
      The images that have an explanation, and their explanations for all targets, those of one image together; None
      where there is no such image. The others are added to `failures`.
    """
    requests = np.asarray([settings.targets.requests(decoded.label) for decoded in batch.decoded], np.int32)
    problems, explanation = explainer.explain(batch.pixels, requests)
    kept = []
    for decoded, problem in zip(batch.decoded, problems, strict=True):
        if problem is None:
            kept.append(decoded)
        else:
            record = decoded.record
            failures.append(Failure(record.image_id, record.index, "explain", problem.error, problem.message))
    return kept, explanation


def _take(explanation: Explanation, rows: np.ndarray) -> Explanation:
    """The explanations of the given rows, in their order."""
    values = ((field.name, getattr(explanation, field.name)) for field in dataclasses.fields(explanation))
    return dataclasses.replace(
        explanation, **{name: value[rows] for name, value in values if isinstance(value, np.ndarray)}
    )


def _not_finite(explanation: Explanation, method: str) -> np.ndarray:
    """For each row the `Problem` that something in it is not finite, None where all is well. object [N]."""
    problems = np.full(len(explanation.targets), None, object)
    terms = ("input_term", "bias_term") if METHODS[method].complete else ()
    for name in reversed(("logits", "maps", *terms)):
        values = getattr(explanation, name)
        problem = Problem("NotFinite", f"the {name.replace('_', ' ')} of this image is not finite")
        problems[~np.isfinite(values).reshape(len(values), -1).all(axis=1)] = problem
    return problems


class _Results:
    """What becomes of explanations: figures, statistics and rows. Not for several threads at once.

    Attributes:
      partial: the statistics so far.
    """

    def __init__(self, unit: Unit, settings: ExplainSettings, model: LoadedModel, rows: RowWriter, clock: Clock):
        self._unit = unit
        self._settings = settings
        self._model = model
        self._rows = rows
        self._clock = clock
        self.partial = PartialStatistics(settings.grid)

    def add(self, images: Sequence[Decoded], explanation: Explanation) -> None:
        """Adds images and their explanations, as many of each image and those together."""
        each = len(explanation.targets) // len(images)
        sources = [image for image in images for _ in range(each)]
        first = np.arange(len(sources)) % each == 0
        with self._clock.processor("statistics"):
            statistics = _statistics_rows(sources, explanation, first, self._unit, self._model)
            self.partial.add(statistics)
        with self._clock.processor("write"):
            self._rows.write(_map_rows(sources, explanation, statistics, self._unit, self._settings, self._model))


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
        coarse=resample(unit_mass(explanation.maps), (COARSE, COARSE)),
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
        "coarse_map": pa.ListArray.from_arrays(
            np.arange(count + 1, dtype=np.int32) * COARSE**2, rows.coarse.astype(np.float32, copy=False).ravel()
        ),
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
    """In the order of the records, what has no place last."""
    ordered = sorted(failures, key=lambda failure: (failure.index is None, failure.index))
    return pa.Table.from_pylist([{**dataclasses.asdict(f), "shard": unit.shard.path} for f in ordered], ERRORS)


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
