"""The benchmark of speed: it measures what it says, and PyTorch computes the same there."""

from __future__ import annotations

import csv
import pathlib

import numpy as np
import pytest

from benchmarks import method
from transforms.fullgrad import explain, expose, full_gradients

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


def test_it_writes_every_variant_and_its_ratios_and_says_where_pytorch_is_left_out(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(method, "torch", None)
    path = tmp_path / "figures.csv"
    method.main(["--models", "ResNet-20", "--rounds", "2", "--seconds", "0", "--batch", "2", "--csv", str(path)])
    with open(path, newline="") as source:
        rows = {row["variant"]: row for row in csv.DictReader(source)}
    assert list(rows) == ["forward", "gradient", "FullGrad"]
    for row in rows.values():
        assert float(row["images_per_second_least"]) <= float(row["images_per_second"])
        assert row["batch"] == "2"
    assert rows["forward"]["of_limit"] == ""
    assert float(rows["FullGrad"]["of_limit"]) == pytest.approx(2 * float(rows["forward"]["fullgrad_over"]), rel=1e-3)
    printed = capsys.readouterr().out
    assert all(text in printed for text in ("PyTorch is left out: it is not installed", "ResNet-20, 32×32", "FullGrad"))


def test_a_network_that_pytorch_does_not_compute_alike_is_refused() -> None:
    pytest.importorskip("torch")
    model, images = method.network("ResNet-20", 16, 2)
    peer = method.Peer(expose(model))
    model.layers[-1].kernel.assign(model.layers[-1].kernel * 1.01)
    with pytest.raises(method.PeerError, match="PyTorch's logits differ"):
        method.check_logits(expose(model), peer, images)


def test_a_name_that_is_no_model_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        method.main(["--models", "ResNet-21"])
    assert "ResNet-21" in capsys.readouterr().err


@pytest.mark.parametrize("name", SIZES)
def test_pytorch_has_the_same_logits(name: str) -> None:
    pytest.importorskip("torch")
    model, images = method.network(name, SIZES[name], 2)
    exposed = expose(model)
    method.check_logits(exposed, method.Peer(exposed), images)


def test_pytorch_has_the_same_gradient_and_the_authors_the_same_maps() -> None:
    pytest.importorskip("torch")
    model, images = method.network("ResNet-20", 32, 3)
    exposed = expose(model)
    peer = method.Peer(exposed)
    batch = peer.batch(images)
    largest = np.abs(peer.gradient(batch).numpy()).max(axis=1)
    np.testing.assert_allclose(
        explain(exposed, images, method="gradients").maps, largest, atol=1e-4 * largest.max(), rtol=0
    )
    maps = full_gradients(exposed, images, biases="explicit").maps
    np.testing.assert_allclose(peer.authors(batch).numpy(), maps, atol=1e-4 * maps.max(), rtol=0)
