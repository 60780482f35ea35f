"""Compiled functions as object code on disk: only the first process with some versions on some CPU compiles them."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import importlib.util
import logging
import platform
import re
import sys
from collections.abc import Callable
from typing import Any

import llvmlite.binding as llvm
import numpy as np
import tensorflow as tf

from transforms import code_cache
from transforms.fullgrad.tensorflow.native import c_api

_log = logging.getLogger(__name__)

_PACKAGE = "transforms.fullgrad.tensorflow.native"
_SOURCES = ("c_api", "calls", "glue", "jobs", "kernels", "objects")

_alive: list[Any] = []  # keeps alive what TensorFlow calls
compiled_names: list[str] = []  # what this process has compiled; all else it has loaded
_not_kept: list[str] = []  # what it has compiled and could not keep


def address_of(name: str, compile_it: Callable[[], Any]) -> int:
    """The address of a function of C's, loaded from the cache or compiled and kept there.

    Args:
      name: tells it from the other functions; letters, digits, `-` and `_`.
      compile_it: compiles it; returns what `numba.cfunc` returns.
    """
    _define_symbols()
    loaded = _loaded(name)
    if loaded is not None:
        return loaded
    _log.info("compiling %s for this CPU", name)
    compiled = compile_it()
    compiled_names.append(name)
    _alive.append(compiled)
    try:
        kept = code_cache.write(_key(), name, _object_of(compiled))
    except Exception as error:  # of Numba or LLVM: what was compiled runs all the same
        kept = False
        _log.info("the compiled code of %s cannot be kept: %s", name, error)
    if not kept:
        _not_kept.append(name)
    return int(compiled.address)


def all_kept() -> bool:
    """Whether everything that this process compiled is in the cache now."""
    return not _not_kept


def _loaded(name: str) -> int | None:
    """The address of a function from the cache; None if it must be compiled."""
    try:
        stored = code_cache.read(_key(), name)
        if stored is None:
            return None
        symbol, needed, code = stored.split(b"\n", 2)
        # LLVM ends the process where it does not find a symbol, so this looks first.
        if not all(llvm.address_of_symbol(each.decode()) for each in needed.split()):
            return None
        engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), _target_machine())
        engine.add_object_file(llvm.ObjectFileRef.from_data(code))
        engine.finalize_object()
        address = int(engine.get_function_address(symbol.decode()))
    except Exception as error:  # of LLVM or of another llvmlite: compiled as if nothing was kept
        _log.info("the kept code of %s cannot be loaded: %s", name, error)
        return None
    _alive.append(engine)
    return address or None


def _object_of(compiled: Any) -> bytes:
    """What is kept of a function: a line with its symbol, a line with the symbols that it needs, and its object code.

    Raises:
      ValueError: it holds an address of this process.
    """
    text = compiled.inspect_llvm()
    if compiled._library.has_dynamic_globals or re.search(r"inttoptr \(?i64 \d{5,}", text):
        raise ValueError("it holds an address of this process")
    module = llvm.parse_assembly(text)
    _drop_what_raises(module, str(compiled.native_name))
    names = [each.name for each in (*module.functions, *module.global_variables) if each.is_declaration]
    needed = " ".join(sorted(name for name in names if not name.startswith("llvm.")))
    code = _target_machine().emit_object(module)
    return f"{compiled.native_name}\n{needed}\n".encode() + code


def _drop_what_raises(module: Any, kept: str) -> None:
    """Leaves one function and what it uses. Numba's code for errors goes, as no function of ours raises any."""
    for each in module.functions:
        if not each.is_declaration and each.name != kept:
            each.linkage = "internal"
    for each in module.global_variables:
        if not each.is_declaration:
            each.linkage = "internal"
    builder = llvm.create_pass_builder(_target_machine(), llvm.create_pipeline_tuning_options(speed_level=1))
    builder.getModulePassManager().run(module, builder)


@functools.cache
def _define_symbols() -> None:
    """Gives LLVM the addresses of what compiled code calls."""
    _prepare_llvm()
    for symbol, address in c_api.addresses().items():
        llvm.add_symbol(symbol, address)


@functools.cache
def _prepare_llvm() -> None:
    with contextlib.suppress(RuntimeError):  # newer versions of llvmlite do it by themselves, and refuse this
        llvm.initialize()
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()


def _target_machine() -> Any:
    """This CPU; a new one each time, as an engine takes it over."""
    _prepare_llvm()
    return llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=_features(), opt=3, reloc="default", codemodel="jitdefault", jit=True
    )


def _features() -> str:
    return str(llvm.get_host_cpu_features().flatten())


@functools.cache
def _key() -> str:
    """The key of this process's compiled code: all that it depends on."""
    sources = [_source(f"{_PACKAGE}.{name}") for name in _SOURCES]
    versions = [importlib.metadata.version(name) for name in ("numba", "llvmlite")]
    machine = [platform.system(), platform.machine(), llvm.get_host_cpu_name(), _features()]
    return code_cache.key_of([*sources, *versions, np.__version__, tf.__version__, sys.version, *machine])


def _source(module: str) -> str:
    """A module's source, without importing it."""
    spec = importlib.util.find_spec(module)
    loader: Any = None if spec is None else spec.loader
    source = loader.get_source(module)
    if source is None:
        raise ValueError(f"{module} has no source")
    return str(source)
