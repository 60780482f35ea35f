"""What the comparison of engines reads from a run."""

from __future__ import annotations

import pathlib

import pytest

from benchmarks.engines import one_run, started
from tests import shards
from tests.samples import configuration, encoded_images


@pytest.mark.slow
def test_a_run_is_measured_from_its_receipts(tmp_path: pathlib.Path) -> None:
    shards.write_tfrecord(tmp_path / "all.tfrecord", list(encoded_images(12)))
    config = configuration(tmp_path, str(tmp_path / "all.tfrecord"))
    config["input"]["images_per_unit"] = 4
    with started("direct", tmp_path / "servers") as runner:
        run = one_run({**config, "runner": runner}, "direct", 0, tmp_path / "run")
    assert run.workers == 1
    assert 0 < run.until_first < run.seconds
    assert run.rate > 0
    assert run.sustained > 0
