"""`kernels` as operations of TensorFlow, so that its graphs call them where a gradient is made.

They are registered by TensorFlow's C API for kernels (tensorflow/c/kernels.h and ops.h): what Numba compiled is called
as C++ would be, without Python or its lock. A call costs 2 us, where one into Python costs 100. Nothing is linked: the
API is looked up in the library that TensorFlow has loaded, and where it is not there, `available` says so.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import functools
import threading
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numba
import numpy as np
import tensorflow as tf
from llvmlite import ir
from numba import carray, types
from numba.extending import intrinsic

from transforms.fullgrad import kernels
from transforms.fullgrad.kernels import Kernel, Setting
from transforms.fullgrad.located import Condensed, Located

Tensor = Any


@dataclasses.dataclass(frozen=True, slots=True)
class Reading:
    """What is asked of contributions.

    Attributes:
      signed: whether maps are sums of the contributions themselves, or else of their normalised magnitudes.
      epsilon: what is added to the difference of the extremes of magnitudes.
      implicit: whether activations' own contributions count.
      threads: how many threads share an operation's images out; None for as many as there are cores.
    """

    signed: bool
    epsilon: float
    implicit: bool = True
    threads: int | None = 1


def condense(located: Located, reading: Reading) -> Condensed:
    """Adds to a graph on CPUs what reads contributions, of which `located` is made of float32 tensors, once."""
    product, less, factor = located.product, located.less, located.factor
    # (|k·t| − |k|·low) / (|k|·high − |k|·low + ε) is the same of t with ε/|k|.
    reading = dataclasses.replace(reading, epsilon=reading.epsilon / abs(factor))
    reaching = -np.inf if product.reaching is None else product.reaching
    scales = tf.ones((1, product.gradient.shape[3])) if located.scales is None else located.scales
    if less is not None:
        tensors = [product.gradient, product.multiplier, less.gradient, less.multiplier]
        condensed = _read("Difference", tensors, scales, reading, reaching)
    elif product.multiplier is not None:
        condensed = _read("Product", [product.gradient, product.multiplier], scales, reading, reaching)
    else:
        condensed = _read("Scaled", [product.gradient], scales, reading, reaching)
    if factor == 1.0:
        return condensed
    return Condensed(condensed.map * factor if reading.signed else condensed.map, condensed.totals * factor)


def pass_back(
    activation: Literal["relu6", "silu"], g: Tensor, y: Tensor, z: Tensor, scales: Tensor, reading: Reading
) -> tuple[Tensor, Condensed]:
    """Adds to a graph on CPUs the step back through y = σ(z), which also reads what lies around it.

    Args:
      g, y, z: float32 [N, h, w, C]: the gradient at y, y, and what it was made of.
      scales: float32 [T, C], the biases that z has; at least one.

    Returns:
      g_z = g ⊙ σ′(z), in the memory of g where nothing else needs that, and what is left of g_z ⊙ scales[t], and then,
      where `reading.implicit`, of the activation's own g ⊙ y − g_z ⊙ z.
    """
    tensors, name = ([g, y], "Relu6") if activation == "relu6" else ([g, y, z], "Silu")
    return _call(name, tensors, scales, reading, -np.inf, own=reading.implicit)


def add_resized(total: Tensor, old: Tensor, rows: np.ndarray, columns: np.ndarray) -> Tensor:
    """Adds to a graph on CPUs  total + R_rows · old · R_columnsᵀ,  in the memory of the total where nothing needs that.

    Args:
      total: float32 [N, H, W].
      old: float32 [N, h, w].
      rows, columns: the matrices, by `two_taps`.
    """
    inputs = [tf.convert_to_tensor(each) for each in (total, old, rows, columns)]
    graph = tf.compat.v1.get_default_graph()
    (made,) = graph.create_op(_registered_resized(), inputs, [tf.float32]).outputs
    made.set_shape(inputs[0].shape)
    return made


def two_taps(matrix: np.ndarray) -> np.ndarray | None:
    """A matrix [new, old] of which each row has at most two numbers, side by side; None of any other.

    Returns:
      float32 [new, 3]: where the first of a row's two columns is, and the numbers in them.
    """
    first = np.clip((matrix != 0).argmax(axis=1), 0, max(matrix.shape[1] - 2, 0))
    rows = np.arange(len(matrix))
    second = np.minimum(first + 1, matrix.shape[1] - 1)
    taps = np.stack([matrix[rows, first], np.where(second > first, matrix[rows, second], 0)], axis=1)
    if np.count_nonzero(taps) != np.count_nonzero(matrix):
        return None
    return np.concatenate([first[:, None], taps], axis=1).astype(np.float32)


def _read(name: str, tensors: list[Tensor], scales: Tensor, reading: Reading, reaching: float) -> Condensed:
    _, condensed = _call(name, tensors, scales, reading, reaching, own=False)
    return condensed


def _call(
    name: str, tensors: list[Tensor], scales: Tensor, reading: Reading, reaching: float, *, own: bool
) -> tuple[Tensor, Condensed]:
    operation, registered = _OPERATIONS[name], _registered(name, reading.signed)
    settings = np.zeros(len(Setting), np.float32)
    settings[Setting.EPSILON] = reading.epsilon
    settings[Setting.REACHING] = reaching
    settings[Setting.OWN] = own
    threads = numba.config.NUMBA_NUM_THREADS if reading.threads is None else reading.threads
    inputs = [tf.convert_to_tensor(each) for each in (*tensors, scales, settings, float(threads))]
    made = len(operation.outputs)
    outputs = tf.compat.v1.get_default_graph().create_op(registered, inputs, [tf.float32] * made).outputs
    shape = inputs[0].shape
    *passed, sums, totals = outputs
    sums.set_shape(shape[:3])
    totals.set_shape((shape[0], scales.shape[0] + own))
    if passed:
        passed[0].set_shape(shape)
    return passed[0] if passed else None, Condensed(sums, totals)


# ---- TensorFlow's C API, as this module and what it compiles call it

_POINTER, _INT, _LONG, _TEXT = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64, ctypes.c_char_p


def _library() -> ctypes.CDLL | None:
    for name in ("libtensorflow_cc.so.2", "libtensorflow_cc.2.dylib"):
        with contextlib.suppress(OSError):
            return ctypes.CDLL(f"{tf.sysconfig.get_lib()}/{name}")
    return None


def _function(library: ctypes.CDLL | None, name: str, result: Any, *arguments: Any) -> Any:
    """A function of a library; None where it has none of that name."""
    if (function := getattr(library, name, None)) is None:
        _missing.append(name)
    else:
        function.restype, function.argtypes = result, arguments
    return function


_missing: list[str] = []
_tensorflow, _process = _library(), ctypes.CDLL(None)
_new_status = _function(_tensorflow, "TF_NewStatus", _POINTER)
_get_code = _function(_tensorflow, "TF_GetCode", _INT, _POINTER)
_message = _function(_tensorflow, "TF_Message", _TEXT, _POINTER)
_delete_status = _function(_tensorflow, "TF_DeleteStatus", None, _POINTER)
_new_definition = _function(_tensorflow, "TF_NewOpDefinitionBuilder", _POINTER, _TEXT)
_add_input = _function(_tensorflow, "TF_OpDefinitionBuilderAddInput", None, _POINTER, _TEXT)
_add_output = _function(_tensorflow, "TF_OpDefinitionBuilderAddOutput", None, _POINTER, _TEXT)
_set_shapes = _function(_tensorflow, "TF_OpDefinitionBuilderSetShapeInferenceFunction", None, _POINTER, _POINTER)
_unknown_shapes = _function(_tensorflow, "TF_ShapeInferenceContextSetUnknownShape", None, _POINTER, _POINTER)
_register_definition = _function(_tensorflow, "TF_RegisterOpDefinition", None, _POINTER, _POINTER)
_new_kernel = _function(_tensorflow, "TF_NewKernelBuilder", _POINTER, _TEXT, _TEXT, _POINTER, _POINTER, _POINTER)
_register_kernel = _function(_tensorflow, "TF_RegisterKernelBuilder", None, _TEXT, _POINTER, _POINTER)
_get_input = _function(_tensorflow, "TF_GetInput", None, _POINTER, _INT, _POINTER, _POINTER)
_allocate_output = _function(
    _tensorflow, "TF_AllocateOutput", _POINTER, _POINTER, _INT, _INT, _POINTER, _INT, ctypes.c_size_t, _POINTER
)
_forward_or_allocate = _function(
    _tensorflow,
    "TF_ForwardInputOrAllocateOutput",
    *(_POINTER, _POINTER, _POINTER, _INT, _INT, _POINTER, _INT, _POINTER, _POINTER),
)
_fail = _function(_tensorflow, "TF_OpKernelContext_Failure", None, _POINTER, _POINTER)
_tensor_data = _function(_tensorflow, "TF_TensorData", _POINTER, _POINTER)
_tensor_dim = _function(_tensorflow, "TF_Dim", _LONG, _POINTER, _INT)
_delete_tensor = _function(_tensorflow, "TF_DeleteTensor", None, _POINTER)
_start_thread = _function(_process, "pthread_create", _INT, _POINTER, _POINTER, _POINTER, _POINTER)
_join_thread = _function(_process, "pthread_join", _INT, _LONG, _POINTER)
_copy = _function(_process, "memcpy", _POINTER, _POINTER, _POINTER, ctypes.c_size_t)

_FLOAT = 1  # TF_FLOAT


def available() -> bool:
    """Whether this TensorFlow takes operations so."""
    return not _missing


_registering = threading.RLock()


def _once(register: Callable[..., str]) -> Callable[..., str]:
    """`register`, called once for the same arguments, however many threads ask for it."""
    cached = functools.cache(register)

    def once(*arguments: Any) -> str:
        with _registering:
            return cached(*arguments)

    return once


@_once
def _registered(name: str, signed: bool) -> str:
    """The name in graphs of an operation that reads; it is compiled and registered once in a process."""
    operation, registered = _OPERATIONS[name], f"FullGrad{name}{'Signed' if signed else ''}"
    inputs = (*operation.inputs, "scales", "settings", "threads")
    _register(registered, inputs, operation.outputs, operation.described(signed).address, _compute().address)
    return registered


@_once
def _registered_resized() -> str:
    _register("FullGradResized", ("total", "old", "rows", "columns"), ("new",), None, _compute_resized().address)
    return "FullGradResized"


def _register(name: str, inputs: Sequence[str], outputs: Sequence[str], describe: int | None, compute: int) -> None:
    """Registers an operation on float32 for CPUs, by the addresses of its functions."""
    encoded, status = name.encode(), _new_status()
    definition = _new_definition(encoded)
    for each in inputs:
        _add_input(definition, f"{each}: float".encode())
    for each in outputs:
        _add_output(definition, f"{each}: float".encode())
    _set_shapes(definition, ctypes.cast(_unknown_shapes, _POINTER))
    _register_definition(definition, status)
    if not _get_code(status):
        _register_kernel(encoded, _new_kernel(encoded, b"CPU", describe, compute, None), status)
    if _get_code(status):
        raise RuntimeError(f"TensorFlow does not take the operation {name}: {_message(status).decode()}")
    _delete_status(status)


# ---- what Numba compiles


def _cast(source: Any, target: Any, instruction: str) -> Any:
    """A function for compiled code that takes a value of one type for one of another, by an instruction of LLVM's."""

    @intrinsic
    def cast(typing: Any, value: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return getattr(builder, instruction)(arguments[0], context.get_value_type(target))

        return target(source), codegen

    return cast


def _load(kind: Any) -> Any:
    """A function for compiled code that reads a number of some type at an address."""

    @intrinsic
    def load(typing: Any, address: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.load(builder.inttoptr(arguments[0], context.get_value_type(types.CPointer(kind))))

        return kind(types.int64), codegen

    return load


_pointer = _cast(types.int64, types.voidptr, "inttoptr")
_address = _cast(types.voidptr, types.int64, "ptrtoint")
_floats = _cast(types.int64, types.CPointer(types.float32), "inttoptr")
_long_at, _float_at = _load(types.int64), _load(types.float32)


@intrinsic
def _call_at(typing: Any, address: Any, argument: Any) -> Any:
    """Calls the C function void(void *) at an address; unlike a function of Numba's, it is not compiled here again."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        of_c = ir.FunctionType(ir.VoidType(), [context.get_value_type(types.voidptr)])
        builder.call(builder.inttoptr(arguments[0], of_c.as_pointer()), [arguments[1]])
        return context.get_dummy_value()

    return types.void(types.int64, types.voidptr), codegen


# To compile is to start later, and what Numba takes longest for is each type that it meets. So whatever is not a
# kernel is int64 here, in numbers and in one array, a job. Of a call, or of some of its images, it holds where up to
# four tensors begin; then this; and then sizes, as the C API takes them.
_SCALES, _SETTINGS, _SUMS, _TOTALS, _IMAGES, _PLACES, _CHANNELS, _BIASES, _COLUMNS, _SIZES = range(4, 14)
_JOB = _SIZES + 4
_LONG_BYTES, _FLOAT_BYTES = 8, 4
# What an operation is: how many tensors it takes, whether it passes the first one on, and where its kernel is.
_TENSORS, _PASSES_BACK, _KERNEL = range(3)
_long = np.int64  # a constant that is not a type of its own, as Numba takes literals to be
_NUMBERS_A_THREAD = 1 << 17  # to begin one takes 20 us, in which one reads as many


@numba.njit
def _begin(tensor, status):  # type: ignore[no-untyped-def]
    """Where a tensor begins, of which this handle is no longer needed; 0 where there is none, which the status says."""
    if _get_code(status) != 0:
        return np.int64(0)
    begin = _address(_tensor_data(tensor))
    _delete_tensor(tensor)
    return begin


@numba.njit
def _input(context, index, job, axes, status):  # type: ignore[no-untyped-def]
    """Where an input begins, for as long as the call lasts; its first sizes are written into the job."""
    slot = job.ctypes.data + _SUMS * _LONG_BYTES  # not yet needed for what it is named for
    _get_input(context, index, slot, status)
    tensor = _pointer(job[_SUMS])
    for axis in range(axes):
        job[_SIZES + axis] = _tensor_dim(tensor, axis)
    return _begin(tensor, status)


@numba.njit
def _output(context, index, job, axes, status):  # type: ignore[no-untyped-def]
    """Where an output begins, which has the first of the job's sizes; 0 where there is no memory."""
    size = np.int64(_FLOAT_BYTES)
    for axis in range(axes):
        size *= job[_SIZES + axis]
    sizes = job.ctypes.data + _SIZES * _LONG_BYTES
    return _begin(_allocate_output(context, index, _FLOAT, sizes, axes, size, status), status)


@numba.njit
def _passed(context, job, axes, status):  # type: ignore[no-untyped-def]
    """Where the first output begins: where the first input does, if nothing else needs that. It holds the same."""
    job[_SUMS], job[_TOTALS] = 0, 0  # the candidate is input 0; and which of the candidates it was
    sizes, candidate = job.ctypes.data + _SIZES * _LONG_BYTES, job.ctypes.data + _SUMS * _LONG_BYTES
    made = _forward_or_allocate(context, candidate, 1, 0, sizes, axes, candidate + _LONG_BYTES, status)
    begin = _begin(made, status)
    if begin != 0:
        size = np.int64(_FLOAT_BYTES)
        for axis in range(axes):
            size *= job[_SIZES + axis]
        old = _input(context, _long(0), job, _long(0), status)
        if old != begin:
            _copy(_pointer(begin), _pointer(old), size)
    return begin


@numba.njit
def _prepare(job, operation, context, status):  # type: ignore[no-untyped-def]
    """Fills in a job; how many threads are to do it, or 0 where there is no memory for what it makes."""
    count, passes_back = _long_at(operation + _TENSORS * _LONG_BYTES), _long_at(operation + _PASSES_BACK * _LONG_BYTES)
    job[_SETTINGS] = _input(context, count + 1, job, _long(0), status)
    job[_SCALES] = _input(context, count, job, _long(1), status)
    job[_BIASES] = job[_SIZES]
    job[_COLUMNS] = job[_BIASES] + np.int64(_float_at(job[_SETTINGS] + _OWN * _FLOAT_BYTES))
    threads = np.int64(_float_at(_input(context, count + 2, job, _long(0), status)))
    for i in range(passes_back, count):
        job[i] = _input(context, i, job, _long(4), status)
    if passes_back:  # not taken as an input before, as it would be needed elsewhere then
        job[0] = _passed(context, job, _long(4), status)
        if job[0] == 0:
            return 0
    job[_IMAGES], job[_PLACES], job[_CHANNELS] = job[_SIZES], job[_SIZES + 1] * job[_SIZES + 2], job[_SIZES + 3]
    job[_SUMS] = _output(context, passes_back, job, _long(3), status)
    if job[_SUMS] == 0:
        return 0
    job[_SIZES + 1] = job[_COLUMNS]
    job[_TOTALS] = _output(context, passes_back + 1, job, _long(2), status)
    return threads if job[_TOTALS] != 0 else 0


@numba.njit
def _share(job, operation, threads):  # type: ignore[no-untyped-def]
    """Does a job by several threads, of which this one is the first."""
    images, kernel = job[_IMAGES], _long_at(operation + _KERNEL * _LONG_BYTES)
    worth = images * job[_PLACES] * job[_CHANNELS] // _NUMBERS_A_THREAD
    threads = images if images < threads else threads
    threads = worth if worth < threads else threads
    if threads < 2:
        _call_at(kernel, _pointer(job.ctypes.data))
        return
    parts, handles = np.zeros(threads * _JOB, np.int64), np.zeros(threads, np.int64)
    for i in range(threads):
        first, last = images * i // threads, images * (i + 1) // threads
        before = _FLOAT_BYTES * first * job[_PLACES]  # bytes, of what has one number a place
        for j in range(_JOB):
            parts[i * _JOB + j] = job[j]
        for j in range(_long_at(operation + _TENSORS * _LONG_BYTES)):
            parts[i * _JOB + j] += before * job[_CHANNELS]
        parts[i * _JOB + _SUMS] += before
        parts[i * _JOB + _TOTALS] += _FLOAT_BYTES * first * job[_COLUMNS]
        parts[i * _JOB + _IMAGES] = last - first
    begin = parts.ctypes.data
    for i in range(1, threads):
        part = begin + i * _JOB * _LONG_BYTES
        if _start_thread(handles.ctypes.data + i * _LONG_BYTES, _pointer(0), _pointer(kernel), part) != 0:
            handles[i] = 0  # there is none to be had
            _call_at(kernel, _pointer(part))
    _call_at(kernel, _pointer(begin))
    for i in range(1, threads):
        if handles[i] != 0:
            _join_thread(handles[i], _pointer(0))


@functools.cache
def _compute() -> Any:
    """What TensorFlow calls of every operation that reads, void(operation, context)."""

    @numba.cfunc(types.void(types.voidptr, types.voidptr))
    def compute(described, context):  # type: ignore[no-untyped-def]
        operation, status, job = _address(described), _new_status(), np.zeros(_long(_JOB), np.int64)
        threads = _prepare(job, operation, context, status)
        if threads > 0:
            _share(job, operation, threads)
        else:
            _fail(context, status)
        _delete_status(status)

    _kept.append(compute)
    return compute


@functools.cache
def _compute_resized() -> Any:
    """The same of the one that resizes."""
    resized = kernels.resized

    @numba.cfunc(types.void(types.voidptr, types.voidptr), **kernels.OPTIONS)
    def compute(_, context):  # type: ignore[no-untyped-def]
        status, job = _new_status(), np.zeros(_long(_JOB), np.int64)
        columns = _input(context, _long(3), job, _long(1), status)
        new_width = job[_SIZES]
        rows = _input(context, _long(2), job, _long(1), status)
        new_height = job[_SIZES]
        old = _input(context, _long(1), job, _long(3), status)
        images, height, width = job[_SIZES], job[_SIZES + 1], job[_SIZES + 2]
        job[_SIZES + 1], job[_SIZES + 2] = new_height, new_width
        made = _passed(context, job, _long(3), status)
        if made != 0:
            resized(
                carray(_floats(old), (images, height, width)),
                carray(_floats(rows), (new_height, 3)),
                carray(_floats(columns), (new_width, 3)),
                carray(_floats(made), (images, new_height, new_width)),
            )
        else:
            _fail(context, status)
        _delete_status(status)

    _kept.append(compute)
    return compute


_SETTINGS_LENGTH, _OWN = len(Setting), int(Setting.OWN)


@numba.njit
def _rest(job):  # type: ignore[no-untyped-def]
    """What a kernel takes beside its tensors, of the job at an address."""
    images, places, biases = (
        _long_at(job + _IMAGES * _LONG_BYTES),
        _long_at(job + _PLACES * _LONG_BYTES),
        _long_at(job + _BIASES * _LONG_BYTES),
    )
    channels, columns = _long_at(job + _CHANNELS * _LONG_BYTES), _long_at(job + _COLUMNS * _LONG_BYTES)
    return (
        carray(_floats(_long_at(job + _SCALES * _LONG_BYTES)), (biases, channels)),
        carray(_floats(_long_at(job + _SETTINGS * _LONG_BYTES)), (_SETTINGS_LENGTH,)),
        carray(_floats(_long_at(job + _SUMS * _LONG_BYTES)), (images, places)),
        carray(_floats(_long_at(job + _TOTALS * _LONG_BYTES)), (images, columns)),
    )


@numba.njit
def _tensor(job, index):  # type: ignore[no-untyped-def]
    images, places = _long_at(job + _IMAGES * _LONG_BYTES), _long_at(job + _PLACES * _LONG_BYTES)
    length = places * _long_at(job + _CHANNELS * _LONG_BYTES)
    return carray(_floats(_long_at(job + index * _LONG_BYTES)), (images, length))


@numba.njit
def _unpack_1(pointer):  # type: ignore[no-untyped-def]
    job = _address(pointer)
    scales, settings, sums, totals = _rest(job)
    return (_tensor(job, 0),), scales, settings, sums, totals


@numba.njit
def _unpack_2(pointer):  # type: ignore[no-untyped-def]
    job = _address(pointer)
    scales, settings, sums, totals = _rest(job)
    return (_tensor(job, 0), _tensor(job, 1)), scales, settings, sums, totals


@numba.njit
def _unpack_3(pointer):  # type: ignore[no-untyped-def]
    job = _address(pointer)
    scales, settings, sums, totals = _rest(job)
    return (_tensor(job, 0), _tensor(job, 1), _tensor(job, 2)), scales, settings, sums, totals


@numba.njit
def _unpack_4(pointer):  # type: ignore[no-untyped-def]
    job = _address(pointer)
    scales, settings, sums, totals = _rest(job)
    return (_tensor(job, 0), _tensor(job, 1), _tensor(job, 2), _tensor(job, 3)), scales, settings, sums, totals


_UNPACK = {1: _unpack_1, 2: _unpack_2, 3: _unpack_3, 4: _unpack_4}


@dataclasses.dataclass(frozen=True, slots=True)
class _Operation:
    """A kernel, and the names of the tensors [N, h, w, C] that it takes.

    One that passes back leaves what is passed on in place of its first tensor.
    """

    kernel: Callable[[bool, Callable[..., Any]], Kernel]
    inputs: tuple[str, ...]
    passes_back: bool = False

    @property
    def outputs(self) -> tuple[str, ...]:
        return ("passed", "sums", "totals") if self.passes_back else ("sums", "totals")

    def described(self, signed: bool) -> Any:
        """The function by which TensorFlow learns what `compute` gets to know of an operation, void *(construction)."""
        unpack = _UNPACK[len(self.inputs)]
        kernel = numba.cfunc(types.void(types.voidptr), **kernels.OPTIONS)(self.kernel(signed, unpack))
        description = np.array([len(self.inputs), self.passes_back, kernel.address], np.int64)
        address = description.ctypes.data

        @numba.cfunc(types.voidptr(types.voidptr))
        def create(construction):  # type: ignore[no-untyped-def]
            return _pointer(address)

        _kept.extend([kernel, description, create])
        return create


_kept: list[Any] = []  # what TensorFlow calls and reads


_OPERATIONS = {
    "Scaled": _Operation(kernels.scaled, ("gradient",)),
    "Product": _Operation(kernels.product, ("gradient", "multiplier")),
    "Difference": _Operation(kernels.difference, ("gradient", "multiplier", "less", "less_multiplier")),
    "Relu6": _Operation(kernels.relu6, ("gradient", "output"), passes_back=True),
    "Silu": _Operation(kernels.silu, ("gradient", "output", "input"), passes_back=True),
}
