"""A Flink cluster on one machine: a JobManager, TaskManagers, and a pool of Beam's workers beside each TaskManager.

A job names one address for all worker pools (`environment_config`), and every TaskManager asks there for its workers.
If each TaskManager has its own machine or pod, the address is `localhost:50000`. On one machine, two pools cannot share
an address. So the address is a host name, `WORKERS`. Every TaskManager looks it up in its own hosts file
(`-Djdk.net.hosts.file`), which maps it to one of 127.0.0.1, 127.0.0.2 …: Linux has this whole block on loopback.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import socket
import urllib.request
from collections.abc import Sequence
from typing import Any

from tests.cluster.servers import Server, accepts, free_port, start_worker_pool

WORKERS = "beam-workers"

# The modules of Java 17 that Flink's own start scripts open.
_OPENED = (
    "java.lang java.net java.io java.nio java.lang.reflect java.text java.time java.util java.util.concurrent "
    "java.util.concurrent.atomic java.util.concurrent.locks"
).split()

# A TaskManager needs every one of these settings. Flink's start scripts would derive them.
_MEMORY = {
    "taskmanager.cpu.cores": "1",
    "taskmanager.memory.task.heap.size": "256m",
    "taskmanager.memory.task.off-heap.size": "0m",
    "taskmanager.memory.framework.heap.size": "128m",
    "taskmanager.memory.framework.off-heap.size": "64m",
    # Each result of a step that is written while others are takes 512 buffers of 32 KiB.
    "taskmanager.memory.network.min": "160m",
    "taskmanager.memory.network.max": "160m",
    "taskmanager.memory.managed.size": "128m",
    "taskmanager.memory.jvm-metaspace.size": "256m",
    "taskmanager.memory.jvm-overhead.min": "64m",
    "taskmanager.memory.jvm-overhead.max": "64m",
}


class FlinkCluster:
    """A cluster that starts with the block and ends with it.

    Args:
      jars: the folder of Flink's jars.
      folder: the folder for configuration and logs.
      task_managers: the number of TaskManagers, each with one slot.
      beam: Beam's jars, which go on the cluster's class path, before the jars of a job.

    Attributes:
      rest: the address of its REST interface, HOST:PORT.
      environment_config: the address at which jobs find the worker pools.
      pools, task_managers: one pool and one server for each TaskManager.
    """

    def __init__(
        self,
        jars: pathlib.Path,
        folder: pathlib.Path,
        task_managers: int = 2,
        beam: Sequence[pathlib.Path] = (),
    ):
        # Absolute, because the servers have another working directory.
        self._classpath = os.pathsep.join([f"{jars.resolve()}/*", *(str(jar.resolve()) for jar in beam)])
        self._folder = folder.resolve()
        self._has_beam = bool(beam)
        self._hosts = [f"127.0.0.{i + 1}" for i in range(task_managers)]
        self._rpc, rest = free_port("127.0.0.1"), free_port("127.0.0.1")
        self._pool_port = free_port(*self._hosts)
        self.rest = f"127.0.0.1:{rest}"
        self.environment_config = f"{WORKERS}:{self._pool_port}"
        self.pools: list[Server] = []
        self.task_managers: list[Server] = []
        self._job_manager: Server | None = None
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> FlinkCluster:
        with contextlib.ExitStack() as stack:
            self._write_configuration()
            for i, host in enumerate(self._hosts):
                self.pools.append(start_worker_pool(host, self._pool_port, self._folder / f"pool-{i}.log"))
                stack.callback(self.pools[-1].stop)
            entrypoint = "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint"
            job_manager = Server("the JobManager", self._java(entrypoint), self._folder / "jobmanager.log")
            self._job_manager = job_manager
            stack.callback(job_manager.stop)
            stack.callback(lambda: [each.stop() for each in self.task_managers])
            for place in range(len(self._hosts)):
                self.task_managers.append(self._start_task_manager(place))
            self.wait_for_free_slots()
            for pool, host in zip(self.pools, self._hosts, strict=True):
                pool.wait_until(lambda host=host: accepts(host, self._pool_port))  # type: ignore[misc]
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def servers(self) -> list[Server]:
        """The JobManager and the TaskManagers."""
        return [*([] if self._job_manager is None else [self._job_manager]), *self.task_managers]

    def replace_task_manager(self, place: int) -> None:
        """Starts another TaskManager for each one that has ended, as Kubernetes or systemd would."""
        self.task_managers[place] = self._start_task_manager(place)

    def registered(self) -> set[str]:
        """The ids of the TaskManagers that the JobManager knows; empty while it does not answer."""
        try:
            return {each["id"] for each in self.get("taskmanagers")["taskmanagers"]}
        except OSError:
            return set()

    def free_slots(self) -> int:
        """The number of free slots, which a TaskManager reports after it has registered; 0 while the JobManager does
        not answer."""
        try:
            return int(self.get("overview")["slots-available"])
        except OSError:
            return 0

    def wait_for_free_slots(self) -> None:
        """Waits until every TaskManager has its slot free."""
        assert self._job_manager is not None
        self._job_manager.wait_until(lambda: self.free_slots() == len(self._hosts), seconds=180)

    def states(self, name: str) -> list[str]:
        """The states of the jobs with this name."""
        return [job["state"] for job in self.get("jobs/overview")["jobs"] if job["name"] == name]

    def get(self, path: str) -> Any:
        """The answer of the REST interface.

        Raises:
          OSError: there is no answer.
        """
        with urllib.request.urlopen(f"http://{self.rest}/{path}", timeout=10) as answer:
            return json.load(answer)

    def jvm_options(self, place: int) -> list[str]:
        """The option by which the Java of a TaskManager finds its own worker pool."""
        return [f"-Djdk.net.hosts.file={self._hosts_file(place)}"]

    def pool_host(self, place: int) -> str:
        return self._hosts[place]

    def _hosts_file(self, place: int) -> pathlib.Path:
        return self._folder / f"hosts-{place}"

    def _start_task_manager(self, place: int) -> Server:
        own = {"taskmanager.resource-id": f"taskmanager-{place}", **_MEMORY}
        entrypoint = "org.apache.flink.runtime.taskexecutor.TaskManagerRunner"
        command = self._java(entrypoint, *self.jvm_options(place), heap="384m")
        command += [part for key, value in own.items() for part in ("-D", f"{key}={value}")]
        return Server(f"TaskManager {place}", command, self._folder / f"taskmanager-{place}.log")

    def _java(self, entrypoint: str, *options: str, heap: str = "512m") -> list[str]:
        opened = [f"--add-opens=java.base/{package}=ALL-UNNAMED" for package in _OPENED]
        logging = f"-Dlog4j.configurationFile=file:{self._folder / 'log4j.properties'}"
        java = ["java", f"-Xmx{heap}", "-XX:+UseSerialGC", *opened, logging, *options]
        return [*java, "-classpath", self._classpath, entrypoint, "--configDir", str(self._folder / "conf")]

    def _write_configuration(self) -> None:
        conf = self._folder / "conf"
        conf.mkdir(parents=True)
        _, _, rest = self.rest.partition(":")
        settings = {
            "jobmanager.rpc.address": "127.0.0.1",
            "jobmanager.rpc.port": str(self._rpc),
            "jobmanager.bind-host": "127.0.0.1",
            "jobmanager.memory.process.size": "1024m",
            "rest.address": "127.0.0.1",
            "rest.bind-address": "127.0.0.1",
            "rest.port": rest,
            "rest.bind-port": rest,
            "taskmanager.host": "127.0.0.1",
            "taskmanager.bind-host": "127.0.0.1",
            "taskmanager.numberOfTaskSlots": "1",
            "blob.server.port": "0",
            # The JobManager notices within seconds that a TaskManager was killed.
            "heartbeat.interval": "1000",
            "heartbeat.timeout": "10000",
            "cluster.io-pool.size": "4",
            # A job survives the loss of a worker and of a TaskManager. Beam has no option for this.
            "restart-strategy.type": "fixed-delay",
            "restart-strategy.fixed-delay.attempts": "5",
            "restart-strategy.fixed-delay.delay": "1 s",
            **({"classloader.resolve-order": "parent-first"} if self._has_beam else {}),
            "io.tmp.dirs": str(self._folder / "tmp"),
            "classloader.check-leaked-classloader": "false",
        }
        (conf / "config.yaml").write_text("".join(f'{key}: "{value}"\n' for key, value in settings.items()))
        (self._folder / "tmp").mkdir()
        (self._folder / "log4j.properties").write_text(
            "rootLogger.level = INFO\nrootLogger.appenderRef.console.ref = Console\n"
            "appender.console.name = Console\nappender.console.type = CONSOLE\n"
            "appender.console.layout.type = PatternLayout\n"
            "appender.console.layout.pattern = %d{HH:mm:ss} %-5p %c{1} %m%n\n"
        )
        for place, host in enumerate(self._hosts):
            names = {"localhost": "127.0.0.1", socket.gethostname(): "127.0.0.1", WORKERS: host}
            self._hosts_file(place).write_text("".join(f"{address} {name}\n" for name, address in names.items()))
