"""How far a run is, told from its folder alone."""

from __future__ import annotations

import json
import pathlib
import sys
import time

import pytest

from pipeline.progress import Progress, Tracker
from transforms.output import Output
from transforms.unit import Receipt, Shard, Unit

NOW = 0.0


@pytest.fixture(autouse=True)
def _now(monkeypatch: pytest.MonkeyPatch) -> None:
    # Each test's own: by the time that it runs, minutes may have passed since this module was imported.
    monkeypatch.setattr(sys.modules[__name__], "NOW", time.time())


def unit(number: int) -> Unit:
    return Unit(Shard(f"/data/{number}.tfrecord", "tfrecord", 1))


@pytest.fixture
def output(tmp_path: pathlib.Path) -> Output:
    found = Output(str(tmp_path / "out"))
    found.create()
    return found


def commit(
    output: Output, number: int, images: int, started: float, ended: float, run: str = "now", failed: int = 0
) -> None:
    failures = {"NoImage": failed} if failed else {}
    receipt = Receipt(unit(number), run, images, images, failures, NOW + started, NOW + ended, "host/1", 1)
    output.write_json(output.receipt(unit(number)), receipt.to_json())


def beat(output: Output, number: int, images: int, started: float, said: float, failed: int = 0) -> None:
    content = {"images": images, "failed": failed, "started": NOW + started, "time": NOW + said}
    output.write_json(output.heartbeat(unit(number)), json.dumps(content))


def test_nothing_can_be_said_before_anything_is_done(output: Output) -> None:
    progress = Tracker(output, 3, 300).poll()
    assert progress == Progress(3, 0, 300, 0, 0, None, 0)
    assert progress.eta_seconds is None


def test_a_folder_that_is_not_there_is_a_run_that_has_not_begun(tmp_path: pathlib.Path) -> None:
    assert Tracker(Output(str(tmp_path / "nowhere")), 3, None).poll() == Progress(3, 0, None, 0, 0, None, 0)


def test_what_is_committed_counts_with_its_speed_and_the_time_to_go(output: Output) -> None:
    commit(output, 0, images=95, failed=5, started=-40, ended=-20)
    commit(output, 1, images=105, started=-20, ended=0)
    progress = Tracker(output, 4, 400).poll()
    assert (progress.units, progress.units_done, progress.active) == (4, 2, 0)
    assert (progress.images, progress.failed, progress.images_expected) == (200, 5, 400)
    assert progress.images_per_second == pytest.approx(200 / 40)
    assert progress.eta_seconds == pytest.approx((400 - 205) / 5)


def test_units_that_run_at_the_same_time_add_to_the_speed(output: Output) -> None:
    commit(output, 0, images=100, started=-10, ended=0)
    commit(output, 1, images=100, started=-10, ended=0)
    assert Tracker(output, 2, 200).poll().images_per_second == pytest.approx(20)


def test_a_unit_under_way_counts_with_what_it_last_said(output: Output) -> None:
    commit(output, 0, images=100, started=-20, ended=-10)
    beat(output, 1, images=40, failed=2, started=-10, said=0)
    progress = Tracker(output, 2, 200).poll()
    assert (progress.units_done, progress.active, progress.images, progress.failed) == (1, 1, 140, 2)
    assert progress.images_per_second == pytest.approx(140 / 20)


def test_the_first_units_under_way_say_enough_for_a_speed(output: Output) -> None:
    beat(output, 0, images=40, started=-10, said=0)
    beat(output, 1, images=20, started=-8, said=-1)
    progress = Tracker(output, 2, 120).poll("now")
    assert progress.images_per_second == pytest.approx(6)
    assert progress.eta_seconds == pytest.approx(10)


def test_a_stale_heartbeat_is_ignored(output: Output) -> None:
    beat(output, 0, images=40, started=-1000, said=-900)
    progress = Tracker(output, 1, 100).poll()
    assert (progress.active, progress.images, progress.images_per_second) == (0, 0, None)


def test_a_heartbeat_that_a_lost_attempt_left_of_a_committed_unit_does_not_count(output: Output) -> None:
    beat(output, 0, images=40, started=-10, said=0)
    commit(output, 0, images=100, started=-5, ended=0)
    progress = Tracker(output, 1, 100).poll()
    assert (progress.active, progress.images, progress.eta_seconds) == (0, 100, 0)
    assert progress.images_per_second == pytest.approx(20)


def test_the_speed_is_that_of_one_run_and_not_of_the_time_between_two(output: Output) -> None:
    commit(output, 0, images=100, started=-90_000, ended=-89_990, run="yesterday")
    commit(output, 1, images=100, started=-20, ended=0, run="now")
    tracker = Tracker(output, 3, 300)
    assert tracker.poll().images_per_second == pytest.approx(5)
    assert tracker.poll("now").images_per_second == pytest.approx(5)
    assert tracker.poll("yesterday").images_per_second == pytest.approx(10)
    assert tracker.poll("tomorrow").images_per_second is None
    assert tracker.poll("tomorrow").images == 200


def test_more_units_than_were_planned_are_all_of_them(output: Output) -> None:
    for number in range(3):
        commit(output, number, images=10, started=-1, ended=0)
    progress = Tracker(output, 2, 25).poll()
    assert (progress.units, progress.units_done) == (3, 3)
    assert progress.eta_seconds == 0


def test_the_time_to_go_is_not_known_where_images_were_not_counted(output: Output) -> None:
    commit(output, 0, images=10, started=-1, ended=0)
    progress = Tracker(output, 2, None).poll()
    assert progress.images_per_second == pytest.approx(10)
    assert progress.eta_seconds is None


def test_looking_again_finds_what_is_new_and_reads_nothing_twice(output: Output) -> None:
    tracker = Tracker(output, 2, 20)
    commit(output, 0, images=10, started=-2, ended=-1)
    assert tracker.poll().images == 10
    pathlib.Path(output.receipt(unit(0))).write_bytes(b"not read again")
    commit(output, 1, images=10, started=-1, ended=0)
    assert tracker.poll().images == 20
    assert {receipt.unit for receipt in tracker.receipts} == {unit(0), unit(1)}
