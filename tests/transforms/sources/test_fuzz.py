"""Mutated shards and images end in records, error rows or the documented errors: no crash, no hang.

FULLGRAD_FUZZ_CASES is the number of cases of the slow test, 2,000 by default. Case n is the same in every process, so
that the quick test has the first ones.
"""

from __future__ import annotations

import io
import os
import pathlib
import random
import resource
import time

import numpy as np
import pytest
from PIL import Image

from tests.shards import write_parquet, write_tfrecord, write_webdataset
from transforms.images import DECODING_BYTES, Resize, UndecodableImage, decode_image, use_decoding_bytes
from transforms.sources import DamagedShard, Fields, UnreadableInput, source_for
from transforms.unit import Shard

CASES = int(os.environ.get("FULLGRAD_FUZZ_CASES", "2000"))
FEW_CASES = 120
LONGEST_SECONDS = 5.0  # of a processor, for one case
GROWTH_MIB = 200  # over all cases

Original = tuple[str, bytes]


def images() -> list[Original]:
    pixels = np.random.default_rng(0).integers(0, 255, (24, 20, 3), dtype=np.uint8)
    colour = Image.fromarray(pixels)
    formats = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")
    kinds = [(format, colour, {}) for format in formats]
    kinds += [
        ("JPEG", colour.convert("CMYK"), {}),
        (
            "JPEG",
            colour,
            {"progressive": True, "exif": b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0"},
        ),
        ("TIFF", colour, {"compression": "tiff_lzw"}),
        ("TIFF", Image.fromarray(pixels[..., 0].astype(np.float32) / 255), {}),
        ("PNG", colour.convert("P"), {}),
        ("PNG", colour.convert("RGBA"), {}),
    ]
    found = []
    for format, image, how in kinds:
        sink = io.BytesIO()
        image.save(sink, format, **how)
        found.append((format, sink.getvalue()))
    return found


def shards(folder: pathlib.Path) -> list[Original]:
    samples = [(f"image{place}.png", data, place) for place, (_, data) in enumerate(images()[:3])]
    return [
        ("tfrecord", write_tfrecord(folder / "a", samples).read_bytes()),
        ("tfrecord", write_tfrecord(folder / "b", samples, gzip=True).read_bytes()),
        ("webdataset", write_webdataset(folder / "c", samples).read_bytes()),
        ("webdataset", write_webdataset(folder / "d", samples, gzip=True, label_in="json").read_bytes()),
        ("parquet", write_parquet(folder / "e", samples).read_bytes()),
        ("parquet", write_parquet(folder / "f", samples, hf=False).read_bytes()),
    ]


def mutated(data: bytes, generator: random.Random) -> bytes:
    """Bytes changed, cut, repeated, or replaced by numbers that are often mistaken, at one to eight places."""
    changed = bytearray(data)
    for _ in range(generator.randint(1, 8)):
        place = generator.randrange(len(changed) or 1)
        if generator.random() < 0.4:  # headers are at the start, and Parquet's at the end
            place = generator.randrange(min(64, len(changed) or 1))
        elif generator.random() < 0.2:
            place = max(0, len(changed) - generator.randint(1, 400))
        kind = generator.randrange(6)
        if kind == 0:
            changed[place : place + 1] = generator.randbytes(1)
        elif kind == 1:
            del changed[place:]
        elif kind == 2:
            size = generator.choice((1, 2, 4, 8))
            changed[place : place + size] = generator.choice((b"\xff", b"\0", b"\x7f", b"\x80")) * size
        elif kind == 3:
            changed[place:place] = changed[place : place + generator.randint(1, 600)]
        elif kind == 4:
            del changed[place : place + generator.randint(1, 40)]
        elif changed:
            changed[place % len(changed)] ^= 1 << generator.randrange(8)
    return bytes(changed)


def read(format: str, path: pathlib.Path) -> None:
    sentences: list[str] = []
    source = source_for(format, Fields(record_bytes=64 << 20))
    shard = Shard(str(path), format, path.stat().st_size)
    try:
        source.check(shard)
    except UnreadableInput as error:
        sentences.append(str(error))
    source.found(shard)
    count = source.count(shard)
    assert 0 <= count <= 1_000 or format == "parquet"
    try:
        for record in source.read(shard):
            assert isinstance(record.image_id, str)
            record.image_id.encode()  # which Parquet can hold
            assert record.image or record.problem
    except DamagedShard as damage:
        sentences.append(str(damage))
    assert all(sentences)


def decode(data: bytes) -> None:
    for exif in ("ignore", "apply"):
        try:
            pixels = decode_image(data, Resize((16, 16)), 3, exif)
        except UndecodableImage:
            continue
        assert pixels.shape == (16, 16, 3)


@pytest.mark.filterwarnings("ignore")  # Pillow warns of damage that it can read over
@pytest.mark.timeout(0 if CASES > 2_000 else 300)
@pytest.mark.parametrize("count", [FEW_CASES, pytest.param(CASES, marks=pytest.mark.slow)], ids=["few", "all"])
@pytest.mark.parametrize("what", ["images", "shards"])
def test_no_mutation_crashes_hangs_or_fills_the_memory(
    what: str, count: int, tmp_path: pathlib.Path, request: pytest.FixtureRequest
) -> None:
    request.addfinalizer(lambda: use_decoding_bytes(DECODING_BYTES))
    use_decoding_bytes(64 << 20)  # an image just under the limit of pixels may take all of it
    originals = images() if what == "images" else shards(tmp_path)
    path = tmp_path / "case"
    start = 0
    cases = count * 3 // 4 if what == "images" else count // 4
    for case in range(cases):
        generator = random.Random(f"{what} {case}")
        format, data = originals[case % len(originals)]
        data = mutated(data, generator)

        def seconds(data: bytes = data, format: str = format) -> float:
            began = time.process_time()
            if what == "images":
                decode(data)
            else:
                path.write_bytes(data)
                read(format, path)
            return time.process_time() - began

        try:
            # On a busy machine the system itself may take seconds, so a slow case gets a second attempt.
            slow = seconds() >= LONGEST_SECONDS and seconds() >= LONGEST_SECONDS
        except Exception as error:
            raise AssertionError(f"case {case} of {what} ({format}): {type(error).__name__}: {error}") from error
        assert not slow, f"case {case} of {what} ({format}) hangs"
        if case == min(100, cases // 2):  # libraries are loaded and their caches are full
            start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start) >> 10 < GROWTH_MIB
