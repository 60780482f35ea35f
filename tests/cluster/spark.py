"""A standalone Spark cluster on one machine: a master, two workers, and a pool of Beam's workers beside each of them.

As with Flink (tests/cluster/flink.py), a job names one address for all pools. The executors of each worker look it up
in their own hosts file.
"""

from __future__ import annotations

import contextlib
import json
import pathlib
import socket
import urllib.request
from collections.abc import Iterator
from typing import Any

from tests.cluster.servers import Server, accepts, free_port, running, start_worker_pool

_NAME = "beam-workers"

# The modules of Java 17 that Spark's own start scripts open.
_OPENED = (
    "java.lang java.lang.invoke java.lang.reflect java.io java.net java.nio java.util java.util.concurrent "
    "java.util.concurrent.atomic sun.nio.ch sun.nio.cs sun.security.action sun.util.calendar"
).split()


@contextlib.contextmanager
def spark_cluster(libraries: pathlib.Path, folder: pathlib.Path) -> Iterator[tuple[dict[str, Any], list[Server]]]:
    """Runs the cluster while the block lasts. Gives the options for Beam that name the cluster, and the worker pools.

    Args:
      libraries: Spark's jars, with everything that they need.
      folder: the folder for logs and for files of the workers.
    """
    home = folder / "home"
    (home / "jars").mkdir(parents=True)
    for jar in libraries.glob("*.jar"):
        if not jar.name.startswith("slf4j-simple"):  # Spark has its own logging
            (home / "jars" / jar.name).symlink_to(jar.resolve())
    hosts = ("127.0.0.1", "127.0.0.2")
    port, web, pool_port = free_port("127.0.0.1"), free_port("127.0.0.1"), free_port(*hosts)
    env = {"SPARK_HOME": str(home), "SPARK_LOCAL_IP": "127.0.0.1", "SPARK_SCALA_VERSION": "2.12"}
    url = f"spark://127.0.0.1:{port}"
    with contextlib.ExitStack() as stack:
        ports = ["--port", str(port), "--webui-port", str(web)]
        command = _java(home, "org.apache.spark.deploy.master.Master", "--host", "127.0.0.1", *ports)
        master = stack.enter_context(running(Server("Spark's master", command, folder / "master.log", env)))
        master.wait_until(lambda: accepts("127.0.0.1", web))
        pools = []
        for place, host in enumerate(hosts):
            pool = start_worker_pool(host, pool_port, folder / f"pool-{place}.log")
            pools.append(stack.enter_context(running(pool)))
            names = folder / f"hosts-{place}"
            names.write_text(f"127.0.0.1 localhost\n127.0.0.1 {socket.gethostname()}\n{host} {_NAME}\n")
            offers = ["--cores", "1", "--memory", "1g", "--work-dir", str(folder / f"work-{place}")]
            entrypoint = "org.apache.spark.deploy.worker.Worker"
            command = _java(home, entrypoint, "--host", "127.0.0.1", *offers, "--webui-port", "0", url)
            # In the environment, because executors are processes of their own and inherit it.
            own = {**env, "JAVA_TOOL_OPTIONS": f"-Djdk.net.hosts.file={names}"}
            worker = Server(f"Spark's worker {place}", command, folder / f"worker-{place}.log", own)
            stack.enter_context(running(worker))
        master.wait_until(lambda: _alive(web) == len(hosts))
        for pool, host in zip(pools, hosts, strict=True):
            pool.wait_until(lambda host=host: accepts(host, pool_port))  # type: ignore[misc]
        yield {"spark_master_url": url, "environment_config": f"{_NAME}:{pool_port}"}, pools


def _alive(web: int) -> int:
    with urllib.request.urlopen(f"http://127.0.0.1:{web}/json/", timeout=10) as answer:
        return int(json.load(answer)["aliveworkers"])


def _java(home: pathlib.Path, entrypoint: str, *arguments: str) -> list[str]:
    opened = [f"--add-opens=java.base/{package}=ALL-UNNAMED" for package in _OPENED]
    return ["java", "-Xmx384m", "-XX:+UseSerialGC", *opened, "-classpath", f"{home}/jars/*", entrypoint, *arguments]
