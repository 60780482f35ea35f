"""docs/analysis.md: every recipe in Python runs on a real output. The notebook in examples/ runs too."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pathlib
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from transforms.output import read_maps

ROOT = pathlib.Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "analysis.md").read_text()
SECTIONS = {
    title: re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    for title, text in re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
}
NEEDED = {
    "pandas": ("pandas",),
    "polars": ("polars",),
    "Spark SQL": ("pyspark",),
    "Hugging Face datasets": ("datasets",),
    "FiftyOne": ("fiftyone",),
}


@pytest.fixture
def here(small_output: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """A working folder in which `out/demo` is the output of a small run."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "demo").symlink_to(small_output)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache" / "datasets"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path


def run_section(title: str) -> tuple[dict[str, Any], str]:
    """What a section's code leaves behind, and what it prints."""
    for module in NEEDED.get(title, ()):
        pytest.importorskip(module, reason=f"{module} is not installed; the extra `analysis` has what is light")
    namespace: dict[str, Any] = {}
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        for code in SECTIONS[title]:
            exec(compile(code, f"docs/analysis.md, {title}", "exec"), namespace)
    return namespace, printed.getvalue()


def test_pictures_in_python(here: pathlib.Path) -> None:
    left, _ = run_section("Pictures in Python")
    np.testing.assert_array_equal(np.asarray(Image.open("maps.png")), np.asarray(left["picture"]))


def test_duckdb(here: pathlib.Path) -> None:
    _, printed = run_section("DuckDB")
    assert "predicted_name" in printed
    assert re.search(r"red .*(green|blue)", printed), "no image is taken for red"


def test_pandas(here: pathlib.Path) -> None:
    left, _ = run_section("pandas")
    rows = [row for row in read_maps("out/demo") if row["target_rank"] == 0 and row["target_name"] == "green"]
    wrong = [row["border_mass"] for row in rows if not row["correct"] and row["border_mass"] is not None]
    assert left["table"].loc[("green", False), "border_mass"] == pytest.approx(np.mean(wrong), rel=1e-5)
    assert left["image"].size == (16, 16)


def test_polars(here: pathlib.Path) -> None:
    left, _ = run_section("polars")
    assert left["unusual"]["similarity"].is_sorted()
    assert len(left["unusual"])


def test_pyarrow(here: pathlib.Path) -> None:
    left, _ = run_section("PyArrow")
    rows = [row for row in read_maps("out/demo") if row["target_rank"] == 0 and not row["correct"]]
    assert left["count"] == len(rows) > 0
    expected = np.mean([row["map"] / (row["map"].sum() or 1) for row in rows], axis=0)
    np.testing.assert_allclose(left["mean_map"], expected, rtol=1e-4)


@pytest.mark.slow
def test_spark_sql(here: pathlib.Path) -> None:
    left, _ = run_section("Spark SQL")
    assert sum(row["images"] for row in left["accuracy"].collect()) == 33
    left["spark"].stop()


@pytest.mark.slow
def test_hugging_face_datasets(here: pathlib.Path) -> None:
    left, printed = run_section("Hugging Face datasets")
    assert printed.startswith("Image(")
    assert Image.open("first.png").size == left["first"]["image"].size == (16, 16)


def test_fiftyone(here: pathlib.Path) -> None:
    left, _ = run_section("FiftyOne")
    assert len(left["samples"]) == 33
    assert left["samples"][0].map.map.shape == (16, 16)


def test_every_section_with_code_has_a_test_here() -> None:
    tests: dict[str, Callable[..., Any]] = globals()
    for title, blocks in SECTIONS.items():
        if blocks:
            assert f"test_{title.lower().replace(' ', '_')}" in tests, title


# ---- the notebook

NOTEBOOK = ROOT / "examples" / "demo.ipynb"


@pytest.mark.slow
def test_the_notebook_runs(here: pathlib.Path) -> None:
    nbclient = pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    for module in ("ipykernel", "matplotlib", "pandas"):
        pytest.importorskip(module)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    client = nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(here)}})
    with client.setup_kernel(env=environment):
        client.execute(cleanup_kc=False)
    assert pictures(notebook) == pictures(json.loads(NOTEBOOK.read_text()))


def test_the_notebook_has_its_pictures() -> None:
    assert pictures(json.loads(NOTEBOOK.read_text())) >= 3
    assert NOTEBOOK.stat().st_size < 1 << 20


def pictures(notebook: Any) -> int:
    """The number of pictures that the cells of a notebook show."""
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", ())]
    return sum("image/png" in output.get("data", {}) for output in outputs)
