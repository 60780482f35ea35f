"""What the profile says is read, against the network that it is read from."""

from __future__ import annotations

from benchmarks.method import FULLGRAD
from benchmarks.profile import profile


def test_every_gradient_of_a_bias_is_read_once() -> None:
    seconds, read, batch = profile("ResNet-20", 1)
    places = {1024: 16, 256: 32, 64: 64}  # of the three stages, and their channels
    scaled = {shape: each for (what, shape, _), each in read.items() if what == "gradient, scaled"}
    assert {h * w: c for h, w, c in scaled} == places
    # 21 convolutions with their BatchNorms, seven in each stage; a projection has the gradient of what it is added to.
    tensors = {h * w: each.tensors for (h, w, _), each in scaled.items()}
    assert tensors == {1024: 7, 256: 6, 64: 6}
    assert sum(each.size for each in scaled.values()) == 4 * batch * sum(tensors[n] * n * c for n, c in places.items())
    assert read["product", (32, 32, 3), 2].tensors == 1  # the input's term
    assert 0 < seconds["kernels"] < seconds[FULLGRAD]
