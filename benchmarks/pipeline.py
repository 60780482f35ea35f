"""Compares whole runs on real shards with FullGrad alone on images in memory, and shows where the time of a run goes.

    python -m benchmarks.pipeline [--data ../shared/data] [--cases resnet20 resnet50 …] [--rounds 3] [--csv FILE]
    python -m benchmarks.pipeline --scale [--axes images classes …] [--csv FILE]

Without --scale it prints three tables. Every round is a run (`fullgrad run`, a process of its own) and then FullGrad
alone in another process: the same images, decoded and preprocessed beforehand, in batches of the same size. The
images/s of a run count the units between its first commit and its last. Those of FullGrad leave out the first batch,
which traces and compiles. With --scale it shows how time and memory grow along one axis at a time.

The folder that --data names must contain `cifar10/cifar10_test.tfrecord-*` and `cifar10/resnet20_cifar10.keras`;
`imagenet/images/*.JPEG` and `imagenet/squeezenet_v10_imagenet.keras`. ResNet50 and MobileNetV2 are Keras' own with
random weights. Nothing is downloaded.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from benchmarks.tables import Report, with_range

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
DATA = REPOSITORY.parent / "shared" / "data"
UNITS = 4  # in a run; the first one warms up
LABELLED, LABELLED_SHARDS = 16_000, 8  # images and shards of the runs that differ in their number of classes
STAGES = ("read", "decode", "compute", "statistics", "write", "idle")

Settings = dict[str, Any]  # a configuration

_CIFAR10 = {"scale": {"divide": 255, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}}
_CROP = {"how": "center_crop", "short_side": 256}


class Missing(Exception):
    """Something that the benchmark needs is missing; one sentence."""


@dataclasses.dataclass(frozen=True, slots=True)
class Case:
    """One case: a model and its images.

    Attributes:
      name: the name in the tables.
      shards: a pattern below the data folder; the images of a folder are repeated to reach `images`.
      model: a file below the data folder, or a name in `keras.applications`.
      preprocess: the section of the configuration.
      images: how many are explained; a multiple of the units and of the usual batches, so that no batch is padded.
      size: side of the model's input; None for the size of the file or the application.
      classes: the number of classes of an application.
    """

    name: str
    shards: str
    model: str
    preprocess: Mapping[str, Any]
    images: int
    size: int | None = None
    classes: int = 1000


CASES = {
    "resnet20": Case("resnet20", "cifar10/cifar10_test.tfrecord-*", "cifar10/resnet20_cifar10.keras", _CIFAR10, 5000),
    "resnet50": Case("resnet50", "imagenet/images", "ResNet50", {"resize": _CROP, "scale": "resnet"}, 128),
    "mobilenetv2": Case("mobilenetv2", "imagenet/images", "MobileNetV2", {"resize": _CROP, "scale": "tf"}, 512),
    "squeezenet": Case(
        "squeezenet",
        "imagenet/images",
        "imagenet/squeezenet_v10_imagenet.keras",
        {"resize": _CROP, "scale": {"mean": [123, 117, 104]}},
        1024,
    ),
}


@dataclasses.dataclass(frozen=True, slots=True)
class Run:
    """One whole run.

    Attributes:
      images: the number of explained images.
      seconds: the whole command.
      sustained: images/s from the first commit to the last.
      peak_mib: resident memory, MiB.
      batch_size: images in each batch.
      startup: seconds from the command until each step ended, in order.
      shares: for each stage, its share of the time of the units after the first.
    """

    images: int
    seconds: float
    sustained: float
    peak_mib: float
    batch_size: int
    startup: Mapping[str, float]
    shares: Mapping[str, float]


# ---- one run


def run_command(config: Mapping[str, Any], folder: pathlib.Path) -> tuple[float, float]:
    """Runs the command line on a configuration, with `folder/out` as its output.

    Returns:
      Seconds, and the peak of resident memory in MiB.
    """
    folder.mkdir(parents=True)
    path = folder / "config.yaml"
    path.write_text(json.dumps({**config, "output": {**config.get("output", {}), "path": str(folder / "out")}}))
    started = time.perf_counter()
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "pipeline", "run", str(path)], cwd=REPOSITORY, stdout=log, stderr=log
        )
        # This process stays small: the kernel counts the parent's memory at the start as part of the child's peak.
        _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    # 1: a decomposition that is complete for trained weights need not be complete for random ones.
    if os.waitstatus_to_exitcode(status) not in (0, 1):
        sys.exit(f"the run failed:\n{(folder / 'log').read_text()}")
    return seconds, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 2**20


def whole_run(config: Mapping[str, Any], folder: pathlib.Path) -> Run:
    """Runs the command line on a configuration, with the output in `folder`."""
    began, (seconds, peak_mib) = time.time(), run_command(config, folder)
    output = folder / "out"
    run = json.loads((output / "run.json").read_text())
    receipts = [json.loads(each.read_text()) for each in (output / "receipts").iterdir()]
    receipts.sort(key=lambda receipt: receipt["ended"])
    first, rest = receipts[0], receipts[1:]
    elapsed = receipts[-1]["ended"] - first["ended"]
    steps = {step: run["startup"][step] - began for step in ("imported", "model", "planned")}
    steps["first batch"] = first["started"] + first["seconds"]["first_batch"] - began
    return Run(
        images=sum(receipt["images"] for receipt in receipts),
        seconds=seconds,
        sustained=sum(receipt["images"] for receipt in rest) / elapsed if rest else float("nan"),
        peak_mib=peak_mib,
        batch_size=first["batch_size"],
        startup=steps,
        shares={stage: sum(r["seconds"][stage] for r in rest) / elapsed if rest else float("nan") for stage in STAGES},
    )


# ---- FullGrad alone, in a process of its own


def in_memory(config: Mapping[str, Any], batch_size: int, images: int, folder: pathlib.Path) -> tuple[float, float]:
    """images/s of FullGrad alone on the configuration's images, and the seconds of its first batch."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "alone.yaml"
    path.write_text(json.dumps({**config, "output": {**config.get("output", {}), "path": str(folder / "none")}}))
    command = [sys.executable, "-m", "benchmarks.pipeline", "--alone", str(path), str(batch_size), str(images)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"FullGrad alone failed:\n{done.stderr}")
    speed, first = json.loads(done.stdout.splitlines()[-1])
    return speed, first


def _alone(path: str, batch_size: int, count: int) -> None:
    """The process of `in_memory`: prints images/s and the seconds of the first batch."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import numpy as np

    from pipeline.config import load_config
    from pipeline.run import prepare
    from transforms.fullgrad import explain_batch
    from transforms.images import decode_image
    from transforms.sources import source_for

    plan = prepare(load_config(path))
    at_once = plan.model.batches_at_once
    model, settings = plan.model, plan.settings
    images = np.empty((count, *model.input_size, model.channels), np.float32)
    at = 0
    for unit in plan.units:
        for record in source_for(unit.shard.format, settings.fields).read(unit.shard, unit.start, unit.stop):
            assert record.image is not None
            pixels = decode_image(record.image, model.resize, model.channels, model.exif)
            images[at] = model.preprocess(pixels[None])[0]
            at += 1
    targets = np.full(batch_size, -1, np.int32)
    options = settings.options(model)

    def explain(first: int) -> None:
        batch = images[first : first + batch_size]
        explain_batch(model.exposed, batch, targets[: len(batch)], options, batch_size)

    started = time.perf_counter()
    explain(0)
    compiled = time.perf_counter()
    with ThreadPoolExecutor(at_once) as pool:
        list(pool.map(explain, range(0, count, batch_size)))
    print(json.dumps([count / (time.perf_counter() - compiled), compiled - started]))


# ---- what is run


def configuration(case: Case, data: pathlib.Path, folder: pathlib.Path, **sections: Mapping[str, Any]) -> Settings:
    """The configuration of a case. Images and models that are made for it go to `folder`.

    Args:
      case: the case.
      data: the folder with real images and models.
      folder: where images and models are written.
      sections: keys to change, section by section.

    Raises:
      Missing: something is not in the data folder.
    """
    found = sorted(data.glob(case.shards))
    if not found:
        raise Missing(
            f"--data: {data / case.shards} is not there; the benchmark needs real images and models, as the README of "
            "the folder `shared/data` lists them"
        )
    images = case.images
    if found[0].is_dir():
        shards = [str(_repeated(found[0], images, folder / f"{case.shards.replace('/', '-')}-{images}"))]
        per_unit: int | str = max(1, images // UNITS)
    else:
        shards, per_unit = [str(path) for path in found], "auto"
    if case.model[0].isupper():
        model = folder / f"{case.model}-{case.size}-{case.classes}.keras"
        if not model.exists():
            _save(case, model)
    else:
        model = data / case.model
        if not model.exists():
            raise Missing(f"--data: {model} is not there")
    config: Settings = {
        "input": {"shards": shards, "images_per_unit": per_unit, "limit": images},
        "model": {"path": str(model), "preprocess": dict(case.preprocess)},
    }
    for name, keys in sections.items():
        config[name] = {**config.get(name, {}), **keys}
    return config


def _repeated(source: pathlib.Path, count: int, folder: pathlib.Path) -> pathlib.Path:
    """A folder with `count` links to the images of another folder, in turn."""
    images = sorted(path for path in source.iterdir() if path.is_file())
    if not folder.exists():
        folder.mkdir(parents=True)
        for i in range(count):
            original = images[i % len(images)]
            (folder / f"{i:06d}-{original.name}").symlink_to(original.resolve())
    return folder


def _labelled(source: pathlib.Path, classes: int, folder: pathlib.Path) -> list[str]:
    """Parquet shards with `LABELLED` small images in all; the labels are the classes in turn."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from PIL import Image

    folder.mkdir(parents=True)
    small = []
    for path in sorted(source.iterdir()):
        sink = io.BytesIO()
        Image.open(path).convert("RGB").resize((32, 32)).save(sink, "PNG")
        small.append(sink.getvalue())
    each = LABELLED // LABELLED_SHARDS
    made = []
    for shard in range(LABELLED_SHARDS):
        images = range(shard * each, (shard + 1) * each)
        columns = {"image": [small[i % len(small)] for i in images], "label": [i % classes for i in images]}
        made.append(str(folder / f"{shard}.parquet"))
        pq.write_table(pa.table(columns), made[-1], row_group_size=256)
    return made


def _save(case: Case, path: pathlib.Path) -> None:
    """Saves an application with random weights. A process of its own does it, so that this one has no TensorFlow."""
    script = (
        "import sys, keras; keras.utils.set_random_seed(0); "
        "getattr(keras.applications, sys.argv[1])(weights=None, classes=int(sys.argv[3]), "
        "input_shape=None if sys.argv[4] == 'None' else (int(sys.argv[4]),) * 2 + (3,)).save(sys.argv[2])"
    )
    command = [sys.executable, "-c", script, case.model, str(path), str(case.classes), str(case.size)]
    subprocess.run(command, check=True, capture_output=True)


# ---- tables


def compare(cases: Sequence[Case], data: pathlib.Path, rounds: int, batch_size: int | None, report: Report) -> None:
    """Whole runs and FullGrad alone, in turn, because the speed of the machine changes for both."""
    runs: dict[str, list[Run]] = {}
    alone: dict[str, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory(prefix="fullgrad-benchmark-") as name:
        folder = pathlib.Path(name)
        for case in cases:
            explain = {} if batch_size is None else {"batch_size": batch_size}
            config = configuration(case, data, folder, explain=explain)
            for i in range(rounds):
                run = whole_run(config, folder / f"{case.name}-{i}")
                runs.setdefault(case.name, []).append(run)
                alone.setdefault(case.name, []).append(
                    in_memory(config, run.batch_size, run.images, folder / f"{case.name}-{i}")
                )
                print(
                    f"{case.name}, round {i + 1} of {rounds}: {run.sustained:.1f} images/s, "
                    f"alone {alone[case.name][-1][0]:.1f}",
                    file=sys.stderr,
                )
    report.table(
        "Whole runs, and FullGrad alone on images in memory; median (least to largest) of the rounds",
        ("model", "images", "batch", "run, images/s", "alone, images/s", "run / alone", "peak, MiB", "command, s"),
        [
            (
                name,
                f"{each[0].images:,}",
                str(each[0].batch_size),
                with_range([run.sustained for run in each]),
                with_range([speed for speed, _ in alone[name]]),
                with_range([run.sustained / speed for run, (speed, _) in zip(each, alone[name], strict=True)], ".2f"),
                with_range([run.peak_mib for run in each], ".0f"),
                with_range([run.seconds for run in each]),
            )
            for name, each in runs.items()
        ],
    )
    report.table(
        "Where the time of a run goes, % of the time between the first commit and the last: compute and idle are times "
        "of the unit, the others processor time of threads that work meanwhile",
        ("model", *STAGES),
        [
            (name, *(with_range([100 * run.shares[stage] for run in each], ".1f") for stage in STAGES))
            for name, each in runs.items()
        ],
    )
    report.table(
        "From the command to its first explained batch, seconds: all imported, the model loaded and exposed, the "
        "rest checked and planned, the first batch traced, compiled and explained; alone: what that batch takes there",
        ("model", *runs[cases[0].name][0].startup, "first batch, alone"),
        [
            (
                name,
                *(with_range([run.startup[step] for run in each]) for step in each[0].startup),
                with_range([first for _, first in alone[name]]),
            )
            for name, each in runs.items()
        ],
    )


# ---- growth


def _axes(data: pathlib.Path, folder: pathlib.Path) -> dict[str, list[tuple[str, Callable[[], Settings]]]]:
    """For each axis its points: what the point is called, and what makes its configuration."""
    cifar, photographs = CASES["resnet20"], CASES["mobilenetv2"]

    def on_cifar(**sections: Mapping[str, Any]) -> Callable[[], Settings]:
        return lambda: configuration(cifar, data, folder, **sections)

    def on_photographs(case: Case) -> Callable[[], Settings]:
        return lambda: configuration(dataclasses.replace(case, images=64), data, folder, explain={"batch_size": 8})

    def with_classes(count: int) -> Callable[[], Settings]:
        # The same model for all, so that what grows is the statistics; every shard has images of all the classes.
        case = dataclasses.replace(cifar, model="MobileNetV2", size=32, preprocess={"scale": "tf"})
        return lambda: configuration(
            dataclasses.replace(case, shards="imagenet/images", images=LABELLED),
            data,
            folder,
            input={
                "shards": _labelled(data / "imagenet" / "images", count, folder / f"classes-{count}"),
                "fields": {"image": "image", "label": "label"},
                "images_per_unit": "auto",
            },
            explain={"targets": "label"},
        )

    cores = os.cpu_count() or 1
    return {
        "images": [(f"{n:,}", on_cifar(input={"limit": n, "images_per_unit": 625})) for n in (1250, 2500, 5000)],
        "classes": [(f"{n:,}", with_classes(n)) for n in (10, 100, 1000)],
        "map size": [(f"{n}²", on_cifar(output={"map_size": n})) for n in (8, 32, 128, 224)],
        "image size": [
            (f"{n}²", on_photographs(dataclasses.replace(photographs, size=n, preprocess=_stretched(n))))
            for n in (96, 160, 224, 320)
        ],
        "threads": [(str(n), on_cifar()) for n in dict.fromkeys((1, max(1, cores // 2), cores))],
    }


def _stretched(size: int) -> dict[str, Any]:
    return {"resize": {"shape": [size, size]}, "scale": "tf"}


def scale(data: pathlib.Path, chosen: Sequence[str], report: Report) -> None:
    """How time and memory grow along each axis, one run a point."""
    with tempfile.TemporaryDirectory(prefix="fullgrad-benchmark-") as name:
        folder = pathlib.Path(name)
        axes = _axes(data, folder)
        for axis in chosen:
            rows = []
            first: Run | None = None
            for i, (point, make) in enumerate(axes[axis]):
                config = make()
                allowed = os.sched_getaffinity(0) if axis == "threads" and hasattr(os, "sched_setaffinity") else None
                if allowed is not None:
                    # TensorFlow, like everything else, starts no threads for cores that the process may not use.
                    os.sched_setaffinity(0, sorted(allowed)[: int(point)])
                try:
                    run = whole_run(config, folder / f"{axis}-{i}")
                finally:
                    if allowed is not None:
                        os.sched_setaffinity(0, allowed)
                first = first or run
                rows.append(
                    (
                        point,
                        f"{run.images:,}",
                        f"{run.sustained:.1f}",
                        f"{1000 / run.sustained:.2f}",
                        f"{run.shares['statistics'] + run.shares['write']:.1%}",
                        f"{run.seconds:.1f}",
                        f"{run.peak_mib:.0f}",
                        f"{run.peak_mib - first.peak_mib:+.0f}",
                    )
                )
                print(f"{axis} {point}: {run.sustained:.1f} images/s, {run.peak_mib:.0f} MiB", file=sys.stderr)
            report.table(
                f"Growth with {axis}",
                (
                    axis,
                    "images",
                    "images/s",
                    "ms/image",
                    "statistics and writing",
                    "command, s",
                    "peak, MiB",
                    "over the first, MiB",
                ),
                rows,
            )


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the benchmark from the command line."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["--alone"]:
        return _alone(arguments[1], int(arguments[2]), int(arguments[3]))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", metavar="DIR", type=pathlib.Path, default=DATA, help=f"images and models ({DATA})")
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=["resnet20", "resnet50"], help="models")
    parser.add_argument("--images", type=int, help="the number of images, instead of each case's own")
    parser.add_argument("--rounds", type=int, default=3, help="how often each case is run (3)")
    parser.add_argument("--batch-size", type=int, help="instead of explain.batch_size: auto")
    parser.add_argument("--scale", action="store_true", help="measure how the cost grows, instead of comparing")
    axes = ("images", "classes", "map size", "image size", "threads")
    parser.add_argument("--axes", nargs="+", choices=axes, default=axes, help="with --scale: the axes")
    parser.add_argument("--csv", metavar="FILE", help="also write the values of the tables to this file")
    args = parser.parse_args(arguments)
    report = Report()
    cases = [CASES[name] for name in args.cases]
    if args.images:
        cases = [dataclasses.replace(case, images=args.images) for case in cases]
    try:
        if args.scale:
            scale(args.data.resolve(), args.axes, report)
        else:
            compare(cases, args.data.resolve(), args.rounds, args.batch_size, report)
    except Missing as missing:
        parser.error(str(missing))
    if args.csv:
        report.write(args.csv)


if __name__ == "__main__":
    main()
