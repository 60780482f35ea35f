"""What the safeguards of a run cost: whole runs with and without them, in turn, in one process.

    python -m benchmarks.safeguards CONFIG [--rounds 7] [--csv FILE]

Left out in every second run: fsync, the checksums of pages, files and receipts, and the budget of all decoders. The
seconds are those of a whole run without imports and loading: planning, explaining, merging and all tables. The output
goes to a temporary folder beside the configured one.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import dataclasses
import os
import pathlib
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import google_crc32c
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from pipeline.config import Config, load_config
from pipeline.run import launch, prepare
from transforms.images import budget

WITH, WITHOUT = "with safeguards", "without"


class _NoChecksum:
    """In place of `google_crc32c.Checksum`."""

    def __init__(self, *_: Any):
        pass

    def update(self, _: Any) -> None:
        pass

    def digest(self) -> bytes:
        return b"\0\0\0\0"


@contextlib.contextmanager
def left_out() -> Iterator[None]:
    """Leaves the safeguards out while the block lasts."""
    writer, reader = pq.ParquetWriter.__init__, pq.ParquetFile.__init__

    def write(self: Any, *arguments: Any, **named: Any) -> None:
        writer(self, *arguments, **{**named, "write_page_checksum": False})

    def read(self: Any, *arguments: Any, **named: Any) -> None:
        reader(self, *arguments, **{**named, "page_checksum_verification": False})

    with contextlib.ExitStack() as stack:
        for owner, name, value in (
            (os, "fsync", lambda _: None),
            (google_crc32c, "Checksum", _NoChecksum),
            (pq.ParquetWriter, "__init__", write),
            (pq.ParquetFile, "__init__", read),
            (budget.Budget, "take", lambda self, size: None),
            (budget.Budget, "give", lambda self, size: None),
        ):
            stack.callback(setattr, owner, name, getattr(owner, name))
            setattr(owner, name, value)
        yield


@dataclasses.dataclass(frozen=True, slots=True)
class Run:
    """Seconds of one run, by the clock and of all processors together."""

    clock: float
    processor: float


def measure(config: Config) -> Run:
    """Runs a configuration into its output, which is deleted first and afterwards."""
    shutil.rmtree(config.output.path, ignore_errors=True)
    clock, processor = time.perf_counter(), time.process_time()
    launch(prepare(config))
    run = Run(time.perf_counter() - clock, time.process_time() - processor)
    shutil.rmtree(config.output.path)
    return run


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", metavar="CONFIG", type=pathlib.Path, help="the configuration of a run")
    parser.add_argument("--rounds", metavar="N", type=int, default=7, help="how often both are run (7)")
    parser.add_argument("--csv", metavar="FILE", help="also write the seconds of each run to this file")
    arguments = parser.parse_args(argv)
    config = load_config(arguments.config)
    parent = pathlib.Path(config.output.path).absolute().parent
    runs: dict[str, list[Run]] = {WITH: [], WITHOUT: []}
    with tempfile.TemporaryDirectory(dir=parent) as name:
        config = config.model_copy(update={"output": config.output.model_copy(update={"path": f"{name}/out"})})
        measure(config)  # traces the model, and fills the disk's cache
        for number in range(arguments.rounds):
            for way in (WITH, WITHOUT) if number % 2 else (WITHOUT, WITH):
                with left_out() if way == WITHOUT else contextlib.nullcontext():
                    runs[way].append(measure(config))
    _print(runs)
    if arguments.csv:
        with open(arguments.csv, "w", newline="") as sink:
            rows = [(way, each.clock, each.processor) for way, of in runs.items() for each in of]
            csv.writer(sink).writerows([("runs", "seconds", "processor seconds"), *rows])


def _print(runs: dict[str, list[Run]]) -> None:
    table = Table("", "with", "without", "with/without, round by round")
    for name, of in (("seconds", lambda run: run.clock), ("processor seconds", lambda run: run.processor)):
        on, off = ([of(run) for run in runs[way]] for way in (WITH, WITHOUT))
        ratios = [a / b for a, b in zip(on, off, strict=True)]
        table.add_row(name, *(_spread(values, ".2f") for values in (on, off)), _spread(ratios, ".3f"))
    Console(width=120).print(table)


def _spread(values: Sequence[float], form: str) -> str:
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


if __name__ == "__main__":
    main()
