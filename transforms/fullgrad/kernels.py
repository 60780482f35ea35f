"""What maps and terms need of `located` contributions, on CPUs: all of it from one reading of each tensor.

TensorFlow's operations would read each tensor four to ten times, and memory is what FullGrad costs. Numba compiles the
loops for the machine at hand when they are first used; they run in as many threads as are asked for, each with images
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

from transforms.fullgrad.located import Activated, Contribution

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
    located: Sequence[Contribution], *, signed: bool, epsilon: float, threads: int | None = None
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


def _empty(located: Contribution) -> Condensed:
    count = len(located.tensors()[0])
    return Condensed(np.empty((count, *located.resolution), np.float32), np.empty((count, located.count), np.float32))


def _places(array: Any, images: slice) -> np.ndarray:
    """[N, h, w, …] → [n, h·w, …], without a copy."""
    return array[images].reshape(-1, array.shape[1] * array.shape[2], *array.shape[3:])


def _condense(located: Contribution, into: Condensed, images: slice, signed: bool, epsilon: float) -> None:
    sums, totals = _places(into.map, images), into.totals[images]
    if isinstance(located, Activated):
        _condense_activated(located, images, (signed, np.float32(epsilon), sums, totals))
        return
    product, less, factor = located.product, located.less, np.float32(located.factor)
    gradient = _places(product.gradient, images)
    # (|k·t| − |k|·low) / (|k|·high − |k|·low + ε) is the same of t with ε/|k|.
    results = signed, np.float32(epsilon / abs(factor)), sums, totals
    if product.multiplier is None:
        scales = np.ones((1, gradient.shape[2]), np.float32) if located.scales is None else located.scales
        _scaled(gradient, scales, *results)
    elif less is None:
        reaching = np.float32(-np.inf if product.reaching is None else product.reaching)
        _product((gradient, _places(product.multiplier, images)), reaching, *results)
    else:
        others = product.multiplier, less.gradient, less.multiplier
        _difference((gradient, *(_places(array, images) for array in others)), np.float32(0), *results)
    totals *= factor
    if signed:
        sums *= factor


def _condense_activated(located: Activated, images: slice, results: tuple[Any, ...]) -> None:
    gradient, output = _places(located.gradient, images), _places(located.output, images)
    if located.input is None:
        _relu6((gradient, output), located.scales, located.own, *results)
    else:
        _silu((gradient, output, _places(located.input, images)), located.scales, located.own, *results)


# The shape of the loops is what makes them fast. Extremes and totals are kept by channel, so that vectors of them are
# updated at once. Where one tensor is read, four places are taken together, so that these vectors are loaded and stored
# a fourth as often, and each from a quarter of its own: four sequential streams are fetched ahead of their use, where
# neighbours' interleaved ones are not (6 against 25 GB/s, of 144 channels out of memory). Around an activation, where
# more is kept by channel, it is two places; for products it is worth nothing.


@_compiled
def _scaled(g, scales, signed, epsilon, sums, totals):  # type: ignore[no-untyped-def]
    """t = g [N, P, C] ⊙ scales [T, C] → sums [N, P] and totals [N, T]."""
    images, places, channels = g.shape
    count = scales.shape[0]
    # Of g itself: a scale of the channel's extremes and total gives those of t.
    low, high, total = np.empty(channels, np.float32), np.empty(channels, np.float32), np.empty(channels, np.float32)
    grand_total, by_place = np.empty(channels), np.empty((count, places), np.float32)
    one, zero, quarter = np.float32(1), np.float32(0), (places + 3) // 4
    for n in range(images):
        for c in range(channels):
            low[c], high[c], total[c], grand_total[c] = np.inf, 0, 0, 0
        for p in range(quarter):
            # Behind the last place it is taken again, which changes no extreme; the totals leave it out.
            q, r, s = p + quarter, p + 2 * quarter, p + 3 * quarter
            is_q = one if q < places else zero
            is_r = one if r < places else zero
            is_s = one if s < places else zero
            q, r, s = min(q, places - 1), min(r, places - 1), min(s, places - 1)
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
            if p % 64 == 63 or p == quarter - 1:  # before float32 has to add the small to the large
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


def _of_activation(value: Callable[..., Any]) -> Callable[..., None]:
    """The loops around (g_z, t) = value(arrays, n, p, c), arrays [N, P, C] starting with g.

    The contributions are g_z ⊙ scales [T, C], at least one, then t where `own`; → sums [N, P], totals [N, T + own]. Two
    places are taken together, each from a half of its own.
    """
    value = numba.njit(inline="always")(value)

    @_compiled
    def kernel(arrays, scales, own, signed, epsilon, sums, totals):  # type: ignore[no-untyped-def]
        images, places, channels = arrays[0].shape
        count, half = scales.shape[0], (places + 1) // 2
        # Of g_z and of t: extremes and totals by channel, as in _scaled.
        low_z, high_z, total_z = np.empty(channels, np.float32), np.empty(channels, np.float32), np.empty(channels)
        low_t, high_t, total_t = np.empty(channels, np.float32), np.empty(channels, np.float32), np.empty(channels)
        by_place = np.empty((count + 1, places), np.float32)
        zero, one, infinity = np.float32(0), np.float32(1), np.float32(np.inf)
        part_z, part_t = np.empty(channels, np.float32), np.empty(channels, np.float32)
        for n in range(images):
            for c in range(channels):
                low_z[c], high_z[c], part_z[c], total_z[c] = infinity, zero, zero, 0
                low_t[c], high_t[c], part_t[c], total_t[c] = infinity, zero, zero, 0
            for p in range(half):
                q = min(p + half, places - 1)
                is_q = one if p + half < places else zero
                sum_p, sum_q, own_p, own_q = zero, zero, zero, zero
                for c in range(channels):
                    z_p, t_p = value(arrays, n, p, c)
                    z_q, t_q = value(arrays, n, q, c)
                    abs_z_p, abs_z_q, abs_t_p, abs_t_q = abs(z_p), abs(z_q), abs(t_p), abs(t_q)
                    least, largest = low_z[c], high_z[c]
                    least = abs_z_p if abs_z_p < least else least
                    least = abs_z_q if abs_z_q < least else least
                    largest = abs_z_p if abs_z_p > largest else largest
                    largest = abs_z_q if abs_z_q > largest else largest
                    low_z[c], high_z[c] = least, largest
                    least, largest = low_t[c], high_t[c]
                    least = abs_t_p if abs_t_p < least else least
                    least = abs_t_q if abs_t_q < least else least
                    largest = abs_t_p if abs_t_p > largest else largest
                    largest = abs_t_q if abs_t_q > largest else largest
                    low_t[c], high_t[c] = least, largest
                    part_z[c] += z_p + is_q * z_q
                    part_t[c] += t_p + is_q * t_q
                    own_p += t_p if signed else abs_t_p
                    own_q += t_q if signed else abs_t_q
                    scale = scales[0, c] if signed else abs(scales[0, c])
                    sum_p += scale * (z_p if signed else abs_z_p)
                    sum_q += scale * (z_q if signed else abs_z_q)
                by_place[count, p], by_place[count, q] = own_p, own_q
                by_place[0, p], by_place[0, q] = sum_p, sum_q
                for t in range(1, count):
                    sum_p, sum_q = zero, zero
                    for c in range(channels):
                        z_p, _ = value(arrays, n, p, c)
                        z_q, _ = value(arrays, n, q, c)
                        scale = scales[t, c] if signed else abs(scales[t, c])
                        sum_p += scale * (z_p if signed else abs(z_p))
                        sum_q += scale * (z_q if signed else abs(z_q))
                    by_place[t, p], by_place[t, q] = sum_p, sum_q
                if p % 64 == 63 or p == half - 1:
                    for c in range(channels):
                        total_z[c] += part_z[c]
                        total_t[c] += part_t[c]
                        part_z[c], part_t[c] = 0, 0
            for p in range(places):
                sums[n, p] = 0
            for t in range(count + own):
                least, largest, term = infinity, zero, np.float64(0)
                for c in range(channels):
                    magnitude = abs(scales[t, c]) if t < count else one
                    low, high = (low_z[c], high_z[c]) if t < count else (low_t[c], high_t[c])
                    least, largest = min(least, low * magnitude), max(largest, high * magnitude)
                    term += total_z[c] * scales[t, c] if t < count else total_t[c]
                totals[n, t] = term
                for p in range(places):
                    psi = (by_place[t, p] - channels * least) / (largest - least + epsilon)
                    sums[n, p] += by_place[t, p] if signed else psi

    return kernel


@_of_activation
def _relu6(arrays, n, p, c):  # type: ignore[no-untyped-def]
    """Of g and y: g_z = g where 0 < y < 6, and t = g ⊙ y − g_z ⊙ z = g ⊙ 6 where y = 6; both are 0 elsewhere."""
    g, y = arrays[0][n, p, c], arrays[1][n, p, c]
    outside = (y <= np.float32(0)) | (y >= np.float32(6))
    return np.float32(0) if outside else g, g * y if y >= np.float32(6) else np.float32(0)


@_of_activation
def _silu(arrays, n, p, c):  # type: ignore[no-untyped-def]
    """Of g, y = z·s and z, with s = σ(z): g_z = g·(s + y·(1 − s)), and t = g·y − g_z·z = g·y·(y − z)."""
    g, y, z = arrays[0][n, p, c], arrays[1][n, p, c], arrays[2][n, p, c]
    s = np.float32(0.5) if z == np.float32(0) else y / z
    return g * (s + y * (np.float32(1) - s)), g * y * (y - z)
