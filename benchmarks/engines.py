"""The cost of running on another engine: the same configuration on each of Beam's runners in turn, on this machine.

    python -m benchmarks.engines [--only NAME …] [--rounds 2] [--csv FILE]

ResNet-20 on the CIFAR-10 shards of the data folder, taken several times over and cut into small units, so that what a
unit costs beside its batches shows: with `direct`, in one process and in two; on Prism, with the worker in the launcher
(LOOPBACK) and in a worker pool; on a Flink cluster of two TaskManagers, also with Beam's jars on its class path and
workers that are kept; on a Spark cluster of two workers. The servers are those of the tests, and are fetched as for
these. An engine that cannot be had is left out, which is said. Every run is a process of its own. images/s are those
from the first unit's start to the last one's commit, and between the first commit and the last.
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
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.pipeline import CASES, DATA, Missing, configuration, run_command
from tests.cluster import artifacts
from tests.cluster.engines import ENGINES, Engine, flink_runner
from tests.cluster.flink import FlinkCluster

UNIT = 250  # images
BATCH = 125

Runner = Mapping[str, Any]


@dataclasses.dataclass(frozen=True, slots=True)
class Run:
    """One run.

    Attributes:
      variant: the name in the table.
      round: the number of the round, from 0.
      seconds: the whole command.
      until_first: seconds until the first unit starts.
      rate: images/s from the start of the first unit to the last commit.
      sustained: images/s from the first commit to the last.
      workers: how many processes explained images.
      idle: seconds of the units in which no batch was explained.
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
    """Runs the command line on a configuration, with the output in `folder`."""
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
def _prism_in_launcher(folder: pathlib.Path) -> Iterator[Runner]:
    yield {"name": "PrismRunner", "options": {"prism_location": str(artifacts.prism())}}


@contextlib.contextmanager
def _engine(
    starts: Callable[[pathlib.Path], contextlib.AbstractContextManager[Engine]], folder: pathlib.Path
) -> Iterator[Runner]:
    with starts(folder) as engine:
        yield engine.runner


@contextlib.contextmanager
def _flink_with_beam(folder: pathlib.Path) -> Iterator[Runner]:
    with FlinkCluster(artifacts.flink(), folder, beam=artifacts.beam_in_flink()) as cluster:
        runner = flink_runner(cluster)
        yield {**runner, "options": {**runner["options"], "environment_cache_millis": 60_000}}


# The variants: the name in the table, and a context that starts the servers in a folder and gives the section `runner`.
VARIANTS: dict[str, Callable[[pathlib.Path], contextlib.AbstractContextManager[Runner]]] = {
    "direct": lambda _: contextlib.nullcontext({"name": "direct"}),
    "direct, two processes": lambda folder: _engine(ENGINES["processes"], folder),
    "Prism, LOOPBACK": _prism_in_launcher,
    "Prism, worker pool": lambda folder: _engine(ENGINES["prism"], folder),
    "Flink": lambda folder: _engine(ENGINES["flink"], folder),
    "Flink, workers kept": _flink_with_beam,
    "Spark": lambda folder: _engine(ENGINES["spark"], folder),
}


@contextlib.contextmanager
def started(variant: str, folder: pathlib.Path) -> Iterator[Runner | None]:
    """Starts what a variant needs while the block lasts. Gives its runner, or None if a server is not available."""
    folder.mkdir(parents=True)
    with contextlib.ExitStack() as stack:
        try:
            runner: Runner | None = stack.enter_context(VARIANTS[variant](folder))
        except artifacts.Unavailable as reason:
            print(f"{variant} is left out: {reason}", flush=True)
            runner = None
        yield runner


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", metavar="DIR", type=pathlib.Path, default=DATA, help=f"images and models ({DATA})")
    parser.add_argument(
        "--only", metavar="NAME", nargs="+", choices=VARIANTS, default=list(VARIANTS), help=f"of {', '.join(VARIANTS)}"
    )
    parser.add_argument("--copies", metavar="N", type=int, default=4, help="how often each shard is explained (4)")
    parser.add_argument("--rounds", metavar="N", type=int, default=2, help="how often each is run (2)")
    parser.add_argument("--csv", metavar="FILE", help="also write the runs to this file")
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
        for turn in range(arguments.rounds):
            for variant in arguments.only:
                own = folder / f"{list(VARIANTS).index(variant)}-{turn}"
                # One at a time: servers that wait take memory and some processor time.
                with started(variant, own / "servers") as runner:
                    if runner is None:
                        continue
                    runs.append(one_run({**config, "runner": runner}, variant, turn, own / "run"))
                print(f"{variant}, round {turn + 1} of {arguments.rounds}: {runs[-1].rate:.0f} images/s", flush=True)
    _print(runs)
    if arguments.csv:
        with open(arguments.csv, "w", newline="") as sink:
            writer = csv.DictWriter(sink, [field.name for field in dataclasses.fields(Run)], lineterminator="\n")
            writer.writeheader()
            writer.writerows(map(dataclasses.asdict, runs))


def _copies(shards: Sequence[str], copies: int, folder: pathlib.Path) -> list[str]:
    """Links to the shards, `copies` to each."""
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
