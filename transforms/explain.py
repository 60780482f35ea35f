"""Explains units of work: read → decode → explain → figures → one committed part. The DoFn that puts these together."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import math
import os
import socket
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import apache_beam as beam
import numpy as np
from apache_beam.metrics import Metrics

from fullgrad_beam import CheckedOnWorkers
from transforms.clock import Clock
from transforms.decode import UndecodableImage, decode_ahead, decode_image
from transforms.explainer import Explainer, MethodSettings, batch_size_of
from transforms.fullgrad import Explanation
from transforms.labels import UnusableLabel
from transforms.memory import usable_cores
from transforms.model import LoadedModel, ModelSpec, load_once, models_loaded
from transforms.parts import MAPS, Output
from transforms.results import Decoded, Failure, Results, errors_table
from transforms.sources import DamagedShard, Fields, Record, source_for
from transforms.unit import Receipt, Unit

T = TypeVar("T")
U = TypeVar("U")

# How often a unit under way says how far it is, for progress bars elsewhere.
_HEARTBEAT_SECONDS = 2.0


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


class ExplainUnits(CheckedOnWorkers, beam.DoFn):
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
    beyond: list[str] = []
    with output.writing_rows(output.part("maps", unit), MAPS) as rows:
        results = Results(unit, model, rows, clock, map_dtype=settings.map_dtype, grid=settings.grid)
        with (
            _Heartbeat(output, unit) as heartbeat,
            contextlib.closing(_decoded(unit, settings, model, failures, beyond, clock)) as decoded,
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
            # While the last rows are compressed, which Python's lock is not needed for.
            written = behind.submit(_write_statistics, unit, output, results, clock)
            with clock.processor("write"):
                rows.flush()
            written.result()
    if not images and not failures:
        failures.append(Failure(None, None, "read", "EmptyShard", f"{unit.shard.path} has no records"))
    if failures:
        output.write_table(output.part("errors", unit), errors_table(failures, unit))
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
        labels=dataclasses.replace(results.labels, beyond=len(beyond)),
        worker=f"{socket.gethostname()}/{os.getpid()}",
        models_loaded=models_loaded(),
    )
    output.write_json(output.receipt(unit), receipt.to_json())
    return receipt


def _write_statistics(unit: Unit, output: Output, results: Results, clock: Clock) -> None:
    with clock.processor("statistics"):
        classes = results.partial.classes
    with clock.processor("write"):
        output.write_partials(unit, classes)


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


def _decoded(
    unit: Unit,
    settings: ExplainSettings,
    model: LoadedModel,
    failures: list[Failure],
    beyond: list[str],
    clock: Clock,
) -> Generator[Decoded, None, None]:
    """The unit's images, decoded in threads at least two batches ahead; what has no pixels goes to `failures`.

    The ids of images whose label is the number of classes, as where labels begin at 1, go to `beyond` as well.
    """
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
                    if decoded.failure.error == "UnusableLabel" and decoded.record.label == model.exposed.classes:
                        beyond.append(decoded.record.image_id)
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
        return failed("read", record.error, record.problem or "the record has no image")
    try:
        label = label_of(record, model)
        settings.targets.requests(label)
    except ValueError as error:
        return failed("read", "UnusableLabel", str(error))
    try:
        pixels = decode_image(record.image, model.resize, model.channels, model.exif)
    except UndecodableImage as error:
        return failed("decode", "UndecodableImage", str(error))
    # Without its encoded bytes, which nobody needs any more and which would wait in memory with the pixels.
    record = dataclasses.replace(record, image=None)
    return Decoded(record, label, pixels, None)


def label_of(record: Record, model: LoadedModel) -> int | None:
    """The class index of a record's label; None where it is not known.

    Raises:
      UnusableLabel: there is no telling the class from it; the message names what holds the label.
    """
    try:
        if record.label_problem is not None:
            raise UnusableLabel(record.label_problem)
        return model.index_of(record.label)
    except UnusableLabel as error:
        raise UnusableLabel(f"{record.label_name}: {error}" if record.label_name else str(error)) from error


def _preprocessed(group: list[Decoded], model: LoadedModel) -> list[Decoded]:
    """The same with pixels as the model takes them, all of the group in one go."""
    pixels = [decoded.pixels for decoded in group if decoded.pixels is not None]
    if not pixels:
        return group
    ready = iter(model.preprocess(np.stack(pixels)))
    return [each if each.pixels is None else dataclasses.replace(each, pixels=next(ready)) for each in group]


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
