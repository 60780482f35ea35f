"""Shards on a file system without folders, as gs:// and s3:// are: a name begins with another, and that is all."""

from __future__ import annotations

import io
import pathlib
from collections.abc import Iterator

import pytest
from apache_beam.io.filesystem import CompressionTypes, FileMetadata, FileSystem

from tests.shards import write_folder, write_parquet, write_tfrecord, write_webdataset
from tests.transforms.sources.shard_samples import noise_samples
from transforms.sources import Fields, LeftOut, UnreadableInput, find_shards, source_for

SAMPLES = noise_samples(12)


class ObjectStore(FileSystem):
    """Beam looks file systems up among the subclasses, so that defining this one is all that it needs."""

    objects: dict[str, bytes] = {}  # noqa: RUF012

    @classmethod
    def scheme(cls) -> str:
        return "objects"

    def has_dirs(self) -> bool:
        return False

    def _list(self, dir_or_prefix: str) -> Iterator[FileMetadata]:
        for path, data in self.objects.items():
            if path.startswith(dir_or_prefix):
                yield FileMetadata(path, len(data))

    def exists(self, path: str) -> bool:
        return path in self.objects

    def metadata(self, path: str) -> FileMetadata:
        return FileMetadata(path, len(self.objects[path]))

    def open(
        self, path: str, mime_type: str = "", compression_type: str = CompressionTypes.AUTO
    ) -> io.BufferedReader[io.BytesIO]:
        assert compression_type == CompressionTypes.UNCOMPRESSED
        return io.BufferedReader(io.BytesIO(self.objects[path]))

    def _unused(self, *_: object) -> None:
        raise NotImplementedError

    join = split = mkdirs = create = copy = rename = size = last_updated = checksum = delete = _unused


@pytest.fixture
def bucket(tmp_path: pathlib.Path) -> Iterator[str]:
    for name in ("records", "tar", "table"):
        (tmp_path / name).mkdir()
    write_tfrecord(tmp_path / "records" / "x-00000-of-00002", SAMPLES)
    write_tfrecord(tmp_path / "records" / "x-00001-of-00002", SAMPLES, gzip=True)
    write_webdataset(tmp_path / "tar" / "x.tar.gz", SAMPLES, gzip=True)
    write_parquet(tmp_path / "table" / "x.parquet", SAMPLES)
    write_folder(tmp_path / "flat", SAMPLES)
    write_folder(tmp_path / "flatter", SAMPLES)
    write_folder(tmp_path / "classes", SAMPLES, ("ant", "bee", "cat"))
    for path in tmp_path.rglob("*"):
        if path.is_file():
            ObjectStore.objects[f"objects://bucket/{path.relative_to(tmp_path)}"] = path.read_bytes()
    yield "objects://bucket"
    ObjectStore.objects.clear()


@pytest.mark.parametrize(
    ("pattern", "format", "shards"),
    [
        ("records/x-*", "tfrecord", 2),
        ("records/x-00001-of-00002", "tfrecord", 1),
        ("records", "tfrecord", 2),
        ("tar/*.tar.gz", "webdataset", 1),
        ("table/x.parquet", "parquet", 1),
        ("flat", "folder", 1),
        ("flat/", "folder", 1),
        ("classes", "folder", 3),
    ],
)
def test_shards_are_found_and_read(bucket: str, pattern: str, format: str, shards: int) -> None:
    found = find_shards(f"{bucket}/{pattern}")
    assert [shard.format for shard in found] == [format] * shards
    source = source_for(format, Fields())
    for shard in found:
        source.check(shard)
        records = list(source.read(shard, 0, 2)) + list(source.read(shard, 2))
        assert len(records) == source.count(shard) == (12 if shards < 3 else 4)
        assert all(record.problem is None for record in records)


def test_class_folders_are_searched_to_any_depth(bucket: str) -> None:
    for name in (
        "ant/kaggle/x.png",
        "ant/.hidden/x.png",
        "bee/notes.txt",
        "bee/",
        "__MACOSX/ant/._x.png",
        "dog/deep/y.JPG",
    ):
        ObjectStore.objects[f"{bucket}/classes/{name}"] = b"x"
    left_out = LeftOut()
    for pattern in ("classes", "classes/*", "class*/*", "classes/**"):
        found = find_shards(f"{bucket}/{pattern}", outputs=4, left_out=left_out)
        assert [(shard.path, shard.size, shard.label) for shard in found] == [
            (f"{bucket}/classes/{name}", size, label)
            for label, (name, size) in enumerate(zip(("ant", "bee", "cat", "dog"), (5, 4, 4, 1), strict=True))
        ]
        records = [record for shard in found for record in source_for("folder", Fields()).read(shard)]
        assert [record.image_id for record in records][4] == "ant/kaggle/x.png"
        assert records[-1].image_id == "dog/deep/y.JPG"
    assert "6 files in a hidden folder" in str(left_out)
    assert f"2 hidden folders (such as {bucket}/classes/__MACOSX)" in str(left_out)
    assert "4 .txt files" in str(left_out)


def test_what_is_not_there_is_refused(bucket: str) -> None:
    for pattern in ("fla", "records/y-*", "nothing/"):
        with pytest.raises(UnreadableInput, match="no file or folder matches"):
            find_shards(f"{bucket}/{pattern}")
