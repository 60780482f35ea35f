"""Measures the peak memory of whole runs on 1, 2, 4, … copies of the same shards. It should not grow with the dataset.

    python -m benchmarks.memory --config configs/demo.yaml [--copies 1 2 4] [--set KEY=VALUE] [--csv]

Every run is a process of its own: `fullgrad run` on copies of the configuration's shards in other folders. Its output
is deleted afterwards. The peak is the resident memory of the run's largest process, as the kernel counts it.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import glob
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence

from pipeline.config import ConfigError, load_config


@dataclasses.dataclass(frozen=True, slots=True)
class Measured:
    """One run.

    Attributes:
      copies: how many copies of the shards.
      images: the number of explained images.
      seconds: the whole command, including imports and statistics.
      images_per_second: from the start of the first unit to the end of the last.
      peak_mib: resident memory, MiB.
      ratio: the peak, divided by the peak of the first run.
    """

    copies: int
    images: int
    seconds: float
    images_per_second: float
    peak_mib: float
    ratio: float


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--config", metavar="CONFIG.yaml", required=True, help="the configuration to run; its shards must be local"
    )
    parser.add_argument(
        "--copies", metavar="N", type=int, nargs="+", default=[1, 2, 4], help="how many copies of the shards (1 2 4)"
    )
    parser.add_argument(
        "--set", dest="overrides", metavar="KEY=VALUE", action="append", default=[], help="as in `fullgrad run`"
    )
    parser.add_argument("--csv", action="store_true", help="print comma-separated values")
    arguments = parser.parse_args(argv)
    try:
        shards = _local(load_config(arguments.config, arguments.overrides).input.shards)
    except ConfigError as error:
        parser.error(str(error))
    if not shards:
        parser.error("input.shards: no local file or folder is there")
    print_line = _print_csv if arguments.csv else _print_row
    print_line([field.name for field in dataclasses.fields(Measured)])
    first = None
    for copies in arguments.copies:
        with tempfile.TemporaryDirectory(prefix="fullgrad-memory-") as folder:
            made = _copy(shards, copies, pathlib.Path(folder) / "shards")
            settings = [*arguments.overrides, f"input.shards={json.dumps(made)}", f"output.path={folder}/out"]
            images, rate, seconds, peak = _run(arguments.config, settings, pathlib.Path(folder) / "out")
        first = first or peak
        measured = Measured(copies, images, seconds, rate, peak, peak / first)
        print_line([f"{each:.2f}" if isinstance(each, float) else str(each) for each in dataclasses.astuple(measured)])


def _local(patterns: Iterable[str]) -> list[pathlib.Path]:
    return [pathlib.Path(path).absolute() for pattern in patterns for path in sorted(glob.glob(pattern))]


def _copy(shards: Sequence[pathlib.Path], copies: int, folder: pathlib.Path) -> list[str]:
    """Copies of each shard, under the same name in different folders: hard links if the file system has them."""
    made = []
    for copy in range(copies):
        into = folder / f"{copy:03d}"
        into.mkdir(parents=True)
        for shard in shards:
            target = into / shard.name
            if shard.is_dir():
                shutil.copytree(shard, target, copy_function=_link)
            else:
                _link(shard, target)
            made.append(str(target))
    return made


def _link(source: str | pathlib.Path, target: str | pathlib.Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # on another disk
        os.symlink(source, target)


def _run(config: str, settings: Iterable[str], output: pathlib.Path) -> tuple[int, float, float, float]:
    """Images, images/s, seconds and peak MiB of one run.

    This process stays small: the kernel counts the parent's memory at the start as part of the child's peak.
    """
    started = time.perf_counter()
    overrides = [word for setting in settings for word in ("--set", setting)]
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline", "run", config, *overrides], stdout=subprocess.DEVNULL, text=True
    )
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    if code := os.waitstatus_to_exitcode(status):
        sys.exit(f"the run ended with exit code {code}")
    summary = json.loads((output / "summary.json").read_text())
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in bytes there, and in KiB on Linux
    return summary["images"], summary["images_per_second"], seconds, usage.ru_maxrss * unit / 2**20


def _print_row(cells: Iterable[str]) -> None:
    print("".join(f"{cell:>18}" for cell in cells), flush=True)


def _print_csv(cells: Iterable[str]) -> None:
    csv.writer(sys.stdout, lineterminator="\n").writerow(cells)
    sys.stdout.flush()


if __name__ == "__main__":
    main()
