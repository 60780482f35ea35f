"""The Flink cluster itself, without a job: real processes find each other, are missed, and are replaced."""

from __future__ import annotations

import pathlib
import shutil
import subprocess
from collections.abc import Iterator

import psutil
import pytest

from tests.cluster import artifacts
from tests.cluster.flink import FlinkCluster
from tests.cluster.missing import skip_or_fail
from tests.cluster.servers import Server

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FlinkCluster]:
    try:
        jars = artifacts.flink()
    except artifacts.Unavailable as reason:
        skip_or_fail(reason)
    with FlinkCluster(jars, tmp_path_factory.mktemp("flink")) as cluster:
        yield cluster


def test_both_task_managers_register_and_offer_their_slots(cluster: FlinkCluster) -> None:
    assert cluster.registered() == {"taskmanager-0", "taskmanager-1"}
    overview = cluster.get("overview")
    assert overview["flink-version"] == artifacts.FLINK
    assert (overview["taskmanagers"], overview["slots-total"]) == (2, 2)


def test_a_killed_task_manager_is_missed_and_replaced(cluster: FlinkCluster) -> None:
    lost, other = cluster.task_managers
    lost.kill()
    other.wait_until(lambda: cluster.registered() == {"taskmanager-1"})
    cluster.replace_task_manager(0)
    other.wait_until(lambda: cluster.registered() == {"taskmanager-0", "taskmanager-1"})
    assert cluster.task_managers[0].pid != lost.pid
    # A TaskManager reports its slots after it has registered.
    other.wait_until(lambda: cluster.get("overview")["slots-available"] == 2)


def test_each_task_manager_finds_its_own_worker_pool_at_the_one_address(cluster: FlinkCluster) -> None:
    if shutil.which("javac") is None:
        skip_or_fail("the Java here is no JDK, which it takes to ask it for an address")
    where = str(pathlib.Path(__file__).parent / "Where.java")
    for place in range(2):
        command = ["java", *cluster.jvm_options(place), where, cluster.environment_config]
        found = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.strip()
        assert found == cluster.pool_host(place)
        _, _, port = cluster.environment_config.partition(":")
        assert (found, int(port)) in _listening(cluster.pools[place])
        assert cluster.jvm_options(place)[0] in psutil.Process(cluster.task_managers[place].pid).cmdline()


def test_nothing_of_it_can_be_reached_from_another_machine(cluster: FlinkCluster) -> None:
    for server in [*cluster.servers, *cluster.pools]:
        assert {host.partition(".")[0] for host, _ in _listening(server)} == {"127"}


def _listening(server: Server) -> list[tuple[str, int]]:
    connections = psutil.Process(server.pid).net_connections("inet")
    return [(c.laddr.ip.removeprefix("::ffff:"), c.laddr.port) for c in connections if c.status == psutil.CONN_LISTEN]
