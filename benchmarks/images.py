"""What images and examples cost: encoding one image, and whole runs with and without them, in turn.

    python -m benchmarks.images [--data ../shared/data] [--cases resnet20 resnet50] [--rounds 3] [--before CHECKOUT]
    python -m benchmarks.images --encode

Every round runs `fullgrad run` with `output.images: null` and with the default, one after the other, because the speed
of the machine changes. With --before, a round also runs another checkout, such as one from before there were images and
examples. Processor times are those of the threads that decode, and that compute statistics and rows: other processes on
the machine hardly change them. With --encode it encodes the images of the data folder in every way at hand.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import os
import pathlib
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks import pipeline
from benchmarks.pipeline import CASES, DATA, Case, Missing, Run, configuration, whole_run
from benchmarks.tables import Report, with_range

STAGES = ("decode", "statistics", "write")


@dataclasses.dataclass(frozen=True, slots=True)
class Measured:
    """One run, and the bytes an image of what it wrote to each place."""

    run: Run
    sizes: dict[str, float]

    def processor_us(self, stage: str) -> float:
        """Processor time of a stage for an image, in microseconds."""
        return 1e6 * self.run.shares[stage] / self.run.sustained


def _measured(config: dict[str, Any], folder: pathlib.Path) -> Measured:
    run = whole_run(config, folder)
    output = folder / "out"
    files = {name: list((output / name).glob("*")) for name in ("maps", "small_maps", "partials")}
    files["examples"] = [path for path in [output / "examples.parquet"] if path.exists()]
    return Measured(run, {name: sum(p.stat().st_size for p in paths) / run.images for name, paths in files.items()})


def compare(
    cases: Sequence[Case], data: pathlib.Path, rounds: int, before: pathlib.Path | None, report: Report
) -> None:
    """Prints a table of the variants' speed, processor time and bytes for each case."""
    here = pipeline.REPOSITORY
    for case in cases:
        measured: dict[str, list[Measured]] = {}
        with tempfile.TemporaryDirectory(prefix="fullgrad-benchmark-") as name:
            folder = pathlib.Path(name)
            without = configuration(case, data, folder, output={"images": None})
            default = configuration(case, data, folder)
            variants = [("images: null", here, without), ("images: 96", here, default)]
            if before is not None:
                variants.insert(0, ("before", before, default))
            for i in range(rounds):
                for variant, checkout, config in variants:
                    pipeline.REPOSITORY = checkout  # where the command is started
                    each = _measured(config, folder / f"{case.name}-{variant.replace(' ', '')}-{i}")
                    pipeline.REPOSITORY = here
                    measured.setdefault(variant, []).append(each)
                    print(f"{case.name}, {variant}, round {i + 1}: {each.run.sustained:.1f} images/s", file=sys.stderr)
        _table(case, measured, report)


def _table(case: Case, measured: dict[str, list[Measured]], report: Report) -> None:
    first = next(iter(measured.values()))
    # The processor time of an image, from the fastest run: the others were slowed down by other processes.
    whole = 1e6 * len(os.sched_getaffinity(0)) / max(each.run.sustained for runs in measured.values() for each in runs)
    base = sum(statistics.median(each.processor_us(stage) for each in first) for stage in STAGES)
    rows = []
    for variant, runs in measured.items():
        stages = {stage: statistics.median(each.processor_us(stage) for each in runs) for stage in STAGES}
        rows.append(
            (
                variant,
                with_range([each.run.sustained for each in runs]),
                with_range([each.run.sustained / b.run.sustained for each, b in zip(runs, first, strict=True)], ".2f"),
                *(f"{stages[stage]:.0f}" for stage in STAGES),
                f"{(sum(stages.values()) - base) / whole:.1%}",
                *(f"{runs[0].sizes[name]:,.0f}" for name in runs[0].sizes),
                with_range([each.run.peak_mib for each in runs], ".0f"),
            )
        )
    report.table(
        f"{case.name}, {case.images:,} images: speed, processor time (us an image, and what is added, of all that an "
        "image takes), and bytes an image",
        (
            "variant",
            "images/s",
            "of the first",
            *STAGES,
            "added",
            *first[0].sizes,
            "peak, MiB",
        ),
        rows,
    )


def encodings(data: pathlib.Path, report: Report) -> None:
    """Prints size, error and processor time of an encoded image, for each side and way."""
    import itertools

    import numpy as np
    from PIL import Image

    from transforms.images import Resize, decode_image
    from transforms.sources import Fields, find_shards, source_for

    ways: list[tuple[str, dict[str, Any]]] = [
        (f"PNG, level {n}", {"format": "PNG", "compress_level": n}) for n in (1, 6)
    ]
    ways += [("WebP lossless, method 0", {"format": "WEBP", "lossless": True, "quality": 0, "method": 0})]
    ways += [(f"WebP quality 80, method {n}", {"format": "WEBP", "quality": 80, "method": n}) for n in range(7)]

    def images(pattern: str, side: int) -> Iterator[np.ndarray]:
        for shard in find_shards(str(data / pattern)):
            for record in source_for(shard.format, Fields()).read(shard, 0, None):
                if record.image is not None:
                    yield decode_image(record.image, Resize((side, side)), 3)

    for side, pattern in (
        (32, "cifar10/cifar10_test.tfrecord-00000*"),
        *((n, "imagenet/images") for n in (64, 96, 224)),
    ):
        originals = [Image.fromarray(pixels) for pixels in itertools.islice(images(pattern, side), 100)]
        rows = []
        for name, options in ways:
            originals[0].save(io.BytesIO(), **options)  # loads Pillow's plugin
            started, encoded = time.process_time(), []
            for image in originals:
                sink = io.BytesIO()
                image.save(sink, **options)
                encoded.append(sink.getvalue())
            seconds = time.process_time() - started
            errors = [
                np.square(
                    np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), float) - np.asarray(image, float)
                ).mean()
                for data, image in zip(encoded, originals, strict=True)
            ]
            rows.append(
                (
                    name,
                    f"{np.mean([len(data) for data in encoded]):,.0f}",
                    f"{1e6 * seconds / len(originals):,.0f}",
                    f"{np.sqrt(np.mean(errors)):.1f}",
                )
            )
        report.table(f"One image of {side}²", ("encoded as", "bytes", "processor, us", "root mean square error"), rows)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", metavar="DIR", type=pathlib.Path, default=DATA, help=f"images and models ({DATA})")
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=["resnet20", "resnet50"], help="models")
    parser.add_argument("--images", type=int, help="the number of images, instead of each case's own")
    parser.add_argument("--rounds", type=int, default=3, help="how often each variant is run (3)")
    parser.add_argument("--before", metavar="CHECKOUT", type=pathlib.Path, help="another checkout to run")
    parser.add_argument("--encode", action="store_true", help="measure encoding alone")
    parser.add_argument("--csv", metavar="FILE", help="also write the values of the tables to this file")
    args = parser.parse_args(argv)
    report = Report()
    cases = [CASES[name] for name in args.cases]
    if args.images:
        cases = [dataclasses.replace(case, images=args.images) for case in cases]
    try:
        if args.encode:
            encodings(args.data.resolve(), report)
        else:
            compare(cases, args.data.resolve(), args.rounds, args.before and args.before.resolve(), report)
    except Missing as missing:
        parser.error(str(missing))
    if args.csv:
        report.write(args.csv)


if __name__ == "__main__":
    main()
