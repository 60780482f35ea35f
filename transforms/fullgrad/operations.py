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
        name = "ScaledPixels" if int(product.gradient.shape[3]) == 3 else "Scaled"
        condensed = _read(name, [product.gradient], scales, reading, reaching)
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
    (made,) = graph.create_op(_registered_resized()[0], inputs, [tf.float32]).outputs
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
    operation, (registered, kernel) = _OPERATIONS[name], _registered(name, reading.signed)
    settings = np.zeros(len(Setting), np.float32)
    settings[Setting.EPSILON] = reading.epsilon
    settings[Setting.REACHING] = reaching
    settings[Setting.OWN] = own
    threads = numba.config.NUMBA_NUM_THREADS if reading.threads is None else reading.threads
    count = int(scales.shape[0]) + own
    described = np.array([len(operation.inputs), operation.passes_back, kernel, threads, count], np.int64)
    inputs = [tf.convert_to_tensor(each) for each in (described, scales, settings, *tensors)]
    kinds = [tf.float32] * (2 + operation.passes_back)
    *passed, sums, totals = tf.compat.v1.get_default_graph().create_op(registered, inputs, kinds).outputs
    shape = inputs[-1].shape
    sums.set_shape(shape[:3])
    totals.set_shape((shape[0], count))
    for each in passed:
        each.set_shape(shape)
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
_allocate = _function(_process, "calloc", _POINTER, ctypes.c_size_t, ctypes.c_size_t)
_free = _function(_process, "free", None, _POINTER)
_copy = _function(_process, "memcpy", _POINTER, _POINTER, _POINTER, ctypes.c_size_t)

_FLOAT = 1  # TF_FLOAT


def available() -> bool:
    """Whether this TensorFlow takes operations so."""
    return not _missing


_registering = threading.RLock()


def _once(register: Callable[..., tuple[str, int]]) -> Callable[..., tuple[str, int]]:
    """`register`, called once for the same arguments, however many threads ask for it."""
    cached = functools.cache(register)

    def once(*arguments: Any) -> tuple[str, int]:
        with _registering:
            return cached(*arguments)

    return once


@_once
def _registered(name: str, signed: bool) -> tuple[str, int]:
    """An operation's name in graphs, and where its kernel is; it is compiled and registered once in a process."""
    operation, registered = _OPERATIONS[name], f"FullGrad{name}{'Signed' if signed else ''}"
    floats = ("scales", "settings", *operation.inputs)
    outputs = (*(["passed"] if operation.passes_back else []), "sums", "totals")
    _register(registered, ["described: int64", *(f"{each}: float" for each in floats)], outputs, _compute().address)
    return registered, operation.compiled(signed)


@_once
def _registered_resized() -> tuple[str, int]:
    inputs = [f"{each}: float" for each in ("total", "old", "rows", "columns")]
    _register("FullGradResized", inputs, ["new"], _compute_resized().address)
    return "FullGradResized", 0


def _register(name: str, inputs: Sequence[str], outputs: Sequence[str], compute: int) -> None:
    """Registers an operation for CPUs, by the address of its function, void(kernel, context); outputs are float32."""
    encoded, status = name.encode(), _new_status()
    definition = _new_definition(encoded)
    for each in inputs:
        _add_input(definition, each.encode())
    for each in outputs:
        _add_output(definition, f"{each}: float".encode())
    _set_shapes(definition, ctypes.cast(_unknown_shapes, _POINTER))
    _register_definition(definition, status)
    if not _get_code(status):
        _register_kernel(encoded, _new_kernel(encoded, b"CPU", None, compute, None), status)
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


@intrinsic
def _get(typing: Any, address: Any, index: Any) -> Any:
    """The int64 at an index behind an address."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        longs = builder.inttoptr(arguments[0], context.get_value_type(types.CPointer(types.int64)))
        return builder.load(builder.gep(longs, [arguments[1]]))

    return types.int64(types.int64, types.int64), codegen


@intrinsic
def _set(typing: Any, address: Any, index: Any, value: Any) -> Any:
    """Writes it."""

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
    """Calls the C function void(void *) at an address; unlike a function of Numba's, it is not compiled here again."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        of_c = ir.FunctionType(ir.VoidType(), [context.get_value_type(types.voidptr)])
        builder.call(builder.inttoptr(arguments[0], of_c.as_pointer()), [arguments[1]])
        return context.get_dummy_value()

    return types.void(types.int64, types.voidptr), codegen


# A process compiles all of this before its first images, and what takes Numba longest is each type that it meets. So
# there are no arrays here outside the kernels, but memory of C's, which holds int64 at these indices.
#
# What an operation is, its first input, known when the graph is made: how many tensors it takes, whether it passes the
# first of them on, where its kernel is, how many threads share its images, and how many contributions there are.
_TENSORS, _PASSES_BACK, _KERNEL, _THREADS, _COUNT = range(5)
# A job, a call or some of its images: where up to four tensors begin, then this, and sizes as the API has them.
_SCALES, _SETTINGS, _SUMS, _TOTALS, _IMAGES, _PLACES, _CHANNELS, _BIASES, _COLUMNS, _SLOT, _SIZES = range(4, 15)
_JOB = _SIZES + 4
# The inputs of all operations that read; their tensors follow.
_DESCRIBED, _OF_SCALES, _OF_SETTINGS, _FIRST = range(4)
_NUMBERS_A_THREAD = 1 << 17  # to begin one takes 20 us, in which one reads as many
_long = np.int64  # what is one is not, as literals are, a type of its own


@numba.njit
def _at(job, index):  # type: ignore[no-untyped-def]
    return _pointer(job + 8 * index)


@numba.njit
def _begin(tensor, status):  # type: ignore[no-untyped-def]
    """Where a tensor begins, of which this handle is no longer needed; 0 where there is none, which the status says."""
    if _get_code(status) != 0:
        return _long(0)
    begin = _address(_tensor_data(tensor))
    _delete_tensor(tensor)
    return begin


@numba.njit
def _input(context, index, job, axes, status):  # type: ignore[no-untyped-def]
    """Where an input begins, for as long as the call lasts; its first sizes are written into the job."""
    _get_input(context, index, _at(job, _SLOT), status)
    tensor = _pointer(_get(job, _SLOT))
    for axis in range(axes):
        _set(job, _SIZES + axis, _tensor_dim(tensor, axis))
    return _begin(tensor, status)


@numba.njit
def _bytes(job, axes):  # type: ignore[no-untyped-def]
    """How many a tensor has with the first of the job's sizes."""
    size = _long(4)
    for axis in range(axes):
        size *= _get(job, _SIZES + axis)
    return size


@numba.njit
def _output(context, index, job, axes, status):  # type: ignore[no-untyped-def]
    """Where an output begins, which has the first of the job's sizes; 0 where there is no memory."""
    size = _bytes(job, axes)
    return _begin(_allocate_output(context, index, _FLOAT, _at(job, _SIZES), axes, size, status), status)


@numba.njit
def _passed(context, index, job, axes, status):  # type: ignore[no-untyped-def]
    """Where the first output begins, which holds what an input does: where that does, if nothing else needs it.

    The input must not have been taken before, as then something would.
    """
    _set(job, _SLOT, index)  # int32 to the API: of the candidate, and after it of the one that it was
    candidate, chosen = _at(job, _SLOT), _pointer(job + 8 * _SLOT + 4)
    begin = _begin(_forward_or_allocate(context, candidate, 1, 0, _at(job, _SIZES), axes, chosen, status), status)
    if begin != 0:
        size = _bytes(job, axes)
        old = _input(context, index, job, _long(0), status)
        if old != begin:
            _copy(_pointer(begin), _pointer(old), size)
    return begin


@numba.njit
def _prepare(job, described, context, status):  # type: ignore[no-untyped-def]
    """Fills in a job; whether there was memory for what it makes."""
    passes_back, count = _get(described, _PASSES_BACK), _get(described, _COUNT)
    _set(job, _SETTINGS, _input(context, _long(_OF_SETTINGS), job, _long(0), status))
    _set(job, _SCALES, _input(context, _long(_OF_SCALES), job, _long(1), status))
    _set(job, _BIASES, _get(job, _SIZES))
    _set(job, _COLUMNS, count)
    for i in range(passes_back, _get(described, _TENSORS)):
        _set(job, i, _input(context, _FIRST + i, job, _long(4), status))
    if passes_back:
        begin = _passed(context, _long(_FIRST), job, _long(4), status)
        if begin == 0:
            return False
        _set(job, _long(0), begin)
    _set(job, _IMAGES, _get(job, _SIZES))
    _set(job, _PLACES, _get(job, _SIZES + 1) * _get(job, _SIZES + 2))
    _set(job, _CHANNELS, _get(job, _SIZES + 3))
    _set(job, _SUMS, _output(context, passes_back, job, _long(3), status))
    if _get(job, _SUMS) == 0:
        return False
    _set(job, _SIZES + 1, count)
    _set(job, _TOTALS, _output(context, passes_back + 1, job, _long(2), status))
    return _get(job, _TOTALS) != 0


@numba.njit
def _share(job, described):  # type: ignore[no-untyped-def]
    """Does a job by several threads, of which this one is the first."""
    images, kernel, threads = _get(job, _IMAGES), _get(described, _KERNEL), _get(described, _THREADS)
    worth = images * _get(job, _PLACES) * _get(job, _CHANNELS) // _NUMBERS_A_THREAD
    threads = images if images < threads else threads
    threads = worth if worth < threads else threads
    if threads < 2:
        _call_at(kernel, _pointer(job))
        return
    parts = _address(_allocate(threads * (_JOB + 1), 8))
    handles = parts + 8 * threads * _JOB
    for i in range(threads):
        part, first, last = parts + 8 * i * _JOB, images * i // threads, images * (i + 1) // threads
        before = 4 * first * _get(job, _PLACES)  # bytes, of what has one number a place
        _copy(_pointer(part), _pointer(job), 8 * _JOB)
        for j in range(_get(described, _TENSORS)):
            _set(part, j, _get(job, j) + before * _get(job, _CHANNELS))
        _set(part, _SUMS, _get(job, _SUMS) + before)
        _set(part, _TOTALS, _get(job, _TOTALS) + 4 * first * _get(job, _COLUMNS))
        _set(part, _IMAGES, last - first)
    for i in range(1, threads):
        part = _pointer(parts + 8 * i * _JOB)
        if _start_thread(_pointer(handles + 8 * i), _pointer(0), _pointer(kernel), part) != 0:
            _set(handles, i, 0)  # there is none to be had
            _call_at(kernel, part)
    _call_at(kernel, _pointer(parts))
    for i in range(1, threads):
        if _get(handles, i) != 0:
            _join_thread(_get(handles, i), _pointer(0))
    _free(_pointer(parts))


@functools.cache
def _compute() -> Any:
    """What TensorFlow calls of every operation that reads, void(kernel, context)."""

    @numba.cfunc(types.void(types.voidptr, types.voidptr))
    def compute(_, context):  # type: ignore[no-untyped-def]
        status, memory = _new_status(), _allocate(_JOB, 8)
        job = _address(memory)
        described = _input(context, _long(_DESCRIBED), job, _long(0), status)
        if _prepare(job, described, context, status):
            _share(job, described)
        else:
            _fail(context, status)
        _free(memory)
        _delete_status(status)

    _kept.append(compute)
    return compute


@functools.cache
def _compute_resized() -> Any:
    """The same of the one that resizes."""
    resized = kernels.resized

    @numba.cfunc(types.void(types.voidptr, types.voidptr), **kernels.OPTIONS)
    def compute(_, context):  # type: ignore[no-untyped-def]
        status, memory = _new_status(), _allocate(_JOB, 8)
        job = _address(memory)
        columns = _input(context, _long(3), job, _long(1), status)
        new_width = _get(job, _SIZES)
        rows = _input(context, _long(2), job, _long(1), status)
        new_height = _get(job, _SIZES)
        old = _input(context, _long(1), job, _long(3), status)
        images, height, width = _get(job, _SIZES), _get(job, _SIZES + 1), _get(job, _SIZES + 2)
        _set(job, _SIZES + 1, new_height)
        _set(job, _SIZES + 2, new_width)
        made = _passed(context, _long(0), job, _long(3), status)
        if made != 0:
            resized(
                carray(_floats(old), (images, height, width)),
                carray(_floats(rows), (new_height, 3)),
                carray(_floats(columns), (new_width, 3)),
                carray(_floats(made), (images, new_height, new_width)),
            )
        else:
            _fail(context, status)
        _free(memory)
        _delete_status(status)

    _kept.append(compute)
    return compute


_SETTINGS_LENGTH = len(Setting)


@numba.njit
def _rest(job):  # type: ignore[no-untyped-def]
    """What a kernel takes beside its tensors."""
    images, channels = _get(job, _IMAGES), _get(job, _CHANNELS)
    scales = carray(_floats(_get(job, _SCALES)), (_get(job, _BIASES), channels))
    settings = carray(_floats(_get(job, _SETTINGS)), (_SETTINGS_LENGTH,))
    sums = carray(_floats(_get(job, _SUMS)), (images, _get(job, _PLACES)))
    totals = carray(_floats(_get(job, _TOTALS)), (images, _get(job, _COLUMNS)))
    return scales, settings, sums, totals


@numba.njit
def _tensor(job, index):  # type: ignore[no-untyped-def]
    return carray(_floats(_get(job, index)), (_get(job, _IMAGES), _get(job, _PLACES) * _get(job, _CHANNELS)))


@numba.njit
def _unpack_1(pointer):  # type: ignore[no-untyped-def]
    job = _address(pointer)
    scales, settings, sums, totals = _rest(job)
    return (_tensor(job, _long(0)),), scales, settings, sums, totals


@numba.njit
def _unpack_2(pointer):  # type: ignore[no-untyped-def]
    job = _address(pointer)
    scales, settings, sums, totals = _rest(job)
    return (_tensor(job, _long(0)), _tensor(job, _long(1))), scales, settings, sums, totals


@numba.njit
def _unpack_3(pointer):  # type: ignore[no-untyped-def]
    job = _address(pointer)
    scales, settings, sums, totals = _rest(job)
    tensors = _tensor(job, _long(0)), _tensor(job, _long(1)), _tensor(job, _long(2))
    return tensors, scales, settings, sums, totals


@numba.njit
def _unpack_4(pointer):  # type: ignore[no-untyped-def]
    job = _address(pointer)
    scales, settings, sums, totals = _rest(job)
    tensors = _tensor(job, _long(0)), _tensor(job, _long(1)), _tensor(job, _long(2)), _tensor(job, _long(3))
    return tensors, scales, settings, sums, totals


_UNPACK = {1: _unpack_1, 2: _unpack_2, 3: _unpack_3, 4: _unpack_4}


@dataclasses.dataclass(frozen=True, slots=True)
class _Operation:
    """A kernel, and the names of the tensors [N, h, w, C] that it takes.

    One that passes back leaves what is passed on in place of its first tensor.
    """

    kernel: Callable[[bool, Callable[..., Any]], Kernel]
    inputs: tuple[str, ...]
    passes_back: bool = False

    def compiled(self, signed: bool) -> int:
        """Where the kernel is, void(job)."""
        kernel = self.kernel(signed, _UNPACK[len(self.inputs)])
        compiled = numba.cfunc(types.void(types.voidptr), **kernels.OPTIONS)(kernel)
        _kept.append(compiled)
        return int(compiled.address)


_kept: list[Any] = []  # what TensorFlow calls and reads


_OPERATIONS = {
    "Scaled": _Operation(kernels.scaled, ("gradient",)),
    "ScaledPixels": _Operation(kernels.scaled_pixels, ("gradient",)),
    "Product": _Operation(kernels.product, ("gradient", "multiplier")),
    "Difference": _Operation(kernels.difference, ("gradient", "multiplier", "less", "less_multiplier")),
    "Relu6": _Operation(kernels.relu6, ("gradient", "output"), passes_back=True),
    "Silu": _Operation(kernels.silu, ("gradient", "output", "input"), passes_back=True),
}
