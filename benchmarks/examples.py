"""Time and memory of choosing and writing the examples of a large output, from made-up parts.

    python -m benchmarks.examples [--rows 100000 1000000] [--classes 1000] [--folder DIR]

For every row of the table, a process writes an output with units of 2,048 rows: coarse maps, scores, images of 2,400
random bytes and small maps of 56² cells (the same file for all units), but no maps. Another process then runs only the
part of the graph that ranks images and writes `examples.parquet`, with Beam's direct runner. A million rows need 4 GB
of disk; they are deleted afterwards.
"""

from __future__ import annotations

import argparse
import json
import os
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
from transforms.output import IMAGE, MAPS, SMALL_MAPS, Output, encode_maps
from transforms.statistics import COARSE, FIGURES, Digest
from transforms.unit import Receipt, Shard, Unit

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
ROWS_OF_UNIT = 2_048
GRID = 56
IMAGE_BYTES = 2_400


def _units(rows: int) -> Iterator[tuple[Unit, int]]:
    for number, start in enumerate(range(0, rows, ROWS_OF_UNIT)):
        yield Unit(Shard(f"/data/{number:06d}.tfrecord", "tfrecord", 1)), min(ROWS_OF_UNIT, rows - start)


def _maps(unit: Unit, rows: int, classes: int, generator: np.random.Generator) -> pa.RecordBatch:
    index = np.arange(rows)
    data = generator.bytes(rows * IMAGE_BYTES)
    images = [data[i * IMAGE_BYTES : (i + 1) * IMAGE_BYTES] for i in range(rows)]
    coarse = generator.random((rows, COARSE**2), np.float32)
    columns: dict[str, Any] = {
        "image_id": [f"{unit.shard.path}#{i}" for i in range(rows)],
        "shard": [unit.shard.path] * rows,
        "index": index,
        "label": generator.integers(0, classes, rows),
        "predicted": index % classes,
        "target": index % classes,
        "probability": generator.random(rows, np.float32),
        "coarse_map": pa.ListArray.from_arrays(np.arange(rows + 1, dtype=np.int32) * COARSE**2, coarse.ravel()),
        **{name: generator.random(rows, np.float32) for name in FIGURES},
        "image": pa.StructArray.from_arrays(
            [pa.array(images, pa.binary()), pa.array([f"{i}.jpg" for i in range(rows)])], fields=list(IMAGE)
        ),
    }
    return _batch(columns, MAPS, rows)


def _small_maps(rows: int, classes: int, generator: np.random.Generator) -> pa.RecordBatch:
    encoded = encode_maps(generator.random((rows, GRID, GRID), np.float32), "uint8")
    columns: dict[str, Any] = {
        "index": np.arange(rows),
        "target": np.arange(rows) % classes,
        "map": encoded.data,
        "map_dtype": ["uint8"] * rows,
        "map_scale": encoded.scale,
        "map_offset": encoded.offset,
        "map_height": [GRID] * rows,
        "map_width": [GRID] * rows,
    }
    return _batch(columns, SMALL_MAPS, rows)


def _batch(columns: dict[str, Any], schema: pa.Schema, rows: int) -> pa.RecordBatch:
    arrays = [columns.get(field.name, [None] * rows) for field in schema]
    return pa.RecordBatch.from_arrays(
        [
            each if isinstance(each, pa.Array) else pa.array(each, f.type)
            for each, f in zip(arrays, schema, strict=True)
        ],
        schema=schema,
    )


def _write(output: Output, rows: int, classes: int) -> None:
    """Writes the parts of an output."""
    output.create()
    generator = np.random.default_rng(0)
    small: dict[int, str] = {}
    for unit, count in _units(rows):
        with output.writing_rows(output.part("maps", unit), MAPS) as writer:
            writer.write(_maps(unit, count, classes, generator))
        if count in small:
            os.link(small[count], output.part("small_maps", unit))
        else:
            small[count] = output.part("small_maps", unit)
            with output.writing_rows(small[count], SMALL_MAPS, 1 << 20) as writer:
                batch = _small_maps(count, classes, generator)
                for start in range(0, count, 128):
                    writer.write(batch.slice(start, 128))


def _run(output: Output, rows: int, classes: int) -> dict[str, float]:
    """Writes the examples of an output that `_write` made; returns what was measured."""
    import apache_beam as beam
    from apache_beam.pvalue import AsList

    from transforms.examples import WriteExamples
    from transforms.merging import CANDIDATES, IDS, rank_by_similarity

    receipts = [Receipt(unit, "run", count, count, {}, 0.0, 1.0, "host/1", 1) for unit, count in _units(rows)]
    mean = np.full((COARSE, COARSE), 0.5)
    digests = [Digest(c, 1, 1, 1, np.zeros(len(FIGURES)), mean, *(None,) * 5, 0.0) for c in range(-1, classes)]
    before = resource.getrusage(resource.RUSAGE_SELF)
    started = time.perf_counter()
    with beam.Pipeline() as pipeline:
        made = pipeline | "Digests" >> beam.Create(digests)
        ranked = (
            pipeline
            | "Receipts" >> beam.Create(receipts)
            | "Rank"
            >> beam.FlatMap(rank_by_similarity, output, AsList(made)).with_outputs(IDS, CANDIDATES, main="main")
        )
        _ = ranked[CANDIDATES] | "WriteExamples" >> WriteExamples(output, GRID)
    after = resource.getrusage(resource.RUSAGE_SELF)
    path = pathlib.Path(output.file("examples.parquet"))
    return {
        "seconds": time.perf_counter() - started,
        "processor": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "peak_mib": after.ru_maxrss / 1024,
        "before_mib": before.ru_maxrss / 1024,
        "examples": pq.read_metadata(path).num_rows,
        "mib": path.stat().st_size / 2**20,
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the benchmark from the command line."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] in (["--write"], ["--run"]):
        step = _write if arguments[0] == "--write" else _run
        return print(json.dumps(step(Output(arguments[3], "0123456789abcdef", "run"), *map(int, arguments[1:3]))))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000], help="rows of maps")
    parser.add_argument("--classes", type=int, default=1_000)
    parser.add_argument("--folder", metavar="DIR", help="where the outputs are made (the folder for temporary files)")
    args = parser.parse_args(arguments)
    report, rows = Report(), []
    for count in args.rows:
        with tempfile.TemporaryDirectory(prefix="fullgrad-examples-", dir=args.folder) as folder:
            for step in ("--write", "--run"):
                command = [sys.executable, "-m", "benchmarks.examples", step, str(count), str(args.classes), folder]
                done = subprocess.run(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True, check=True)
        found = json.loads(done.stdout.splitlines()[-1])
        rows.append(
            (
                f"{count:,}",
                f"{found['examples']:,}",
                f"{found['mib']:,.0f}",
                f"{found['seconds']:.0f}",
                f"{found['processor']:.0f}",
                f"{found['peak_mib']:,.0f}",
                f"{found['before_mib']:,.0f}",
            )
        )
    report.table(
        f"Examples of {args.classes:,} classes",
        ("rows", "examples", "MiB", "seconds", "processor, s", "peak, MiB", "of it before, MiB"),
        rows,
    )


if __name__ == "__main__":
    main()
