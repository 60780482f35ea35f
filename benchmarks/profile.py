"""Where FullGrad's time goes: passes through the model, and kernels that read what these leave, tensor by tensor.

    python -m benchmarks.profile [--models MobileNetV2 …] [--rounds 5] [--tensors] [--csv FILE]

Processor time of one process in which a call is computed by one thread, ms an image, medians of the rounds; batches and
weights as in benchmarks.method. `passes` is FullGrad less its kernels; what it takes beyond the bare gradient is what
keeping the gradients costs. `read` is what the kernels read for an image, and how fast. With --tensors, the same of
each kind and shape of what is read. On accelerators there are no kernels, and nothing to show.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any
from unittest import mock

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.method import BATCHES, FORWARD, FULLGRAD, GRADIENT, MODELS, SIZES, network, own_variants
from transforms.fullgrad import autodiff, expose, kernels
from transforms.fullgrad.located import Activated, Contribution

Kind = tuple[str, tuple[int, ...], int]  # what is done, [h, w, C], how many such tensors are read


@dataclasses.dataclass(slots=True)
class Read:
    """What kernels read in one round: tensors, bytes and seconds of processor time."""

    tensors: int = 0
    size: int = 0
    seconds: float = 0.0


@dataclasses.dataclass(slots=True)
class Watched:
    """Stands in for the function that condenses one contribution, and notes what it read and how long that took."""

    condense: Callable[..., None]
    read: dict[Kind, Read] = dataclasses.field(default_factory=dict)

    def __call__(self, located: Contribution, into: kernels.Condensed, images: slice, *others: Any) -> None:
        started = time.thread_time()
        self.condense(located, into, images, *others)
        elapsed = time.thread_time() - started
        arrays = [array for array in located.tensors() if np.ndim(array) == 4]
        read = self.read.setdefault((_kind(located), arrays[0].shape[1:], len(arrays)), Read())
        read.tensors += images.start == 0  # other threads have other images of the same
        read.size += sum(array[images].nbytes for array in arrays)
        read.seconds += elapsed


def _kind(located: Contribution) -> str:
    if isinstance(located, Activated):
        return f"around {located.activation}"
    if located.product.multiplier is None:
        return "gradient, scaled"
    return "product" if located.less is None else "difference of products"


def profile(name: str, rounds: int) -> tuple[dict[str, float], dict[Kind, Read], int]:
    """Measures one model.

    Returns:
      Seconds of processor time a batch, of `FORWARD`, `GRADIENT`, `FULLGRAD` and of its `kernels`; what the kernels
      read a batch; and how many images a batch has.
    """
    batch = BATCHES.get(name, 8)
    model, images = network(name, SIZES.get(name, 224), batch)
    variants = own_variants(expose(model), images)
    for variant in variants:
        for _ in range(2):
            variant.call()
    seconds: dict[str, list[float]] = {"kernels": [], **{variant.name: [] for variant in variants}}
    reads: list[dict[Kind, Read]] = []
    for _ in range(rounds):
        for variant in variants:
            watched = Watched(kernels._condense)
            with mock.patch.object(kernels, "_condense", watched):
                started = time.process_time()
                variant.call()
                seconds[variant.name].append(time.process_time() - started)
            if variant.name == FULLGRAD:
                seconds["kernels"].append(sum(read.seconds for read in watched.read.values()))
                reads.append(watched.read)
    found = {
        kind: Read(first.tensors, first.size, statistics.median(read[kind].seconds for read in reads))
        for kind, first in reads[0].items()
    }
    return {what: statistics.median(values) for what, values in seconds.items()}, found, batch


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=MODELS, metavar="NAME", help="as in benchmarks.method")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="(default: 5)")
    parser.add_argument("--tensors", action="store_true", help="what the kernels read, by kind and shape")
    parser.add_argument("--csv", metavar="FILE", help="write the first table there too")
    arguments = parser.parse_args(argv)
    if not autodiff.one_thread_a_call():
        sys.exit("the profile is of CPUs alone (CUDA_VISIBLE_DEVICES=-1 hides a GPU)")
    rows: list[dict[str, Any]] = []
    for name in arguments.models:
        seconds, read, batch = profile(name, arguments.rounds)
        rows.append(_row(name, seconds, read, batch))
        print(", ".join(f"{key} {value}" for key, value in rows[-1].items()), flush=True)
        if arguments.tensors:
            _print_tensors(name, read, batch)
    table = Table(*rows[0])
    for row in rows:
        table.add_row(*map(str, row.values()))
    Console(width=max(Console().width, 100)).print(table)
    if arguments.csv:
        with open(arguments.csv, "w", newline="") as sink:
            writer = csv.DictWriter(sink, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


def _row(name: str, seconds: dict[str, float], read: dict[Kind, Read], batch: int) -> dict[str, Any]:
    each = {what: 1000 * value / batch for what, value in seconds.items()}
    size = sum(kind.size for kind in read.values())
    return {
        "model": name,
        "forward": f"{each[FORWARD]:.3g}",
        "gradient": f"{each[GRADIENT]:.3g}",
        "FullGrad": f"{each[FULLGRAD]:.3g}",
        "passes": f"{each[FULLGRAD] - each['kernels']:.3g}",
        "kernels": f"{each['kernels']:.3g}",
        "read, MB": f"{size / batch / 1e6:.3g}",
        "GB/s": f"{size / seconds['kernels'] / 1e9:.3g}",
    }


def _print_tensors(name: str, read: dict[Kind, Read], batch: int) -> None:
    table = Table("what", "tensor", "read", "times", "ms an image", "GB/s", title=name)
    for (what, shape, arrays), each in sorted(read.items(), key=lambda item: -item[1].seconds):
        shown = "×".join(map(str, shape))
        milliseconds, rate = 1000 * each.seconds / batch, each.size / each.seconds / 1e9
        table.add_row(what, shown, str(arrays), str(each.tensors), f"{milliseconds:.3f}", f"{rate:.1f}")
    Console(width=max(Console().width, 100)).print(table)


if __name__ == "__main__":
    main()
