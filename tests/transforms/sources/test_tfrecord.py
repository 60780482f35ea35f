from __future__ import annotations

import gzip
import io
import pathlib
import struct

import pytest

import transforms.sources.tfrecord
from tests.shards import example, frame, write_tfrecord
from tests.transforms.sources.shard_samples import cut, flip, noise_samples, read_until_damage, shard_of
from transforms.sources import Fields, Record, UnreadableInput
from transforms.sources.tfrecord import TFRecordSource, is_frame_header
from transforms.unit import Shard

SAMPLES = noise_samples(10)
DEFAULTS = Fields()


def _write(path: pathlib.Path, *records: bytes) -> Shard:
    path.write_bytes(b"".join(frame(record) for record in records))
    return shard_of(path, "tfrecord")


def _only(shard: Shard, fields: Fields = DEFAULTS) -> Record:
    (record,) = TFRecordSource(fields).read(shard)
    return record


def _offset(index: int) -> int:
    """Where the frame of a sample begins."""
    return sum(
        len(frame(example({"image/encoded": image, "image/filename": image_id.encode(), "image/class/label": label})))
        for image_id, image, label in SAMPLES[:index]
    )


@pytest.fixture
def path(tmp_path: pathlib.Path) -> pathlib.Path:
    return write_tfrecord(tmp_path / "ten.tfrecord", SAMPLES)


def test_tensorflow_reads_the_same_frames(path: pathlib.Path) -> None:
    import tensorflow as tf

    expected = [bytes(data) for data in tf.data.TFRecordDataset(str(path)).as_numpy_iterator()]
    assert expected == [
        example({"image/encoded": image, "image/filename": image_id.encode(), "image/class/label": label})
        for image_id, image, label in SAMPLES
    ]


def test_a_truncated_shard_keeps_the_images_before_the_damage(path: pathlib.Path) -> None:
    cut(path, _offset(6) + 40)
    records, damage = read_until_damage(TFRecordSource(), shard_of(path, "tfrecord"))
    assert [record.image for record in records] == [image for _, image, _ in SAMPLES[:6]]
    assert damage is not None
    assert damage.index == 6
    assert str(damage) == f"{path}: the file ends in record 6 at byte {_offset(6)}"


def test_truncation_is_noticed_where_records_are_skipped(path: pathlib.Path) -> None:
    cut(path, _offset(7) - 1)
    shard = shard_of(path, "tfrecord")
    assert TFRecordSource().count(shard) == 6
    assert read_until_damage(TFRecordSource(), shard, 8) == ([], None)
    records, damage = read_until_damage(TFRecordSource(), shard, 5)
    assert [record.index for record in records] == [5]
    assert damage is not None
    assert damage.index == 6


def test_a_corrupt_length_ends_the_shard(path: pathlib.Path) -> None:
    flip(path, _offset(3) + 1)
    records, damage = read_until_damage(TFRecordSource(), shard_of(path, "tfrecord"))
    assert len(records) == 3
    assert damage is not None
    assert str(damage) == f"{path}: the length is corrupt in record 3 at byte {_offset(3)}"


def test_corrupt_data_costs_one_record_only(path: pathlib.Path) -> None:
    flip(path, _offset(3) + 50)
    records, damage = read_until_damage(TFRecordSource(), shard_of(path, "tfrecord"))
    assert damage is None
    assert [record.index for record in records if record.image is None] == [3]
    assert len(records) == 10
    assert records[3].problem == f"record 3 at byte {_offset(3)} is corrupt: its checksum does not hold"
    assert records[3].image_id == "ten.tfrecord#3"


def test_data_before_the_start_is_not_read(path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    large = noise_samples(20, size=200_000)
    shard = shard_of(write_tfrecord(path, large), "tfrecord")
    read = []

    class Counting(io.FileIO):
        def readinto(self, buffer):  # type: ignore[no-untyped-def]
            size = super().readinto(buffer)
            read.append(size)
            return size

    monkeypatch.setattr(
        transforms.sources.tfrecord, "open_file", lambda path: io.BufferedReader(Counting(path), buffer_size=8192)
    )
    (record,) = TFRecordSource().read(shard, 19)
    assert record.image == large[19][1]
    assert sum(read) < 1_000_000 < shard.size


def test_gzip_with_several_members_is_one_stream(tmp_path: pathlib.Path) -> None:
    frames = [frame(example({"image/encoded": image})) for _, image, _ in SAMPLES]
    path = tmp_path / "members.tfrecord"
    path.write_bytes(gzip.compress(b"".join(frames[:4])) + gzip.compress(b"".join(frames[4:])))
    records = list(TFRecordSource().read(shard_of(path, "tfrecord")))
    assert [record.image for record in records] == [image for _, image, _ in SAMPLES]


def test_a_cut_gzip_shard_keeps_the_images_before(tmp_path: pathlib.Path) -> None:
    path = write_tfrecord(tmp_path / "x.tfrecord.gz", SAMPLES, gzip=True)
    cut(path, path.stat().st_size * 2 // 3)
    records, damage = read_until_damage(TFRecordSource(), shard_of(path, "tfrecord"))
    assert 4 <= len(records) <= 7
    assert damage is not None
    assert damage.index == len(records)
    assert "gzip" in str(damage)


def test_a_length_that_looks_like_gzip_is_not_taken_for_it(tmp_path: pathlib.Path) -> None:
    (length,) = struct.unpack("<Q", b"\x1f\x8b\x08" + bytes(5))
    padding = length - len(example({"image/encoded": bytes(length)})) + length
    shard = _write(tmp_path / "x", example({"image/encoded": bytes(padding)}))
    assert pathlib.Path(shard.path).read_bytes()[:3] == b"\x1f\x8b\x08"
    assert is_frame_header(pathlib.Path(shard.path).read_bytes())
    assert _only(shard).image == bytes(padding)


def test_a_record_without_its_image_names_the_features_it_has(tmp_path: pathlib.Path) -> None:
    shard = _write(tmp_path / "x", example({"image/filename": b"a.png", "height": 3}))
    record = _only(shard)
    assert (record.image_id, record.image) == ("a.png", None)
    assert record.problem == "the record has no feature 'image/encoded'; its features are 'height', 'image/filename'"


def test_an_image_of_another_kind_is_a_problem(tmp_path: pathlib.Path) -> None:
    assert "int64_list" in str(_only(_write(tmp_path / "x", example({"image/encoded": 3}))).problem)
    assert "empty" in str(_only(_write(tmp_path / "y", example({"image/encoded": b""}))).problem)
    assert "empty" in str(_only(_write(tmp_path / "z", example({"image/encoded": None}))).problem)


def test_data_that_is_no_example_is_a_problem(tmp_path: pathlib.Path) -> None:
    shard = _write(tmp_path / "x", b"\xff\xff\xff")
    assert _only(shard).problem == "record 0 at byte 0 is not a tf.train.Example"
    with pytest.raises(UnreadableInput, match=r"not a tf\.train\.Example"):
        TFRecordSource().check(shard)


@pytest.mark.parametrize(
    ("given", "expected"), [(7, 7), (0, 0), (-1, None), (b"cat", "cat"), (b"", None), (None, None), (2.0, 2)]
)
def test_labels_are_indices_names_or_unknown(
    tmp_path: pathlib.Path, given: bytes | int | float | None, expected: int | str | None
) -> None:
    shard = _write(tmp_path / "x", example({"image/encoded": b"image", "image/class/label": given}))
    assert _only(shard).label == expected


def test_an_id_may_be_a_number_or_absent(tmp_path: pathlib.Path) -> None:
    fields = Fields(id="key")
    assert _only(_write(tmp_path / "x", example({"image/encoded": b"i", "key": 42})), fields).image_id == "42"
    assert _only(_write(tmp_path / "x", example({"image/encoded": b"i", "key": 0})), fields).image_id == "0"
    assert _only(_write(tmp_path / "x", example({"image/encoded": b"i", "key": b""})), fields).image_id == "x#0"
    assert _only(_write(tmp_path / "x", example({"image/encoded": b"i"})), fields).image_id == "x#0"


def test_a_check_names_the_wanted_feature_and_those_there(tmp_path: pathlib.Path) -> None:
    shard = _write(tmp_path / "x", example({"picture": b"i", "size": 3, "weight": 0.5}))
    with pytest.raises(UnreadableInput, match=r"x has no feature 'image/encoded'; its features are 'picture', 'size'"):
        TFRecordSource().check(shard)
    TFRecordSource(Fields(image="picture")).check(shard)
    with pytest.raises(UnreadableInput, match="has no feature 'name'"):
        TFRecordSource(Fields(image="picture", id="name")).check(shard)
    with pytest.raises(UnreadableInput, match=r"'weight' is float_list, and the label 0\.5 is no whole number"):
        TFRecordSource(Fields(image="picture", label="weight")).check(shard)


def test_a_check_leaves_damage_to_the_reading(path: pathlib.Path) -> None:
    cut(path, 40)
    TFRecordSource().check(shard_of(path, "tfrecord"))
    write_tfrecord(path, SAMPLES)
    flip(path, 20)
    TFRecordSource().check(shard_of(path, "tfrecord"))
