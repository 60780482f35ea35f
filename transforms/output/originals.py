"""Reads the image of a row from the shard that it came from."""

from __future__ import annotations

import dataclasses
import functools
import posixpath
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from PIL import Image

from transforms.byte_names import from_text
from transforms.filesystems import READ_ERRORS, use_options_if_none_are_set
from transforms.images import Resize, UndecodableImage, open_image, resized
from transforms.output.files import list_files, match, read_bytes
from transforms.output.store import Output
from transforms.sources import DamagedShard, Fields, Source, source_for
from transforms.unit import Receipt, Shard, Unit


class NoOriginal(ValueError):
    """The image of a row cannot be read. One sentence names the shard and says why."""


def read_image(row: Any, output: str, size: Literal["original", "model"] = "original") -> Image.Image:
    """The image that a row is about, read again from its shard.

    It reads the shard from its start to the image, or, where the format allows, only the image: uncompressed TFRecords
    and tars are skipped through, of Parquet one row group is read. The run's own `input.fields` and
    `model.preprocess` are used, from its run.json.

    Args:
      row: a row of `maps`, `errors` or `examples`, with at least `shard` and `index`, and `image_id` to notice shards
        that changed: a mapping, a row of pandas, or one row of a PyArrow table.
      output: the run's output folder, which the row is from.
      size: `original` is the image's own size. `model` is the image as the model saw it: resized or cropped.

    Returns:
      a Pillow image, in RGB or, for a model of grey images, in grey; `numpy.asarray` makes it uint8 [H, W, 3]
      or [H, W].

    Raises:
      NoOriginal: the shard is gone or has changed, or the image cannot be read or decoded.
      FileNotFoundError: the folder is no output of a run.
    """
    [image] = Originals.of(output).read([row], size)
    if isinstance(image, NoOriginal):
        raise image
    return image


@dataclasses.dataclass(frozen=True)
class Originals:
    """The images of an output.

    Attributes:
      output: the folder.
      run: the last run into it. Another run may have written other receipts.
      fields: the names of the fields that hold image and id.
      resize: how images were resized for the model; its shape is None if it is not known.
      channels: of the images that the model takes, 1 or 3.
      exif: what is done with an EXIF orientation.
    """

    output: Output
    run: str
    fields: Fields
    resize: Resize
    channels: int
    exif: Literal["ignore", "apply"]

    @classmethod
    def of(cls, path: str) -> Originals:
        """The images of the output in a folder.

        Raises:
          FileNotFoundError: there is no run.json in it.
          ValueError: its run.json was written by something else.
        """
        output = Output(path)
        use_options_if_none_are_set()
        run = output.read_json("run.json")
        if run is None:
            raise FileNotFoundError(f"{path} is no output of a run: there is no run.json in it")
        try:
            preprocess = run["configuration"]["model"]["preprocess"]
            fields = run["configuration"]["input"]["fields"]
            height, width, channels = run["model"]["input_shape"]
            how = preprocess["resize"]
            resize = Resize(
                None if how["shape"] is None else tuple(how["shape"]), how["how"], how["short_side"], how["filter"]
            )
            return cls(
                output,
                run["run"],
                # Labels are not needed. Earlier versions read records of any size.
                Fields(
                    fields["image"], fields["id"], "", run["configuration"]["input"].get("record_mib", 1 << 20) << 20
                ),
                resize if height is None or width is None else resize.for_input((height, width)),
                channels,
                preprocess.get("exif", "apply"),  # what versions without the key did
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"{path} is no output of a run: its run.json was written by something else") from error

    def read(
        self, rows: Sequence[Any], size: Literal["original", "model"] = "original"
    ) -> list[Image.Image | NoOriginal]:
        """The image of each row, as `read_image`, or why it cannot be read.

        Rows of the same shard that follow each other with ascending indices are read in one pass.
        """
        if size not in ("original", "model"):
            raise ValueError(f"size is {size!r}; it must be 'original' or 'model'")
        places = [
            (from_text(str(_value(row, "shard"))), int(_value(row, "index")), _value(row, "image_id")) for row in rows
        ]
        images: list[Image.Image | NoOriginal] = []
        while len(images) < len(places):
            first = last = len(images)
            while last + 1 < len(places) and places[last + 1][0] == places[first][0]:
                if places[last + 1][1] < places[last][1]:
                    break
                last += 1
            images += self._read_in_order(places[first : last + 1], size)
        return images

    def _read_in_order(
        self, places: Sequence[tuple[str, int, str | None]], size: Literal["original", "model"]
    ) -> Iterator[Image.Image | NoOriginal]:
        """The images of one shard, at ascending indices."""
        path = places[0][0]
        try:
            shard = self._shard(path)
            source = source_for(shard.format, self.fields)
            if shard.format != "folder":
                _check_size(shard)
        except NoOriginal as problem:
            return iter([problem] * len(places))
        return self._images(source, shard, places, size)

    def _images(
        self,
        source: Source,
        shard: Shard,
        places: Sequence[tuple[str, int, str | None]],
        size: Literal["original", "model"],
    ) -> Iterator[Image.Image | NoOriginal]:
        records = source.read(shard, places[0][1], places[-1][1] + 1)
        record, end = None, None
        for _, index, image_id in places:
            while end is None and (record is None or record.index < index):
                try:
                    record = next(records, None)
                    if record is None:
                        end = f"{shard.path} has changed since it was explained: it has no image {index} any more"
                except DamagedShard as damage:
                    end = str(damage)
                except READ_ERRORS as error:
                    end = f"{shard.path} cannot be read: {error}"
            if end is not None or record is None:
                yield NoOriginal(end)
                continue
            if image_id is not None and record.image_id != image_id:
                yield NoOriginal(
                    f"{shard.path} has changed since it was explained: image {index} is {record.image_id!r} now, not "
                    f"{image_id!r}"
                )
            elif record.image is None:
                yield NoOriginal(f"{shard.path}, image {index}: {record.problem}")
            else:
                yield self._decoded(record.image, f"{shard.path}, image {index}", size)

    def _decoded(self, encoded: bytes, place: str, size: Literal["original", "model"]) -> Image.Image | NoOriginal:
        try:
            image = open_image(encoded, self.channels, self.exif)
            return image if size == "original" or self.resize.shape is None else resized(image, self.resize)
        except UndecodableImage as error:
            return NoOriginal(f"{place}: {error}")

    def _shard(self, path: str) -> Shard:
        """The shard as it was explained, from a receipt of one of its units.

        Raises:
          NoOriginal: no receipt is about it.
        """
        for again in (False, True):  # a run that goes on has new ones
            if again:
                _receipts_of.cache_clear()
            for name in _receipts_of(self.output.path, self.run).get(_stem(path), ()):
                receipt = _receipt(name, self.run)
                if receipt is not None and receipt.unit.shard.path == path:
                    return receipt.unit.shard
        raise NoOriginal(
            f"{self.output.path} has no receipt of {path}: the row is not from this output, or its unit is not complete"
        )


@functools.lru_cache(maxsize=4)
def _receipts_of(path: str, run: str) -> dict[str, list[str]]:
    """The receipts of an output by the part of their names that comes from the shard's name."""
    by_stem: dict[str, list[str]] = {}
    for file in list_files(Output(path).file("receipts", "*.json")):
        # See Unit.id: the shard's name, the start in nine or more digits, a hash.
        stem = posixpath.basename(file.replace("\\", "/")).rsplit("-", 2)[0]
        by_stem.setdefault(stem, []).append(file)
    return by_stem


@functools.lru_cache(maxsize=1024)
def _receipt(path: str, run: str) -> Receipt | None:
    text = read_bytes(path)
    return None if text is None else Receipt.from_json(text)


def _stem(path: str) -> str:
    return Unit(Shard(path, "", 0)).id.rsplit("-", 2)[0]


def _check_size(shard: Shard) -> None:
    """Refuses a file that is gone, or that has another size than when it was explained.

    Raises:
      NoOriginal: says which.
    """
    try:
        # A name with brackets is not a pattern here.
        found = [
            file for file in match("".join("?" if c in "*?[" else c for c in shard.path)) if file.path == shard.path
        ]
    except READ_ERRORS as error:
        raise NoOriginal(f"{shard.path} cannot be read: {error}") from error
    if not found:
        raise NoOriginal(f"{shard.path} is gone: it was there when it was explained")
    if found[0].size_in_bytes != shard.size:
        raise NoOriginal(
            f"{shard.path} has changed since it was explained: its size was {shard.size} and is "
            f"{found[0].size_in_bytes}"
        )


def _value(row: Any, name: str) -> Any:
    """A row's value in a column, as a Python value; None where it has no `image_id`.

    Raises:
      ValueError: the row lacks the column, or there are several rows.
    """
    try:
        value = row[name]
    except (KeyError, IndexError, TypeError) as error:
        if name == "image_id":
            return None
        raise ValueError(f"the row has no {name!r}; it must be a row of maps, errors or examples") from error
    if hasattr(value, "as_py"):  # a scalar of PyArrow
        return value.as_py()
    if hasattr(value, "to_pylist"):  # a column of a table of PyArrow
        value = value.to_pylist()
        if len(value) != 1:
            raise ValueError(f"there are {len(value)} rows; read_image takes one")
        value = value[0]
    if value is None and name != "image_id":
        raise ValueError(f"the row has no image: its {name!r} is null")
    return value
