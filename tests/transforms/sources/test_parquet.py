from __future__ import annotations

import pathlib
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.shards import write_parquet
from tests.transforms.sources.shard_samples import cut, noise_samples, read_until_damage, shard_of
from transforms.sources import Fields, Record, UnreadableInput
from transforms.sources.parquet import ParquetSource
from transforms.unit import Shard

SAMPLES = noise_samples(40)
DEFAULTS = Fields()


def _write(path: pathlib.Path, columns: dict[str, Any]) -> Shard:
    pq.write_table(pa.table(columns), path)
    return shard_of(path, "parquet")


def _read(shard: Shard, fields: Fields = DEFAULTS) -> list[Record]:
    return list(ParquetSource(fields).read(shard))


def test_ids_come_from_a_column_the_struct_or_the_shard(tmp_path: pathlib.Path) -> None:
    struct = pa.array([{"bytes": b"i", "path": "a.png"}, {"bytes": b"i", "path": None}])
    shard = _write(tmp_path / "x.parquet", {"image": struct})
    assert [record.image_id for record in _read(shard)] == ["a.png", "x.parquet#1"]
    shard = _write(tmp_path / "x.parquet", {"image": struct, "id": [0, 2]})
    assert [record.image_id for record in _read(shard)] == ["0", "2"]
    shard = _write(tmp_path / "x.parquet", {"image": [b"i"]})
    assert [record.image_id for record in _read(shard)] == ["x.parquet#0"]


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (pa.array([3, -1, None]), [3, None, None]),
        (pa.array([3.0, float("nan"), 0.0]), [3, None, 0]),
        (pa.array(["cat", "", None]), ["cat", None, None]),
        (pa.array(["cat", "dog", "cat"]).dictionary_encode(), ["cat", "dog", "cat"]),
        (pa.array([3, 4, 5], pa.uint8()), [3, 4, 5]),
    ],
)
def test_labels_are_indices_names_or_unknown(
    tmp_path: pathlib.Path, labels: pa.Array, expected: list[int | str | None]
) -> None:
    shard = _write(tmp_path / "x.parquet", {"img": [b"i"] * 3, "fine_label": labels})
    assert [record.label for record in _read(shard)] == expected


def test_rows_without_an_image_are_problems(tmp_path: pathlib.Path) -> None:
    cells = pa.array(
        [None, {"bytes": None, "path": "far/away.png"}, {"bytes": b"", "path": "b"}, {"bytes": b"i", "path": "c"}]
    )
    records = _read(_write(tmp_path / "x.parquet", {"image": cells}))
    assert [record.image for record in records] == [None, None, None, b"i"]
    assert [record.problem for record in records] == [
        "column 'image' is null",
        "column 'image' holds no bytes, only the path 'far/away.png'",
        "column 'image' is empty",
        None,
    ]


def test_a_table_without_images_has_a_problem_in_every_row(tmp_path: pathlib.Path) -> None:
    records = _read(_write(tmp_path / "x.parquet", {"other": [1, 2]}))
    assert [record.problem for record in records] == ["the table has no column of images"] * 2


def test_columns_that_nobody_asked_for_are_not_read(tmp_path: pathlib.Path) -> None:
    shard = write_parquet(tmp_path / "x.parquet", SAMPLES)
    table = pq.read_table(shard)
    heavy = pa.array([bytes(10_000)] * len(SAMPLES))
    pq.write_table(table.append_column("thumbnail", heavy), shard, compression="none", use_dictionary=False)
    data = bytearray(shard.read_bytes())
    column = next(
        pq.ParquetFile(shard).metadata.row_group(0).column(i)
        for i in range(5)
        if pq.ParquetFile(shard).metadata.row_group(0).column(i).path_in_schema == "thumbnail"
    )
    data[column.data_page_offset : column.data_page_offset + 20] = b"\xff" * 20
    shard.write_bytes(data)
    assert [record.image for record in _read(shard_of(shard, "parquet"))] == [image for _, image, _ in SAMPLES]


def test_a_file_without_its_footer_is_lost_from_the_first_row(tmp_path: pathlib.Path) -> None:
    path = write_parquet(tmp_path / "x.parquet", SAMPLES)
    cut(path, path.stat().st_size // 2)
    records, damage = read_until_damage(ParquetSource(), shard_of(path, "parquet"))
    assert records == []
    assert damage is not None
    assert damage.index == 0
    assert str(path) in str(damage)
    assert ParquetSource().count(shard_of(path, "parquet")) == 0
    with pytest.raises(UnreadableInput, match="not a readable Parquet file"):
        ParquetSource().check(shard_of(path, "parquet"))


def test_a_corrupt_page_keeps_the_row_groups_before(tmp_path: pathlib.Path) -> None:
    path = write_parquet(tmp_path / "x.parquet", SAMPLES, hf=False, row_group_size=10)
    column = pq.ParquetFile(path).metadata.row_group(2).column(1)
    data = bytearray(path.read_bytes())
    data[column.data_page_offset : column.data_page_offset + 8] = b"\xff" * 8
    path.write_bytes(data)
    shard = shard_of(path, "parquet")
    records, damage = read_until_damage(ParquetSource(), shard)
    assert [record.image for record in records] == [image for _, image, _ in SAMPLES[:20]]
    assert damage is not None
    assert damage.index == 20
    # The damage is in another range, and the rows of this one are in a row group that is whole.
    assert read_until_damage(ParquetSource(), shard, 35)[1] is None
    assert len(list(ParquetSource().read(shard, 35))) == 5


def test_trouble_with_the_file_system_is_not_damage(tmp_path: pathlib.Path) -> None:
    with pytest.raises(FileNotFoundError):
        list(ParquetSource().read(Shard(str(tmp_path / "gone.parquet"), "parquet", 1)))


def test_a_check_names_the_columns_there(tmp_path: pathlib.Path) -> None:
    shard = _write(tmp_path / "x.parquet", {"picture": [b"i"], "width": [[[1]]]})
    with pytest.raises(UnreadableInput, match=r"no column of images called 'image'.*'picture: binary', 'width"):
        ParquetSource().check(shard)
    ParquetSource(Fields(image="picture")).check(shard)
    with pytest.raises(UnreadableInput, match=r"has no column 'name'; its columns are 'picture: binary'"):
        ParquetSource(Fields(image="picture", id="name")).check(shard)
    with pytest.raises(
        UnreadableInput, match=r"column 'width' is list<.*>, not integers or strings, or lists with a number"
    ):
        ParquetSource(Fields(image="picture", label="width")).check(shard)
    with pytest.raises(UnreadableInput, match=r"column 'width' is list<.*>, not binary or struct<bytes, path>"):
        ParquetSource(Fields(image="width")).check(shard)
