"""Writes the same images as shards of every format: samples are (image id, encoded image, label)."""

from __future__ import annotations

import gzip
import io
import json
import pathlib
import struct
import tarfile
from collections.abc import Iterable, Mapping, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from transforms.sources.tfrecord import masked_crc32c

Sample = tuple[str, bytes, int | str | None]


def frame(data: bytes) -> bytes:
    """One TFRecord frame."""
    length = struct.pack("<Q", len(data))
    return b"".join((length, _checksum(length), data, _checksum(data)))


def example(features: Mapping[str, bytes | int | float | Sequence[bytes | int | float] | None]) -> bytes:
    """A serialised tf.train.Example; None makes a feature without a kind, a list one with several values."""
    from tensorflow.core.example import example_pb2

    message = example_pb2.Example()
    for name, value in features.items():
        feature = message.features.feature[name]
        values = list(value) if isinstance(value, list | tuple) else [value]
        if isinstance(values[0], bytes):
            feature.bytes_list.value.extend(values)
        elif isinstance(values[0], int):
            feature.int64_list.value.extend(values)
        elif values[0] is not None:
            feature.float_list.value.extend(values)
    return message.SerializeToString()


def write_tfrecord(path: pathlib.Path, samples: Iterable[Sample], gzip: bool = False) -> pathlib.Path:
    """Features `image/encoded`, `image/filename`, `image/class/label`; the last is left out where it is None."""
    with _opened(path, gzip) as sink:
        for image_id, image, label in samples:
            features: dict[str, bytes | int | float | None] = {
                "image/encoded": image,
                "image/filename": image_id.encode(),
            }
            if label is not None:
                features["image/class/label"] = label.encode() if isinstance(label, str) else label
            sink.write(frame(example(features)))
    return path


def write_webdataset(
    path: pathlib.Path, samples: Iterable[Sample], gzip: bool = False, label_in: str = "cls"
) -> pathlib.Path:
    """Members `KEY.png` or `KEY.jpg` and, with a label, `KEY.cls` or `KEY.json`; the key is the id up to its dot."""
    with _opened(path, gzip) as sink, tarfile.open(fileobj=sink, mode="w") as archive:
        for image_id, image, label in samples:
            key = image_id.partition(".")[0]
            extension = "png" if image.startswith(b"\x89PNG") else "jpg"
            add_member(archive, f"{key}.{extension}", image)
            if label is not None:
                text = str(label) if label_in == "cls" else json.dumps({"label": label})
                add_member(archive, f"{key}.{label_in}", text.encode())
    return path


def add_member(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))


def write_parquet(
    path: pathlib.Path, samples: Iterable[Sample], hf: bool = True, row_group_size: int = 1000
) -> pathlib.Path:
    """Columns `image` (struct<bytes, path> as Hugging Face datasets have it, or binary with a column `id`), `label`."""
    samples = list(samples)
    ids = [image_id for image_id, _, _ in samples]
    images = [image for _, image, _ in samples]
    columns: dict[str, pa.Array] = {}
    if hf:
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        cells = [{"bytes": image, "path": image_id} for image, image_id in zip(images, ids, strict=True)]
        columns["image"] = pa.array(cells, kind)
    else:
        columns["id"] = pa.array(ids, pa.string())
        columns["image"] = pa.array(images, pa.binary())
    columns["label"] = pa.array([label for _, _, label in samples])
    # Uncompressed and without dictionaries, so that tests know where in the file an image lies; and in small pages,
    # of which pyarrow otherwise makes one of 1,024 images, however large.
    pq.write_table(
        pa.table(columns), path, row_group_size, compression="none", use_dictionary=False, write_batch_size=16
    )
    return path


def write_folder(
    path: pathlib.Path, samples: Iterable[Sample], class_names: Sequence[str] | None = None
) -> pathlib.Path:
    """A flat folder, or one sub-folder a class where there are names for the labels."""
    path.mkdir(parents=True, exist_ok=True)
    for image_id, image, label in samples:
        folder = path if class_names is None or not isinstance(label, int) else path / class_names[label]
        folder.mkdir(exist_ok=True)
        (folder / image_id).write_bytes(image)
    return path


def _checksum(data: bytes) -> bytes:
    return struct.pack("<I", masked_crc32c(data))


def _opened(path: pathlib.Path, compressed: bool) -> gzip.GzipFile | io.BufferedWriter:
    return gzip.open(path, "wb") if compressed else path.open("wb")
