"""Explains units of work: read → decode → explain → figures → one committed part. Has the DoFn `ExplainUnits`."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import math
import os
import socket
import threading
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
from transforms.explainer import Explainer, MethodSettings, batch_size_of
from transforms.filesystems import STORE_ERRORS
from transforms.fullgrad import Explanation
from transforms.images import (
    DECODING_BYTES,
    UndecodableImage,
    decode_ahead,
    decode_image,
    encode_thumbnail,
    use_decoding_bytes,
)
from transforms.labels import UnusableLabel
from transforms.memory import usable_cores
from transforms.models import LoadedModel, ModelSpec, load_once, models_loaded
from transforms.output import MAPS, SMALL_MAPS, NewParts, Output, committed
from transforms.results import Decoded, Failure, UnitResults, errors_table
from transforms.sources import DamagedShard, Fields, Record, content_hash, source_for
from transforms.unit import Receipt, Unit

T = TypeVar("T")
U = TypeVar("U")

# How often a unit writes its progress, for progress bars in other processes.
_HEARTBEAT_SECONDS = 2.0

# Encoded images are read ahead up to so many bytes, or one record if it has more.
_AHEAD_BYTES = 256 << 20

# A thread decodes several records one after the other, up to so many encoded bytes.
_TOGETHER_BYTES = 1 << 20

# Row groups of the small maps: a few examples of a unit are read without most of its small maps.
_SMALL_ROW_GROUP_BYTES = 1 << 20


@dataclasses.dataclass(frozen=True, slots=True)
class ExplainSettings(MethodSettings):
    """All settings that a worker needs; small and picklable.

    Attributes:
      run: identifies this run in receipts.
      output: the output folder.
      model: the model that explains.
      fields: the names of features or columns in the shards.
      map_dtype: how maps are stored: `float16`, `float32`, `uint8` or `none`.
      grid: the side of the maps that are averaged per class.
      images: the longer side of the images that are stored with the maps, in pixels; None stores none.
      clusters: whether the images of each class are clustered once all units are committed.
      decoding_bytes: the memory of all decoders of a process.
    """

    run: str
    output: Output
    model: ModelSpec
    fields: Fields
    map_dtype: str
    grid: int
    images: int | None
    clusters: bool
    decoding_bytes: int = DECODING_BYTES


@dataclasses.dataclass(frozen=True, slots=True)
class _Batch:
    """Images that are explained together.

    Attributes:
      decoded: n images; their pixels are in `pixels`.
      pixels: float32 [n, H, W, C].
    """

    decoded: list[Decoded]
    pixels: np.ndarray

    @classmethod
    def of(cls, images: Iterator[Decoded], size: int) -> _Batch | None:
        """A batch of the next `size` images, or of the remaining ones; None if there are none."""
        decoded = list(itertools.islice(images, size))
        if not decoded:
            return None
        pixels = np.stack([each.pixels for each in decoded if each.pixels is not None])
        # The batch waits in memory, so it keeps only one copy of the pixels.
        return cls([dataclasses.replace(each, pixels=None) for each in decoded], pixels)


class ExplainUnits(CheckedOnWorkers, beam.DoFn):
    """Explains units. Yields their receipts, and in the output `BLOCKS` (block of classes, unit) for each of their
    blocks.

    A unit with a receipt is not computed again, and partial statistics are always read from disk. So a resumed run, a
    retried bundle and a first run give the same result.
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
        receipt = committed(unit, self._settings.output)
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
    """Computes and commits one unit: maps, errors and partial statistics, with the receipt.

    Three stages run at once: threads read and decode images ahead, batches are explained, and finished batches become
    figures, statistics and rows, in order.
    """
    with NewParts(settings.output, unit) as parts:
        return parts.commit(_explain_into(parts, unit, settings))


def _explain_into(parts: NewParts, unit: Unit, settings: ExplainSettings) -> Receipt:
    """Writes the parts of a unit; returns its receipt, as far as its content decides it."""
    started = time.time()
    model = load_once(settings.model)
    content = _content_of(unit)  # before the unit reads the shard, so that a change meanwhile is noticed afterwards
    clock = Clock()
    failures: list[Failure] = []
    beyond: list[str] = []
    with (
        parts.writing_rows("maps", MAPS) as rows,
        parts.writing_rows("small_maps", SMALL_MAPS, _SMALL_ROW_GROUP_BYTES) as small,
    ):
        results = UnitResults(unit, model, rows, small, clock, map_dtype=settings.map_dtype, grid=settings.grid)
        with (
            _Heartbeat(settings.output, unit) as heartbeat,
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
                    written.result()  # at most one batch behind, so that memory is bounded
                if explanation is not None:
                    written = behind.submit(results.add, kept, explanation)
            if written is not None:
                written.result()
            # Runs while the last rows are compressed, which does not need Python's lock.
            written = behind.submit(_write_statistics, parts, results, clock)
            with clock.processor("write"):
                rows.flush()
                small.flush()
            written.result()
    if not images and not failures:
        failures.append(Failure(None, None, "read", "EmptyShard", f"{unit.shard.path} has no records"))
    if failures:
        parts.write_table("errors", errors_table(failures, unit))
    ended = time.time()
    return Receipt(
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
        content=content,
        worker=f"{socket.gethostname()}/{os.getpid()}",
        models_loaded=models_loaded(),
    )


def _content_of(unit: Unit) -> str | None:
    """The hash of what the unit's shard contains; None if it cannot be read, which becomes an error row."""
    try:
        return content_hash(unit.shard)
    except STORE_ERRORS:
        return None


def _write_statistics(parts: NewParts, results: UnitResults, clock: Clock) -> None:
    with clock.processor("statistics"):
        classes = results.partial.classes
    with clock.processor("write"):
        parts.write_partials(classes)


def _batches(images: Iterator[Decoded], size: int, ahead: ThreadPoolExecutor) -> Iterator[_Batch]:
    """Batches of `size` images. A thread assembles each batch while the previous one is used."""
    following = ahead.submit(_Batch.of, images, size)
    while (batch := following.result()) is not None:
        following = ahead.submit(_Batch.of, images, size)
        yield batch


def _in_order(pool: ThreadPoolExecutor, function: Callable[[T], U], items: Iterator[T], further: int) -> Iterator[U]:
    """Yields function(item) for each item, in order. While the caller waits, `further` more items are computed."""
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
    """The unit's images, which threads decode at least two batches ahead. An image without pixels is added to
    `failures`.

    `beyond` gets the ids of images whose label equals the number of classes, as when labels begin at 1.
    """
    size, threads = batch_size_of(settings, model), min(8, usable_cores())
    # Handing a small image to a thread costs as much as decoding it. So a thread gets several, if a batch has enough.
    together = min(16, max(1, size // (4 * threads)))
    use_decoding_bytes(settings.decoding_bytes)
    records = source_for(unit.shard.format, settings.fields).read(unit.shard, unit.start, unit.stop)

    def decode(group: list[Record]) -> list[Decoded]:
        with clock.processor("decode"):
            return _preprocessed([_decode(record, settings, model) for record in group], model)

    groups = _grouped(records, together, clock)
    try:
        decoding = decode_ahead(
            groups, decode, threads=threads, ahead=math.ceil(2 * size / together), weigh=_bytes_of, most=_AHEAD_BYTES
        )
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
    """Lists of `size` records, or fewer large ones. Records before damage come first; then the damage is raised."""
    damage: DamagedShard | None = None
    while damage is None:
        group: list[Record] = []
        with clock.processor("read"):
            try:
                held = 0
                while len(group) < size and held < _TOGETHER_BYTES and (record := next(records, None)) is not None:
                    group.append(record)
                    held += len(record.image or b"")
            except DamagedShard as error:
                damage = error
        if group:
            yield group
        elif damage is None:
            return
    raise damage


def _bytes_of(group: list[Record]) -> int:
    return sum(len(record.image or b"") for record in group)


def _decode(record: Record, settings: ExplainSettings, model: LoadedModel) -> Decoded:
    def failed(stage: str, error: str, message: str) -> Decoded:
        return Decoded(
            dataclasses.replace(record, image=None),
            None,
            None,
            None,
            Failure(record.image_id, record.index, stage, error, message),
        )

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
    # Drops the encoded bytes, which are no longer needed but would wait in memory with the pixels.
    record = dataclasses.replace(record, image=None)
    image = None if settings.images is None else encode_thumbnail(pixels, settings.images)
    return Decoded(record, label, pixels, image, None)


def label_of(record: Record, model: LoadedModel) -> int | None:
    """The class index of a record's label; None for an unknown label.

    Raises:
      UnusableLabel: the label does not tell the class. The message names the field that holds it.
    """
    try:
        if record.label_problem is not None:
            raise UnusableLabel(record.label_problem)
        return model.index_of(record.label)
    except UnusableLabel as error:
        raise UnusableLabel(f"{record.label_name}: {error}" if record.label_name else str(error)) from error


def _preprocessed(group: list[Decoded], model: LoadedModel) -> list[Decoded]:
    """The group with its pixels preprocessed for the model, all at once."""
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
      The images that have an explanation, and their explanations for all targets, those of one image together. The
      explanations are None if there is no such image. The other images are added to `failures`.
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
    """Writes a unit's progress to a small file from time to time, and deletes the file at the end.

    A thread of its own writes it, so that a unit shows that it is under way while its first or a large batch is
    computed.
    """

    def __init__(self, output: Output, unit: Unit):
        self._output = output
        self._path = output.heartbeat(unit)
        self._interval = _HEARTBEAT_SECONDS if "://" not in output.path else 5 * _HEARTBEAT_SECONDS
        self._started = time.time()
        self._counts = (0, 0)
        self._ended = threading.Event()
        self._written = False
        self._thread = threading.Thread(target=self._follow, name="heartbeat", daemon=True)

    def __enter__(self) -> _Heartbeat:
        self._thread.start()
        return self

    def beat(self, images: int, failed: int) -> None:
        """Notes how many images are done, for the next time that the file is written."""
        self._counts = images, failed

    def _follow(self) -> None:
        while not self._ended.wait(self._interval):
            images, failed = self._counts
            beat = {"images": images, "failed": failed, "started": self._started, "time": time.time()}
            with contextlib.suppress(Exception):  # a unit does not fail because its progress cannot be told
                self._output.write_json(self._path, json.dumps(beat))
                self._written = True

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        if self._written:
            with contextlib.suppress(Exception):  # an old heartbeat that is left behind is ignored
                self._output.delete(self._path)
