"""The examples run as they are; tests/test_analysis.py runs the notebook."""

from __future__ import annotations

import csv
import pathlib
import runpy

import pytest
from PIL import Image

from tests.samples import SIDE, encoded_images, save_model

ROOT = pathlib.Path(__file__).parent.parent


@pytest.mark.slow
def test_the_pipeline_of_one_s_own_draws_the_least_certain_images_of_each_class(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = save_model(tmp_path / "model.keras")
    images = tmp_path / "photos"
    images.mkdir()
    for name, image, _ in encoded_images(12):
        (images / name).write_bytes(image)
    (images / "broken.png").write_bytes(b"no image")
    out = tmp_path / "out"
    arguments = [str(model), f"{images}/*.png", str(out), "--keep", "2", "--", "--runner=DirectRunner"]
    monkeypatch.setattr("sys.argv", ["own_pipeline.py", *arguments])
    runpy.run_path(str(ROOT / "examples" / "own_pipeline.py"), run_name="__main__")
    with (out / "uncertain.csv").open() as file:
        rows = list(csv.DictReader(file))
    classes = [row["class"] for row in rows]
    assert rows
    assert max(classes.count(each) for each in classes) == 2
    assert all(float(row["margin"]) >= 0 for row in rows)
    assert {path.name for path in out.glob("*.png")} == {row["picture"] for row in rows}
    assert Image.open(out / rows[0]["picture"]).size >= (SIDE, SIDE)
    assert "broken.png" in (out / "failures.txt").read_text()
