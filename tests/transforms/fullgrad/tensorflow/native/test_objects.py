"""The kernels' code on disk: a later process compiles nothing, and another CPU or a damaged file lets it compile."""

from __future__ import annotations

import os
import pathlib
import platform
import subprocess
import sys

import llvmlite.binding as llvm
import pytest

from transforms.fullgrad.tensorflow import autodiff
from transforms.fullgrad.tensorflow.native import c_api

# With llvmlite 0.43 each process compiles, and nothing is kept.
KEEPS = hasattr(llvm, "create_pass_builder")

ROOT = pathlib.Path(__file__).parents[5]

pytestmark = pytest.mark.skipif(
    not c_api.available() or autodiff.has_accelerator(), reason="native operations run on CPUs alone"
)

# Condenses with one kernel, and says what was compiled, whether Numba was imported, and a result.
PROGRAM = """
import sys
import numpy as np
import llvmlite.binding as llvm
if len(sys.argv) > 1:
    llvm.get_host_cpu_features = lambda features=llvm.get_host_cpu_features(): features
    llvm.get_host_cpu_name = lambda: sys.argv[1]
from transforms.fullgrad.contributions import Contribution, Product
from transforms.fullgrad.tensorflow import autodiff
from transforms.fullgrad.tensorflow.native import objects
from transforms.fullgrad.tensorflow.native.graph import NativeCondenser
g = np.linspace(-1, 1, 2 * 5 * 4 * 7, dtype=np.float32).reshape(2, 5, 4, 7)
condenser = NativeCondenser(signed=True, epsilon=1e-8)
sums = autodiff.compiled(lambda: condenser.condense(Contribution(Product(g))).map, jit=False)()
assert np.allclose(sums, g.sum(3), atol=1e-6)
print(sorted(objects.compiled_names), "numba" in sys.modules)
"""
COMPILED = "['condensing', 'scaled-signed'] True"


def start(cache: pathlib.Path, *arguments: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "FULLGRAD_CACHE": str(cache), "PYTHONPATH": str(ROOT), "KERAS_BACKEND": "tensorflow"}
    command = [sys.executable, "-c", PROGRAM, *arguments]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def said(*processes: subprocess.Popen[str]) -> list[str]:
    answers = [process.communicate()[0].strip() for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes)
    return answers


@pytest.mark.skipif(not KEEPS, reason="llvmlite 0.43 keeps no code")
def test_a_later_process_compiles_only_what_is_damaged_or_for_another_cpu(tmp_path: pathlib.Path) -> None:
    cache = tmp_path / "cache"
    assert said(start(cache), start(cache)) == [COMPILED] * 2  # at once
    [key] = os.listdir(cache)
    assert sorted(os.listdir(cache / key)) == ["condensing", "scaled-signed"]
    (damaged := cache / key / "condensing").write_bytes(damaged.read_bytes()[:-1])
    another = "x86-64" if platform.machine() in ("x86_64", "AMD64") else "generic"
    assert said(start(cache), start(cache, another)) == ["['condensing'] True", COMPILED]
    assert len(os.listdir(cache)) == 2
