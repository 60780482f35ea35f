"""The benchmark of speed measures what it says."""

from __future__ import annotations

import csv
import pathlib

import pytest

from benchmarks import method, peers


def test_it_writes_every_variant_and_its_ratios_and_says_where_pytorch_is_left_out(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "INSTALLED", False)
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


def test_a_name_that_is_no_model_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        method.main(["--models", "ResNet-21"])
    assert "ResNet-21" in capsys.readouterr().err
