"""Names that are not UTF-8, in a whole run: folders, files, and a shard."""

from __future__ import annotations

import os
import pathlib

import apache_beam as beam

from pipeline.checks.graph import build
from pipeline.checks.units import CheckUnit, Chosen
from pipeline.cli import main
from tests.runs import run
from tests.samples import encoded_images
from tests.shards import write_tfrecord
from transforms.output import read_image, read_maps
from transforms.unit import Shard, Unit


def test_a_run_over_class_folders_and_files_that_are_not_utf_8(tmp_path: pathlib.Path, capsys) -> None:
    for place, (_, image, _) in enumerate(encoded_images(6)):
        folder = tmp_path / "data" / os.fsdecode(b"cl\xe9-%d" % (place % 3))
        folder.mkdir(parents=True, exist_ok=True)
        (folder / os.fsdecode(b"%d-\xff.png" % place)).write_bytes(image)
        (folder / os.fsdecode(b"%d-\xfe.png" % place)).write_bytes(b"no image")
    output = run(tmp_path, str(tmp_path / "data"), input={"fields": {"label": ""}}, errors={"max_fraction": 1.0})
    rows = list(read_maps(str(output)))
    assert sorted(row["image_id"] for row in rows) == sorted(rf"cl\xe9-{i % 3}/{i}-\xff.png" for i in range(6))
    for row in rows:
        assert read_image(row, str(output)).size
    assert main(["show", str(output), rows[0]["image_id"], "--to", str(tmp_path / "shown.png")]) == 0
    assert main(["status", str(output)]) == 0


def test_a_run_over_a_shard_whose_name_is_not_utf_8(tmp_path: pathlib.Path) -> None:
    write_tfrecord(tmp_path / os.fsdecode(b"a\xff.tfrecord"), encoded_images(3))
    output = run(tmp_path, str(tmp_path / "*.tfrecord"))
    rows = list(read_maps(str(output)))
    assert {row["shard"] for row in rows} == {rf"{tmp_path}/a\xff.tfrecord"}
    assert read_image(rows[0], str(output)).size


CHECKED = CheckUnit(Unit(Shard(os.fsdecode(b"a\xff.tfrecord"), "tfrecord", 1)), (Chosen(0, 1, other_of=(2, 3)),))


class Arrived(beam.DoFn):
    """Fails for any other unit."""

    def process(self, unit: CheckUnit) -> None:
        assert unit == CHECKED


def test_the_graph_of_a_check_takes_a_shard_whose_name_is_not_utf_8() -> None:
    with beam.Pipeline() as pipeline:
        build(pipeline, [CHECKED], Arrived())
