"""What Numba compiles into the functions at the bottom: calls of C, and addresses with the memory behind them."""

from __future__ import annotations

from typing import Any

import numba
from llvmlite import ir
from numba import carray, types
from numba.extending import intrinsic

from transforms.fullgrad.tensorflow.native import c_api

# ---- functions of C


def _of_c(function: Any) -> Any:
    """A function of the C API for compiled code, called by its symbol: its address differs from process to process."""
    result, arguments = c_api.signature(function)
    signature = getattr(types, result)(*(getattr(types, each) for each in arguments))
    return types.ExternalFunction(c_api.symbol(function), signature)


allocate = _of_c(c_api.allocate)
allocate_output = _of_c(c_api.allocate_output)
copy = _of_c(c_api.copy)
delete_status = _of_c(c_api.delete_status)
delete_tensor = _of_c(c_api.delete_tensor)
fail = _of_c(c_api.fail)
forward_or_allocate = _of_c(c_api.forward_or_allocate)
free = _of_c(c_api.free)
get_code = _of_c(c_api.get_code)
get_input = _of_c(c_api.get_input)
join_thread = _of_c(c_api.join_thread)
new_status = _of_c(c_api.new_status)
start_thread = _of_c(c_api.start_thread)
tensor_data = _of_c(c_api.tensor_data)
tensor_dim = _of_c(c_api.tensor_dim)


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
def get_long(typing: Any, address: Any, index: Any) -> Any:
    """Reads the int64 at an index from an address on."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        longs = builder.inttoptr(arguments[0], context.get_value_type(types.CPointer(types.int64)))
        return builder.load(builder.gep(longs, [arguments[1]]))

    return types.int64(types.int64, types.int64), codegen


@intrinsic
def set_long(typing: Any, address: Any, index: Any, value: Any) -> Any:
    """Writes the int64 at an index from an address on."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        longs = builder.inttoptr(arguments[0], context.get_value_type(types.CPointer(types.int64)))
        builder.store(arguments[2], builder.gep(longs, [arguments[1]]))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), codegen


pointer = _cast(types.int64, types.voidptr, "inttoptr")
address = _cast(types.voidptr, types.int64, "ptrtoint")
_floats = _cast(types.int64, types.CPointer(types.float32), "inttoptr")
_doubles = _cast(types.int64, types.CPointer(types.float64), "inttoptr")
_ints = _cast(types.int64, types.CPointer(types.int32), "inttoptr")


@intrinsic
def call_at(typing: Any, address: Any, argument: Any) -> Any:
    """Calls the C function void(void *) at an address. A function of Numba's would be compiled here again."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        of_c = ir.FunctionType(ir.VoidType(), [context.get_value_type(types.voidptr)])
        builder.call(builder.inttoptr(arguments[0], of_c.as_pointer()), [arguments[1]])
        return context.get_dummy_value()

    return types.void(types.int64, types.voidptr), codegen


@numba.njit
def floats_at(address, shape):  # type: ignore[no-untyped-def]
    """The float32 from an address on, as an array."""
    return carray(_floats(address), shape)


@numba.njit
def doubles_at(address, shape):  # type: ignore[no-untyped-def]
    """The float64 from an address on, as an array."""
    return carray(_doubles(address), shape)


@numba.njit
def ints_at(address, shape):  # type: ignore[no-untyped-def]
    """The int32 from an address on, as an array."""
    return carray(_ints(address), shape)
