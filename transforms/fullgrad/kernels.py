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
from collections.abc import Callable, Sequence
from typing import Any

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


def condense(
    located: Sequence[Located], *, signed: bool, epsilon: float, threads: int | None = None
) -> list[Condensed]:
    """Condenses contributions whose tensors are NumPy arrays, float32 [N, h, w, C] in C order.

    `threads` is how many share the images out; None for as many as there are cores. One is the caller's own.
    """
    made = [_empty(each) for each in located]
    count = len(made[0].map) if made else 0
    most = numba.config.NUMBA_NUM_THREADS if threads is None else min(threads, numba.config.NUMBA_NUM_THREADS)
    bounds = np.linspace(0, count, min(most, max(count, 1)) + 1).astype(int)

    def run(first: int, last: int) -> None:
        for each, into in zip(located, made, strict=True):
            _condense(each, into, slice(first, last), signed, epsilon)

    if len(bounds) == 2:
        run(0, count)
        return made
    for future in [_threads().submit(run, first, last) for first, last in itertools.pairwise(bounds)]:
        future.result()
    return made


@functools.cache
def _threads() -> concurrent.futures.ThreadPoolExecutor:
    return concurrent.futures.ThreadPoolExecutor(numba.config.NUMBA_NUM_THREADS, thread_name_prefix="kernels")


def _empty(located: Located) -> Condensed:
    count, height, width, _ = located.product.gradient.shape
    return Condensed(np.empty((count, height, width), np.float32), np.empty((count, located.count), np.float32))


def _condense(located: Located, into: Condensed, images: slice, signed: bool, epsilon: float) -> None:
    def places(array: Any) -> np.ndarray:
        """[N, h, w, …] → [n, h·w, …], without a copy."""
        return array[images].reshape(-1, array.shape[1] * array.shape[2], *array.shape[3:])

    sums, totals, factor = places(into.map), into.totals[images], np.float32(located.factor)
    product, less = located.product, located.less
    gradient = places(product.gradient)
    # (|k·t| − |k|·low) / (|k|·high − |k|·low + ε) is the same of t with ε/|k|.
    results = signed, np.float32(epsilon / abs(factor)), sums, totals
    if product.multiplier is None:
        scales = np.ones((1, gradient.shape[2]), np.float32) if located.scales is None else located.scales
        _scaled(gradient, scales, *results)
    elif less is None:
        reaching = np.float32(-np.inf if product.reaching is None else product.reaching)
        _product((gradient, places(product.multiplier)), reaching, *results)
    else:
        arrays = gradient, places(product.multiplier), places(less.gradient), places(less.multiplier)
        _difference(arrays, np.float32(0), *results)
    totals *= factor
    if signed:
        sums *= factor


# The shape of the loops is what makes them fast. Extremes and totals are kept by channel, so that vectors of them are
# updated at once. Where one tensor is read, four places are taken together, so that these vectors are loaded and stored
# a fourth as often: worth up to a factor of two. With two or four tensors it is worth nothing.


@_compiled
def _scaled(g, scales, signed, epsilon, sums, totals):  # type: ignore[no-untyped-def]
    """t = g [N, P, C] ⊙ scales [T, C] → sums [N, P] and totals [N, T]."""
    images, places, channels = g.shape
    count = scales.shape[0]
    # Of g itself: a scale of the channel's extremes and total gives those of t.
    low, high, total = np.empty(channels, np.float32), np.empty(channels, np.float32), np.empty(channels, np.float32)
    grand_total, by_place = np.empty(channels), np.empty((count, places), np.float32)
    one, zero = np.float32(1), np.float32(0)
    for n in range(images):
        for c in range(channels):
            low[c], high[c], total[c], grand_total[c] = np.inf, 0, 0, 0
        for p in range(0, places, 4):
            # Behind the last place it is taken again, which changes no extreme; the totals leave it out.
            q, r, s = min(p + 1, places - 1), min(p + 2, places - 1), min(p + 3, places - 1)
            is_q = one if p + 1 < places else zero
            is_r = one if p + 2 < places else zero
            is_s = one if p + 3 < places else zero
            for t in range(count):
                sum_p, sum_q, sum_r, sum_s = zero, zero, zero, zero
                if t == 0:
                    for c in range(channels):
                        at_p, at_q, at_r, at_s = g[n, p, c], g[n, q, c], g[n, r, c], g[n, s, c]
                        abs_p, abs_q, abs_r, abs_s = abs(at_p), abs(at_q), abs(at_r), abs(at_s)
                        least, largest = low[c], high[c]
                        least = abs_p if abs_p < least else least
                        least = abs_q if abs_q < least else least
                        least = abs_r if abs_r < least else least
                        least = abs_s if abs_s < least else least
                        largest = abs_p if abs_p > largest else largest
                        largest = abs_q if abs_q > largest else largest
                        largest = abs_r if abs_r > largest else largest
                        largest = abs_s if abs_s > largest else largest
                        low[c], high[c] = least, largest
                        total[c] += at_p + is_q * at_q + (is_r * at_r + is_s * at_s)
                        scale = scales[t, c] if signed else abs(scales[t, c])
                        sum_p += scale * (at_p if signed else abs_p)
                        sum_q += scale * (at_q if signed else abs_q)
                        sum_r += scale * (at_r if signed else abs_r)
                        sum_s += scale * (at_s if signed else abs_s)
                else:
                    for c in range(channels):
                        at_p, at_q, at_r, at_s = g[n, p, c], g[n, q, c], g[n, r, c], g[n, s, c]
                        scale = scales[t, c] if signed else abs(scales[t, c])
                        sum_p += scale * (at_p if signed else abs(at_p))
                        sum_q += scale * (at_q if signed else abs(at_q))
                        sum_r += scale * (at_r if signed else abs(at_r))
                        sum_s += scale * (at_s if signed else abs(at_s))
                by_place[t, p], by_place[t, q], by_place[t, r], by_place[t, s] = sum_p, sum_q, sum_r, sum_s
            if p % 256 == 252 or p + 4 >= places:  # before float32 has to add the small to the large
                for c in range(channels):
                    grand_total[c] += total[c]
                    total[c] = 0
        for p in range(places):
            sums[n, p] = 0
        for t in range(count):
            least, largest, term = np.float32(np.inf), zero, np.float64(0)
            for c in range(channels):
                magnitude = abs(scales[t, c])
                least, largest = min(least, low[c] * magnitude), max(largest, high[c] * magnitude)
                term += grand_total[c] * scales[t, c]
            totals[n, t] = term
            for p in range(places):
                psi = (by_place[t, p] - channels * least) / (largest - least + epsilon)
                sums[n, p] += by_place[t, p] if signed else psi


def _of_several(value: Callable[..., Any]) -> Callable[..., None]:
    """The loops around t = value(arrays, constant, n, p, c), arrays [N, P, C] → sums [N, P] and totals [N, 1]."""
    value = numba.njit(inline="always")(value)

    @_compiled
    def kernel(arrays, constant, signed, epsilon, sums, totals):  # type: ignore[no-untyped-def]
        images, places, channels = arrays[0].shape
        low, high = np.empty(channels, np.float32), np.empty(channels, np.float32)
        for n in range(images):
            total = np.float64(0)
            for c in range(channels):
                low[c], high[c] = np.inf, 0
            for p in range(places):
                signed_sum, absolute_sum = np.float32(0), np.float32(0)
                for c in range(channels):
                    at = value(arrays, constant, n, p, c)
                    magnitude = abs(at)
                    low[c] = magnitude if magnitude < low[c] else low[c]
                    high[c] = magnitude if magnitude > high[c] else high[c]
                    signed_sum += at
                    absolute_sum += magnitude
                sums[n, p] = signed_sum if signed else absolute_sum
                total += signed_sum
            totals[n, 0] = total
            if not signed:
                least, largest = np.float32(np.inf), np.float32(0)
                for c in range(channels):
                    least, largest = min(least, low[c]), max(largest, high[c])
                for p in range(places):
                    sums[n, p] = (sums[n, p] - channels * least) / (largest - least + epsilon)

    return kernel


@_of_several
def _product(arrays, reaching, n, p, c):  # type: ignore[no-untyped-def]
    """g ⊙ m where m ≥ reaching, else 0. Both are read either way: to read only where it counts is four times slower."""
    m = arrays[1][n, p, c]
    return arrays[0][n, p, c] * (m if m >= reaching else np.float32(0))


@_of_several
def _difference(arrays, constant, n, p, c):  # type: ignore[no-untyped-def]
    """g ⊙ m − h ⊙ k."""
    return arrays[0][n, p, c] * arrays[1][n, p, c] - arrays[2][n, p, c] * arrays[3][n, p, c]
