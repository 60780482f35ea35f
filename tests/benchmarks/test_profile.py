"""What the profile says is called, against the network that it is called for."""

from __future__ import annotations

import pytest

from benchmarks.method import FORWARD, FULLGRAD, GRADIENT
from benchmarks.profile import CALL, profile


@pytest.mark.slow
def test_every_gradient_of_a_bias_is_read_once() -> None:
    found = profile("ResNet-20", 1)
    assert found[FULLGRAD]["FullGradScaled"][1] == 21  # convolutions with their BatchNorms
    assert found[FULLGRAD]["FullGradProduct"][1] == 1  # the input's term
    assert not any(operation.startswith("FullGrad") for operation in found[GRADIENT])
    for variant in (FORWARD, GRADIENT, FULLGRAD):
        milliseconds, times = found[variant][CALL]
        assert times == 1
        convolutions = sum(each for operation, (each, _) in found[variant].items() if "Conv2D" in operation)
        assert convolutions > 0
        assert milliseconds > 0
