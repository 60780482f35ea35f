"""The speed of FullGrad, compared with this project's own forward pass and input gradient, and with PyTorch.

    python -m benchmarks.method [--models ResNet50 …] [--rounds 7] [--batch 8] [--csv FILE] [--no-peers]
                                [--side-by-side]

A backward pass to the input takes as much arithmetic as a forward pass. So half the forward rate is the limit of
everything that needs a gradient. With the extra `peers` (`pip install '.[peers]'`), the same networks with the same
weights also run in PyTorch: forward, the bare input gradient, and FullGrad as its authors define it, which resizes
every channel of every layer to the image and then sums.

Everything runs in one process, in turn, round by round. Ratios are taken within a round. (TensorFlow is as fast there
as in a process without PyTorch, and PyTorch as fast as without TensorFlow: the threads of neither wait busily for
longer than milliseconds.) The table shows medians over the rounds, with the least and the largest in brackets. Weights
are random, as in the tests. Nothing is downloaded.

All cores compute one batch. With --side-by-side, each core computes its own batch, as in runs of the pipeline, also in
PyTorch.

Run it on an idle machine. Each of PyTorch's threads does a fixed share of the work, and then they wait for one another.
TensorFlow's threads take whatever work is left. So other processes slow PyTorch down much more. The share of the cores
that other processes took is above each table.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import keras
import numpy as np
import psutil
from keras import layers, ops
from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks import peers
from tests.transforms.fullgrad import networks
from transforms.fullgrad import Exposed, Options, explain_batch, expose, prefers_jit
from transforms.fullgrad.tensorflow import autodiff
from transforms.memory import usable_cores

MODELS = ("ResNet50", "Xception", "MobileNetV2", "EfficientNetB0", "VGG16", "ResNet-20")
WITH_AUTHORS = ("ResNet50", "MobileNetV2", "ResNet-20")
SIZES = {"Xception": 299, "ResNet-20": 32}  # all others: 224
BATCHES = {"ResNet-20": 128}  # all others: 8

FORWARD, GRADIENT, FULLGRAD = "forward", "gradient", "FullGrad"
PEER_FORWARD, PEER_GRADIENT, AUTHORS = "PyTorch forward", "PyTorch gradient", "authors' FullGrad"
FORWARDS = {GRADIENT: FORWARD, FULLGRAD: FORWARD, PEER_GRADIENT: PEER_FORWARD, AUTHORS: PEER_FORWARD}


# ---- the networks


def network(name: str, size: int, batch: int) -> tuple[keras.Model, np.ndarray]:
    """A model with random weights, and images float32 [batch, size, size, 3] for it.

    Args:
      name: `ResNet-20`, or a name in keras.applications.
      size: height and width of its input, in pixels.
      batch: how many images.
    """
    if name != "ResNet-20":
        return networks.family(name, size, classes=1000, count=batch)
    model = networks.randomize(resnet20(size))
    networks.calibrate(model, networks.images(model, 64, seed=5))
    return model, networks.images(model, batch)


def resnet20(size: int = 32) -> keras.Model:
    """ResNet-20 for images [size, size, 3] of 10 classes (He et al. 2015, arXiv 1512.03385, section 4.2).

    Shortcuts to other widths are projections by 1×1 convolutions (option B there). It ends in logits.
    """

    def convolution(x: Any, width: int, kernel: int, stride: int) -> Any:
        x = layers.Conv2D(width, kernel, stride, padding="same", use_bias=False)(x)
        return layers.BatchNormalization(epsilon=1e-5)(x)

    image = layers.Input((size, size, 3))
    x = layers.ReLU()(convolution(image, 16, 3, 1))
    for stage, width in enumerate((16, 32, 64)):
        for block in range(3):
            stride = 2 if stage and not block else 1
            shortcut = convolution(x, width, 1, stride) if stride > 1 else x
            inner = layers.ReLU()(convolution(x, width, 3, stride))
            x = layers.ReLU()(layers.Add()([convolution(inner, width, 3, 1), shortcut]))
    return keras.Model(image, layers.Dense(10)(layers.GlobalAveragePooling2D()(x)))


# ---- what is measured


class Variant(NamedTuple):
    """One thing to measure: a call that takes `images` images."""

    name: str
    images: int
    call: Callable[[], object]


def own_variants(exposed: Exposed, images: np.ndarray) -> list[Variant]:
    """This project's forward pass, input gradient and FullGrad of images [N, H, W, C], from and to NumPy arrays."""
    jit, count = prefers_jit(), len(images)
    targets = np.full(count, -1, np.int32)
    folded = exposed.folded  # made here: what is made inside a trace is lost with the trace
    run = autodiff.compiled(lambda x: folded.run(x, lambda tensor: tensor)[0], jit=jit)

    def explained(options: Options) -> Callable[[], object]:
        return lambda: explain_batch(exposed, images, targets, options, count)

    return [
        Variant(FORWARD, count, lambda: ops.convert_to_numpy(run(ops.convert_to_tensor(images)))),
        Variant(GRADIENT, count, explained(Options(method="gradients", jit=jit))),
        Variant(FULLGRAD, count, explained(Options(jit=jit))),
    ]


def peer_variants(exposed: Exposed, images: np.ndarray, *, with_authors: bool) -> list[Variant]:
    """The same for PyTorch, from and to its own tensors.

    Raises:
      peers.PeerError: the network cannot be translated, or the translation's logits are not the model's.
    """
    peer = peers.Peer(exposed)
    batch = peer.batch(images)
    peers.check_logits(exposed, peer, images)
    found = [
        Variant(PEER_FORWARD, len(images), lambda: peer.forward(batch)),
        Variant(PEER_GRADIENT, len(images), lambda: peer.gradient(batch)),
    ]
    if with_authors:
        # Every channel of the widest layer, at the images' size: at most 512 MiB of float32, or one image's.
        widest = max(
            value.shape[-1] or 0 for step in exposed.program.steps for value in step.outputs if peers.has_places(value)
        )
        some = batch[: max(1, 2**27 // (widest * images.shape[1] * images.shape[2]))]
        found.append(Variant(AUTHORS, len(some), lambda: peer.authors(some)))
    return found


class Spread(NamedTuple):
    """Median, least and largest over the rounds."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(statistics.median(values), min(values), max(values))

    def shown(self) -> str:
        median, least, most = (f"{value:.0f}" if value >= 100 else f"{value:.3g}" for value in self)
        return f"{median} ({least}–{most})"


@dataclasses.dataclass(frozen=True, slots=True)
class Measured:
    """One variant of one model.

    Attributes:
      model, variant: their names.
      size: height and width of the images, in pixels.
      batch: images a call.
      rate: images/s.
      of_limit: the rate, divided by half the forward rate of the same framework; None for forward passes.
      fullgrad_over: the rate of this project's FullGrad, divided by this rate.
      others: the share of the machine's cores that other processes took during the measurement.
    """

    model: str
    size: int
    batch: int
    variant: str
    rate: Spread
    of_limit: Spread | None
    fullgrad_over: Spread
    others: float


def measure(
    name: str,
    *,
    size: int,
    batch: int,
    rounds: int,
    seconds: float,
    with_peers: bool,
    with_authors: bool,
    at_once: int = 1,
) -> list[Measured]:
    """Measures all variants of one model in turn, in every round, each for at least `seconds`.

    `at_once` is the number of batches that are computed side by side.

    Raises:
      peers.PeerError: as `peer_variants`.
    """
    keras.utils.clear_session()
    model, images = network(name, size, batch)
    exposed = expose(model)
    variants = own_variants(exposed, images)
    if with_peers:
        variants += peer_variants(exposed, images, with_authors=with_authors)
    for variant in variants:
        # This traces, compiles and allocates memory. Side by side, because then each call has its own graph.
        _rate(variant, 0.0, 1)
        _rate(variant, seconds, at_once)
    rates: dict[str, list[float]] = {variant.name: [] for variant in variants}
    of_others, started = _seconds_of_others(), time.perf_counter()
    for each in range(rounds):
        # Forwards, then backwards, so that no variant always follows the same other one.
        for variant in variants if each % 2 == 0 else reversed(variants):
            rates[variant.name].append(_rate(variant, seconds, at_once))
    of_all = (time.perf_counter() - started) * (os.cpu_count() or 1)
    others = max(0.0, _seconds_of_others() - of_others) / of_all
    return [
        Measured(
            model=name,
            size=size,
            batch=variant.images,
            variant=variant.name,
            rate=Spread.of(rates[variant.name]),
            of_limit=_ratio(rates[variant.name], [rate / 2 for rate in rates[FORWARDS[variant.name]]])
            if variant.name in FORWARDS
            else None,
            fullgrad_over=_ratio(rates[FULLGRAD], rates[variant.name]),
            others=others,
        )
        for variant in variants
    ]


def _rate(variant: Variant, seconds: float, at_once: int) -> float:
    """Images/s over at least so many seconds of calls, in so many threads."""
    started = time.perf_counter()

    def rate(_: int) -> float:
        calls, elapsed = 0, 0.0
        while not calls or elapsed < seconds:
            variant.call()
            calls, elapsed = calls + 1, time.perf_counter() - started
        return calls * variant.images / elapsed

    with ThreadPoolExecutor(at_once) as pool:
        return sum(pool.map(rate, range(at_once)))


def _seconds_of_others() -> float:
    """Seconds that the cores have worked for other processes, and for other machines on the same hardware."""
    times = psutil.cpu_times()
    names = ("user", "nice", "system", "irq", "softirq", "steal")  # those that the system counts
    return sum(getattr(times, name, 0.0) for name in names) - time.process_time()


def _ratio(above: Sequence[float], below: Sequence[float]) -> Spread:
    return Spread.of([a / b for a, b in zip(above, below, strict=True)])


# ---- the command


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--models", nargs="+", default=MODELS, metavar="NAME", help="ResNet-20, or names in keras.applications"
    )
    parser.add_argument("--rounds", type=int, default=7, metavar="N", help="(default: 7)")
    parser.add_argument(
        "--seconds", type=float, default=1.0, metavar="S", help="the least time of each variant in each round (1)"
    )
    parser.add_argument("--batch", type=int, metavar="N", help="images in each call (8, and 128 for ResNet-20)")
    parser.add_argument("--csv", metavar="FILE", help="also write all figures to this file")
    parser.add_argument("--no-peers", action="store_true", help="leave PyTorch out")
    parser.add_argument(
        "--side-by-side", action="store_true", help="one batch on each core, not one batch on all cores"
    )
    parser.add_argument(
        "--authors",
        nargs="*",
        default=WITH_AUTHORS,
        metavar="NAME",
        help=f"models for which the authors' algorithm is also measured ({' '.join(WITH_AUTHORS)})",
    )
    arguments = parser.parse_args(argv)
    for name in arguments.models:
        if name != "ResNet-20" and not callable(getattr(keras.applications, name, None)):
            parser.error(f"--models: {name} is neither ResNet-20 nor in keras.applications")
    if arguments.side_by_side and not autodiff.one_thread_a_call():
        parser.error("--side-by-side is for CPUs alone (CUDA_VISIBLE_DEVICES=-1 hides a GPU)")
    console = Console(width=max(Console().width, 100))  # one line for each variant, also in log files
    missing = _without_peers(arguments.no_peers)
    if missing:
        console.print(missing)
    else:
        peers.use_threads(1 if arguments.side_by_side else usable_cores())  # as many as TensorFlow uses
    measured: list[Measured] = []
    for name in arguments.models:
        try:
            rows = measure(
                name,
                size=SIZES.get(name, 224),
                batch=arguments.batch or BATCHES.get(name, 8),
                rounds=arguments.rounds,
                seconds=arguments.seconds,
                with_peers=not missing,
                with_authors=name in arguments.authors,
                at_once=usable_cores() if arguments.side_by_side else 1,
            )
        except peers.PeerError as error:
            sys.exit(f"{name}: {error} (--no-peers leaves PyTorch out)")
        console.print(_table(rows))
        measured += rows
        if arguments.csv:  # again after each model, because all models together take long
            _write(arguments.csv, measured)


def _without_peers(unwanted: bool) -> str | None:
    """Why PyTorch is left out; None if it is not."""
    if unwanted:
        return "PyTorch is left out: --no-peers"
    if not peers.INSTALLED:
        return "PyTorch is left out: it is not installed (pip install '.[peers]')"
    if autodiff.has_accelerator():
        return "PyTorch is left out: it is compared on CPUs alone (CUDA_VISIBLE_DEVICES=-1 hides a GPU)"
    return None


def _table(rows: Sequence[Measured]) -> Table:
    first = rows[0]
    title = f"{first.model}, {first.size}×{first.size}; other processes took {first.others:.0%} of the cores"
    table = Table(title=title, title_justify="left", box=box.SIMPLE)
    table.add_column("", no_wrap=True)
    for heading in ("batch", "images/s", "over the limit", "FullGrad over it"):
        table.add_column(heading, justify="right")
    for row in rows:
        ratios = row.of_limit, row.fullgrad_over if row.variant != FULLGRAD else None
        table.add_row(
            row.variant, str(row.batch), row.rate.shown(), *(ratio.shown() if ratio else "" for ratio in ratios)
        )
    return table


def _write(path: str, rows: Sequence[Measured]) -> None:
    """One line for each variant: medians, each with the least and the largest round."""
    spreads = {"rate": "images_per_second", "of_limit": "of_limit", "fullgrad_over": "fullgrad_over"}
    header = ["model", "size", "batch", "variant"]
    for name in spreads.values():
        header += [name, f"{name}_least", f"{name}_most"]
    header.append("others")
    with open(path, "w", newline="") as sink:
        writer = csv.writer(sink, lineterminator="\n")
        writer.writerow(header)
        for row in rows:
            cells = [row.model, row.size, row.batch, row.variant]
            for field in spreads:
                cells += [f"{value:.4g}" for value in getattr(row, field) or ()] or ["", "", ""]
            writer.writerow([*cells, f"{row.others:.3f}"])


if __name__ == "__main__":
    main()
