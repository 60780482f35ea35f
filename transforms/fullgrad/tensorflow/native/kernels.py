"""Kernels: what maps and terms need of contributions, on CPUs, from one reading of each tensor.

TensorFlow's operations would read each tensor four to ten times, and memory traffic is what FullGrad costs. Numba
compiles these loops for the machine at hand, and `graph` makes operations of them. All kernels but `add_interpolated`
are made by

    kernel(signed, unpack)

A kernel takes a job, and `unpack` gives its arrays: (arrays, scales, settings, sums, evidence, totals). For T
contributions t to N images, with P = h·w positions ("places") and C channels, these are float32:

  arrays    [N, P·C] each, the gradient first
  scales    [T, C], or [1, C] of ones if nothing is scaled
  settings  [3], numbers at the indices in `Setting`
  sums      [N, P], a result: the sum over channels and contributions of t if signed, otherwise of
            ψ(t) = (|t| − low) / (high − low + epsilon), where low and high are the least and the largest |t| of the
            image and contribution
  evidence  [N, P], a result: the sum over channels and contributions of t; where sums are signed, the same memory
  totals    [N, T], a result: the sum of t over positions and channels
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numba import types
from numba.extending import intrinsic

from transforms.fullgrad.tensorflow.native.calls import address, allocate, doubles_at, floats_at, free, ints_at
from transforms.fullgrad.tensorflow.native.jobs import Setting

Kernel = Callable[[Any], None]
Unpack = Callable[[Any], Any]

# Vector instructions need sums in any order. Infinities and NaN keep their meaning. Products are rounded before they
# are subtracted, so that g·m − h·k is zero where they are equal; ψ would blow up what a fused instruction leaves there.
# Nothing may raise: the error model of NumPy checks no division. Without errors and new arrays, compiled code calls
# nothing of Numba's, so that a process which loads it from disk need not import Numba.
OPTIONS: dict[str, Any] = {"boundscheck": False, "fastmath": {"reassoc", "nsz"}, "error_model": "numpy"}


_EPSILON, _THRESHOLD, _WITH_ACTIVATION = map(int, Setting)


@intrinsic
def _bits(typing: Any, number: Any) -> Any:
    """A float32's bits as int32. For numbers that are not negative the order stays, and NaN is the largest.

    LLVM vectorises extremes of integers, but not of floats, since NaN has no place in their order.
    """

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], context.get_value_type(types.int32))

    return types.int32(types.float32), codegen


@intrinsic
def _number(typing: Any, bits: Any) -> Any:
    """The float32 that has these bits."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], context.get_value_type(types.float32))

    return types.float32(types.int32), codegen


_ZERO, _INFINITY = np.float32(0).view(np.int32), np.float32(np.inf).view(np.int32)


@numba.njit(inline="always")
def _psi(absolute_sum, channels, low, high, epsilon):  # type: ignore[no-untyped-def]
    """Σ_c (|t_c| − low) / (high − low + ε) at one position, from Σ_c |t_c|."""
    return (absolute_sum - channels * low) / (high - low + epsilon)


# The loops are fast because of their shape: where each position needs a sum and extremes of a vector, the loop over
# channels may do little else.


def scaled(signed: bool, unpack: Unpack) -> Kernel:
    """t = g ⊙ scales[t], for a gradient g of more than a few channels.

    Reads four positions at a time, one from each quarter of the image. The processor then fetches four sequential
    streams ahead of their use, which it does not do for interleaved neighbours (25 against 6 GB/s, for 144 channels
    from memory). Extremes and totals are kept by channel: those of g, scaled, are those of t.
    """

    def kernel(job):  # type: ignore[no-untyped-def]
        arrays, scales, settings, sums, evidence, totals = unpack(job)
        (images, places), (count, channels), epsilon = sums.shape, scales.shape, settings[_EPSILON]
        memory = allocate(24 * channels + 4 * count * places, 1)
        at, g = address(memory), floats_at(np.int64(arrays[0].ctypes.data), (images, places, channels))
        grand_total = doubles_at(at, (channels,))
        low, high = floats_at(at + 8 * channels, (channels,)), floats_at(at + 12 * channels, (channels,))
        total, together = floats_at(at + 16 * channels, (channels,)), floats_at(at + 20 * channels, (channels,))
        by_place = floats_at(at + 24 * channels, (count, places))
        one, zero, quarter = np.float32(1), np.float32(0), (places + 3) // 4
        for c in range(channels):
            together[c] = 0
            for t in range(count):
                together[c] += scales[t, c]
        for n in range(images):
            for c in range(channels):
                low[c], high[c], total[c], grand_total[c] = np.inf, 0, 0, 0
            for p in range(quarter):
                # Beyond the last position, the last is read again. That changes no extreme, and totals leave it out.
                q, r, s = p + quarter, p + 2 * quarter, p + 3 * quarter
                is_q = one if q < places else zero
                is_r = one if r < places else zero
                is_s = one if s < places else zero
                q, r, s = min(q, places - 1), min(r, places - 1), min(s, places - 1)
                for t in range(count):
                    sum_p, sum_q, sum_r, sum_s = zero, zero, zero, zero
                    if t == 0:
                        all_p, all_q, all_r, all_s = zero, zero, zero, zero
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
                            if not signed:
                                all_p += together[c] * at_p
                                all_q += together[c] * at_q
                                all_r += together[c] * at_r
                                all_s += together[c] * at_s
                        if not signed:
                            evidence[n, p], evidence[n, q], evidence[n, r], evidence[n, s] = all_p, all_q, all_r, all_s
                    else:
                        for c in range(channels):
                            at_p, at_q, at_r, at_s = g[n, p, c], g[n, q, c], g[n, r, c], g[n, s, c]
                            scale = scales[t, c] if signed else abs(scales[t, c])
                            sum_p += scale * (at_p if signed else abs(at_p))
                            sum_q += scale * (at_q if signed else abs(at_q))
                            sum_r += scale * (at_r if signed else abs(at_r))
                            sum_s += scale * (at_s if signed else abs(at_s))
                    by_place[t, p], by_place[t, q], by_place[t, r], by_place[t, s] = sum_p, sum_q, sum_r, sum_s
                if p % 64 == 63 or p == quarter - 1:  # before float32 adds small numbers to a large one
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
                    psi = _psi(by_place[t, p], channels, least, largest, epsilon)
                    sums[n, p] = (by_place[t, p] if signed else psi) + (sums[n, p] if t > 0 else zero)
        free(memory)

    return kernel


def elementwise_kernel(value: Callable[..., Any]) -> Callable[[bool, Unpack], Kernel]:
    """A kernel for contributions that are computed element by element: value(arrays, scales, threshold, n, i, t, c).

    The indices are those of image n, contribution t and channel c; i = p·C + c, with the position p.
    """
    value = numba.njit(inline="always")(value)

    def of(signed: bool, unpack: Unpack) -> Kernel:
        def kernel(job):  # type: ignore[no-untyped-def]
            arrays, scales, settings, sums, evidence, totals = unpack(job)
            epsilon, threshold = settings[_EPSILON], settings[_THRESHOLD]
            (images, places), (count, channels) = sums.shape, scales.shape
            memory, zero = allocate(16 * count + 4 * count * places, 1), np.float32(0)
            begins = address(memory)
            total = doubles_at(begins, (count,))
            low, high = ints_at(begins + 8 * count, (count,)), ints_at(begins + 12 * count, (count,))
            by_place = floats_at(begins + 16 * count, (count, places))
            for n in range(images):
                for t in range(count):
                    low[t], high[t], total[t] = _INFINITY, _ZERO, 0
                if channels == 3:  # an image's own channels are too few for a vector, so vectors are made of positions
                    for t in range(count):
                        all_places, low_t, high_t = zero, _INFINITY, _ZERO
                        for p in range(places):
                            first = value(arrays, scales, threshold, n, 3 * p, t, 0)
                            second = value(arrays, scales, threshold, n, 3 * p + 1, t, 1)
                            third = value(arrays, scales, threshold, n, 3 * p + 2, t, 2)
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
                            if not signed:
                                evidence[n, p] = first + second + third + (evidence[n, p] if t > 0 else zero)
                        low[t], high[t], total[t] = low_t, high_t, all_places
                else:
                    for p in range(places):
                        begin = p * channels
                        for t in range(count):
                            signed_sum, absolute_sum, least, largest = zero, zero, _INFINITY, _ZERO
                            for c in range(channels):
                                at = value(arrays, scales, threshold, n, begin + c, t, c)
                                magnitude = abs(at)
                                bits = _bits(magnitude)
                                least = bits if bits < least else least
                                largest = bits if bits > largest else largest
                                signed_sum += at
                                absolute_sum += magnitude
                            low[t], high[t] = min(low[t], least), max(high[t], largest)
                            by_place[t, p] = signed_sum if signed else absolute_sum
                            if not signed:
                                evidence[n, p] = signed_sum + (evidence[n, p] if t > 0 else zero)
                            total[t] += signed_sum
                for t in range(count):
                    least_of_all, largest_of_all = _number(low[t]), _number(high[t])
                    totals[n, t] = total[t]
                    for p in range(places):
                        psi = _psi(by_place[t, p], channels, least_of_all, largest_of_all, epsilon)
                        sums[n, p] = (by_place[t, p] if signed else psi) + (sums[n, p] if t > 0 else zero)
            free(memory)

        return kernel

    return of


@elementwise_kernel
def scaled_pixels(arrays, scales, threshold, n, i, t, c):  # type: ignore[no-untyped-def]
    """g ⊙ scales[t], for a gradient g at an image of three channels."""
    return arrays[0][n, i] * scales[t, c]


@elementwise_kernel
def product(arrays, scales, threshold, n, i, t, c):  # type: ignore[no-untyped-def]
    """g ⊙ m where m ≥ threshold, else 0. Reading g only where it counts would be four times slower."""
    m = arrays[1][n, i]
    return arrays[0][n, i] * (m if m >= threshold else np.float32(0))


@elementwise_kernel
def difference(arrays, scales, threshold, n, i, t, c):  # type: ignore[no-untyped-def]
    """g ⊙ m − h ⊙ k."""
    return arrays[0][n, i] * arrays[1][n, i] - arrays[2][n, i] * arrays[3][n, i]


def activation_kernel(value: Callable[..., Any]) -> Callable[[bool, Unpack], Kernel]:
    """A kernel for the step back through an activation: (g_z, t) = value(arrays, n, i), with i = p·C + c.

    It leaves g_z in place of g. The contributions are g_z ⊙ scales[t], at least one, and then the activation's own, t,
    if the settings ask for it.
    """
    value = numba.njit(inline="always")(value)

    def of(signed: bool, unpack: Unpack) -> Kernel:
        def kernel(job):  # type: ignore[no-untyped-def]
            arrays, scales, settings, sums, evidence, totals = unpack(job)
            g, epsilon, with_activation = arrays[0], settings[_EPSILON], settings[_WITH_ACTIVATION] != 0
            (images, places), (count, channels) = sums.shape, scales.shape
            rows, zero = count + 1, np.float32(0)
            memory = allocate(16 * rows + 4 * rows * places, 1)
            begins = address(memory)
            total = doubles_at(begins, (rows,))
            low, high = ints_at(begins + 8 * rows, (rows,)), ints_at(begins + 12 * rows, (rows,))
            by_place = floats_at(begins + 16 * rows, (rows, places))
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
                    if not signed:
                        evidence[n, p] = total_z + (total_t if with_activation else zero)
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
                        if not signed:
                            evidence[n, p] += total_z
                for t in range(count + with_activation):
                    least, largest = _number(low[t]), _number(high[t])
                    totals[n, t] = total[t]
                    for p in range(places):
                        psi = _psi(by_place[t, p], channels, least, largest, epsilon)
                        sums[n, p] = (by_place[t, p] if signed else psi) + (sums[n, p] if t > 0 else zero)
            free(memory)

        return kernel

    return of


@activation_kernel
def relu6(arrays, n, i):  # type: ignore[no-untyped-def]
    """g_z = g where 0 < y < 6, and t = g ⊙ y − g_z ⊙ z = g ⊙ 6 where y = 6; both are 0 elsewhere.

    It multiplies, as TensorFlow does. LLVM would turn `0 if … else g` into a masked store, which is slow on many CPUs.
    """
    g, y = arrays[0][n, i], arrays[1][n, i]
    passes = (y > np.float32(0)) & (y < np.float32(6))
    return g * (np.float32(1) if passes else np.float32(0)), g * (
        np.float32(6) if y >= np.float32(6) else np.float32(0)
    )


@activation_kernel
def silu(arrays, n, i):  # type: ignore[no-untyped-def]
    """For y = z·s with s = σ(z): g_z = g·(s + y·(1 − s)), and t = g·y − g_z·z = g·y·(y − z)."""
    g, y, z = arrays[0][n, i], arrays[1][n, i], arrays[2][n, i]
    s = np.float32(0.5) if z == np.float32(0) else y / z
    return g * (s + y * (np.float32(1) - s)), g * y * (y - z)


@numba.njit(inline="always")
def add_interpolated(old, rows, columns, total):  # type: ignore[no-untyped-def]
    """Adds old [N, h, w] to total [N, H, W], interpolated by rows [H, 3] and columns [W, 3].

    The columns of both are those of `graph.two_neighbours`.
    """
    (images, height, width), (_, new_height, new_width) = old.shape, total.shape
    memory = allocate(4 * height * new_width, 1)
    wide = floats_at(address(memory), (height, new_width))
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
    free(memory)
