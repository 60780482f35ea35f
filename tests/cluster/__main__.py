"""Starts an engine to try by hand, and says how to run on it: `python -m tests.cluster [prism | flink | spark]`."""

from __future__ import annotations

import argparse
import contextlib
import json
import pathlib
import signal
import sys
import tempfile
from typing import Any

from tests.cluster import artifacts
from tests.cluster.engines import ENGINES
from tests.cluster.flink import FlinkCluster


def main() -> int:
    """Runs until Ctrl-C, then stops what it started. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.cluster", description=__doc__)
    parser.add_argument("engine", nargs="?", choices=["prism", "flink", "spark"], default="flink")
    name = parser.parse_args().engine
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix=f"fullgrad-{name}-") as folder, contextlib.suppress(KeyboardInterrupt):
        try:
            with ENGINES[name](pathlib.Path(folder)) as engine:
                _say(engine.runner, engine.flink, folder)
        except artifacts.Unavailable as reason:
            print(f"python -m tests.cluster: {reason}", file=sys.stderr)
            return 2
    return 0


def _say(runner: dict[str, Any], cluster: FlinkCluster | None, folder: str) -> None:
    """Prints how to use the engine, and waits for a signal."""
    if cluster is not None:
        print(f"Flink: http://{cluster.rest}, TaskManagers: {', '.join(sorted(cluster.registered()))}")
    print(f"logs: {folder}")
    print(f"\nfullgrad run CONFIG.yaml --set 'runner={json.dumps(runner)}'\n")
    print("Ctrl-C stops it", flush=True)
    signal.pause()


if __name__ == "__main__":
    sys.exit(main())
