"""Measures how long it takes from the command to the first explained batch, and how long `fullgrad --help` takes.

python -m benchmarks.startup [--before OTHER_CHECKOUT] [--model ResNet50] [--size 224] [--rounds 3]

Three ways take turns, because the machine's speed changes: this checkout with the kernels' compiled code on disk, this
checkout without (`FULLGRAD_CACHE=off`), and the other checkout if one is given. One process explains, on the local
runner.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np

ROOT = pathlib.Path(__file__).parent.parent
_SCRIPT = "import sys; from fullgrad_beam import main; sys.exit(main())"


def _command(checkout: pathlib.Path, cache: str, *arguments: str) -> float:
    """Runs a command of a checkout's; returns the time of its start."""
    environment = {**os.environ, "PYTHONPATH": str(checkout), "FULLGRAD_CACHE": cache}
    started = time.time()
    ran = subprocess.run(
        [sys.executable, "-c", _SCRIPT, *arguments], cwd=checkout, env=environment, capture_output=True, text=True
    )
    if ran.returncode != 0:
        sys.exit(f"fullgrad {' '.join(arguments)} failed: {ran.stderr}")
    return started


def _until_first_batch(checkout: pathlib.Path, cache: str, folder: pathlib.Path) -> dict[str, float]:
    """Seconds from the start of `fullgrad run` to each moment that the run notes."""
    with tempfile.TemporaryDirectory(dir=folder) as output:
        started = _command(checkout, cache, "run", str(folder / "run.yaml"), "--set", f"output.path={output}")
        moments = json.loads((pathlib.Path(output) / "run.json").read_text())["startup"]
        [receipt] = map(json.loads, map(pathlib.Path.read_text, pathlib.Path(output).glob("receipts/*.json")))
    first = receipt["started"] + receipt["seconds"]["first_batch"]
    return {
        "imported": moments["imported"] - started,
        "planned": moments["compared"] - started,
        "unit begun": receipt["started"] - started,
        "first batch": first - started,
    }


def _help(checkout: pathlib.Path, cache: str, *arguments: str) -> float:
    return -_command(checkout, cache, *arguments) + time.time()


def _make_run(folder: pathlib.Path, model: str, size: int) -> None:
    """Writes a model with random weights, 16 images of noise, and a configuration."""
    program = f"import keras; keras.applications.{model}(weights=None).save({str(folder / 'model.keras')!r})"
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
    from PIL import Image

    (folder / "images").mkdir()
    generator = np.random.default_rng(0)
    for i in range(16):
        noise = generator.integers(0, 256, (size, size, 3), np.uint8)
        Image.fromarray(noise).save(folder / "images" / f"{i}.png")
    configuration = {
        "input": {"shards": str(folder / "images")},
        "model": {"path": str(folder / "model.keras")},
        "output": {"path": str(folder / "out")},
    }
    (folder / "run.yaml").write_text(json.dumps(configuration))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=pathlib.Path, metavar="OTHER_CHECKOUT")
    parser.add_argument("--model", default="ResNet50", help="the name of a Keras application")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        _make_run(folder, args.model, args.size)
        cache = str(folder / "cache")
        ways = {"this checkout": (ROOT, cache), "this checkout, nothing kept on disk": (ROOT, "off")}
        if args.before is not None:
            ways["the other checkout"] = (args.before.resolve(), "off")
        for checkout, kept in ways.values():  # fills the caches, also those of files and of Python's bytecode
            _until_first_batch(checkout, kept, folder)
        runs: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
        helps: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
        for _ in range(args.rounds):
            for way, (checkout, kept) in ways.items():
                runs[way].append(_until_first_batch(checkout, kept, folder))
                asked = {"--help": ["--help"], "run --help": ["run", "--help"], "--version": ["--version"]}
                helps[way].append({words: _help(checkout, kept, *arguments) for words, arguments in asked.items()})
    columns = [*runs["this checkout"][0], *helps["this checkout"][0]]
    print(f"{args.model}, {args.size} px, seconds, medians of {args.rounds}; load {os.getloadavg()[0]:.1f}\n")
    print("| | " + " | ".join(columns) + " |")
    print("|---|" + "---:|" * len(columns))
    for way in ways:
        rows = [{**run, **help} for run, help in zip(runs[way], helps[way], strict=True)]
        cells = [f"{statistics.median(row[column] for row in rows):.2f}" for column in columns]
        print(f"| {way} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
