"""The same pipeline on every engine: its output, its workers, and what remains when a worker or the job is lost."""

from __future__ import annotations

import os
import pathlib
import signal
from typing import Any

import psutil
import pytest

from pipeline.config import Config
from pipeline.run import launch, prepare
from tests.cluster.conftest import SLOW
from tests.cluster.engines import Engine
from tests.cluster.runs import LONG, Run
from tests.outputs import assert_same_output
from transforms.output import Output, read_maps

# A busy machine takes minutes, and so does a first run that fetches its servers.
pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1500)]


@pytest.fixture(scope="module")
def undisturbed(engine: Engine, dataset: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A whole run on the engine."""
    run = Run.on(engine, dataset, tmp_path_factory.mktemp("undisturbed"))
    run.finish()
    return run


def test_the_same_comes_out_as_of_a_direct_run(undisturbed: Run, expected: str) -> None:
    assert_same_output(undisturbed.path, expected)
    assert os.listdir(f"{undisturbed.path}/tmp") == []


def test_every_worker_process_does_a_share_and_loads_the_model_once(undisturbed: Run, engine: Engine) -> None:
    receipts = undisturbed.receipts()
    workers = {receipt.worker for receipt in receipts}
    assert len(receipts) == 7
    assert len(workers) == engine.processes
    assert str(os.getpid()) not in {worker.rpartition("/")[2] for worker in workers}
    assert {receipt.models_loaded for receipt in receipts} == {1}


def test_a_worker_killed_in_the_middle_of_a_unit_loses_nothing_else(
    engine: Engine, dataset: dict[str, Any], expected: str, tmp_path: pathlib.Path
) -> None:
    run = Run.on(engine, dataset, tmp_path)
    with run.started() as process:
        attempt = run.wait_for(process, "large")
        assert engine.is_worker(attempt.pid) == bool(engine.pools)
        psutil.Process(attempt.pid).kill()
        said, _ = process.communicate(timeout=LONG)
    if engine.retries:
        assert process.returncode == 0, said
    else:
        assert process.returncode == 1, said
        assert "the same command goes on with what is missing" in said
        assert not [receipt for receipt in run.receipts() if "large" in receipt.unit.shard.path]
    done = run.receipts()
    assert {row["shard"] for row in read_maps(run.path, ["shard"])} == {receipt.unit.shard.path for receipt in done}

    # An engine that gave the job up resumes it itself. For one that did not, it is enough that nothing is missing.
    said = run.finish(*([] if not engine.retries else ["--set", "runner={name: direct}"]))
    assert f"{7 - len(done)} unit{'' if len(done) == 6 else 's'} to explain, {len(done)} done before" in said
    _are_still_there(done, run)
    assert_same_output(run.path, expected)
    assert os.listdir(f"{run.path}/tmp") == []


def test_a_cancelled_job_stops_and_another_engine_computes_what_is_missing(
    engine: Engine, slow: dict[str, Any], expected_slow: str, tmp_path: pathlib.Path
) -> None:
    if not engine.pools:
        pytest.skip(
            "of a launcher whose children are the workers, tests/pipeline/test_run.py says what an interrupt does"
        )
    run = Run.on(engine, slow, tmp_path)
    with run.started() as process:
        run.wait_for_receipts(process, 2)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: a job server gets the signal too
        said, _ = process.communicate(timeout=LONG)
    assert process.returncode == 130, said
    assert "interrupted" in said
    assert "the same command goes on with what is missing" in said
    assert "Traceback" not in said
    if engine.flink is not None:
        assert f"Flink ended the job {run.job} (CANCELED)" in said
        assert engine.flink.states(run.job) == ["CANCELED"]
    done = run.wait_until_nothing_is_committed()
    units = SLOW // 10
    assert 2 <= len(done) < units

    said = run.finish("--set", "runner={name: direct}")
    assert f"{units - len(done)} unit{'' if len(done) == units - 1 else 's'} to explain, {len(done)} done" in said
    now = {receipt.unit.id: receipt for receipt in run.receipts()}
    assert [now[receipt.unit.id] for receipt in done] == done
    assert_same_output(run.path, expected_slow)


def test_a_task_manager_killed_in_the_middle_of_a_job_changes_nothing(
    engine: Engine, dataset: dict[str, Any], expected: str, tmp_path: pathlib.Path
) -> None:
    if engine.flink is None:
        pytest.skip(f"{engine.name} has no TaskManagers")
    run = Run.on(engine, dataset, tmp_path)
    with run.started() as process:
        run.wait_for(process, "large")
        engine.flink.task_managers[0].kill()
        engine.flink.replace_task_manager(0)
        said, _ = process.communicate(timeout=LONG)
    assert process.returncode == 0, said
    assert_same_output(run.path, expected)


def test_resnet20_on_cifar10_gives_what_a_direct_run_gives(
    engine: Engine, cifar10: dict[str, Any], direct_cifar10: str, tmp_path: pathlib.Path
) -> None:
    run = Run.on(engine, cifar10, tmp_path)
    run.finish()
    assert len({receipt.worker for receipt in run.receipts()}) == engine.processes
    assert_same_output(run.path, direct_cifar10)


@pytest.fixture(scope="module")
def cifar10(test_data: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The four real shards and the real ResNet-20."""
    data = test_data / "cifar10"
    scale = {"divide": 255, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    return {
        "input": {"shards": str(data / "cifar10_test.tfrecord-*")},
        "model": {"path": str(data / "resnet20_cifar10.keras"), "preprocess": {"scale": scale}},
        "explain": {"batch_size": 64},
        "output": {"path": str(tmp_path_factory.mktemp("cifar10") / "out")},
    }


@pytest.fixture(scope="module")
def direct_cifar10(cifar10: dict[str, Any]) -> str:
    launch(prepare(Config.from_dict(cifar10)))
    return str(cifar10["output"]["path"])


def _are_still_there(done: list[Any], run: Run) -> None:
    """Whether committed units were not computed again."""
    now = {receipt.unit.id: receipt for receipt in run.receipts()}
    assert [now[receipt.unit.id] for receipt in done] == done
    assert len(now) == 7
    assert Output(run.path).read_json("summary.json")["units_computed"] == 7 - len(done)
