"""The numbers in a job, which is what a kernel works on, in the description of an operation, and in its settings."""

from __future__ import annotations

import enum

import numpy as np


class Setting(enum.IntEnum):
    """The indices of the numbers in `settings`."""

    EPSILON = 0  # is added to high − low
    THRESHOLD = 1  # a multiplier below it counts as 0
    WITH_ACTIVATION = 2  # 1 if the last of the T contributions is the activation's own; else 0


# ---- a job: what a kernel works on, as int64 in memory of C's

# Every process compiles all of this before its first images. Numba spends most of that time on the types that it meets,
# so there are no arrays outside the kernels: a job is plain memory, with the numbers below at these indices.

# The description of an operation, which is its first input and is known when the graph is made.
TENSORS = 0  # how many tensors it takes
PULLS_BACK = 1  # whether it leaves a pulled-back gradient in place of the first
KERNEL = 2  # the kernel's address
THREADS = 3  # how many threads share the images
COUNT = 4  # T, how many contributions there are
BESIDE = 5  # whether the evidence has an output of its own beside the sums

# A job begins with the addresses of up to four tensors. The addresses of the other arrays follow, then their sizes, a
# slot for a handle, and four sizes as the C API takes and gives them.
SCALES, SETTINGS, SUMS, EVIDENCE, TOTALS, IMAGES, PLACES, CHANNELS, BIASES, COLUMNS, SLOT, SIZES = range(4, 16)
JOB = SIZES + 4  # its length

# The first inputs of every condensing operation; the tensors follow.
DESCRIPTION, OF_SCALES, OF_SETTINGS, FIRST = range(4)

NUMBERS_A_THREAD = 1 << 17  # starting a thread takes 20 us, in which a thread reads this many numbers


def describe(*, tensors: int, pulls_back: bool, kernel: int, threads: int, count: int, beside: bool) -> np.ndarray:
    """The description of an operation, int64 [6]."""
    description = np.zeros(6, np.int64)
    description[TENSORS] = tensors
    description[PULLS_BACK] = pulls_back
    description[KERNEL] = kernel
    description[THREADS] = threads
    description[COUNT] = count
    description[BESIDE] = beside
    return description
