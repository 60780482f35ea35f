"""Partial statistics read back as they were written, whole or a block of classes at a time."""

from __future__ import annotations

import dataclasses
import pathlib

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.transforms.statistics.samples import GRID, assert_equal, random_rows
from transforms.output import Output, statistics_from_table, statistics_table
from transforms.statistics import DATASET, PartialStatistics
from transforms.unit import Shard, Unit


def test_partial_statistics_are_read_back_as_they_were_written() -> None:
    partial = PartialStatistics(GRID)
    partial.add(random_rows(30, 3))
    read = dict(statistics_from_table(statistics_table(partial.classes)))
    assert read.keys() == partial.classes.keys()
    for class_index, statistics in partial.classes.items():
        assert_equal(read[class_index], statistics)
        assert read[class_index].map.mean.shape == (GRID, GRID)


def test_a_block_of_classes_is_read_by_itself(tmp_path: pathlib.Path) -> None:
    partial = PartialStatistics(GRID)
    rows = random_rows(400, 3)
    partial.add(dataclasses.replace(rows, targets=np.arange(400) % 100))
    output, unit = Output(str(tmp_path)), Unit(Shard("a", "tfrecord", 1))
    output.create()
    output.write_partials(unit, partial.classes)
    blocks = output.read_blocks(unit)
    assert blocks == [0, 1, 2, 3]
    read = [list(output.read_partials(unit, block)) for block in blocks]
    assert [c for block in read for c, _ in block] == sorted(partial.classes)
    assert [c for c, _ in read[0]] == [DATASET, *range(32)]
    assert [c for c, _ in output.read_partials(unit)] == sorted(partial.classes)
    for block in read:
        for class_index, statistics in block:
            assert_equal(statistics, partial.classes[class_index])


@pytest.mark.parametrize("rows_together", [1, 7, 1000])
def test_blocks_are_found_in_whatever_row_groups_classes_are(tmp_path: pathlib.Path, rows_together: int) -> None:
    """Earlier versions wrote all classes as one, and the dataset as one by itself."""
    partial = PartialStatistics(GRID)
    partial.add(dataclasses.replace(random_rows(100, 3), targets=np.arange(100) % 50 * 2))
    output, unit = Output(str(tmp_path)), Unit(Shard("a", "tfrecord", 1))
    output.create()
    pq.write_table(statistics_table(partial.classes), output.part("partials", unit), row_group_size=rows_together)
    blocks = output.read_blocks(unit)
    assert blocks == [0, 1, 2, 3]
    read = [c for block in blocks for c, _ in output.read_partials(unit, block)]
    assert read == sorted(partial.classes)
