"""The engines that the tests run on. Each is started and described in the same way."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import psutil

from tests.cluster import artifacts
from tests.cluster.flink import FlinkCluster
from tests.cluster.servers import Server, accepts, free_port, running, start_worker_pool
from tests.cluster.spark import spark_cluster


@dataclasses.dataclass(frozen=True, slots=True)
class Engine:
    """A running engine that waits for jobs.

    Attributes:
      name: its name.
      runner: the section `runner` of a configuration for it.
      processes: how many worker processes explain units in one job.
      retries: whether it continues a job after it lost a worker; other engines give the job up.
      pools: the pools in which it starts its workers; empty if the workers are children of the launcher.
      flink: the cluster; None for other engines.
    """

    name: str
    runner: dict[str, Any]
    processes: int
    retries: bool
    pools: Sequence[Server] = ()
    flink: FlinkCluster | None = None

    def workers_started(self) -> list[int]:
        """How many worker processes each pool has started so far."""
        return [pool.log.read_text(errors="replace").count("Starting worker") for pool in self.pools]

    def is_worker(self, pid: int) -> bool:
        """Whether this process is one of the workers in the pools."""
        children = [child.pid for pool in self.pools for child in psutil.Process(pool.pid).children()]
        return pid in children


@contextlib.contextmanager
def prism(folder: pathlib.Path) -> Iterator[Engine]:
    """Prism, which every run starts for itself, and a worker pool. Prism starts one worker for the environment of a
    job, and gives the job up when it loses this worker."""
    binary, port = artifacts.prism(), free_port("127.0.0.1")
    with running(start_worker_pool("127.0.0.1", port, folder / "pool.log")) as pool:
        pool.wait_until(lambda: accepts("127.0.0.1", port))
        options = {
            "prism_location": str(binary),
            "environment_type": "EXTERNAL",
            "environment_config": f"127.0.0.1:{port}",
        }
        yield Engine("prism", {"name": "PrismRunner", "options": options}, 1, False, [pool])


@contextlib.contextmanager
def processes(folder: pathlib.Path) -> Iterator[Engine]:
    """Beam's own runner with two worker processes. It gives a job up when it loses one."""
    options = {"direct_num_workers": 2, "direct_running_mode": "multi_processing"}
    yield Engine("processes", {"name": "direct", "options": options}, 2, False)


@contextlib.contextmanager
def flink(folder: pathlib.Path) -> Iterator[Engine]:
    """A Flink cluster of two TaskManagers, with a worker pool beside each, and Beam's job server, which every run
    starts for itself."""
    with FlinkCluster(artifacts.flink(), folder) as cluster:
        yield Engine("flink", flink_runner(cluster), 2, True, cluster.pools, cluster)


def flink_runner(cluster: FlinkCluster) -> dict[str, Any]:
    """The section `runner` of a configuration that runs on a cluster."""
    options = {
        "flink_master": cluster.rest,
        "flink_version": artifacts.FLINK_LINE,
        "flink_job_server_jar": str(artifacts.flink_job_server()),
        "environment_type": "EXTERNAL",
        "environment_config": cluster.environment_config,
        "environment_cache_millis": 0,
        "sdk_worker_parallelism": 1,
        "parallelism": 2,
    }
    return {"name": "FlinkRunner", "options": options}


@contextlib.contextmanager
def spark(folder: pathlib.Path) -> Iterator[Engine]:
    """A standalone Spark cluster of two workers, with a worker pool beside each. Every run starts Beam's job server for
    itself; it is the driver of the job."""
    job_server = artifacts.spark_job_server()
    with spark_cluster(job_server.parent / "libs", folder) as (options, pools):
        options = {
            **options,
            "spark_job_server_jar": str(job_server),
            "environment_type": "EXTERNAL",
        }
        yield Engine("spark", {"name": "SparkRunner", "options": options}, 2, True, pools)


ENGINES: dict[str, Callable[[pathlib.Path], contextlib.AbstractContextManager[Engine]]] = {
    "prism": prism,
    "processes": processes,
    "flink": flink,
    "spark": spark,
}
