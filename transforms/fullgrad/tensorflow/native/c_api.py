"""TensorFlow's C API for operations (tensorflow/c/kernels.h and ops.h), and the functions of C that go with it.

Nothing is linked. Each function is looked up in the library that TensorFlow has loaded; `available` says whether all
were found. TensorFlow then calls what Numba compiled as it calls C++, without Python or its lock: a call costs 2 us,
where a call into Python costs 100.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

_POINTER, _INT, _LONG, _TEXT = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64, ctypes.c_char_p


def _library() -> ctypes.CDLL | None:
    for name in ("libtensorflow_cc.so.2", "libtensorflow_cc.2.dylib"):
        with contextlib.suppress(OSError):
            return ctypes.CDLL(f"{tf.sysconfig.get_lib()}/{name}")
    return None


def _function(library: ctypes.CDLL | None, name: str, result: Any, *arguments: Any) -> Any:
    """A function of a library; None if the library lacks it, which is noted in `_missing`."""
    if (function := getattr(library, name, None)) is None:
        _missing.append(name)
    else:
        function.restype, function.argtypes = result, arguments
        _symbols[f"fullgrad_{name}"] = function
    return function


_missing: list[str] = []
_symbols: dict[str, Any] = {}
_tensorflow, _process = _library(), ctypes.CDLL(None)
new_status = _function(_tensorflow, "TF_NewStatus", _POINTER)
get_code = _function(_tensorflow, "TF_GetCode", _INT, _POINTER)
message = _function(_tensorflow, "TF_Message", _TEXT, _POINTER)
delete_status = _function(_tensorflow, "TF_DeleteStatus", None, _POINTER)
new_definition = _function(_tensorflow, "TF_NewOpDefinitionBuilder", _POINTER, _TEXT)
add_input = _function(_tensorflow, "TF_OpDefinitionBuilderAddInput", None, _POINTER, _TEXT)
add_output = _function(_tensorflow, "TF_OpDefinitionBuilderAddOutput", None, _POINTER, _TEXT)
set_shapes = _function(_tensorflow, "TF_OpDefinitionBuilderSetShapeInferenceFunction", None, _POINTER, _POINTER)
unknown_shapes = _function(_tensorflow, "TF_ShapeInferenceContextSetUnknownShape", None, _POINTER, _POINTER)
register_definition = _function(_tensorflow, "TF_RegisterOpDefinition", None, _POINTER, _POINTER)
new_kernel = _function(_tensorflow, "TF_NewKernelBuilder", _POINTER, _TEXT, _TEXT, _POINTER, _POINTER, _POINTER)
register_kernel = _function(_tensorflow, "TF_RegisterKernelBuilder", None, _TEXT, _POINTER, _POINTER)
get_input = _function(_tensorflow, "TF_GetInput", None, _POINTER, _INT, _POINTER, _POINTER)
allocate_output = _function(
    _tensorflow, "TF_AllocateOutput", _POINTER, _POINTER, _INT, _INT, _POINTER, _INT, ctypes.c_size_t, _POINTER
)
forward_or_allocate = _function(
    _tensorflow,
    "TF_ForwardInputOrAllocateOutput",
    *(_POINTER, _POINTER, _POINTER, _INT, _INT, _POINTER, _INT, _POINTER, _POINTER),
)
fail = _function(_tensorflow, "TF_OpKernelContext_Failure", None, _POINTER, _POINTER)
tensor_data = _function(_tensorflow, "TF_TensorData", _POINTER, _POINTER)
tensor_dim = _function(_tensorflow, "TF_Dim", _LONG, _POINTER, _INT)
delete_tensor = _function(_tensorflow, "TF_DeleteTensor", None, _POINTER)
start_thread = _function(_process, "pthread_create", _INT, _POINTER, _POINTER, _POINTER, _POINTER)
join_thread = _function(_process, "pthread_join", _INT, _LONG, _POINTER)
allocate = _function(_process, "calloc", _POINTER, ctypes.c_size_t, ctypes.c_size_t)
free = _function(_process, "free", None, _POINTER)
copy = _function(_process, "memcpy", _POINTER, _POINTER, _POINTER, ctypes.c_size_t)

FLOAT = 1  # TF_FLOAT
_NAMES = {_POINTER: "voidptr", _INT: "int32", _LONG: "int64", ctypes.c_size_t: "uint64", None: "void"}


def available() -> bool:
    """Whether this TensorFlow has all that is needed."""
    return not _missing


def missing() -> list[str]:
    """The names of the functions that this TensorFlow lacks."""
    return list(_missing)


def symbol(function: Any) -> str:
    """The name under which compiled code calls a function of this module. It is ours, so that no other is meant."""
    return f"fullgrad_{function.__name__}"


def addresses() -> dict[str, int]:
    """The address in this process of each symbol."""
    return {symbol: int(ctypes.cast(function, _POINTER).value or 0) for symbol, function in _symbols.items()}


def signature(function: Any) -> tuple[str, list[str]]:
    """The types of a function's result and arguments, by their names in `numba.types`."""
    return _NAMES[function.restype], [_NAMES[each] for each in function.argtypes]


def register(name: str, inputs: Sequence[str], outputs: Sequence[str], compute: int) -> None:
    """Registers an operation for CPUs.

    Args:
      name: in graphs.
      inputs: as `name: type` each.
      outputs: their names; all are float32.
      compute: the address of the function void(kernel, context) that TensorFlow calls.

    Raises:
      RuntimeError: TensorFlow refuses the operation.
    """
    encoded, status = name.encode(), new_status()
    definition = new_definition(encoded)
    for each in inputs:
        add_input(definition, each.encode())
    for each in outputs:
        add_output(definition, f"{each}: float".encode())
    set_shapes(definition, ctypes.cast(unknown_shapes, _POINTER))
    register_definition(definition, status)
    if not get_code(status):
        register_kernel(encoded, new_kernel(encoded, b"CPU", None, compute, None), status)
    if get_code(status):
        raise RuntimeError(f"TensorFlow does not take the operation {name}: {message(status).decode()}")
    delete_status(status)
