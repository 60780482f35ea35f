"""What a worker does in a check: reads chosen images, changes them, and writes what the model answers."""

from __future__ import annotations

import abc
import dataclasses
import functools
import io
import itertools
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.io.filesystems import FileSystems
from PIL import Image

from fullgrad_beam import CheckedOnWorkers
from pipeline.checks.forward import Forward
from pipeline.checks.units import CheckUnit, Chosen
from transforms.byte_names import as_text
from transforms.images import UndecodableImage, decode_image
from transforms.models import LoadedModel, ModelSpec, load_once
from transforms.output import Output
from transforms.sources import DamagedShard, Fields, Record, source_for
from transforms.statistics import sample_key

T = TypeVar("T")
U = TypeVar("U")


@dataclasses.dataclass(frozen=True, slots=True)
class CheckSettings:
    """What workers are told; small and picklable.

    Attributes:
      output: the output that is checked.
      model: the run's model.
      fields: the names of features or columns in the shards.
    """

    output: Output
    model: ModelSpec
    fields: Fields


@dataclasses.dataclass(frozen=True, slots=True)
class Picture:
    """A chosen image.

    Attributes:
      chosen: what for.
      shard: its shard's path.
      record: as read, without the encoded image.
      pixels: uint8 [H, W, C], of the model's size.
      key: a number that depends only on where the image is; it seeds all that is random about the image.
      label: its class; None if it is unknown.
    """

    chosen: Chosen
    shard: str
    record: Record
    pixels: np.ndarray
    key: int
    label: int | None

    def generator(self, *what: int) -> np.random.Generator:
        """Random numbers for one purpose. They depend only on the image and the purpose."""
        return np.random.default_rng([self.key, *what])


@functools.lru_cache(maxsize=1)
def forward_once(spec: ModelSpec) -> Forward:
    """The forward pass of a process."""
    return Forward(load_once(spec))


class ComputeUnits(CheckedOnWorkers, beam.DoFn, abc.ABC):
    """Computes units that have no part yet, and yields the paths of their parts.

    A part is one small file. It is written whole or not at all, so it is its own receipt.
    """

    step: str
    schema: pa.Schema

    def __init__(self, settings: CheckSettings):
        self._settings = settings

    def setup(self) -> None:
        load_once(self._settings.model)

    def path(self, unit: CheckUnit) -> str:
        """Where a unit's part is."""
        return part_of(self._settings.output, self.step, unit)

    def process(self, unit: CheckUnit) -> Iterator[str]:
        path = self.path(unit)
        if not FileSystems.exists(path):
            model = load_once(self._settings.model)
            forward = forward_once(self._settings.model)
            rows = self.rows(_pictures(unit, self._settings, model), forward, model)
            output = self._settings.output
            output.write_table(path, pa.Table.from_pylist(list(rows), self.schema))
        yield path

    @abc.abstractmethod
    def rows(self, pictures: Iterator[Picture], forward: Forward, model: LoadedModel) -> Iterator[dict[str, object]]:
        """The rows of a unit's part, in the order of its images."""


def part_of(output: Output, step: str, unit: CheckUnit) -> str:
    """The path of a unit's part."""
    return output.file("checks", "parts", f"{step}-{unit.id}.parquet")


def _pictures(unit: CheckUnit, settings: CheckSettings, model: LoadedModel) -> Iterator[Picture]:
    """The chosen images. Those that can no longer be read are left out."""
    shard = unit.unit.shard
    chosen = {each.index: each for each in unit.chosen}
    records = source_for(shard.format, settings.fields).read(shard, unit.unit.start, unit.unit.stop)
    try:
        for record in records:
            if record.index not in chosen or record.image is None:
                continue
            try:
                pixels = decode_image(record.image, model.resize, model.channels, model.exif)
                label = None if record.label_problem else model.index_of(record.label)
            except (UndecodableImage, ValueError):
                continue
            key = sample_key(shard.path, record.index, -1)
            yield Picture(
                chosen[record.index], as_text(shard.path), dataclasses.replace(record, image=None), pixels, key, label
            )
    except DamagedShard:
        return


def side_by_side(function: Callable[[T], U], items: Iterator[T], at_once: int) -> Iterator[U]:
    """Yields function(item) for each item, in order, with at most `at_once` items under way."""
    with ThreadPoolExecutor(at_once) as threads:
        under_way: deque[Future[U]] = deque()
        for item in items:
            under_way.append(threads.submit(function, item))
            if len(under_way) >= at_once:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()


def in_groups(items: Iterator[T], size: int) -> Iterator[list[T]]:
    """Lists of `size` items, the last one shorter."""
    while group := list(itertools.islice(items, size)):
        yield group


def encoded(pixels: np.ndarray, kind: str = "PNG", side: int | None = None) -> bytes:
    """Pixels uint8 [H, W, C] as an image file, made smaller so that its longer side is at most `side`."""
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    if side is not None:
        image.thumbnail((side, side))
    sink = io.BytesIO()
    image.save(sink, kind)
    return sink.getvalue()


def decoded(data: bytes) -> np.ndarray:
    """Pixels uint8 [H, W, C] of an image that `encoded` wrote."""
    pixels = np.asarray(Image.open(io.BytesIO(data)))
    return pixels[..., None] if pixels.ndim == 2 else pixels
