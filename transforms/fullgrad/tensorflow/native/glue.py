"""What Numba compiles between TensorFlow and the kernels: fetching inputs, allocating outputs, sharing images out."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import carray, types
from numba.extending import intrinsic

from transforms.fullgrad.tensorflow.native import kernels
from transforms.fullgrad.tensorflow.native.c_api import (
    FLOAT,
    allocate,
    allocate_output,
    copy,
    delete_status,
    delete_tensor,
    fail,
    forward_or_allocate,
    free,
    get_code,
    get_input,
    join_thread,
    new_status,
    start_thread,
    tensor_data,
    tensor_dim,
)
from transforms.fullgrad.tensorflow.native.kernels import Kernel, Setting, Unpack

_compiled: list[Any] = []  # keeps alive what TensorFlow calls


# ---- addresses and the memory behind them


def _cast(source: Any, target: Any, instruction: str) -> Any:
    """A function for compiled code that converts from one type to another by an instruction of LLVM's."""

    @intrinsic
    def cast(typing: Any, value: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return getattr(builder, instruction)(arguments[0], context.get_value_type(target))

        return target(source), codegen

    return cast


@intrinsic
def _get(typing: Any, address: Any, index: Any) -> Any:
    """Reads the int64 at an index from an address on."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        longs = builder.inttoptr(arguments[0], context.get_value_type(types.CPointer(types.int64)))
        return builder.load(builder.gep(longs, [arguments[1]]))

    return types.int64(types.int64, types.int64), codegen


@intrinsic
def _set(typing: Any, address: Any, index: Any, value: Any) -> Any:
    """Writes the int64 at an index from an address on."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        longs = builder.inttoptr(arguments[0], context.get_value_type(types.CPointer(types.int64)))
        builder.store(arguments[2], builder.gep(longs, [arguments[1]]))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), codegen


_pointer = _cast(types.int64, types.voidptr, "inttoptr")
_address = _cast(types.voidptr, types.int64, "ptrtoint")
_floats = _cast(types.int64, types.CPointer(types.float32), "inttoptr")


@intrinsic
def _call_at(typing: Any, address: Any, argument: Any) -> Any:
    """Calls the C function void(void *) at an address. A function of Numba's would be compiled here again."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        of_c = ir.FunctionType(ir.VoidType(), [context.get_value_type(types.voidptr)])
        builder.call(builder.inttoptr(arguments[0], of_c.as_pointer()), [arguments[1]])
        return context.get_dummy_value()

    return types.void(types.int64, types.voidptr), codegen


# ---- a job: what a kernel works on, as int64 in memory of C's

# Every process compiles all of this before its first images. Numba spends most of that time on the types that it meets,
# so there are no arrays outside the kernels: a job is plain memory, with the numbers below at these indices.

# The description of an operation, which is its first input and is known when the graph is made.
_TENSORS = 0  # how many tensors it takes
_PULLS_BACK = 1  # whether it leaves a pulled-back gradient in place of the first
_KERNEL = 2  # the kernel's address
_THREADS = 3  # how many threads share the images
_COUNT = 4  # T, how many contributions there are
_BESIDE = 5  # whether the evidence has an output of its own beside the sums

# A job begins with the addresses of up to four tensors. The addresses of the other arrays follow, then their sizes, a
# slot for a handle, and four sizes as the C API takes and gives them.
_SCALES, _SETTINGS, _SUMS, _EVIDENCE, _TOTALS, _IMAGES, _PLACES, _CHANNELS, _BIASES, _COLUMNS, _SLOT, _SIZES = range(
    4, 16
)
_JOB = _SIZES + 4  # its length

# The first inputs of every condensing operation; the tensors follow.
_DESCRIPTION, _OF_SCALES, _OF_SETTINGS, _FIRST = range(4)

_NUMBERS_A_THREAD = 1 << 17  # starting a thread takes 20 us, in which a thread reads this many numbers
_long = np.int64  # for constants, since Numba gives every literal a type of its own


def describe(*, tensors: int, pulls_back: bool, kernel: int, threads: int, count: int, beside: bool) -> np.ndarray:
    """The description of an operation, int64 [6]."""
    description = np.zeros(6, np.int64)
    description[_TENSORS] = tensors
    description[_PULLS_BACK] = pulls_back
    description[_KERNEL] = kernel
    description[_THREADS] = threads
    description[_COUNT] = count
    description[_BESIDE] = beside
    return description


@numba.njit
def _at(job, index):  # type: ignore[no-untyped-def]
    return _pointer(job + 8 * index)


@numba.njit
def _begin(tensor, status):  # type: ignore[no-untyped-def]
    """The address of a tensor's data, whose handle is deleted; 0 if the status says that there is no tensor."""
    if get_code(status) != 0:
        return _long(0)
    begin = _address(tensor_data(tensor))
    delete_tensor(tensor)
    return begin


@numba.njit
def _input(context, index, job, axes, status):  # type: ignore[no-untyped-def]
    """The address of an input's data, valid during the call. Writes the first `axes` of its sizes into the job."""
    get_input(context, index, _at(job, _SLOT), status)
    tensor = _pointer(_get(job, _SLOT))
    for axis in range(axes):
        _set(job, _SIZES + axis, tensor_dim(tensor, axis))
    return _begin(tensor, status)


@numba.njit
def _byte_count(job, axes):  # type: ignore[no-untyped-def]
    """The bytes of a float32 tensor that has the first `axes` of the job's sizes."""
    size = _long(4)
    for axis in range(axes):
        size *= _get(job, _SIZES + axis)
    return size


@numba.njit
def _output(context, index, job, axes, status):  # type: ignore[no-untyped-def]
    """The address of a new output with the first `axes` of the job's sizes; 0 if there is no memory."""
    size = _byte_count(job, axes)
    return _begin(allocate_output(context, index, FLOAT, _at(job, _SIZES), axes, size, status), status)


@numba.njit
def _overwritten(context, index, job, axes, status):  # type: ignore[no-untyped-def]
    """The address of the first output, which begins as a copy of an input; 0 if there is no memory.

    It takes over the input's memory if nothing else needs that. The input must not have been fetched before: its handle
    would count as another need.
    """
    _set(job, _SLOT, index)  # two int32 to the API: the candidate's index, then the index of the chosen input
    candidate, chosen = _at(job, _SLOT), _pointer(job + 8 * _SLOT + 4)
    begin = _begin(forward_or_allocate(context, candidate, 1, 0, _at(job, _SIZES), axes, chosen, status), status)
    if begin != 0:
        size = _byte_count(job, axes)
        old = _input(context, index, job, _long(0), status)
        if old != begin:
            copy(_pointer(begin), _pointer(old), size)
    return begin


@numba.njit
def _prepare(job, description, context, status):  # type: ignore[no-untyped-def]
    """Fills in a job and allocates its outputs; returns whether there was memory for them."""
    pulls_back, count = _get(description, _PULLS_BACK), _get(description, _COUNT)
    _set(job, _SETTINGS, _input(context, _long(_OF_SETTINGS), job, _long(0), status))
    _set(job, _SCALES, _input(context, _long(_OF_SCALES), job, _long(1), status))
    _set(job, _BIASES, _get(job, _SIZES))
    _set(job, _COLUMNS, count)
    for i in range(pulls_back, _get(description, _TENSORS)):
        _set(job, i, _input(context, _FIRST + i, job, _long(4), status))
    if pulls_back:
        begin = _overwritten(context, _long(_FIRST), job, _long(4), status)
        if begin == 0:
            return False
        _set(job, _long(0), begin)
    _set(job, _IMAGES, _get(job, _SIZES))
    _set(job, _PLACES, _get(job, _SIZES + 1) * _get(job, _SIZES + 2))
    _set(job, _CHANNELS, _get(job, _SIZES + 3))
    _set(job, _SUMS, _output(context, pulls_back, job, _long(3), status))
    if _get(job, _SUMS) == 0:
        return False
    beside = _get(description, _BESIDE)
    _set(job, _EVIDENCE, _get(job, _SUMS))
    if beside:
        _set(job, _EVIDENCE, _output(context, pulls_back + 1, job, _long(3), status))
        if _get(job, _EVIDENCE) == 0:
            return False
    _set(job, _SIZES + 1, count)
    _set(job, _TOTALS, _output(context, pulls_back + beside + 1, job, _long(2), status))
    return _get(job, _TOTALS) != 0


@numba.njit
def _share(job, description):  # type: ignore[no-untyped-def]
    """Does a job in several threads; this thread does the first part."""
    images, kernel, threads = _get(job, _IMAGES), _get(description, _KERNEL), _get(description, _THREADS)
    worth = images * _get(job, _PLACES) * _get(job, _CHANNELS) // _NUMBERS_A_THREAD
    threads = images if images < threads else threads
    threads = worth if worth < threads else threads
    if threads < 2:
        _call_at(kernel, _pointer(job))
        return
    parts = _address(allocate(threads * (_JOB + 1), 8))
    handles = parts + 8 * threads * _JOB
    for i in range(threads):
        part, first, last = parts + 8 * i * _JOB, images * i // threads, images * (i + 1) // threads
        before = 4 * first * _get(job, _PLACES)  # in bytes, of an array with one number at each position
        copy(_pointer(part), _pointer(job), 8 * _JOB)
        for j in range(_get(description, _TENSORS)):
            _set(part, j, _get(job, j) + before * _get(job, _CHANNELS))
        _set(part, _SUMS, _get(job, _SUMS) + before)
        _set(part, _EVIDENCE, _get(job, _EVIDENCE) + before)
        _set(part, _TOTALS, _get(job, _TOTALS) + 4 * first * _get(job, _COLUMNS))
        _set(part, _IMAGES, last - first)
    for i in range(1, threads):
        part = _pointer(parts + 8 * i * _JOB)
        if start_thread(_pointer(handles + 8 * i), _pointer(0), _pointer(kernel), part) != 0:
            _set(handles, i, 0)  # no thread could be started
            _call_at(kernel, part)
    _call_at(kernel, _pointer(parts))
    for i in range(1, threads):
        if _get(handles, i) != 0:
            join_thread(_get(handles, i), _pointer(0))
    free(_pointer(parts))


# ---- what TensorFlow calls


@functools.cache
def condensing_function() -> int:
    """The address of void(kernel, context), which TensorFlow calls for every condensing operation."""

    @numba.cfunc(types.void(types.voidptr, types.voidptr))
    def compute(_, context):  # type: ignore[no-untyped-def]
        status, memory = new_status(), allocate(_JOB, 8)
        job = _address(memory)
        description = _input(context, _long(_DESCRIPTION), job, _long(0), status)
        if _prepare(job, description, context, status):
            _share(job, description)
        else:
            fail(context, status)
        free(memory)
        delete_status(status)

    _compiled.append(compute)
    return int(compute.address)


@functools.cache
def interpolating_function() -> int:
    """The address of void(kernel, context), which TensorFlow calls to add an interpolated map."""
    add_interpolated = kernels.add_interpolated

    @numba.cfunc(types.void(types.voidptr, types.voidptr), **kernels.OPTIONS)
    def compute(_, context):  # type: ignore[no-untyped-def]
        status, memory = new_status(), allocate(_JOB, 8)
        job = _address(memory)
        columns = _input(context, _long(3), job, _long(1), status)
        new_width = _get(job, _SIZES)
        rows = _input(context, _long(2), job, _long(1), status)
        new_height = _get(job, _SIZES)
        old = _input(context, _long(1), job, _long(3), status)
        images, height, width = _get(job, _SIZES), _get(job, _SIZES + 1), _get(job, _SIZES + 2)
        _set(job, _SIZES + 1, new_height)
        _set(job, _SIZES + 2, new_width)
        made = _overwritten(context, _long(0), job, _long(3), status)
        if made != 0:
            add_interpolated(
                carray(_floats(old), (images, height, width)),
                carray(_floats(rows), (new_height, 3)),
                carray(_floats(columns), (new_width, 3)),
                carray(_floats(made), (images, new_height, new_width)),
            )
        else:
            fail(context, status)
        free(memory)
        delete_status(status)

    _compiled.append(compute)
    return int(compute.address)


# ---- what kernels unpack a job into

_SETTINGS_LENGTH = len(Setting)


@numba.njit
def _other_arrays(job):  # type: ignore[no-untyped-def]
    """What a kernel takes besides its tensors."""
    images, channels = _get(job, _IMAGES), _get(job, _CHANNELS)
    scales = carray(_floats(_get(job, _SCALES)), (_get(job, _BIASES), channels))
    settings = carray(_floats(_get(job, _SETTINGS)), (_SETTINGS_LENGTH,))
    sums = carray(_floats(_get(job, _SUMS)), (images, _get(job, _PLACES)))
    evidence = carray(_floats(_get(job, _EVIDENCE)), (images, _get(job, _PLACES)))
    totals = carray(_floats(_get(job, _TOTALS)), (images, _get(job, _COLUMNS)))
    return scales, settings, sums, evidence, totals


@numba.njit
def _tensor(job, index):  # type: ignore[no-untyped-def]
    return carray(_floats(_get(job, index)), (_get(job, _IMAGES), _get(job, _PLACES) * _get(job, _CHANNELS)))


@numba.njit
def _unpack_1(pointer):  # type: ignore[no-untyped-def]
    job = _address(pointer)
    scales, settings, sums, evidence, totals = _other_arrays(job)
    return (_tensor(job, _long(0)),), scales, settings, sums, evidence, totals


@numba.njit
def _unpack_2(pointer):  # type: ignore[no-untyped-def]
    job = _address(pointer)
    scales, settings, sums, evidence, totals = _other_arrays(job)
    return (_tensor(job, _long(0)), _tensor(job, _long(1))), scales, settings, sums, evidence, totals


@numba.njit
def _unpack_3(pointer):  # type: ignore[no-untyped-def]
    job = _address(pointer)
    scales, settings, sums, evidence, totals = _other_arrays(job)
    tensors = _tensor(job, _long(0)), _tensor(job, _long(1)), _tensor(job, _long(2))
    return tensors, scales, settings, sums, evidence, totals


@numba.njit
def _unpack_4(pointer):  # type: ignore[no-untyped-def]
    job = _address(pointer)
    scales, settings, sums, evidence, totals = _other_arrays(job)
    tensors = _tensor(job, _long(0)), _tensor(job, _long(1)), _tensor(job, _long(2)), _tensor(job, _long(3))
    return tensors, scales, settings, sums, evidence, totals


_UNPACK = {1: _unpack_1, 2: _unpack_2, 3: _unpack_3, 4: _unpack_4}


def compiled_kernel(kernel: Callable[[bool, Unpack], Kernel], tensors: int, signed: bool) -> int:
    """Compiles a kernel that takes a number of tensors, and returns the address of void(job)."""
    function = kernel(signed, _UNPACK[tensors])
    compiled = numba.cfunc(types.void(types.voidptr), **kernels.OPTIONS)(function)
    _compiled.append(compiled)
    return int(compiled.address)
