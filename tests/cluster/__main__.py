"""An engine to try by hand: `python -m tests.cluster [prism | flink]` starts it and says how to run on it."""

from __future__ import annotations

import argparse
import contextlib
import json
import pathlib
import signal
import sys
import tempfile

from tests.cluster import artifacts
from tests.cluster.engines import ENGINES
from tests.cluster.flink import FlinkCluster


def main() -> int:
    """Runs until Ctrl-C, and stops what it started; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.cluster", description=__doc__)
    parser.add_argument("engine", nargs="?", choices=["prism", "flink"], default="flink")
    name = parser.parse_args().engine
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix=f"fullgrad-{name}-") as folder, contextlib.suppress(KeyboardInterrupt):
        try:
            with ENGINES[name](pathlib.Path(folder)) as engine:
                _say(engine.runner, engine.flink, folder)
        except artifacts.Unavailable as reason:
            if name != "flink":
                return _refuse(str(reason))
            return _without_job_server(str(reason), folder)
    return 0


def _without_job_server(reason: str, folder: str) -> int:
    """The cluster alone: it can be looked at, but takes no job of Beam's."""
    try:
        jars = artifacts.flink()
    except artifacts.Unavailable as why:
        return _refuse(str(why))
    print(f"no Beam job can be run on it: {reason}")
    print("FULLGRAD_FLINK_JOB_SERVER may name a local file of the job server's jar")
    with FlinkCluster(jars, pathlib.Path(folder) / "cluster") as cluster:
        _say(None, cluster, folder)
    return 0


def _say(runner: object, cluster: FlinkCluster | None, folder: str) -> None:
    """Prints how to use it, and waits for a signal."""
    if cluster is not None:
        print(f"Flink: http://{cluster.rest}, TaskManagers: {', '.join(sorted(cluster.registered()))}")
    print(f"logs: {folder}")
    if runner is not None:
        print(f"\nfullgrad run CONFIG.yaml --set 'runner={json.dumps(runner)}'\n")
    print("Ctrl-C stops it", flush=True)
    signal.pause()


def _refuse(sentence: str) -> int:
    print(f"python -m tests.cluster: {sentence}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
