"""The cost of a unit of work, and of planning one, on many tiny shards of one image each.

    python -m benchmarks.units [--units 10000] [--prism FILE] [--planned 10000 100000 1000000] [--csv FILE]

It prints two tables. The first is about whole runs, each in a process of its own. A run plans, computes and commits the
units; the same command again then finds everything done. The second is about planning alone, from shards that are only
names, with the memory of plan and graph. Every row is a process of its own. Nothing is downloaded: --prism names a
local binary, whose workers are threads of the launcher (LOOPBACK).
"""

from __future__ import annotations

import argparse
import csv
import json
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent

# Runs a configuration twice. Prints a line of JSON for each run: seconds of planning and of the run, processor time,
# and the time from the first unit to the last.
_RUN = """
import json, os, resource, sys, time
if "without-fsync" in sys.argv:
    os.fsync = lambda _: None
from pipeline.config import load_config
from pipeline.run import launch, prepare
config = load_config(sys.argv[1])
prepare(config)  # imports, and loads the model
for _ in range(2):
    start, used = time.perf_counter(), time.process_time()
    plan = prepare(config)
    planned = time.perf_counter()
    summary = launch(plan)
    print(json.dumps({
        "units": summary.units, "computed": summary.units_computed, "plan": planned - start,
        "run": time.perf_counter() - planned, "processor": time.process_time() - used, "span": summary.seconds or 0.0,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }), flush=True)
"""

# Plans units of shards that are only names, and builds their graph. Prints a line of JSON.
_PLAN = """
import json, sys, time
import apache_beam as beam
import psutil
from pipeline.plan import plan_units
from transforms.sources import Fields, Source
from transforms.unit import Shard

class Named(Source):
    format = "parquet"
    def check(self, shard): ...
    def count(self, shard): return 1
    def read(self, shard, start=0, stop=None): return iter(())

def memory():
    return psutil.Process().memory_info().rss

count = int(sys.argv[1])
start, before = time.perf_counter(), memory()
shards = [Shard(f"gs://bucket/dataset/train-{i:07d}-of-{count:07d}.parquet", "parquet", 1000 + i) for i in range(count)]
units = plan_units(shards, Named(Fields()), images_per_unit=1)
planned, kept = time.perf_counter(), memory()
pipeline = beam.Pipeline()
pipeline | beam.Create(units) | beam.Reshuffle()
message = len(pipeline.to_runner_api().SerializeToString())
print(json.dumps({
    "units": len(units), "plan": planned - start, "graph": time.perf_counter() - planned,
    "kept": kept - before, "with_graph": memory() - before, "message": message,
}))
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--units", metavar="N", type=int, default=10_000, help="how many units are run (10000)")
    parser.add_argument("--prism", metavar="FILE", help="a Prism binary, to run them also on Prism")
    parser.add_argument(
        "--planned", metavar="N", type=int, nargs="*", default=[10_000, 100_000, 1_000_000], help="how many are planned"
    )
    parser.add_argument("--csv", metavar="FILE", help="also write the rows to this file")
    arguments = parser.parse_args(argv)
    rows = [*_runs(arguments.units, arguments.prism), *_plans(arguments.planned)]
    if arguments.csv:
        with open(arguments.csv, "w", newline="") as sink:
            names = list(dict.fromkeys(name for row in rows for name in row))
            writer = csv.DictWriter(sink, names)
            writer.writeheader()
            writer.writerows(rows)


# ---- runs


def _runs(units: int, prism: str | None) -> Iterator[dict[str, Any]]:
    if not units:
        return
    # The row's name, the section `runner`, and what the program is told.
    rows: list[tuple[str, dict[str, Any], list[str]]] = [
        ("direct", {}, []),
        ("direct, without fsync", {}, ["without-fsync"]),
    ]
    if prism is not None:
        rows.append(("PrismRunner", {"name": "PrismRunner", "options": {"prism_location": prism}}, []))
    table = Table("runner", "units", "computed", "plan", "ms a unit", "of it committing", "processor", "peak MiB")
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        value = _dataset(folder, units)
        for place, (runner, section, changes) in enumerate(rows):
            config = folder / f"{place}.json"
            output = {**value["output"], "path": str(folder / f"out-{place}")}
            config.write_text(json.dumps({**value, "output": output, "runner": section}))
            for row in _lines(_RUN, str(config), *changes):
                table.add_row(
                    runner,
                    f"{row['units']:,}",
                    f"{row['computed']:,}",
                    f"{row['plan']:.1f} s",
                    *(f"{1000 * row[name] / row['units']:.1f}" for name in ("run", "span", "processor")),
                    f"{row['peak_mib']:,.0f}",
                )
                yield {"runner": runner, **row}
    Console().print(table)


def _dataset(folder: pathlib.Path, units: int) -> dict[str, Any]:
    """Writes the shards and a small CNN, and returns the configuration; every shard is one unit."""
    from tests import shards
    from tests.samples import configuration, encoded_images

    for image_id, image, label in encoded_images(units):
        shards.write_tfrecord(folder / f"{image_id}.tfrecord", [(image_id, image, label)])
    return configuration(folder, str(folder / "*.tfrecord"), explain={"batch_size": 1})


# ---- planning


def _plans(counts: Sequence[int]) -> Iterator[dict[str, Any]]:
    if not counts:
        return
    table = Table("units", "planning", "building the graph", "bytes a unit", "with the graph", "sent")
    for count in counts:
        for row in _lines(_PLAN, str(count)):
            sizes = (f"{row[name] / row['units']:,.0f}" for name in ("kept", "with_graph", "message"))
            table.add_row(f"{row['units']:,}", f"{row['plan']:.1f} s", f"{row['graph']:.1f} s", *sizes)
            yield {"runner": "none", **row}
    Console().print(table)


def _lines(program: str, *arguments: str) -> Iterator[dict[str, Any]]:
    """The lines that a program prints, run in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True, check=True
    )
    return map(json.loads, done.stdout.splitlines())


if __name__ == "__main__":
    main()
