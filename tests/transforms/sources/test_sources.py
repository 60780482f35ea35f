"""What holds for the sources of all formats."""

from __future__ import annotations

import gzip
import itertools
import pathlib
import pickle
import tracemalloc
from collections.abc import Callable

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.shards import write_folder, write_parquet, write_tfrecord, write_webdataset
from tests.transforms.sources.shard_samples import noise_samples, read_until_damage, shard_of
from transforms.sources import Fields, Record, UnreadableInput, find_shards, source_for
from transforms.unit import Shard

COUNT = 37
SAMPLES = noise_samples(COUNT)

WRITERS: dict[str, Callable[[pathlib.Path], pathlib.Path]] = {
    "plain.tfrecord": lambda path: write_tfrecord(path, SAMPLES),
    "packed.tfrecord.gz": lambda path: write_tfrecord(path, SAMPLES, gzip=True),
    "plain.tar": lambda path: write_webdataset(path, SAMPLES),
    "packed.tar.gz": lambda path: write_webdataset(path, SAMPLES, gzip=True),
    "hugging_face.parquet": lambda path: write_parquet(path, SAMPLES, hf=True, row_group_size=10),
    "binary.parquet": lambda path: write_parquet(path, SAMPLES, hf=False, row_group_size=COUNT),
    "folder": lambda path: write_folder(path, SAMPLES),
}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Shard]:
    root = tmp_path_factory.mktemp("shards")
    return {name: find_shards(str(write(root / name)))[0] for name, write in WRITERS.items()}


def _read(shard: Shard, start: int = 0, stop: int | None = None) -> list[Record]:
    return list(source_for(shard.format, Fields()).read(shard, start, stop))


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_back_the_images_that_were_written(shards: dict[str, Shard], name: str) -> None:
    shard = shards[name]
    source_for(shard.format, Fields()).check(shard)
    records = _read(shard)
    assert [record.image for record in records] == [image for _, image, _ in SAMPLES]
    assert [record.index for record in records] == list(range(COUNT))
    assert [record.problem for record in records] == [None] * COUNT
    stems = [image_id.removesuffix(".png") if shard.format == "webdataset" else image_id for image_id, _, _ in SAMPLES]
    assert [record.image_id for record in records] == stems
    if shard.format != "folder":
        assert [record.label for record in records] == [label for _, _, label in SAMPLES]


@pytest.mark.parametrize("name", WRITERS)
@settings(max_examples=30, deadline=None)
@given(cuts=st.lists(st.integers(0, COUNT + 5), max_size=6))
def test_slices_put_together_are_the_whole(shards: dict[str, Shard], name: str, cuts: list[int]) -> None:
    bounds: list[int | None] = [0, *sorted(cuts), None]
    slices = [_read(shards[name], start or 0, stop) for start, stop in itertools.pairwise(bounds)]
    assert list(itertools.chain(*slices)) == _read(shards[name])


@pytest.mark.parametrize("name", WRITERS)
def test_a_range_behind_the_end_gives_nothing(shards: dict[str, Shard], name: str) -> None:
    assert _read(shards[name], COUNT) == []
    assert _read(shards[name], COUNT + 10, COUNT + 20) == []
    assert _read(shards[name], 5, 5) == []


@pytest.mark.parametrize("name", WRITERS)
def test_the_count_is_the_number_of_records(shards: dict[str, Shard], name: str) -> None:
    assert source_for(shards[name].format, Fields()).count(shards[name]) == COUNT


@pytest.mark.parametrize("name", WRITERS)
def test_a_source_can_be_pickled_while_a_shard_is_read(shards: dict[str, Shard], name: str) -> None:
    source = source_for(shards[name].format, Fields())
    records = source.read(shards[name])
    next(records)
    copy = pickle.loads(pickle.dumps(source))
    assert list(copy.read(shards[name], 1)) == list(records)


@pytest.mark.parametrize("name", WRITERS)
def test_an_empty_label_field_reads_no_labels(shards: dict[str, Shard], name: str) -> None:
    source = source_for(shards[name].format, Fields(label=""))
    source.check(shards[name])
    assert {record.label for record in source.read(shards[name])} == {None}


@pytest.mark.parametrize("format", ["tfrecord", "webdataset", "parquet"])
def test_an_empty_file_is_a_shard_without_records(tmp_path: pathlib.Path, format: str) -> None:
    (tmp_path / "empty").touch()
    shard = shard_of(tmp_path / "empty", format)
    source_for(format, Fields()).check(shard)
    assert source_for(format, Fields()).count(shard) == 0
    assert _read(shard) == []


@pytest.mark.parametrize("format", ["tfrecord", "webdataset", "parquet"])
@pytest.mark.parametrize(
    "content",
    [b"neither this nor that " * 100, gzip.compress(b"something else" * 100, mtime=0)],
    ids=["text", "gzip"],
)
def test_a_file_of_another_kind_is_refused_by_name(tmp_path: pathlib.Path, format: str, content: bytes) -> None:
    (tmp_path / "other").write_bytes(content)
    with pytest.raises(UnreadableInput, match="other is not a"):
        source_for(format, Fields()).check(shard_of(tmp_path / "other", format))


@pytest.mark.parametrize("name", [name for name in WRITERS if name != "folder"])
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_damage_is_reported_by_exactly_one_of_several_ranges(
    shards: dict[str, Shard], tmp_path_factory: pytest.TempPathFactory, name: str, data: st.DataObject
) -> None:
    whole = pathlib.Path(shards[name].path).read_bytes()
    size = data.draw(st.integers(1, len(whole) - 1))
    path = tmp_path_factory.mktemp("cut") / name
    path.write_bytes(whole[:size])
    shard = shard_of(path, shards[name].format)
    source = source_for(shard.format, Fields())
    records, damage = read_until_damage(source, shard)
    assert source.count(shard) == len(records)
    # The image is never cut, only the label of the last sample may be.
    assert [record.image for record in records] == [image for _, image, _ in SAMPLES[: len(records)]]
    if damage is not None:
        assert damage.index == len(records)
        assert str(path) in str(damage)
    bounds: list[int | None] = [0, *sorted(data.draw(st.lists(st.integers(0, COUNT), max_size=4))), None]
    slices = [read_until_damage(source, shard, start or 0, stop) for start, stop in itertools.pairwise(bounds)]
    assert [record for part, _ in slices for record in part] == records
    assert sum(found is not None for _, found in slices) == (damage is not None)


@pytest.mark.parametrize("name", [name for name in WRITERS if name != "folder"])
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_corrupt_byte_raises_nothing_but_damage(
    shards: dict[str, Shard], tmp_path_factory: pytest.TempPathFactory, name: str, data: st.DataObject
) -> None:
    content = bytearray(pathlib.Path(shards[name].path).read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    path = tmp_path_factory.mktemp("flipped") / name
    path.write_bytes(content)
    shard = shard_of(path, shards[name].format)
    source = source_for(shard.format, Fields())
    read_until_damage(source, shard)
    source.count(shard)


@pytest.mark.parametrize("name", ["large.tfrecord", "large.tfrecord.gz", "large.tar", "large.tar.gz", "large.parquet"])
def test_memory_does_not_grow_with_the_shard(tmp_path: pathlib.Path, name: str) -> None:
    path = tmp_path / name
    samples = noise_samples(300, size=50_000)
    packed = name.endswith(".gz")
    if ".tfrecord" in name:
        write_tfrecord(path, samples, packed)
    elif ".tar" in name:
        write_webdataset(path, samples, packed)
    else:
        write_parquet(path, samples)
    assert path.stat().st_size > 20e6
    shard = find_shards(str(path))[0]
    _read(shard, 0, 1)  # imports
    before = pa.total_allocated_bytes()
    arrow_peak = 0
    tracemalloc.start()
    for _ in source_for(shard.format, Fields()).read(shard):
        arrow_peak = max(arrow_peak, pa.total_allocated_bytes() - before)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # A batch of a Parquet file is 16 images, held by Arrow and as the rows made of it.
    assert peak < (3e6 if shard.format == "parquet" else 1.5e6)
    assert arrow_peak < 8e6


def test_the_real_shards_are_read_whole_and_in_slices(test_data: pathlib.Path) -> None:
    shards = find_shards(str(test_data / "cifar10" / "cifar10_test.tfrecord-*"))
    assert [shard.format for shard in shards] == ["tfrecord"] * 4
    source = source_for("tfrecord", Fields())
    source.check(shards[0])
    assert [source.count(shard) for shard in shards] == [1250] * 4
    whole = _read(shards[1])
    assert whole == _read(shards[1], 0, 500) + _read(shards[1], 500)
    assert all(record.image is not None and record.image.startswith(b"\xff\xd8") for record in whole)
    assert {record.label for record in whole} == set(range(10))
    assert len({record.image_id for record in whole}) == 1250


def test_the_real_folder_of_images_is_one_flat_shard(test_data: pathlib.Path) -> None:
    (shard,) = find_shards(str(test_data / "imagenet" / "images"))
    assert (shard.format, shard.size, shard.label) == ("folder", 100, None)
    assert _read(shard, 0, 1)[0].image_id == "n01440764_tench.JPEG"
