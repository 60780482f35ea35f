"""What maps and terms need of `located` contributions, on CPUs: all of it from one reading of each tensor.

TensorFlow's operations would read each tensor four to ten times, and memory is what FullGrad costs. Numba compiles the
loops for the machine at hand when they are first used; they run in as many threads as there are cores, each with images
of its own, and without Python's lock.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import itertools
import os
from collections.abc import Sequence

import numba
import numpy as np

from transforms.fullgrad.located import Located

# Sums in any order are what vector instructions need. Infinities and NaN keep their meaning, and g·m − h·k is rounded
# product by product, so that it is zero where the products are equal: ψ would make a map of what a fused one leaves.
_compiled = numba.njit(nogil=True, boundscheck=False, fastmath={"reassoc", "nsz"})


@dataclasses.dataclass(frozen=True, slots=True)
class Condensed:
    """What is left of T contributions to N images.

    Attributes:
      map: float32 [N, h, w], summed over channels and the T contributions: of t where `signed`; otherwise of
        (|t| − low) / (high − low + epsilon), with the least and the largest |t| of the image and contribution.
      totals: float32 [N, T], the sum of t over places and channels.
    """

    map: np.ndarray
    totals: np.ndarray


def condense(located: Sequence[Located], *, signed: bool, epsilon: float) -> list[Condensed]:
    """Condenses contributions whose tensors are NumPy arrays, float32 [N, h, w, C] in C order."""
    made = [_empty(each) for each in located]
    count = len(made[0].map) if made else 0
    threads = _threads()
    bounds = np.linspace(0, count, min(threads._max_workers, max(count, 1)) + 1).astype(int)

    def run(first: int, last: int) -> None:
        for each, into in zip(located, made, strict=True):
            _condense(each, into, slice(first, last), signed, epsilon)

    for future in [threads.submit(run, first, last) for first, last in itertools.pairwise(bounds)]:
        future.result()
    return made


@functools.cache
def _threads() -> concurrent.futures.ThreadPoolExecutor:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return concurrent.futures.ThreadPoolExecutor(cores, thread_name_prefix="kernels")


def _empty(located: Located) -> Condensed:
    count, height, width, _ = located.product.gradient.shape
    return Condensed(np.empty((count, height, width), np.float32), np.empty((count, located.count), np.float32))


def _condense(located: Located, into: Condensed, images: slice, signed: bool, epsilon: float) -> None:
    def places(array: np.ndarray) -> np.ndarray:
        """[N, h, w, …] → [n, h·w, …], without a copy."""
        return array[images].reshape(-1, array.shape[1] * array.shape[2], *array.shape[3:])

    sums, totals, factor = places(into.map), into.totals[images], np.float32(located.factor)
    gradient = places(located.product.gradient)
    # (|k·t| − |k|·low) / (|k|·high − |k|·low + ε) is the same of t with ε/|k|.
    results = signed, np.float32(epsilon / abs(factor)), sums, totals
    if located.product.multiplier is None:
        scales = np.ones((1, gradient.shape[2]), np.float32) if located.scales is None else located.scales
        _scaled(gradient, scales, *results)
    elif located.less is None:
        _product(gradient, places(located.product.multiplier), *results)
    else:
        less = places(located.less.gradient), places(located.less.multiplier)
        _difference(gradient, places(located.product.multiplier), *less, *results)
    totals *= factor
    if signed:
        sums *= factor


# The loops are written out, and not shared as functions: Numba then takes a second to compile them and not five, and
# they run at up to three times the pace where channels are few. Extremes are kept by channel, since a vector of them is
# compared at once, where a single one would be compared number by number.


@_compiled
def _scaled(g, scales, signed, epsilon, sums, totals):  # type: ignore[no-untyped-def]
    """t = g [N, P, C] ⊙ scales [T, C] → sums [N, P] and totals [N, T]."""
    images, places, channels = g.shape
    count = scales.shape[0]
    low, high, total = np.empty(channels, np.float32), np.empty(channels, np.float32), np.empty(channels, np.float32)
    absolute = np.empty((count, places), np.float32)
    for n in range(images):
        for c in range(channels):
            low[c], high[c], total[c] = np.inf, 0, 0
        for p in range(places):
            for c in range(channels):
                value = g[n, p, c]
                magnitude = abs(value)
                low[c] = magnitude if magnitude < low[c] else low[c]
                high[c] = magnitude if magnitude > high[c] else high[c]
                total[c] += value
            sums[n, p] = 0
            for t in range(count):
                signed_sum, absolute_sum = np.float32(0), np.float32(0)
                if signed:
                    for c in range(channels):
                        signed_sum += g[n, p, c] * scales[t, c]
                else:
                    for c in range(channels):
                        absolute_sum += abs(g[n, p, c] * scales[t, c])
                sums[n, p] += signed_sum
                absolute[t, p] = absolute_sum
        for t in range(count):
            least, largest, totals[n, t] = np.float32(np.inf), np.float32(0), 0
            for c in range(channels):
                magnitude = abs(scales[t, c])
                least = min(least, low[c] * magnitude)
                largest = max(largest, high[c] * magnitude)
                totals[n, t] += total[c] * scales[t, c]
            if not signed:
                for p in range(places):
                    sums[n, p] += (absolute[t, p] - channels * least) / (largest - least + epsilon)


@_compiled
def _product(g, m, signed, epsilon, sums, totals):  # type: ignore[no-untyped-def]
    """t = g ⊙ m, [N, P, C] each → sums [N, P] and totals [N, 1]."""
    images, places, channels = g.shape
    low, high = np.empty(channels, np.float32), np.empty(channels, np.float32)
    for n in range(images):
        for c in range(channels):
            low[c], high[c] = np.inf, 0
        totals[n, 0] = 0
        for p in range(places):
            signed_sum, absolute_sum = np.float32(0), np.float32(0)
            for c in range(channels):
                value = g[n, p, c] * m[n, p, c]
                magnitude = abs(value)
                low[c] = magnitude if magnitude < low[c] else low[c]
                high[c] = magnitude if magnitude > high[c] else high[c]
                signed_sum += value
                absolute_sum += magnitude
            sums[n, p] = signed_sum if signed else absolute_sum
            totals[n, 0] += signed_sum
        if not signed:
            least, largest = np.float32(np.inf), np.float32(0)
            for c in range(channels):
                least, largest = min(least, low[c]), max(largest, high[c])
            for p in range(places):
                sums[n, p] = (sums[n, p] - channels * least) / (largest - least + epsilon)


@_compiled
def _difference(g, m, h, k, signed, epsilon, sums, totals):  # type: ignore[no-untyped-def]
    """t = g ⊙ m − h ⊙ k, [N, P, C] each → sums [N, P] and totals [N, 1]."""
    images, places, channels = g.shape
    low, high = np.empty(channels, np.float32), np.empty(channels, np.float32)
    for n in range(images):
        for c in range(channels):
            low[c], high[c] = np.inf, 0
        totals[n, 0] = 0
        for p in range(places):
            signed_sum, absolute_sum = np.float32(0), np.float32(0)
            for c in range(channels):
                value = g[n, p, c] * m[n, p, c] - h[n, p, c] * k[n, p, c]
                magnitude = abs(value)
                low[c] = magnitude if magnitude < low[c] else low[c]
                high[c] = magnitude if magnitude > high[c] else high[c]
                signed_sum += value
                absolute_sum += magnitude
            sums[n, p] = signed_sum if signed else absolute_sum
            totals[n, 0] += signed_sum
        if not signed:
            least, largest = np.float32(np.inf), np.float32(0)
            for c in range(channels):
                least, largest = min(least, low[c]), max(largest, high[c])
            for p in range(places):
                sums[n, p] = (sums[n, p] - channels * least) / (largest - least + epsilon)
