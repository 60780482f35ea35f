"""What it costs to run on another engine: the same configuration on Beam's runners, in turn, on this machine.

    python -m benchmarks.engines [--prism FILE] [--flink HOST:PORT --job-server FILE] [--rounds 2] [--csv FILE]

ResNet-20 on the CIFAR-10 shards of the data folder, taken several times over and cut into small units, so that what a
unit costs beside its batches shows: with `direct`, in one process and in two; on Prism, with the worker in the launcher
(LOOPBACK) and in a worker pool; on a Flink cluster that is there already, with its own pools on 127.0.0.1:50000. Every
run is a process of its own. images/s are those from the first unit's start to the last one's commit, and between the
first commit and the last.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import dataclasses
import json
import pathlib
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.pipeline import CASES, DATA, Missing, configuration, run_command
from tests.cluster.servers import accepts, free_port, running, start_worker_pool

UNIT = 250  # images
BATCH = 125

Runner = Mapping[str, Any]


@dataclasses.dataclass(frozen=True, slots=True)
class Run:
    """One run.

    Attributes:
      variant: what is run, as the table calls it.
      round: which time, from 0.
      seconds: of the whole command.
      until_first: seconds of it until the first unit starts.
      rate: images/s, first unit's start to last commit.
      sustained: images/s, first commit to last.
      workers: how many processes explained.
      idle: seconds of units in which nothing was computed.
    """

    variant: str
    round: int
    seconds: float
    until_first: float
    rate: float
    sustained: float
    workers: int
    idle: float


def one_run(config: Mapping[str, Any], variant: str, turn: int, folder: pathlib.Path) -> Run:
    """Runs the command line on a configuration; the output is made in `folder`."""
    began, (seconds, _) = time.time(), run_command(config, folder)
    receipts = [json.loads(each.read_text()) for each in (folder / "out" / "receipts").iterdir()]
    receipts.sort(key=lambda receipt: receipt["ended"])
    started, ended = min(receipt["started"] for receipt in receipts), receipts[-1]["ended"]
    images = [receipt["images"] for receipt in receipts]
    return Run(
        variant,
        turn,
        seconds=seconds,
        until_first=started - began,
        rate=sum(images) / (ended - started),
        sustained=sum(images[1:]) / (ended - receipts[0]["ended"]),
        workers=len(Counter(receipt["worker"] for receipt in receipts)),
        idle=sum(receipt["seconds"]["idle"] for receipt in receipts),
    )


@contextlib.contextmanager
def variants(
    prism: str | None, flink: str | None, job_server: str | None, logs: pathlib.Path
) -> Iterator[dict[str, Runner]]:
    """The runners to compare, with a worker pool for Prism while they are in use."""
    found: dict[str, Runner] = {
        "direct": {"name": "direct"},
        "direct, two processes": {
            "name": "direct",
            "options": {"direct_num_workers": 2, "direct_running_mode": "multi_processing"},
        },
    }
    with contextlib.ExitStack() as stack:
        if prism is not None:
            port = free_port("127.0.0.1")
            pool = stack.enter_context(running(start_worker_pool("127.0.0.1", port, logs / "pool.log")))
            pool.wait_until(lambda: accepts("127.0.0.1", port))
            in_pool = {"environment_type": "EXTERNAL", "environment_config": f"127.0.0.1:{port}"}
            found["Prism, LOOPBACK"] = {"name": "PrismRunner", "options": {"prism_location": prism}}
            found["Prism, worker pool"] = {"name": "PrismRunner", "options": {"prism_location": prism, **in_pool}}
        if flink is not None:
            options = {
                "flink_master": flink,
                "environment_type": "EXTERNAL",
                "environment_config": "127.0.0.1:50000",
                "environment_cache_millis": 600_000,
                **({} if job_server is None else {"flink_job_server_jar": job_server}),
            }
            found["Flink"] = {"name": "FlinkRunner", "options": options}
        yield found


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", metavar="DIR", type=pathlib.Path, default=DATA, help=f"images and models ({DATA})")
    parser.add_argument("--prism", metavar="FILE", help="a Prism binary (docs/running.md)")
    parser.add_argument("--flink", metavar="HOST:PORT", help="the JobManager's address")
    parser.add_argument("--job-server", metavar="FILE", help="Beam's job server for that Flink")
    parser.add_argument("--copies", metavar="N", type=int, default=4, help="how often each shard is explained (4)")
    parser.add_argument("--rounds", metavar="N", type=int, default=2, help="how often each is run (2)")
    parser.add_argument("--csv", metavar="FILE", help="write the runs there as well")
    arguments = parser.parse_args(argv)
    runs: list[Run] = []
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        try:
            config = configuration(CASES["resnet20"], arguments.data, folder, explain={"batch_size": BATCH})
        except Missing as error:
            sys.exit(str(error))
        shards = _copies(config["input"]["shards"], arguments.copies, folder)
        config["input"] = {"shards": shards, "images_per_unit": UNIT}
        with variants(arguments.prism, arguments.flink, arguments.job_server, folder) as found:
            for turn in range(arguments.rounds):
                for variant, runner in found.items():
                    own = folder / f"{variant.replace(' ', '-')}-{turn}"
                    runs.append(one_run({**config, "runner": runner}, variant, turn, own))
                    print(
                        f"{variant}, round {turn + 1} of {arguments.rounds}: {runs[-1].rate:.0f} images/s", flush=True
                    )
    _print(runs)
    if arguments.csv:
        with open(arguments.csv, "w", newline="") as sink:
            writer = csv.DictWriter(sink, [field.name for field in dataclasses.fields(Run)], lineterminator="\n")
            writer.writeheader()
            writer.writerows(map(dataclasses.asdict, runs))


def _copies(shards: Sequence[str], copies: int, folder: pathlib.Path) -> list[str]:
    """Links to the shards, so many to each."""
    links = [folder / f"{copy}-{pathlib.Path(shard).name}" for copy in range(copies) for shard in shards]
    for i, link in enumerate(links):
        link.symlink_to(pathlib.Path(shards[i % len(shards)]).resolve())
    return [str(link) for link in links]


def _print(runs: Sequence[Run]) -> None:
    table = Table("", "command, s", "until the first unit, s", "images/s", "between commits", "workers", "idle, s")
    for variant in dict.fromkeys(run.variant for run in runs):
        own = [run for run in runs if run.variant == variant]
        columns = ("seconds", "until_first", "rate", "sustained", "workers", "idle")
        median = {column: statistics.median(getattr(run, column) for run in own) for column in columns}
        table.add_row(
            variant,
            *(f"{median[column]:.1f}" for column in ("seconds", "until_first")),
            *(f"{median[column]:,.0f}" for column in ("rate", "sustained", "workers")),
            f"{median['idle']:.1f}",
        )
    Console().print("Medians of the rounds", table, sep="\n")


if __name__ == "__main__":
    main()
