from __future__ import annotations

import io
import pathlib
import tarfile

import pytest

from tests.shards import add_member, write_webdataset
from tests.transforms.sources.shard_samples import cut, flip, noise_samples, read_until_damage, shard_of
from transforms.sources import Fields, Record, UnreadableInput
from transforms.sources.webdataset import WebDatasetSource
from transforms.unit import Shard

SAMPLES = noise_samples(10)
DEFAULTS = Fields()


def _write(path: pathlib.Path, members: dict[str, bytes], format: int = tarfile.PAX_FORMAT) -> Shard:
    with tarfile.open(path, "w", format=format) as archive:
        for name, data in members.items():
            add_member(archive, name, data)
    return shard_of(path, "webdataset")


def _read(shard: Shard, fields: Fields = DEFAULTS) -> list[Record]:
    return list(WebDatasetSource(fields).read(shard))


def _headers(path: pathlib.Path) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(path) as archive:
        return {member.name: member for member in archive}


@pytest.fixture
def path(tmp_path: pathlib.Path) -> pathlib.Path:
    return write_webdataset(tmp_path / "ten.tar", SAMPLES)


def test_consecutive_members_with_one_key_are_a_sample(tmp_path: pathlib.Path) -> None:
    shard = _write(
        tmp_path / "x.tar",
        {
            "./train/a.seg.png": b"mask",
            "./train/a.JPG": b"first",
            "./train/a.cls": b" 3\n",
            "test/a.jpeg": b"second",
            "test/b.c.png": b"no image, as its extension is c.png",
            "test/.hidden.jpg": b"ignored",
            "test/README": b"ignored",
            "test/d.png": b"third",
        },
    )
    first, second, other, third = _read(shard)
    assert (first.image_id, first.image, first.label) == ("train/a", b"first", 3)
    assert (second.image_id, second.image, second.label) == ("test/a", b"second", None)
    assert (other.image_id, other.image) == ("test/b", None)
    assert other.problem == "sample 'test/b' has no image member; it has 'c.png'"
    assert (third.index, third.image_id, third.image) == (3, "test/d", b"third")


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_are_keys_in_every_tar_dialect(tmp_path: pathlib.Path, format: int) -> None:
    key = "/".join(["folder" * 10] * 3 if format != tarfile.USTAR_FORMAT else ["folder" * 10] * 2) + "/name"
    (record,) = _read(_write(tmp_path / "x.tar", {f"{key}.png": b"image", f"{key}.cls": b"1"}, format))
    assert (record.image_id, record.image, record.label) == (key, b"image", 1)


def test_links_and_folders_are_no_members(tmp_path: pathlib.Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for name, kind in (("a.jpg", tarfile.DIRTYPE), ("b.jpg", tarfile.SYMTYPE)):
            member = tarfile.TarInfo(name)
            member.type = kind
            archive.addfile(member)
        add_member(archive, "c.jpg", b"image")
    assert [record.image_id for record in _read(shard_of(tmp_path / "x.tar", "webdataset"))] == ["c"]


@pytest.mark.parametrize(
    ("members", "fields", "expected"),
    [
        ({"a.cls": b"4", "a.json": b'{"label": 5}'}, Fields(), 4),
        ({"a.json": b'{"label": 5}'}, Fields(), 5),
        ({"a.json": b'{"label": "cat"}'}, Fields(), "cat"),
        ({"a.json": b'{"label": -1}'}, Fields(), None),
        ({"a.json": b"{broken"}, Fields(), None),
        ({"a.json": b"[1]"}, Fields(), None),
        ({"a.json": b'{"class.index": 6}'}, Fields(label="json.class.index"), 6),
        ({"a.cls": b"4", "a.index.txt": b"7"}, Fields(label="index.txt"), 7),
        ({"a.cls": b"tabby cat\n"}, Fields(), "tabby cat"),
        ({"a.cls": b"4"}, Fields(label=""), None),
    ],
)
def test_labels_come_from_text_or_json(
    tmp_path: pathlib.Path, members: dict[str, bytes], fields: Fields, expected: int | str | None
) -> None:
    (record,) = _read(_write(tmp_path / "x.tar", {"a.png": b"image", **members}), fields)
    assert record.label == expected


def test_image_and_id_can_be_named(tmp_path: pathlib.Path) -> None:
    shard = _write(
        tmp_path / "x.tar",
        {"a.in.png": b"input", "a.jpg": b"other", "a.json": b'{"uid": 17}', "a.name": b"007\n", "b.in.png": b"next"},
    )
    fields = Fields(image="in.png", id="json.uid")
    WebDatasetSource(fields).check(shard)
    assert [(record.image_id, record.image) for record in _read(shard, fields)] == [
        ("17", b"input"),
        ("x.tar#1", b"next"),
    ]
    assert _read(shard, Fields(image=".in.png", id="name"))[0].image_id == "007"


def test_an_empty_image_is_a_problem(tmp_path: pathlib.Path) -> None:
    (record,) = _read(_write(tmp_path / "x.tar", {"a.png": b""}))
    assert record.problem == "the 'png' member of sample 'a' is empty"


def test_a_truncated_shard_keeps_the_images_before_the_damage(path: pathlib.Path) -> None:
    member = _headers(path)["image0006.png"]
    cut(path, member.offset_data + 20)
    records, damage = read_until_damage(WebDatasetSource(), shard_of(path, "webdataset"))
    assert [record.image for record in records] == [image for _, image, _ in SAMPLES[:6]]
    assert damage is not None
    assert damage.index == 6
    assert f"{path}: the file ends within member 'image0006.png'" in str(damage)


def test_a_truncated_header_is_damage(path: pathlib.Path) -> None:
    member = _headers(path)["image0006.png"]
    cut(path, member.offset + 100)
    records, damage = read_until_damage(WebDatasetSource(), shard_of(path, "webdataset"))
    assert len(records) == 6
    assert damage is not None
    assert f"the header at byte {member.offset} is damaged (truncated header)" in str(damage)
    assert WebDatasetSource().count(shard_of(path, "webdataset")) == 6


def test_a_corrupt_header_is_damage_and_not_the_end(path: pathlib.Path) -> None:
    flip(path, _headers(path)["image0006.png"].offset + 10)
    records, damage = read_until_damage(WebDatasetSource(), shard_of(path, "webdataset"))
    assert len(records) == 6
    assert damage is not None
    assert "bad checksum" in str(damage)
    assert WebDatasetSource().count(shard_of(path, "webdataset")) == 6


def test_a_cut_label_does_not_cost_its_image(path: pathlib.Path) -> None:
    cut(path, _headers(path)["image0006.cls"].offset + 100)
    records, damage = read_until_damage(WebDatasetSource(), shard_of(path, "webdataset"))
    assert [record.image for record in records] == [image for _, image, _ in SAMPLES[:7]]
    assert records[6].label is None
    assert damage is not None
    assert damage.index == 7


def test_an_archive_without_its_end_mark_is_whole_at_a_members_boundary(path: pathlib.Path) -> None:
    cut(path, _headers(path)["image0006.png"].offset)
    records, damage = read_until_damage(WebDatasetSource(), shard_of(path, "webdataset"))
    assert len(records) == 6
    assert damage is None


def test_an_archive_behind_the_end_mark_is_not_dropped_in_silence(path: pathlib.Path) -> None:
    path.write_bytes(path.read_bytes() * 2)
    records, damage = read_until_damage(WebDatasetSource(), shard_of(path, "webdataset"))
    assert len(records) == 10
    assert damage is not None
    assert "data follows the end-of-archive mark" in str(damage)


def test_a_cut_gzip_archive_keeps_the_images_before(tmp_path: pathlib.Path) -> None:
    path = write_webdataset(tmp_path / "x.tgz", SAMPLES, gzip=True)
    cut(path, path.stat().st_size * 2 // 3)
    records, damage = read_until_damage(WebDatasetSource(), shard_of(path, "webdataset"))
    assert [record.image for record in records] == [image for _, image, _ in SAMPLES[: len(records)]]
    assert 4 <= len(records) <= 7
    assert damage is not None
    assert damage.index == len(records)


def test_counting_reads_no_images(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shard = shard_of(write_webdataset(tmp_path / "x.tar", noise_samples(20, size=200_000)), "webdataset")
    read = []

    class Counting(io.FileIO):
        def readinto(self, buffer):  # type: ignore[no-untyped-def]
            size = super().readinto(buffer)
            read.append(size)
            return size

    monkeypatch.setattr(
        "transforms.sources.webdataset.open_file", lambda path: io.BufferedReader(Counting(path), buffer_size=8192)
    )
    assert WebDatasetSource().count(shard) == 20
    assert sum(read) < 1_000_000 < shard.size


def test_a_check_names_what_is_wanted_and_the_members_there(tmp_path: pathlib.Path) -> None:
    shard = _write(tmp_path / "x.tar", {"a.png": b"image", "a.json": b'{"label": 1}', "a.npy": b"array"})
    WebDatasetSource(Fields(image="png", label="json.label")).check(shard)
    with pytest.raises(UnreadableInput, match=r"sample 'a' has no 'jpg' member; it has 'png', 'json', 'npy'"):
        WebDatasetSource(Fields(image="jpg")).check(shard)
    with pytest.raises(UnreadableInput, match=r"has no 'cls' member; it has 'png'"):
        WebDatasetSource(Fields(label="cls")).check(shard)
    with pytest.raises(UnreadableInput, match=r"has no key 'uid' in its JSON; it has 'label'"):
        WebDatasetSource(Fields(id="json.uid")).check(shard)
    with pytest.raises(UnreadableInput, match=r"sample 'a' has no image member; it has 'npy'"):
        WebDatasetSource().check(_write(tmp_path / "y.tar", {"a.npy": b"array"}))
