"""One unit, explained and committed: what happens when memory does not suffice, and when something fails midway."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import os
import pathlib
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import keras
import numpy as np
import pyarrow.parquet as pq
import pytest
import tensorflow as tf

from pipeline.config import Config
from pipeline.run import Plan, prepare
from tests import shards
from tests.samples import configuration, encoded_images
from tests.transforms.fullgrad.networks import randomize
from transforms import explain, explainer
from transforms.explain import ExplainSettings, explain_unit
from transforms.explainer import batch_size_of
from transforms.fullgrad import explain_batch
from transforms.models import LoadedModel, load_once
from transforms.output import Output, read_maps
from transforms.sources import Record, TFRecordSource
from transforms.unit import Receipt, Shard, Unit


def plan_of(folder: pathlib.Path, count: int, **sections: dict[str, Any]) -> Plan:
    """A plan of one unit with so many images; the folders of its output are made."""
    folder.mkdir(exist_ok=True)
    shards.write_tfrecord(folder / "a.tfrecord", encoded_images(count))
    plan = prepare(Config.from_dict(configuration(folder, str(folder / "a.tfrecord"), **sections)))
    plan.settings.output.create()
    assert len(plan.units) == 1
    plan.model.batch_limit = plan.model.batch_size = None
    return plan


def run(plan: Plan) -> Receipt:
    return explain_unit(plan.units[0], plan.settings)


def files(plan: Plan) -> list[str]:
    root = pathlib.Path(plan.settings.output.path)
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


# ---- memory


@pytest.fixture
def memory_for(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], list[int]]:
    """Has batches of more images than given raise what TensorFlow raises; returns the sizes that were tried.

    Memory itself cannot be exhausted safely in a test.
    """

    def limit(images: int) -> list[int]:
        tried: list[int] = []

        def attempt(exposed: Any, pixels: Any, targets: Any, options: Any, batch_size: int) -> Any:
            tried.append(batch_size)
            if batch_size > images:
                raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")
            return explain_batch(exposed, pixels, targets, options, batch_size)

        monkeypatch.setattr(explainer, "explain_batch", attempt)
        return tried

    return limit


@pytest.mark.quick_cases(every=3)
@pytest.mark.parametrize(("fits", "tried"), [(8, [8] * 3), (5, [8, *[4] * 5]), (1, [8, 4, 2, *[1] * 20])])
def test_out_of_memory_halves_the_batch_and_goes_on(
    tmp_path: pathlib.Path, memory_for: Callable[[int], list[int]], fits: int, tried: list[int]
) -> None:
    whole = plan_of(tmp_path / "whole", 20)
    run(whole)
    plan = plan_of(tmp_path / "short", 20)
    sizes = memory_for(fits)
    receipt = run(plan)
    assert (receipt.images, receipt.rows, receipt.failures) == (20, 20, {})
    assert sizes == tried
    for row, expected in zip(read_maps(plan.settings.output.path), read_maps(whole.settings.output.path), strict=True):
        assert row["image_id"] == expected["image_id"]
        np.testing.assert_allclose(row["map"], expected["map"], atol=1e-5)


def test_a_later_unit_begins_with_what_fitted(tmp_path: pathlib.Path, memory_for: Callable[[int], list[int]]) -> None:
    plan = plan_of(tmp_path, 8)
    memory_for(2)
    run(plan)
    sizes = memory_for(2)
    run(plan)
    assert sizes == [2] * 4


def test_an_image_that_does_not_fit_alone_is_an_error_row(
    tmp_path: pathlib.Path, memory_for: Callable[[int], list[int]]
) -> None:
    plan = plan_of(tmp_path, 3)
    memory_for(0)
    receipt = run(plan)
    assert (receipt.images, receipt.rows, receipt.failures) == (0, 0, {"OutOfMemory": 3})
    errors = pq.read_table(plan.settings.output.part("errors", plan.units[0])).to_pylist()
    assert [row["index"] for row in errors] == [0, 1, 2]
    assert {row["stage"] for row in errors} == {"explain"}
    assert pq.read_metadata(plan.settings.output.part("maps", plan.units[0])).num_rows == 0


def test_an_image_of_which_one_target_does_not_fit_has_no_rows_at_all(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of(tmp_path, 4, explain={"batch_size": 1, "targets": "top-2"})
    calls = iter(range(1000))

    def attempt(*arguments: Any) -> Any:
        if next(calls) == 3:  # the second image's second target
            raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")
        return explain_batch(*arguments)

    monkeypatch.setattr(explainer, "explain_batch", attempt)
    receipt = run(plan)
    assert (receipt.images, receipt.rows, receipt.failures) == (3, 6, {"OutOfMemory": 1})
    assert {row["index"] for row in read_maps(plan.settings.output.path)} == {0, 2, 3}


def test_any_other_error_of_the_framework_is_raised(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of(tmp_path, 3)

    def attempt(*_: Any) -> Any:
        raise tf.errors.InternalError(None, None, "the device is gone")

    monkeypatch.setattr(explainer, "explain_batch", attempt)
    with pytest.raises(tf.errors.InternalError):
        run(plan)
    assert files(plan) == []


# ---- batch size


def auto_batch_size(plan: Plan, side: int, filters: int = 8) -> int:
    layers = keras.layers
    model = randomize(
        keras.Sequential(
            [
                keras.Input((side, side, 3)),
                layers.Conv2D(filters, 3, padding="same", activation="relu"),
                layers.GlobalAveragePooling2D(),
                layers.Dense(3),
            ]
        )
    )
    path = pathlib.Path(plan.settings.output.path).parent / f"{side}-{filters}.keras"
    model.save(path)
    spec = dataclasses.replace(plan.settings.model, path=str(path), fingerprint=path.name)
    return batch_size_of(dataclasses.replace(plan.settings, batch_size=None), LoadedModel(spec))


def test_an_automatic_batch_shrinks_with_the_images(tmp_path: pathlib.Path) -> None:
    plan = plan_of(tmp_path, 200)
    sizes = [auto_batch_size(plan, side) for side in (8, 512, 1024, 2048, 4096)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] in (100, 200)  # evenly of at most 128 on a CPU, and of at most 512 on an accelerator
    assert 1 <= sizes[-1] < sizes[0]
    assert auto_batch_size(plan, 512, filters=64) <= auto_batch_size(plan, 512)


def test_an_automatic_batch_goes_by_the_memory_at_hand(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of(tmp_path, 200)
    monkeypatch.setattr(explainer, "has_accelerator", lambda: False)
    for memory, size in ((0, 1), (1 << 40, 100)):
        monkeypatch.setattr(explainer, "memory_at_hand", lambda memory=memory: memory)
        assert auto_batch_size(plan, 16) == size
    monkeypatch.setattr(explainer, "has_accelerator", lambda: True)
    monkeypatch.setattr(explainer, "accelerator_memory", lambda: 1 << 40)
    assert auto_batch_size(plan, 16) == 200


def test_an_automatic_batch_stays_what_it_was_when_memory_changes(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of(tmp_path, 20)
    settings = dataclasses.replace(plan.settings, batch_size=None)
    plan.model.batch_size = None
    before = batch_size_of(settings, plan.model)
    monkeypatch.setattr(explainer, "memory_at_hand", lambda: 0)
    assert batch_size_of(settings, plan.model) == before


def test_a_unit_is_explained_in_automatic_batches(tmp_path: pathlib.Path) -> None:
    plan = plan_of(tmp_path, 20, explain={"batch_size": "auto"})
    receipt = run(plan)
    assert (receipt.images, receipt.batch_size) == (20, batch_size_of(plan.settings, plan.model))
    assert 1 <= receipt.batch_size <= 24


def test_a_configured_batch_size_is_taken_as_it_is(tmp_path: pathlib.Path) -> None:
    plan = plan_of(tmp_path, 1, explain={"batch_size": 37})
    assert batch_size_of(plan.settings, plan.model) == 37


# ---- several batches at once


def test_batches_computed_at_once_give_what_one_after_the_other_does(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = plan_of(tmp_path / "one", 44, explain={"batch_size": 8})
    run(one)
    several = plan_of(tmp_path / "several", 44, explain={"batch_size": 8})
    together = threading.Barrier(3, timeout=60)
    calls = itertools.count()

    def at_once(*arguments: Any) -> Any:
        if next(calls) < 3:
            together.wait()  # which fails unless three threads come here
        return explain_batch(*arguments)

    monkeypatch.setattr(explainer, "explain_batch", at_once)
    monkeypatch.setattr(several.model, "batches_at_once", 3)
    monkeypatch.setattr(several.model, "compute", threading.BoundedSemaphore(3))
    receipt = run(several)
    assert (receipt.images, next(calls)) == (44, 6)
    assert receipt.seconds["compute"] <= receipt.ended - receipt.started
    expected, found = (list(read_maps(plan.settings.output.path)) for plan in (one, several))
    assert [row["image_id"] for row in found] == [row["image_id"] for row in expected]
    for row, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(row["map"], other["map"])


def test_what_one_of_several_batches_raises_ends_the_unit(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of(tmp_path, 44, explain={"batch_size": 8})
    calls = itertools.count()

    def breaks(*arguments: Any) -> Any:
        if next(calls) == 2:
            raise RuntimeError("the third batch")
        return explain_batch(*arguments)

    monkeypatch.setattr(explainer, "explain_batch", breaks)
    monkeypatch.setattr(plan.model, "batches_at_once", 2)
    monkeypatch.setattr(plan.model, "compute", threading.BoundedSemaphore(2))
    with pytest.raises(RuntimeError, match="the third batch"):
        run(plan)
    assert files(plan) == []


# ---- heartbeats


def test_heartbeats_appear_and_vanish(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of(tmp_path, 40)
    path = pathlib.Path(plan.settings.output.heartbeat(plan.units[0]))
    seen: list[dict[str, Any]] = []

    def watched(*arguments: Any) -> Any:
        written = time.time()
        while not seen or seen[-1]["time"] < written:  # the file is written also while the first batch is computed
            assert time.time() < written + 60
            with contextlib.suppress(FileNotFoundError):
                seen.append(json.loads(path.read_bytes()))
            time.sleep(0.01)
        return explain_batch(*arguments)

    monkeypatch.setattr(explain, "_HEARTBEAT_SECONDS", 0.01)
    monkeypatch.setattr(explainer, "explain_batch", watched)
    before = time.time()
    run(plan)
    images = [beat["images"] for beat in seen]
    assert images == sorted(images)
    assert images[-1] >= 24  # of 40 in batches of 8, the last of which is computed while the one before it is awaited
    assert {beat["failed"] for beat in seen} == {0}
    assert all(before <= beat["started"] <= beat["time"] <= time.time() for beat in seen)
    assert not path.exists()


def test_a_short_unit_has_no_heartbeat(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of(tmp_path, 20)
    path = pathlib.Path(plan.settings.output.heartbeat(plan.units[0]))

    def watched(*arguments: Any) -> Any:
        assert not path.exists()
        return explain_batch(*arguments)

    monkeypatch.setattr(explainer, "explain_batch", watched)
    assert run(plan).images == 20


# ---- what fails midway


class Breaks(TFRecordSource):
    """Reads ten records, and then what nobody foresaw happens."""

    def read(self, shard: Shard, start: int = 0, stop: int | None = None) -> Iterator[Record]:
        for i, record in enumerate(super().read(shard, start, stop)):
            if i == 10:
                raise RuntimeError("the network is gone")
            yield record


def test_a_unit_that_fails_midway_leaves_nothing(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of(tmp_path, 20)
    threads = threading.active_count()
    monkeypatch.setattr(explain, "_HEARTBEAT_SECONDS", 0.0)
    monkeypatch.setattr(explain, "source_for", lambda format, fields: Breaks(fields))
    with pytest.raises(RuntimeError, match="the network is gone"):
        run(plan)
    assert files(plan) == []
    assert threading.active_count() == threads
    monkeypatch.undo()
    assert run(plan).images == 20


def test_a_unit_whose_receipt_cannot_be_written_does_not_exist(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of(tmp_path, 5)
    output, unit = plan.settings.output, plan.units[0]
    os.rmdir(output.file("receipts"))
    with pytest.raises(OSError, match="receipts"):
        run(plan)
    assert output.read_receipts() == []
    assert os.listdir(output.file("tmp")) == []
    os.mkdir(output.file("receipts"))
    assert run(plan).images == 5
    assert output.read_receipt(unit) is not None


def test_the_same_unit_in_two_threads_gives_one_whole_part(tmp_path: pathlib.Path) -> None:
    plan = plan_of(tmp_path, 20)
    with ThreadPoolExecutor(2) as pool:
        one, other = pool.map(lambda _: run(plan), range(2))
    assert (one.images, other.images) == (20, 20)
    rows = list(read_maps(plan.settings.output.path))
    assert [row["index"] for row in rows] == list(range(20))
    assert len(plan.settings.output.read_receipts()) == 1
    assert os.listdir(plan.settings.output.file("tmp")) == []


def test_settings_and_units_are_small_to_send(tmp_path: pathlib.Path) -> None:
    import pickle

    plan = plan_of(tmp_path, 5)
    sent: tuple[ExplainSettings, Unit] = (plan.settings, plan.units[0])
    data = pickle.dumps(sent)
    assert len(data) < 4096
    assert pickle.loads(data) == sent
    assert load_once(sent[0].model) is plan.model


def test_a_receipt_says_where_the_time_went(tmp_path: pathlib.Path) -> None:
    receipt = run(plan_of(tmp_path, 20))
    seconds = receipt.seconds
    assert seconds.keys() == {"read", "decode", "compute", "statistics", "write", "idle", "first_batch"}
    assert all(value >= 0 for value in seconds.values())
    assert seconds["compute"] + seconds["idle"] == pytest.approx(receipt.ended - receipt.started, abs=0.01)
    assert 0 < seconds["first_batch"] <= receipt.ended - receipt.started


def test_receipts_of_earlier_versions_can_be_read(tmp_path: pathlib.Path) -> None:
    receipt = run(plan_of(tmp_path, 5))
    value = json.loads(receipt.to_json())
    del value["seconds"], value["batch_size"]
    assert Receipt.from_json(json.dumps(value)) == dataclasses.replace(receipt, seconds={}, batch_size=None)


def test_a_receipt_reads_back_as_it_was_written(tmp_path: pathlib.Path) -> None:
    plan = plan_of(tmp_path, 5)
    receipt = run(plan)
    assert Output(plan.settings.output.path).read_receipts() == [receipt]
    assert Receipt.from_json(receipt.to_json()) == receipt
