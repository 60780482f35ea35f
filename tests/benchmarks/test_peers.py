"""PyTorch computes the same, where the benchmark compares itself with it."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import method, peers
from transforms.fullgrad import explain, expose, full_gradients

pytestmark = pytest.mark.skipif(not peers.INSTALLED, reason="PyTorch is not installed (the extra `peers`)")

# Their smallest sizes at which convolutions, pooling and padding are all met.
SIZES = {
    "ResNet-20": 16,
    "ResNet50": 64,
    "Xception": 75,
    "MobileNetV2": 64,
    "EfficientNetB0": 64,
    "VGG16": 32,
    "DenseNet121": 64,
}


def test_a_network_that_pytorch_does_not_compute_alike_is_refused() -> None:
    model, images = method.network("ResNet-20", 16, 2)
    peer = peers.Peer(expose(model))
    model.layers[-1].kernel.assign(model.layers[-1].kernel * 1.01)
    with pytest.raises(peers.PeerError, match="PyTorch's logits differ"):
        peers.check_logits(expose(model), peer, images)


@pytest.mark.parametrize("name", SIZES)
def test_pytorch_has_the_same_logits(name: str) -> None:
    model, images = method.network(name, SIZES[name], 2)
    exposed = expose(model)
    peers.check_logits(exposed, peers.Peer(exposed), images)


def test_pytorch_has_the_same_gradient_and_the_authors_the_same_maps() -> None:
    model, images = method.network("ResNet-20", 32, 3)
    exposed = expose(model)
    peer = peers.Peer(exposed)
    batch = peer.batch(images)
    largest = np.abs(peer.gradient(batch).numpy()).max(axis=1)
    np.testing.assert_allclose(
        explain(exposed, images, method="gradients").maps, largest, atol=1e-4 * largest.max(), rtol=0
    )
    maps = full_gradients(exposed, images, biases="explicit").maps
    np.testing.assert_allclose(peer.authors(batch).numpy(), maps, atol=1e-4 * maps.max(), rtol=0)
