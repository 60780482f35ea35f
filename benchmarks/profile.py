"""The time of each operation of FullGrad, compared with the bare gradient.

    python -m benchmarks.profile [--models MobileNetV2 …] [--rounds 9] [--least 0.05] [--csv FILE]

It uses TensorFlow's profiler on one core: one thread computes a call, one operation at a time. The table has
milliseconds an image, medians of the rounds. Batches and weights are those of benchmarks.method. `FullGrad…` are this
project's own operations; the others are TensorFlow's. Operations of oneDNN are named without its prefix. Time outside
of any operation belongs to TensorFlow and Python themselves, or to a cluster that XLA compiled, such as SiLU's gradient
if no terms are read from it. On accelerators the figures mean nothing.
"""

from __future__ import annotations

import argparse
import collections
import csv
import pathlib
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence

import tensorflow as tf
from rich.console import Console
from rich.table import Table
from tensorflow.tsl.profiler.protobuf import xplane_pb2

from benchmarks.method import BATCHES, FULLGRAD, GRADIENT, MODELS, SIZES, network, own_variants
from transforms.fullgrad import expose
from transforms.fullgrad.tensorflow import autodiff

CALL = "the whole call"
# For each operation: milliseconds an image, and how often it is called.
Profile = dict[str, tuple[float, int]]


def profile(name: str, rounds: int) -> dict[str, Profile]:
    """Profiles one model's forward pass, gradient and FullGrad, named as in benchmarks.method."""
    batch = BATCHES.get(name, 8)
    model, images = network(name, SIZES.get(name, 224), batch)
    variants = own_variants(expose(model), images)
    for variant in variants:
        for _ in range(2):
            variant.call()
    seen: dict[str, list[Profile]] = {variant.name: [] for variant in variants}
    for _ in range(rounds):
        for variant in variants:
            seen[variant.name].append(_traced(variant.call, batch))
    return {
        variant: {
            operation: (statistics.median(each.get(operation, (0.0, 0))[0] for each in found), count)
            for operation, (_, count) in found[0].items()
        }
        for variant, found in seen.items()
    }


def _traced(call: Callable[[], object], batch: int) -> Profile:
    """One call's operations."""
    options = tf.profiler.experimental.ProfilerOptions(
        host_tracer_level=2, python_tracer_level=0, device_tracer_level=0
    )
    with tempfile.TemporaryDirectory() as folder:
        with tf.profiler.experimental.Profile(folder, options):
            call()
        (written,) = pathlib.Path(folder).rglob("*.xplane.pb")
        space = xplane_pb2.XSpace.FromString(written.read_bytes())
    milliseconds: collections.Counter[str] = collections.Counter()
    counts: collections.Counter[str] = collections.Counter()
    for plane in space.planes:
        for event in (event for line in plane.lines for event in line.events):
            operation = _operation(plane.event_metadata[event.metadata_id].name)
            if operation is not None:
                milliseconds[operation] += event.duration_ps / 1e9 / batch
                counts[operation] += 1
    return {operation: (milliseconds[operation], counts[operation]) for operation in milliseconds}


def _operation(event: str) -> str | None:
    """The operation of an event `node:operation`, or the whole call; None for any other event."""
    parts = [part.strip() for part in event.split("#")[0].split(":")]
    if len(parts) != 2 or not all(parts):
        return None
    if parts[1].startswith("__inference"):
        return CALL
    return parts[1].removeprefix("_Mkl").removeprefix("Native")


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=MODELS, metavar="NAME", help="as in benchmarks.method")
    parser.add_argument("--rounds", type=int, default=9, metavar="N", help="(default: 9)")
    parser.add_argument(
        "--least", type=float, default=0.05, metavar="MS", help="leave out operations that take less time an image"
    )
    parser.add_argument("--csv", metavar="FILE", help="also write everything to this file")
    arguments = parser.parse_args(argv)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    if not autodiff.one_thread_a_call():
        sys.exit("the profile is of CPUs alone (CUDA_VISIBLE_DEVICES=-1 hides a GPU)")
    rows: list[tuple[object, ...]] = []
    for name in arguments.models:
        found = profile(name, arguments.rounds)
        table = Table("operation", "gradient", "times", "FullGrad", "times", "more", title=f"{name}, ms an image")
        for operation in sorted(set(found[GRADIENT]) | set(found[FULLGRAD]), key=lambda each: -_most(found, each)):
            (bare, times), (full, full_times) = (found[each].get(operation, (0.0, 0)) for each in (GRADIENT, FULLGRAD))
            rows.append((name, operation, bare, times, full, full_times))
            if max(bare, full) >= arguments.least:
                shown = f"{bare:.3f}", str(times), f"{full:.3f}", str(full_times), f"{full - bare:+.3f}"
                table.add_row(operation, *shown)
        Console(width=max(Console().width, 100)).print(table)
    if arguments.csv:
        with open(arguments.csv, "w", newline="") as sink:
            writer = csv.writer(sink, lineterminator="\n")
            writer.writerow(["model", "operation", "gradient", "times", "FullGrad", "times"])
            writer.writerows(rows)


def _most(found: dict[str, Profile], operation: str) -> float:
    return max(found[each].get(operation, (0.0, 0))[0] for each in (GRADIENT, FULLGRAD))


if __name__ == "__main__":
    main()
