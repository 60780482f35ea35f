"""`read_image` gives the image of a row again, from shards of every format, or says why it cannot."""

from __future__ import annotations

import io
import pathlib
import shutil
import tarfile
from collections.abc import Callable
from typing import Any

import duckdb
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests import shards
from tests.runs import run
from tests.samples import CLASS_NAMES, SIDE, encoded_images, save_model
from transforms.output import NoOriginal, Originals, Output, read_image, read_maps, read_table

SAMPLES = encoded_images(6)


def pixels(encoded: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(encoded)))


def of_place(rows: list[dict[str, Any]], index: int) -> dict[str, Any]:
    return next(row for row in rows if row["index"] == index)


WRITERS: dict[str, Callable[[pathlib.Path], Any]] = {
    "tfrecord": lambda path: shards.write_tfrecord(path / "s.tfrecord", SAMPLES),
    "tfrecord.gz": lambda path: shards.write_tfrecord(path / "s.tfrecord.gz", SAMPLES, gzip=True),
    "tar": lambda path: shards.write_webdataset(path / "s.tar", SAMPLES),
    "tar.gz": lambda path: shards.write_webdataset(path / "s.tar.gz", SAMPLES, gzip=True),
    "parquet": lambda path: shards.write_parquet(path / "s.parquet", SAMPLES, row_group_size=2),
    "folder": lambda path: shards.write_folder(path / "images", SAMPLES, CLASS_NAMES),
}


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return save_model(tmp_path_factory.mktemp("model") / "model.keras")


@pytest.mark.quick_cases(every=3)
@pytest.mark.parametrize("format", WRITERS)
def test_the_image_of_every_row_is_read_from_every_format(
    format: str, model: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    output = run(tmp_path, str(WRITERS[format](tmp_path)), model={"path": str(model)})
    by_id = {image_id.partition(".")[0]: pixels(encoded) for image_id, encoded, _ in SAMPLES}
    rows = list(read_maps(str(output), ["image_id", "shard", "index"]))
    assert len(rows) == len(SAMPLES)
    for row in reversed(rows):  # no row needs an earlier one
        image = read_image(row, str(output))
        assert (image.mode, image.size) == ("RGB", (SIDE, SIDE))
        np.testing.assert_array_equal(np.asarray(image), by_id[pathlib.PurePath(row["image_id"]).stem])


def test_rows_of_pyarrow_duckdb_and_mappings_are_taken(small_output: pathlib.Path) -> None:
    part = str(next((small_output / "maps").glob("a.tfrecord*")))
    table = pq.read_table(part).slice(4, 1)
    expected = pixels(encoded_images(33)[2][1])
    names = ["image_id", "shard", "index"]
    query = f'SELECT image_id, shard, "index" FROM \'{part}\' WHERE "index" = 2 AND target_rank = 0'
    [values] = duckdb.sql(query).fetchall()
    for row in (table, table.to_pylist()[0], table.to_batches()[0], dict(zip(names, values, strict=True))):
        np.testing.assert_array_equal(np.asarray(read_image(row, str(small_output))), expected)
    with pytest.raises(ValueError, match="there are 4 rows; read_image takes one"):
        read_image(pq.read_table(part).slice(0, 4), str(small_output))
    with pytest.raises(ValueError, match="the row has no 'shard'"):
        read_image({"image_id": "x"}, str(small_output))


def test_the_image_comes_as_the_model_saw_it_where_that_is_wanted(tmp_path: pathlib.Path) -> None:
    sink = io.BytesIO()
    wide = np.random.default_rng(0).integers(0, 256, (20, 50, 3), np.uint8)
    Image.fromarray(wide).save(sink, "PNG")
    shards.write_tfrecord(tmp_path / "s.tfrecord", [("wide.png", sink.getvalue(), 0)])
    resize = {"how": "center_crop", "short_side": 20}
    scale = {"divide": 255.0}
    output = str(run(tmp_path, str(tmp_path / "s.tfrecord"), model={"preprocess": {"scale": scale, "resize": resize}}))
    [row] = read_maps(output, ["image_id", "shard", "index"])
    np.testing.assert_array_equal(np.asarray(read_image(row, output)), wide)
    np.testing.assert_array_equal(np.asarray(read_image(row, output, "model")), wide[2:18, 17:33])


def test_images_in_order_are_read_in_one_pass_and_others_too(small_output: pathlib.Path) -> None:
    rows = list(read_maps(str(small_output), ["image_id", "shard", "index"]))
    encoded = [pixels(each) for _, each, _ in encoded_images(33)]
    starts = {"a.tfrecord": 0, "b.tfrecord": 20}
    originals = Originals.of(str(small_output))
    for chosen in (rows, rows[::-1], rows[10:50:7]):
        for row, image in zip(chosen, originals.read(chosen), strict=True):
            place = starts[pathlib.PurePath(row["shard"]).name] + row["index"]
            np.testing.assert_array_equal(np.asarray(image), encoded[place])


def test_an_image_that_could_not_be_decoded_says_why_again(model: pathlib.Path, tmp_path: pathlib.Path) -> None:
    broken = ("broken.png", b"no image", 0)
    shards.write_tfrecord(tmp_path / "s.tfrecord", [*SAMPLES[:2], broken])
    output = Output(str(run(tmp_path, str(tmp_path / "s.tfrecord"), model={"path": str(model)})))
    [receipt] = output.read_receipts()
    [row] = read_table(output.part("errors", receipt.unit)).to_pylist()
    with pytest.raises(NoOriginal, match=r"s\.tfrecord, image 2: the 8 bytes that begin with b'no image'"):
        read_image(row, output.path)


def test_a_shard_that_is_gone_or_has_changed_is_said_so(model: pathlib.Path, tmp_path: pathlib.Path) -> None:
    shard = shards.write_webdataset(tmp_path / "s.tar", SAMPLES)
    output = str(run(tmp_path, str(shard), model={"path": str(model)}))
    rows = list(read_maps(output, ["image_id", "shard", "index"]))

    def said() -> str:
        with pytest.raises(NoOriginal) as error:
            read_image(rows[3], output)
        return str(error.value)

    moved = shutil.move(shard, tmp_path / "elsewhere.tar")
    assert said() == f"{shard} is gone: it was there when it was explained"
    size = moved.stat().st_size
    shards.write_webdataset(shard, [*SAMPLES, *SAMPLES, *SAMPLES, *SAMPLES])
    assert said() == f"{shard} has changed since it was explained: its size was {size} and is {shard.stat().st_size}"
    with tarfile.open(shard, "w") as archive:  # as large, with the same images in another order
        for image_id, image, label in reversed(SAMPLES):
            key = image_id.partition(".")[0]
            shards.add_member(archive, f"{key}.png", image)
            shards.add_member(archive, f"{key}.cls", str(label).encode())
    assert shard.stat().st_size == size
    assert said() == f"{shard} has changed since it was explained: image 3 is 'image0002' now, not 'image0003'"


def test_a_folder_that_lost_an_image_is_said_so(model: pathlib.Path, tmp_path: pathlib.Path) -> None:
    folder = shards.write_folder(tmp_path / "images", SAMPLES)
    output = str(run(tmp_path, str(folder), model={"path": str(model)}))
    rows = list(read_maps(output, ["image_id", "shard", "index"]))
    (folder / rows[0]["image_id"]).unlink()
    with pytest.raises(NoOriginal, match=r"image 0 is 'image0001\.png' now, not 'image0000\.png'"):
        read_image(of_place(rows, 0), output)
    with pytest.raises(NoOriginal, match="it has no image 5 any more"):
        read_image(of_place(rows, 5), output)


def test_a_row_of_another_output_is_refused(small_output: pathlib.Path) -> None:
    with pytest.raises(NoOriginal, match=r"has no receipt of /data/x\.tfrecord: the row is not from this output"):
        read_image({"shard": "/data/x.tfrecord", "index": 0}, str(small_output))
    with pytest.raises(FileNotFoundError, match="is no output of a run"):
        read_image({"shard": "/data/x.tfrecord", "index": 0}, str(small_output.parent))
