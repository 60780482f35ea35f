"""Jobs on Flink: what happens to them when the launcher or its job server ends, or a second job runs."""

from __future__ import annotations

import contextlib
import pathlib
import signal
import subprocess
from typing import Any

import psutil
import pytest
import yaml

from pipeline.engines.flink import Flink
from tests.cluster import artifacts
from tests.cluster.engines import Engine, flink_runner
from tests.cluster.flink import FlinkCluster
from tests.cluster.missing import skip_or_fail
from tests.cluster.runs import LONG, Run
from tests.cluster.servers import ROOT, Server, accepts, free_port, running
from tests.outputs import assert_same_output

# A busy machine takes minutes, and so does a first run that fetches its servers.
pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1500)]


def test_every_option_of_the_example_is_run(flink: Engine) -> None:
    example = yaml.safe_load((ROOT / "configs" / "flink.yaml").read_text())["runner"]
    assert flink.runner["name"] == example["name"]
    assert flink.runner["options"].keys() == example["options"].keys()
    ours = {"flink_master", "flink_job_server_jar", "environment_config"}  # the addresses of the cluster
    assert {name: value for name, value in flink.runner["options"].items() if name not in ours} == {
        name: value for name, value in example["options"].items() if name not in ours
    }


def test_two_jobs_at_once_on_one_output_leave_one_part_of_each_unit(
    flink: Engine, cluster: FlinkCluster, dataset: dict[str, Any], expected: str, tmp_path: pathlib.Path
) -> None:
    run = Run.on(flink, dataset, tmp_path)
    with contextlib.ExitStack() as stack:
        # One slot for each job, so that both run.
        both = [stack.enter_context(run.started("--", "--parallelism=1")) for _ in range(2)]
        said = [process.communicate(timeout=LONG)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert len(run.receipts()) == 7
    assert len(list(pathlib.Path(run.path, "maps").iterdir())) == 7
    assert_same_output(run.path, expected)


def test_a_launcher_that_is_terminated_cancels_its_job_while_it_is_submitted(
    flink: Engine, cluster: FlinkCluster, slow: dict[str, Any], tmp_path: pathlib.Path
) -> None:
    run = Run.on(flink, slow, tmp_path)
    with run.started() as process:
        _wait_for_job_server(process)
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=LONG)
    assert process.returncode == 130, said
    assert run.job in said
    assert "Traceback" not in said
    assert set(cluster.states(run.job)) <= {"CANCELED"}
    assert not run.wait_until_nothing_is_committed(3)


def test_a_lost_job_server_does_not_leave_its_job_behind(
    flink: Engine, cluster: FlinkCluster, slow: dict[str, Any], tmp_path: pathlib.Path
) -> None:
    run = Run.on(flink, slow, tmp_path)
    with run.started() as process:
        run.wait_for_receipts(process, 1)
        _wait_for_job_server(process).kill()
        said, _ = process.communicate(timeout=LONG)
    assert process.returncode == 1, said
    assert f"Flink ended the job {run.job} (CANCELED)" in said
    assert "the same command goes on with what is missing" in said
    assert cluster.states(run.job) == ["CANCELED"]


def test_where_the_launcher_does_not_know_flink_an_interrupt_says_that_the_job_goes_on(
    flink: Engine, cluster: FlinkCluster, slow: dict[str, Any], tmp_path: pathlib.Path
) -> None:
    """Its job server runs elsewhere, and only the job server knows where Flink is."""
    port = free_port("127.0.0.1")
    options = {**flink.runner["options"], "job_endpoint": f"127.0.0.1:{port}"}
    jar = options.pop("flink_job_server_jar")
    del options["flink_master"]
    command = ["java", "-jar", jar, f"--flink-master={cluster.rest}", f"--job-port={port}", "--artifact-port=0"]
    with running(Server("the job server", [*command, "--expansion-port=0"], tmp_path / "job-server.log")) as server:
        server.wait_until(lambda: accepts("127.0.0.1", port))
        run = Run.to(str(tmp_path / "out"), {"name": "FlinkRunner", "options": options}, slow, tmp_path)
        with run.started() as process:
            run.wait_for_receipts(process, 1)
            process.send_signal(signal.SIGINT)
            said, _ = process.communicate(timeout=LONG)
    assert process.returncode == 130, said
    assert f"the job {run.job} may go on" in said
    assert "let runner.options.flink_master say where Flink is" in said
    assert cluster.states(run.job) == ["RUNNING"]  # so the command must say it
    said = Flink.at(cluster.rest).cancel(run.job)  # type: ignore[union-attr]
    assert said == f"Flink ended the job {run.job} (CANCELED)"


def test_a_flink_that_is_not_there_is_refused_before_anything_is_written(
    flink: Engine, dataset: dict[str, Any], tmp_path: pathlib.Path
) -> None:
    nowhere = free_port("127.0.0.1")
    run = Run.on(flink, dataset, tmp_path)
    with run.started("--set", f"runner.options.flink_master=127.0.0.1:{nowhere}") as process:
        said, _ = process.communicate(timeout=LONG)
    assert process.returncode == 2, said
    assert f"runner.options.flink_master: http://127.0.0.1:{nowhere} does not answer" in said
    assert not pathlib.Path(run.path).exists()


def test_with_beam_on_its_class_path_a_cluster_keeps_one_worker_for_a_whole_job(
    dataset: dict[str, Any], expected: str, tmp_path: pathlib.Path
) -> None:
    """As long as `environment_cache_millis` says; without these jars the option has no effect."""
    try:
        jars, beam = artifacts.flink(), artifacts.beam_in_flink()
    except artifacts.Unavailable as reason:
        skip_or_fail(reason)
    with FlinkCluster(jars, tmp_path / "cluster", beam=beam) as cluster:
        engine = Engine("flink", flink_runner(cluster), 2, True, cluster.pools, cluster)
        run = Run.on(engine, dataset, tmp_path)
        run.finish("--", "--environment_cache_millis=60000")
        assert engine.workers_started() == [1, 1]
    assert_same_output(run.path, expected)
    # One worker for each TaskManager.
    assert len({receipt.worker for receipt in run.receipts()}) == 2


def _wait_for_job_server(process: subprocess.Popen[str]) -> psutil.Process:
    """The Java process that the launcher started, as soon as it exists."""
    launcher = psutil.Process(process.pid)
    for _ in range(LONG * 10):
        found = [child for child in launcher.children(recursive=True) if "java" in child.name()]
        if found:
            return found[0]
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.1)
            break
    raise AssertionError(f"no job server was seen:\n{process.communicate()[0]}")
