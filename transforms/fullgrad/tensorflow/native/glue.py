"""What Numba compiles between TensorFlow and the kernels: fetching inputs, allocating outputs, sharing images out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numba import types

from transforms.fullgrad.tensorflow.native import kernels
from transforms.fullgrad.tensorflow.native.c_api import FLOAT
from transforms.fullgrad.tensorflow.native.calls import (
    address,
    allocate,
    allocate_output,
    call_at,
    copy,
    delete_status,
    delete_tensor,
    fail,
    floats_at,
    forward_or_allocate,
    free,
    get_code,
    get_input,
    get_long,
    join_thread,
    new_status,
    pointer,
    set_long,
    start_thread,
    tensor_data,
    tensor_dim,
)
from transforms.fullgrad.tensorflow.native.jobs import (
    BESIDE,
    BIASES,
    CHANNELS,
    COLUMNS,
    COUNT,
    DESCRIPTION,
    EVIDENCE,
    FIRST,
    IMAGES,
    JOB,
    KERNEL,
    NUMBERS_A_THREAD,
    OF_SCALES,
    OF_SETTINGS,
    PLACES,
    PULLS_BACK,
    SCALES,
    SETTINGS,
    SIZES,
    SLOT,
    SUMS,
    TENSORS,
    THREADS,
    TOTALS,
    Setting,
)
from transforms.fullgrad.tensorflow.native.kernels import Kernel, Unpack

_long = np.int64  # for constants, since Numba gives every literal a type of its own


@numba.njit
def _at(job, index):  # type: ignore[no-untyped-def]
    return pointer(job + 8 * index)


@numba.njit
def _begin(tensor, status):  # type: ignore[no-untyped-def]
    """The address of a tensor's data, whose handle is deleted; 0 if the status says that there is no tensor."""
    if get_code(status) != 0:
        return _long(0)
    begin = address(tensor_data(tensor))
    delete_tensor(tensor)
    return begin


@numba.njit
def _input(context, index, job, axes, status):  # type: ignore[no-untyped-def]
    """The address of an input's data, valid during the call. Writes the first `axes` of its sizes into the job."""
    get_input(context, index, _at(job, SLOT), status)
    tensor = pointer(get_long(job, SLOT))
    for axis in range(axes):
        set_long(job, SIZES + axis, tensor_dim(tensor, axis))
    return _begin(tensor, status)


@numba.njit
def _byte_count(job, axes):  # type: ignore[no-untyped-def]
    """The bytes of a float32 tensor that has the first `axes` of the job's sizes."""
    size = _long(4)
    for axis in range(axes):
        size *= get_long(job, SIZES + axis)
    return size


@numba.njit
def _output(context, index, job, axes, status):  # type: ignore[no-untyped-def]
    """The address of a new output with the first `axes` of the job's sizes; 0 if there is no memory."""
    size = _byte_count(job, axes)
    return _begin(allocate_output(context, index, FLOAT, _at(job, SIZES), axes, size, status), status)


@numba.njit
def _overwritten(context, index, job, axes, status):  # type: ignore[no-untyped-def]
    """The address of the first output, which begins as a copy of an input; 0 if there is no memory.

    It takes over the input's memory if nothing else needs that. The input must not have been fetched before: its handle
    would count as another need.
    """
    set_long(job, SLOT, index)  # two int32 to the API: the candidate's index, then the index of the chosen input
    candidate, chosen = _at(job, SLOT), pointer(job + 8 * SLOT + 4)
    begin = _begin(forward_or_allocate(context, candidate, 1, 0, _at(job, SIZES), axes, chosen, status), status)
    if begin != 0:
        size = _byte_count(job, axes)
        old = _input(context, index, job, _long(0), status)
        if old != begin:
            copy(pointer(begin), pointer(old), size)
    return begin


@numba.njit
def _prepare(job, description, context, status):  # type: ignore[no-untyped-def]
    """Fills in a job and allocates its outputs; returns whether there was memory for them."""
    pulls_back, count = get_long(description, PULLS_BACK), get_long(description, COUNT)
    set_long(job, SETTINGS, _input(context, _long(OF_SETTINGS), job, _long(0), status))
    set_long(job, SCALES, _input(context, _long(OF_SCALES), job, _long(1), status))
    set_long(job, BIASES, get_long(job, SIZES))
    set_long(job, COLUMNS, count)
    for i in range(pulls_back, get_long(description, TENSORS)):
        set_long(job, i, _input(context, FIRST + i, job, _long(4), status))
    if pulls_back:
        begin = _overwritten(context, _long(FIRST), job, _long(4), status)
        if begin == 0:
            return False
        set_long(job, _long(0), begin)
    set_long(job, IMAGES, get_long(job, SIZES))
    set_long(job, PLACES, get_long(job, SIZES + 1) * get_long(job, SIZES + 2))
    set_long(job, CHANNELS, get_long(job, SIZES + 3))
    set_long(job, SUMS, _output(context, pulls_back, job, _long(3), status))
    if get_long(job, SUMS) == 0:
        return False
    beside = get_long(description, BESIDE)
    set_long(job, EVIDENCE, get_long(job, SUMS))
    if beside:
        set_long(job, EVIDENCE, _output(context, pulls_back + 1, job, _long(3), status))
        if get_long(job, EVIDENCE) == 0:
            return False
    set_long(job, SIZES + 1, count)
    set_long(job, TOTALS, _output(context, pulls_back + beside + 1, job, _long(2), status))
    return get_long(job, TOTALS) != 0


@numba.njit
def _share(job, description):  # type: ignore[no-untyped-def]
    """Does a job in several threads; this thread does the first part."""
    images, kernel, threads = get_long(job, IMAGES), get_long(description, KERNEL), get_long(description, THREADS)
    worth = images * get_long(job, PLACES) * get_long(job, CHANNELS) // NUMBERS_A_THREAD
    threads = images if images < threads else threads
    threads = worth if worth < threads else threads
    if threads < 2:
        call_at(kernel, pointer(job))
        return
    parts = address(allocate(threads * (JOB + 1), 8))
    handles = parts + 8 * threads * JOB
    for i in range(threads):
        part, first, last = parts + 8 * i * JOB, images * i // threads, images * (i + 1) // threads
        before = 4 * first * get_long(job, PLACES)  # in bytes, of an array with one number at each position
        copy(pointer(part), pointer(job), 8 * JOB)
        for j in range(get_long(description, TENSORS)):
            set_long(part, j, get_long(job, j) + before * get_long(job, CHANNELS))
        set_long(part, SUMS, get_long(job, SUMS) + before)
        set_long(part, EVIDENCE, get_long(job, EVIDENCE) + before)
        set_long(part, TOTALS, get_long(job, TOTALS) + 4 * first * get_long(job, COLUMNS))
        set_long(part, IMAGES, last - first)
    for i in range(1, threads):
        part = pointer(parts + 8 * i * JOB)
        if start_thread(pointer(handles + 8 * i), pointer(0), pointer(kernel), part) != 0:
            set_long(handles, i, 0)  # no thread could be started
            call_at(kernel, part)
    call_at(kernel, pointer(parts))
    for i in range(1, threads):
        if get_long(handles, i) != 0:
            join_thread(get_long(handles, i), pointer(0))
    free(pointer(parts))


# ---- what TensorFlow calls


def condensing_function() -> Any:
    """Compiles void(kernel, context), which TensorFlow calls for every condensing operation."""

    @numba.cfunc(types.void(types.voidptr, types.voidptr), **kernels.OPTIONS)
    def compute(_, context):  # type: ignore[no-untyped-def]
        status, memory = new_status(), allocate(JOB, 8)
        job = address(memory)
        description = _input(context, _long(DESCRIPTION), job, _long(0), status)
        if _prepare(job, description, context, status):
            _share(job, description)
        else:
            fail(context, status)
        free(memory)
        delete_status(status)

    return compute


def interpolating_function() -> Any:
    """Compiles void(kernel, context), which TensorFlow calls to add an interpolated map."""
    add_interpolated = kernels.add_interpolated

    @numba.cfunc(types.void(types.voidptr, types.voidptr), **kernels.OPTIONS)
    def compute(_, context):  # type: ignore[no-untyped-def]
        status, memory = new_status(), allocate(JOB, 8)
        job = address(memory)
        columns = _input(context, _long(3), job, _long(1), status)
        new_width = get_long(job, SIZES)
        rows = _input(context, _long(2), job, _long(1), status)
        new_height = get_long(job, SIZES)
        old = _input(context, _long(1), job, _long(3), status)
        images, height, width = get_long(job, SIZES), get_long(job, SIZES + 1), get_long(job, SIZES + 2)
        set_long(job, SIZES + 1, new_height)
        set_long(job, SIZES + 2, new_width)
        made = _overwritten(context, _long(0), job, _long(3), status)
        if made != 0:
            add_interpolated(
                floats_at(old, (images, height, width)),
                floats_at(rows, (new_height, 3)),
                floats_at(columns, (new_width, 3)),
                floats_at(made, (images, new_height, new_width)),
            )
        else:
            fail(context, status)
        free(memory)
        delete_status(status)

    return compute


# ---- what kernels unpack a job into

_SETTINGS_LENGTH = len(Setting)


@numba.njit
def _other_arrays(job):  # type: ignore[no-untyped-def]
    """What a kernel takes besides its tensors."""
    images, channels = get_long(job, IMAGES), get_long(job, CHANNELS)
    scales = floats_at(get_long(job, SCALES), (get_long(job, BIASES), channels))
    settings = floats_at(get_long(job, SETTINGS), (_SETTINGS_LENGTH,))
    sums = floats_at(get_long(job, SUMS), (images, get_long(job, PLACES)))
    evidence = floats_at(get_long(job, EVIDENCE), (images, get_long(job, PLACES)))
    totals = floats_at(get_long(job, TOTALS), (images, get_long(job, COLUMNS)))
    return scales, settings, sums, evidence, totals


@numba.njit
def _tensor(job, index):  # type: ignore[no-untyped-def]
    return floats_at(get_long(job, index), (get_long(job, IMAGES), get_long(job, PLACES) * get_long(job, CHANNELS)))


@numba.njit
def _unpack_1(pointer):  # type: ignore[no-untyped-def]
    job = address(pointer)
    scales, settings, sums, evidence, totals = _other_arrays(job)
    return (_tensor(job, _long(0)),), scales, settings, sums, evidence, totals


@numba.njit
def _unpack_2(pointer):  # type: ignore[no-untyped-def]
    job = address(pointer)
    scales, settings, sums, evidence, totals = _other_arrays(job)
    return (_tensor(job, _long(0)), _tensor(job, _long(1))), scales, settings, sums, evidence, totals


@numba.njit
def _unpack_3(pointer):  # type: ignore[no-untyped-def]
    job = address(pointer)
    scales, settings, sums, evidence, totals = _other_arrays(job)
    tensors = _tensor(job, _long(0)), _tensor(job, _long(1)), _tensor(job, _long(2))
    return tensors, scales, settings, sums, evidence, totals


@numba.njit
def _unpack_4(pointer):  # type: ignore[no-untyped-def]
    job = address(pointer)
    scales, settings, sums, evidence, totals = _other_arrays(job)
    tensors = _tensor(job, _long(0)), _tensor(job, _long(1)), _tensor(job, _long(2)), _tensor(job, _long(3))
    return tensors, scales, settings, sums, evidence, totals


_UNPACK = {1: _unpack_1, 2: _unpack_2, 3: _unpack_3, 4: _unpack_4}


def compiled_kernel(kernel: Callable[[bool, Unpack], Kernel], tensors: int, signed: bool) -> Any:
    """Compiles void(job) for a kernel that takes a number of tensors."""
    function = kernel(signed, _UNPACK[tensors])
    return numba.cfunc(types.void(types.voidptr), **kernels.OPTIONS)(function)
