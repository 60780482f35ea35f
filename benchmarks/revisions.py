"""Compares the speed of FullGrad in this checkout and in another one, in turn, because the machine's speed changes.

git worktree add ../before REVISION
python -m benchmarks.revisions ../before [--model ResNet50] [--size 224] [--batch 8] [--rounds 5]
"""

from __future__ import annotations

import argparse
import pathlib
import statistics
import subprocess
import sys

# Runs in each checkout. It loads the model once, explains a batch for every line that it reads, and prints the seconds.
_WORKER = """
import sys, time
import keras, numpy as np
from transforms.fullgrad import expose, full_gradients
name, size, batch = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
keras.utils.set_random_seed(0)
exposed = expose(getattr(keras.applications, name)(weights=None, input_shape=(size, size, 3)))
images = np.random.default_rng(0).normal(size=(batch, size, size, 3)).astype(np.float32)
for line in sys.stdin:
    started = time.perf_counter()
    full_gradients(exposed, images, batch_size=batch, jit=False)
    print(time.perf_counter() - started, flush=True)
"""


class _Worker:
    """A process that explains batches in one checkout."""

    def __init__(self, checkout: pathlib.Path, arguments: list[str]):
        self._process = subprocess.Popen(
            [sys.executable, "-c", _WORKER, *arguments],
            cwd=checkout,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def explain(self) -> float:
        """The seconds that one batch takes."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())

    def close(self) -> None:
        self._process.communicate()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", type=pathlib.Path, help="the other checkout")
    parser.add_argument("--model", default="ResNet50", help="a name in keras.applications (default: ResNet50)")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    settings = [arguments.model, str(arguments.size), str(arguments.batch)]
    here = pathlib.Path(__file__).resolve().parent.parent
    workers = {"here": _Worker(here, settings), "other": _Worker(arguments.other.resolve(), settings)}
    for worker in workers.values():
        worker.explain()  # the trace
    seconds: dict[str, list[float]] = {name: [] for name in workers}
    for _ in range(arguments.rounds):
        for name, worker in workers.items():
            seconds[name].append(worker.explain())
    for worker in workers.values():
        worker.close()
    for name, measured in seconds.items():
        rates = [arguments.batch / each for each in measured]
        print(f"{name:6} {statistics.median(rates):7.2f} images/s  ({min(rates):.2f} to {max(rates):.2f})")
    ratios = [b / a for a, b in zip(seconds["here"], seconds["other"], strict=True)]
    print(f"here/other {statistics.median(ratios):.3f}  ({min(ratios):.3f} to {max(ratios):.3f}), round by round")


if __name__ == "__main__":
    main()
