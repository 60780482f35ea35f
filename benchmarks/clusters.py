"""Time and memory of clustering the classes of a large output, from made-up parts.

    python -m benchmarks.clusters [--classes 1000] [--images 50 1300] [--channels 512] [--folder DIR]

For every number of images of a class, a process writes an output with units of 2,048 rows: coarse maps and channel
terms, a fifth of each class with a mark of its own. Another process runs only the part of the graph that clusters,
with Beam's direct runner.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.tables import Report
from transforms.output import MAPS, Output
from transforms.statistics import COARSE, FIGURES, Digest, Moments
from transforms.unit import Receipt, Shard, Unit

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
ROWS_OF_UNIT = 2_048


def _units(rows: int) -> Iterator[tuple[Unit, int]]:
    for number, start in enumerate(range(0, rows, ROWS_OF_UNIT)):
        yield Unit(Shard(f"/data/{number:06d}.tfrecord", "tfrecord", 1)), min(ROWS_OF_UNIT, rows - start)


def _write(output: Output, classes: int, images: int, channels: int) -> dict[str, float]:
    """Writes the parts of an output."""
    output.create()
    generator = np.random.default_rng(0)
    for unit, count in _units(classes * images):
        coarse = generator.gamma(1.0, 1.0, (count, COARSE**2)).astype(np.float32)
        terms = generator.normal(0, 1, (count, channels)).astype(np.float32)
        marked = generator.random(count) < 0.2
        coarse[marked, -3:] += 8
        terms[marked, :8] += 3
        coarse /= coarse.sum(axis=1, keepdims=True)
        index = np.arange(count)
        columns: dict[str, Any] = {
            "image_id": [f"{unit.shard.path}#{i}" for i in range(count)],
            "shard": [unit.shard.path] * count,
            "index": index,
            "target": index % classes,
            "correct": generator.random(count) < 0.8,
            "coarse_map": pa.FixedSizeListArray.from_arrays(coarse.ravel(), COARSE**2),
            "channel_terms": pa.FixedSizeListArray.from_arrays(terms.ravel(), channels),
        }
        table = pa.table({name: columns.get(name, pa.nulls(count)) for name in MAPS.names}).cast(MAPS)
        with output.writing_rows(output.part("maps", unit), MAPS) as writer:
            for batch in table.to_batches():
                writer.write(batch)
    return {}


def _run(output: Output, classes: int, images: int, channels: int) -> dict[str, float]:
    """Clusters the output that `_write` made; returns what was measured."""
    import apache_beam as beam
    from apache_beam.pvalue import AsList

    from transforms.clusters import WriteClusters

    units = list(_units(classes * images))
    receipts = [Receipt(unit, "run", count, count, {}, 0.0, 1.0, "host/1", 1) for unit, count in units]
    mean = np.full((COARSE, COARSE), COARSE**-2.0)
    none = Moments.of(np.zeros((0, 1)))
    # The largest key is the last one of a sample that holds all images; of more images, as many as it keeps.
    last = min(2**64 - 1, 2**64 * 2_048 // images)
    digests = [
        Digest(c, images, 1, 1, np.zeros(len(FIGURES)), mean, none, none, None, None, None, 0.0, last)
        for c in range(classes)
    ]
    before = resource.getrusage(resource.RUSAGE_SELF)
    started = time.perf_counter()
    with beam.Pipeline() as pipeline:
        made = pipeline | "Digests" >> beam.Create(digests)
        _ = pipeline | "Receipts" >> beam.Create(receipts) | "Clusters" >> WriteClusters(output, AsList(made))
    after = resource.getrusage(resource.RUSAGE_SELF)
    path = pathlib.Path(output.file("clusters.parquet"))
    members = pathlib.Path(output.file("cluster_members.parquet"))
    return {
        "seconds": time.perf_counter() - started,
        "processor": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "peak_mib": after.ru_maxrss / 1024,
        "before_mib": before.ru_maxrss / 1024,
        "clusters": pq.read_metadata(path).num_rows,
        "mib": (path.stat().st_size + members.stat().st_size) / 2**20,
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the benchmark from the command line."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] in (["--write"], ["--run"]):
        step = _write if arguments[0] == "--write" else _run
        return print(json.dumps(step(Output(arguments[1], "0123456789abcdef", "run"), *map(int, arguments[2:5]))))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, default=1_000)
    parser.add_argument("--images", type=int, nargs="+", default=[50, 1_300], help="images of a class")
    parser.add_argument("--channels", type=int, default=512)
    parser.add_argument("--folder", metavar="DIR", help="where the outputs are made (the folder for temporary files)")
    parser.add_argument("--csv", metavar="FILE", help="also write the table to this file")
    chosen = parser.parse_args(arguments)
    rows = []
    for images in chosen.images:
        with tempfile.TemporaryDirectory(dir=chosen.folder) as folder:
            for step in ("--write", "--run"):
                command = [sys.executable, "-m", "benchmarks.clusters", step, folder]
                values = [*command, *map(str, (chosen.classes, images, chosen.channels))]
                done = subprocess.run(values, cwd=REPOSITORY, check=True, stdout=subprocess.PIPE, text=True)
        measured = json.loads(done.stdout.splitlines()[-1])
        numbers = ("seconds", "processor", "before_mib", "peak_mib", "clusters", "mib")
        rows.append((f"{chosen.classes:,}", f"{images:,}", *(f"{measured[name]:,.0f}" for name in numbers)))
    report = Report()
    columns = (
        "classes",
        "images of each",
        "seconds",
        "processor seconds",
        "MiB before",
        "MiB at most",
        "clusters",
        "MiB written",
    )
    report.table("Clusters", columns, rows)
    if chosen.csv:
        report.write(chosen.csv)
    return None


if __name__ == "__main__":
    main()
