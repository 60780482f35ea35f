"""What maps and terms need of `located` contributions, on CPUs: all of it from one reading of each tensor.

TensorFlow's operations would read each tensor four to ten times, and memory is what FullGrad costs. Numba compiles the
loops for the machine at hand, and `operations` makes steps of a graph of them. All but `resized` are made alike, by

    kernel(signed, unpack)

A kernel takes a job, from which `unpack` gets what it is about: (arrays, scales, settings, sums, totals). Of T
contributions t to N images, with P = h·w places and C channels, these are all float32:

  arrays    of [N, P·C], the gradient first
  scales    [T, C], or [1, C] where there is nothing to be scaled
  settings  [3], numbers that `Setting` names
  sums      [N, P], summed over channels and contributions: of t if signed; otherwise of
            (|t| − low) / (high − low + epsilon), with the least and the largest |t| of the image and contribution
  totals    [N, T], the sum of t over places and channels
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numba import types
from numba.extending import intrinsic

Kernel = Callable[[Any], None]
Unpack = Callable[[Any], Any]

# Sums in any order are what vector instructions need. Infinities and NaN keep their meaning, and g·m − h·k is rounded
# product by product, so that it is zero where the products are equal: ψ would make a map of what a fused one leaves.
OPTIONS: dict[str, Any] = {"boundscheck": False, "fastmath": {"reassoc", "nsz"}}


class Setting(enum.IntEnum):
    """Where in `settings` a number is."""

    EPSILON = 0  # what is added to high − low
    REACHING = 1  # multipliers that are less count as 0
    OWN = 2  # 1 where an activation's own contribution is one of T, the last; else 0


_EPSILON, _REACHING, _OWN = map(int, Setting)


@intrinsic
def _bits(typing: Any, number: Any) -> Any:
    """A float32's bits as int32. Of numbers that are not negative they are in the same order, with NaN the largest.

    LLVM makes vectors of extremes of integers; those of floats it leaves alone, as NaN is in no order.
    """

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], context.get_value_type(types.int32))

    return types.int32(types.float32), codegen


@intrinsic
def _number(typing: Any, bits: Any) -> Any:
    """The float32 of such bits."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], context.get_value_type(types.float32))

    return types.float32(types.int32), codegen


_ZERO, _INFINITY = np.float32(0).view(np.int32), np.float32(np.inf).view(np.int32)


# The shape of the loops is what makes them fast. Where a vector's sum and extremes have to be taken of each place, as
# little else as possible may be done in the loop over channels.


def scaled(signed: bool, unpack: Unpack) -> Kernel:
    """Of a gradient g: t = g ⊙ scales[t], of more than a few channels.

    Four places are taken together, each from a quarter of its own: four sequential streams are fetched ahead of their
    use, where neighbours' interleaved ones are not (6 against 25 GB/s, of 144 channels out of memory). Extremes and
    totals are kept by channel: scaled, those of g are those of t.
    """

    def kernel(job):  # type: ignore[no-untyped-def]
        arrays, scales, settings, sums, totals = unpack(job)
        (images, places), (count, channels), epsilon = sums.shape, scales.shape, settings[_EPSILON]
        g = arrays[0].reshape((images, places, channels))
        low, high, total = (
            np.empty(channels, np.float32),
            np.empty(channels, np.float32),
            np.empty(channels, np.float32),
        )
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
            for t in range(count):
                least, largest, term = np.float32(np.inf), zero, np.float64(0)
                for c in range(channels):
                    magnitude = abs(scales[t, c])
                    least, largest = min(least, low[c] * magnitude), max(largest, high[c] * magnitude)
                    term += grand_total[c] * scales[t, c]
                totals[n, t] = term
                for p in range(places):
                    psi = (by_place[t, p] - channels * least) / (largest - least + epsilon)
                    sums[n, p] = (by_place[t, p] if signed else psi) + (sums[n, p] if t > 0 else zero)

    return kernel


def _of_value(value: Callable[..., Any]) -> Callable[[bool, Unpack], Kernel]:
    """The loops around t = value(arrays, scales, reaching, n, i, t, c), with i = p·C + c."""
    value = numba.njit(inline="always")(value)

    def of(signed: bool, unpack: Unpack) -> Kernel:
        def kernel(job):  # type: ignore[no-untyped-def]
            arrays, scales, settings, sums, totals = unpack(job)
            epsilon, reaching = settings[_EPSILON], settings[_REACHING]
            (images, places), (count, channels) = sums.shape, scales.shape
            low, high, total = np.empty(count, np.int32), np.empty(count, np.int32), np.empty(count)
            by_place, zero = np.empty((count, places), np.float32), np.float32(0)
            for n in range(images):
                for t in range(count):
                    low[t], high[t], total[t] = _INFINITY, _ZERO, 0
                if channels == 3:  # an image's own: too few for a vector, so that these are made of places
                    for t in range(count):
                        all_places, low_t, high_t = zero, _INFINITY, _ZERO
                        for p in range(places):
                            first = value(arrays, scales, reaching, n, 3 * p, t, 0)
                            second = value(arrays, scales, reaching, n, 3 * p + 1, t, 1)
                            third = value(arrays, scales, reaching, n, 3 * p + 2, t, 2)
                            abs_1, abs_2, abs_3 = abs(first), abs(second), abs(third)
                            bits_1, bits_2, bits_3 = _bits(abs_1), _bits(abs_2), _bits(abs_3)
                            least = bits_1 if bits_1 < bits_2 else bits_2
                            least = least if least < bits_3 else bits_3
                            largest = bits_1 if bits_1 > bits_2 else bits_2
                            largest = largest if largest > bits_3 else bits_3
                            low_t = least if least < low_t else low_t
                            high_t = largest if largest > high_t else high_t
                            all_places += first + second + third
                            by_place[t, p] = first + second + third if signed else abs_1 + abs_2 + abs_3
                        low[t], high[t], total[t] = low_t, high_t, all_places
                else:
                    for p in range(places):
                        begin = p * channels
                        for t in range(count):
                            signed_sum, absolute_sum, least, largest = zero, zero, _INFINITY, _ZERO
                            for c in range(channels):
                                at = value(arrays, scales, reaching, n, begin + c, t, c)
                                magnitude = abs(at)
                                bits = _bits(magnitude)
                                least = bits if bits < least else least
                                largest = bits if bits > largest else largest
                                signed_sum += at
                                absolute_sum += magnitude
                            low[t], high[t] = min(low[t], least), max(high[t], largest)
                            by_place[t, p] = signed_sum if signed else absolute_sum
                            total[t] += signed_sum
                for t in range(count):
                    least_of_all, largest_of_all = _number(low[t]), _number(high[t])
                    totals[n, t] = total[t]
                    for p in range(places):
                        psi = (by_place[t, p] - channels * least_of_all) / (largest_of_all - least_of_all + epsilon)
                        sums[n, p] = (by_place[t, p] if signed else psi) + (sums[n, p] if t > 0 else zero)

        return kernel

    return of


@_of_value
def scaled_pixels(arrays, scales, reaching, n, i, t, c):  # type: ignore[no-untyped-def]
    """Of a gradient g: g ⊙ scales[t], as `scaled`, but made for an image's three channels."""
    return arrays[0][n, i] * scales[t, c]


@_of_value
def product(arrays, scales, reaching, n, i, t, c):  # type: ignore[no-untyped-def]
    """Of g and m: g ⊙ m where m ≥ reaching, else 0. To read only where it counts is four times slower than all."""
    m = arrays[1][n, i]
    return arrays[0][n, i] * (m if m >= reaching else np.float32(0))


@_of_value
def difference(arrays, scales, reaching, n, i, t, c):  # type: ignore[no-untyped-def]
    """Of g, m, h and k: g ⊙ m − h ⊙ k."""
    return arrays[0][n, i] * arrays[1][n, i] - arrays[2][n, i] * arrays[3][n, i]


def _of_activation(value: Callable[..., Any]) -> Callable[[bool, Unpack], Kernel]:
    """The loops around (g_z, t) = value(arrays, n, i), which leave g_z in place of g.

    The contributions are g_z ⊙ scales[t], at least one, then t if that is asked for.
    """
    value = numba.njit(inline="always")(value)

    def of(signed: bool, unpack: Unpack) -> Kernel:
        def kernel(job):  # type: ignore[no-untyped-def]
            arrays, scales, settings, sums, totals = unpack(job)
            g, epsilon, own = arrays[0], settings[_EPSILON], settings[_OWN] != 0
            (images, places), (count, channels) = sums.shape, scales.shape
            low, high, total = np.empty(count + 1, np.int32), np.empty(count + 1, np.int32), np.empty(count + 1)
            by_place, zero = np.empty((count + 1, places), np.float32), np.float32(0)
            for n in range(images):
                for t in range(count + 1):
                    low[t], high[t], total[t] = _INFINITY, _ZERO, 0
                for p in range(places):
                    begin = p * channels
                    sum_z, sum_t, total_z, total_t = zero, zero, zero, zero
                    low_z, high_z, low_t, high_t = _INFINITY, _ZERO, _INFINITY, _ZERO
                    for c in range(channels):
                        g_z, at_t = value(arrays, n, begin + c)
                        g[n, begin + c] = g_z
                        at_z = g_z * scales[0, c]
                        abs_z, abs_t = abs(at_z), abs(at_t)
                        sum_z += at_z if signed else abs_z
                        sum_t += at_t if signed else abs_t
                        total_z += at_z
                        total_t += at_t
                        bits_z, bits_t = _bits(abs_z), _bits(abs_t)
                        low_z = bits_z if bits_z < low_z else low_z
                        high_z = bits_z if bits_z > high_z else high_z
                        low_t = bits_t if bits_t < low_t else low_t
                        high_t = bits_t if bits_t > high_t else high_t
                    by_place[0, p], by_place[count, p] = sum_z, sum_t
                    low[0], high[0] = min(low[0], low_z), max(high[0], high_z)
                    low[count], high[count] = min(low[count], low_t), max(high[count], high_t)
                    total[0] += total_z
                    total[count] += total_t
                    for t in range(1, count):
                        sum_z, total_z, low_z, high_z = zero, zero, _INFINITY, _ZERO
                        for c in range(channels):
                            at_z = g[n, begin + c] * scales[t, c]
                            abs_z = abs(at_z)
                            sum_z += at_z if signed else abs_z
                            total_z += at_z
                            bits_z = _bits(abs_z)
                            low_z = bits_z if bits_z < low_z else low_z
                            high_z = bits_z if bits_z > high_z else high_z
                        by_place[t, p] = sum_z
                        low[t], high[t] = min(low[t], low_z), max(high[t], high_z)
                        total[t] += total_z
                for t in range(count + own):
                    least, largest = _number(low[t]), _number(high[t])
                    totals[n, t] = total[t]
                    for p in range(places):
                        psi = (by_place[t, p] - channels * least) / (largest - least + epsilon)
                        sums[n, p] = (by_place[t, p] if signed else psi) + (sums[n, p] if t > 0 else zero)

        return kernel

    return of


@_of_activation
def relu6(arrays, n, i):  # type: ignore[no-untyped-def]
    """Of g and y: g_z = g where 0 < y < 6, and t = g ⊙ y − g_z ⊙ z = g ⊙ 6 where y = 6; both are 0 elsewhere.

    A product as in TensorFlow, since of `0 if … else g`, over g, LLVM makes a masked store, which is slow on many CPUs.
    """
    g, y = arrays[0][n, i], arrays[1][n, i]
    passes = (y > np.float32(0)) & (y < np.float32(6))
    return g * (np.float32(1) if passes else np.float32(0)), g * (
        np.float32(6) if y >= np.float32(6) else np.float32(0)
    )


@_of_activation
def silu(arrays, n, i):  # type: ignore[no-untyped-def]
    """Of g, y = z·s and z, with s = σ(z): g_z = g·(s + y·(1 − s)), and t = g·y − g_z·z = g·y·(y − z)."""
    g, y, z = arrays[0][n, i], arrays[1][n, i], arrays[2][n, i]
    s = np.float32(0.5) if z == np.float32(0) else y / z
    return g * (s + y * (np.float32(1) - s)), g * y * (y - z)


@numba.njit(inline="always")
def resized(old, rows, columns, total):  # type: ignore[no-untyped-def]
    """Adds to total [N, H, W] what becomes of old [N, h, w] by rows [H, 3] and columns [W, 3], as of `two_taps`."""
    (images, height, width), (_, new_height, new_width) = old.shape, total.shape
    wide = np.empty((height, new_width), np.float32)
    for n in range(images):
        for y in range(height):
            for x in range(new_width):
                first = int(columns[x, 0])
                wide[y, x] = old[n, y, first] * columns[x, 1] + old[n, y, min(first + 1, width - 1)] * columns[x, 2]
        for y in range(new_height):
            first, upper, lower = int(rows[y, 0]), rows[y, 1], rows[y, 2]
            second = min(first + 1, height - 1)
            for x in range(new_width):
                total[n, y, x] += wide[first, x] * upper + wide[second, x] * lower
