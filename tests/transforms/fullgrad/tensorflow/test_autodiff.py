"""The project's own gradients, against TensorFlow's of the same functions."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from transforms.fullgrad.tensorflow import autodiff


def _gradient(function: object, x: tf.Tensor, at: tf.Tensor) -> np.ndarray:
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = function(x)  # type: ignore[operator]
    return tape.gradient(y, x, at).numpy()


def _draw(*shape: int, seed: int = 0) -> tf.Tensor:
    return tf.constant(np.random.default_rng(seed).normal(size=shape), tf.float32)


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("stride", [2, 3, 4])
@pytest.mark.parametrize("taps", [(7, 7), (3, 3), (2, 5), (4, 3), (1, 1)])
@pytest.mark.parametrize("size", [(23, 16), (12, 13)])
def test_a_strided_convolution_s_gradient(
    size: tuple[int, int], taps: tuple[int, int], stride: int, padding: str
) -> None:
    x, kernel = _draw(2, *size, 3), _draw(*taps, 3, 5, seed=1)
    y = tf.nn.conv2d(x, kernel, stride, padding.upper())
    np.testing.assert_array_equal(autodiff.convolve(x, kernel, stride, padding), y)
    at = _draw(*y.shape, seed=2)
    np.testing.assert_allclose(
        _gradient(lambda x: autodiff.convolve(x, kernel, stride, padding), x, at),
        _gradient(lambda x: tf.nn.conv2d(x, kernel, stride, padding.upper()), x, at),
        atol=1e-5,
    )


@pytest.mark.parametrize(("dtype", "bits"), [("float64", 52), ("float32", 23), ("float16", 10), ("bfloat16", 7)])
def test_silu_s_gradient(dtype: str, bits: int) -> None:
    z = tf.cast(tf.concat([10 * _draw(200), [0.0, -0.0, 90.0, -90.0, 1e4, -1e4]], axis=0), dtype)
    at = tf.cast(_draw(206, seed=1), dtype)
    np.testing.assert_array_equal(autodiff.silu(z), tf.nn.silu(z))
    exact, given = tf.cast(z, tf.float64), tf.cast(at, tf.float64)
    expected = given * tf.sigmoid(exact) * (1 + exact * tf.sigmoid(-exact))
    error = tf.cast(_gradient(autodiff.silu, z, at), tf.float64) - expected
    assert np.abs(error).max() <= 64 * 2.0**-bits  # 1 − σ(z) is rounded before z multiplies it, as in TensorFlow


def test_means_by_channel() -> None:
    x = _draw(3, 7, 5, 4)
    np.testing.assert_allclose(autodiff.channel_means(x), x.numpy().mean(axis=(1, 2)), atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("before", "expected"),
    [
        ("", "True 1"),
        ("tf.config.threading.set_intra_op_parallelism_threads(1)", "True 1"),
        ("tf.config.threading.set_intra_op_parallelism_threads(3)", "False 3"),
        ("tf.zeros(1)", "False None"),
    ],
    ids=["nobody chose", "a program chose one", "a program chose several", "in use already"],
)
def test_a_call_has_one_thread_unless_a_program_chose_otherwise(before: str, expected: str) -> None:
    script = f"""
import tensorflow as tf
from transforms.fullgrad.tensorflow import autodiff
{before}
print(autodiff.one_thread_a_call(), autodiff.threads_a_call())
"""
    # A process of its own: threads are a setting of the whole process.
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == expected


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="the choice is of x86 alone")
@pytest.mark.parametrize(("chosen", "expected"), [(None, "1"), ("0", "0")])
def test_tensorflow_uses_onednn_unless_somebody_chose_otherwise(chosen: str | None, expected: str) -> None:
    script = """
import os, transforms.fullgrad
from tensorflow.python.util import _pywrap_util_port
print(os.environ["TF_ENABLE_ONEDNN_OPTS"], int(_pywrap_util_port.IsMklEnabled()))
"""
    environment = {name: value for name, value in os.environ.items() if name != "TF_ENABLE_ONEDNN_OPTS"}
    environment |= {"TF_ENABLE_ONEDNN_OPTS": chosen} if chosen else {}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [expected, expected]


def test_what_reads_a_gradient_does_so_before_it_goes_on() -> None:
    def function(x: tf.Tensor) -> tuple[tf.Tensor, ...]:
        found: list[tf.Tensor] = []

        def read(gradient: tf.Tensor) -> list[tf.Tensor]:
            found.append(tf.reduce_sum(gradient))
            return found

        def forward(tap: autodiff.Tap) -> tuple[tf.Tensor, tuple[tf.Tensor, tf.Tensor]]:
            inner = tap(x)
            y = tap(inner * inner, read)
            return tf.reduce_sum(3.0 * y), (inner, y)

        (inner, y), gradients = autodiff.tapped_gradients(forward)
        (wait,) = gradients[y].op.control_inputs
        assert wait is found[0].op
        return gradients[inner], gradients[y], found[0]

    x = _draw(4)
    of_x, of_y, read = autodiff.compiled(function, jit=False)(x)
    np.testing.assert_allclose(of_x, 6.0 * x, rtol=1e-6)
    np.testing.assert_array_equal(of_y, np.full(4, 3.0, np.float32))
    assert read == 12.0
