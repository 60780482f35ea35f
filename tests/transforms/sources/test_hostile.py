"""Shards that claim what they do not hold end in the documented damage or error rows, and never fill the memory."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import pathlib
import struct
import subprocess
import sys
import tarfile
import textwrap

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.shards import add_member, frame, write_parquet, write_tfrecord, write_webdataset
from tests.transforms.sources.shard_samples import noise_samples, read_until_damage, shard_of
from transforms.sources import Fields, LeftOut, UnreadableInput, find_shards, source_for
from transforms.sources.tfrecord import masked_crc32c
from transforms.unit import Shard

SAMPLES = noise_samples(6)


def length_of(value: int) -> bytes:
    """The header of a TFRecord's frame, with the right checksum."""
    data = struct.pack("<Q", value)
    return data + struct.pack("<I", masked_crc32c(data))


def header(size: int | bytes = 0, type: bytes = b"0", name: str = "x.png") -> bytes:
    """A tar header with the right checksum that claims a size."""
    block = bytearray(tarfile.TarInfo(name).tobuf(tarfile.GNU_FORMAT))
    block[124:136] = size if isinstance(size, bytes) else b"%011o\0" % size
    block[156:157] = type
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def base256(size: int) -> bytes:
    return (b"\x80" if size >= 0 else b"\xff") + (size & ((1 << 88) - 1)).to_bytes(11, "big")


def pax(text: bytes, type: bytes = b"x") -> bytes:
    return header(len(text), type) + text + b"\0" * (-len(text) % 512)


LONG_NAMES = (header(7, b"L") + b"a.png\0\0".ljust(512, b"\0")) * 2_000
TARS = {
    "a size of 2^62": header(base256(1 << 62)),
    "a size of 2^80": header(base256(1 << 80)),
    "a negative size": header(base256(-4096)),
    "a size of attributes": pax(b"30 size=9223372036854775807999\n") + header(3),
    "a negative size of attributes": pax(b"14 size=-5120\n") + header(3),
    "2,000 long names": LONG_NAMES + header(3),
    "2,000 blocks of attributes": pax(b"12 path=abc\n") * 2_000 + header(3),
    "2,000 mixed headers": (header(4, b"K") + b"abc\0".ljust(512, b"\0") + pax(b"12 path=abc\n")) * 1_000 + header(3),
    "a long name of 1 TiB": header(base256(1 << 40), b"L"),
    "a negative long name": header(base256(-1), b"L"),
    "a sparse file": header(base256(1 << 50), b"S"),
    "attributes of a sparse file": pax(b"22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n") + header(512) + b"9\n" * 256,
    "a character set that is none": pax(b"20 hdrcharset=\xff\xff\xff\xff\n") + header(3),
}


@pytest.mark.parametrize("name", TARS)
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
def test_a_tar_keeps_what_comes_before_a_header_that_lies(tmp_path: pathlib.Path, name: str, packed: bool) -> None:
    path = write_webdataset(tmp_path / "x.tar", SAMPLES)
    with tarfile.open(path) as archive:
        end = max(member.offset_data + (-(-member.size // 512) * 512) for member in archive)
    data = path.read_bytes()[:end] + TARS[name]
    path.write_bytes(gzip.compress(data) if packed else data)
    source = source_for("webdataset", Fields())
    records, damage = read_until_damage(source, shard_of(path, "webdataset"))
    assert [record.image for record in records[:6]] == [image for _, image, _ in SAMPLES]
    assert damage is not None
    assert damage.index in (5, 6)
    assert source.count(shard_of(path, "webdataset")) == damage.index
    path.write_bytes(TARS[name])
    with contextlib.suppress(UnreadableInput):  # a member that is cut off is found as it is read
        source.check(shard_of(path, "webdataset"))


@pytest.mark.parametrize("length", [1 << 31, 1 << 60, (1 << 63) - 1, 1 << 63, (1 << 64) - 1])
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
def test_a_length_that_no_record_has_is_damage(tmp_path: pathlib.Path, length: int, packed: bool) -> None:
    data = write_tfrecord(tmp_path / "x.tfrecord", SAMPLES).read_bytes() + length_of(length) + b"abc"
    path = tmp_path / "x.tfrecord"
    path.write_bytes(gzip.compress(data) if packed else data)
    source = source_for("tfrecord", Fields())
    records, damage = read_until_damage(source, shard_of(path, "tfrecord"))
    assert len(records) == 6
    assert damage is not None
    assert damage.index == 6 == source.count(shard_of(path, "tfrecord"))


@pytest.mark.parametrize("format", ["tfrecord", "webdataset", "parquet", "folder"])
def test_a_record_over_the_limit_is_an_error_row_and_the_next_is_read(tmp_path: pathlib.Path, format: str) -> None:
    samples = [SAMPLES[0], ("large.png", b"\x89PNG" + bytes(2 << 20), 1), *SAMPLES[1:]]
    path = tmp_path / "x"
    if format == "folder":
        path.mkdir()
        for place, (_, image, _) in enumerate(samples):
            (path / f"{place}.png").write_bytes(image)
        shard = Shard(str(path), "folder", len(samples))
    else:
        write = {"tfrecord": write_tfrecord, "webdataset": write_webdataset, "parquet": write_parquet}[format]
        shard = shard_of(write(path, samples), format)
    source = source_for(format, Fields(record_bytes=1 << 20))
    records, damage = read_until_damage(source, shard)
    assert damage is None
    assert [record.error for record in records if record.image is None] == ["TooLarge"]
    assert records[1].problem is not None
    assert "more than the 1,048,576 that are read" in records[1].problem
    assert [record.image for record in records if record.image is not None] == [image for _, image, _ in SAMPLES]
    assert source.count(shard) == len(samples)


def test_deep_json_and_long_numbers_are_no_labels_and_no_errors(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "x.tar"
    deep = b"[" * 100_000
    with tarfile.open(path, "w") as archive:
        for name, text in (("a.json", b'{"label":' + deep), ("b.cls", deep), ("c.cls", b"9" * 10_000)):
            add_member(archive, f"{name[0]}.png", SAMPLES[0][1])
            add_member(archive, name, text)
    source = source_for("webdataset", Fields())
    source.check(shard_of(path, "webdataset"))
    records, damage = read_until_damage(source, shard_of(path, "webdataset"))
    assert damage is None
    assert [record.image for record in records] == [SAMPLES[0][1]] * 3


def test_a_footer_that_claims_10_12_rows_is_counted_by_reading(tmp_path: pathlib.Path) -> None:
    path = write_parquet(tmp_path / "x.parquet", SAMPLES)
    table = pq.ParquetFile(path)
    assert table.metadata.num_rows == 6
    data = path.read_bytes()
    size = struct.unpack("<I", data[-8:-4])[0]
    footer = data[-8 - size : -8]
    # In Thrift's compact protocol, 6 is the zigzag varint 12; the claims become varints of ten to the twelfth.
    lie, number = b"", 2 * 10**12
    while number:
        lie, number = lie + bytes([number & 127 | (128 if number > 127 else 0)]), number >> 7
    for head in (b"\x16",):
        footer = footer.replace(head + b"\x0c", head + lie)
    path.write_bytes(data[: -8 - size] + footer + struct.pack("<I", len(footer)) + b"PAR1")
    assert pq.ParquetFile(path).metadata.num_rows == 10**12
    source = source_for("parquet", Fields())
    records, damage = read_until_damage(source, shard_of(path, "parquet"))
    assert damage is not None
    assert source.count(shard_of(path, "parquet")) == damage.index == len(records) <= 6


def test_text_that_is_not_utf_8_is_kept_in_every_format(tmp_path: pathlib.Path) -> None:
    names = [b"caf\xe9.png", b"caf\xe8.png", b"a\\xe9.png"]
    shown = [r"caf\xe9", r"caf\xe8", r"a\x5cxe9"]
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for name in names:
            add_member(archive, os.fsdecode(name), SAMPLES[0][1])
    with (tmp_path / "x.tfrecord").open("wb") as sink:
        for name in names:
            features = _entry(b"image/encoded", SAMPLES[0][1]) + _entry(b"image/filename", name)
            sink.write(frame(b"\x0a" + _delimited(features)))
    ids = pa.Array.from_buffers(pa.string(), 3, pa.array(names, pa.binary()).buffers())
    pq.write_table(pa.table({"image": pa.array([SAMPLES[0][1]] * 3, pa.binary()), "id": ids}), tmp_path / "x.parquet")
    folder = tmp_path / os.fsdecode(b"f\xff")
    folder.mkdir()
    for name in names:
        (folder / os.fsdecode(name)).write_bytes(SAMPLES[0][1])
    for pattern, ends in (("x.tar", ""), ("x.tfrecord", ".png"), ("x.parquet", ".png"), (folder.name, ".png")):
        [shard] = find_shards(str(tmp_path / pattern))
        records, damage = read_until_damage(source_for(shard.format, Fields()), shard)
        assert damage is None
        assert sorted(record.image_id for record in records) == sorted(name + ends for name in shown)
        assert {record.image for record in records} == {SAMPLES[0][1]}


def _entry(key: bytes, data: bytes) -> bytes:
    """A feature of a tf.train.Example. Written by hand, as the key and the bytes may be anything."""
    value = _delimited(b"\x0a" + _delimited(b"\x0a" + _delimited(data)))
    return b"\x0a" + _delimited(b"\x0a" + _delimited(key) + b"\x12" + value)


def _delimited(data: bytes) -> bytes:
    size, length = len(data), b""
    while size > 127:
        length, size = length + bytes([size & 127 | 128]), size >> 7
    return length + bytes([size]) + data


def test_pipes_sockets_and_links_that_lead_nowhere_are_left_out(tmp_path: pathlib.Path) -> None:
    import socket

    write_tfrecord(tmp_path / "a.tfrecord", SAMPLES)
    os.mkfifo(tmp_path / "b.tfrecord")
    os.mkfifo(tmp_path / "without-extension")
    (tmp_path / "device").symlink_to("/dev/zero")
    (tmp_path / "loop.tfrecord").symlink_to("loop.tfrecord")
    (tmp_path / "nowhere.tfrecord").symlink_to("gone")
    with socket.socket(socket.AF_UNIX) as listening:
        here = os.getcwd()
        os.chdir(tmp_path)  # a socket's path is short
        try:
            listening.bind("s.tfrecord")
        finally:
            os.chdir(here)
        for pattern in ("", "/*", "/*.tfrecord"):
            left_out = LeftOut()
            found = find_shards(f"{tmp_path}{pattern}", left_out=left_out)
            assert [pathlib.Path(shard.path).name for shard in found] == ["a.tfrecord"], pattern
            assert "special file" in str(left_out)
    for name in ("b.tfrecord", "device"):
        with pytest.raises(UnreadableInput, match="is a pipe, a socket or a device"):
            find_shards(str(tmp_path / name))
    for format in ("tfrecord", "webdataset", "parquet"):
        shard = Shard(str(tmp_path / "b.tfrecord"), format, 0)
        with pytest.raises(UnreadableInput, match="is a pipe, a socket or a device"):
            source_for(format, Fields()).check(shard)
        _, damage = read_until_damage(source_for(format, Fields()), shard, 3)
        assert damage is not None
        assert damage.index == 3, "each range says so"


def in_little_memory(code: str, *arguments: object, mib: int) -> str:
    """What code prints, in a process without TensorFlow whose memory grows by at most `mib` MiB."""
    start = """
        import os, sys, pathlib
        import apache_beam.io.filesystems, pyarrow.parquet
        from transforms.sources import *
        from transforms.unit import Shard
        from tests.transforms.sources.shard_samples import read_until_damage, shard_of
        def peak():
            lines = open("/proc/self/status").read().splitlines()
            return next(int(line.split()[1]) >> 10 for line in lines if line.startswith("VmHWM"))
        before = peak()
    """
    end = f"""
        assert peak() - before < {mib}, f"{{peak() - before}} MiB"
    """
    text = textwrap.dedent(start) + textwrap.dedent(code) + textwrap.dedent(end)
    done = subprocess.run([sys.executable, "-c", text, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.skipif(not pathlib.Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
def test_bombs_take_no_more_memory_than_the_budget(tmp_path: pathlib.Path) -> None:
    large = 96 << 20

    def zeros(sink: io.BufferedIOBase, size: int) -> None:
        for _ in range(size >> 20):
            sink.write(bytes(1 << 20))

    with gzip.open(tmp_path / "x.tfrecord", "wb", 1) as sink:
        sink.write(length_of(large))
        zeros(sink, large)
        sink.write(b"\0\0\0\0")
        sink.write(write_tfrecord(tmp_path / "plain", SAMPLES).read_bytes())
    with gzip.open(tmp_path / "x.tar", "wb", 1) as sink:
        sink.write(header(large, b"L"))
        zeros(sink, large)
        sink.write(header(0))
    with gzip.open(tmp_path / "y.tar", "wb", 1) as sink:
        sink.write(header(large))
        zeros(sink, large)
        sink.write(bytes(1024))
    image = pa.chunked_array([pa.array([bytes(large)], pa.binary())])
    pq.write_table(pa.table({"image": image}), tmp_path / "x.parquet", compression="zstd", use_dictionary=False)
    del image
    printed = in_little_memory(
        """
        for name, format in (("x.tfrecord", "tfrecord"), ("x.tar", "webdataset"), ("y.tar", "webdataset"),
                             ("x.parquet", "parquet")):
            shard = shard_of(pathlib.Path(sys.argv[1], name), format)
            records, damage = read_until_damage(source_for(format, Fields(record_bytes=16 << 20)), shard)
            print(name, [record.error for record in records if record.image is None], len(records), damage is not None)
        """,
        tmp_path,
        mib=72,
    )
    assert printed.splitlines() == [
        "x.tfrecord ['TooLarge'] 7 False",
        "x.tar [] 0 True",
        "y.tar ['TooLarge'] 1 False",
        "x.parquet [] 0 True",
    ]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become nobody")
def test_a_shard_without_permission_is_one_sentence() -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        folder.chmod(0o755)
        for format, write in (
            ("tfrecord", write_tfrecord),
            ("webdataset", write_webdataset),
            ("parquet", write_parquet),
        ):
            write(folder / format, SAMPLES).chmod(0o600)
        sentences = []
        os.seteuid(65534)
        try:
            for format in ("tfrecord", "webdataset", "parquet"):
                shard, source = Shard(str(folder / format), format, 1000), source_for(format, Fields())
                assert source.count(shard) == 0
                records, damage = read_until_damage(source, shard, 2, 4)
                assert records == []
                sentences.append(str(damage))
                with pytest.raises(UnreadableInput) as refused:
                    source.check(shard)
                sentences.append(str(refused.value))
        finally:
            os.seteuid(0)
    assert len(sentences) == 6
    assert all("cannot be read: permission denied" in sentence for sentence in sentences), sentences
