"""The report as a folder: what it needs, what it refuses, and that a build that fails leaves nothing half-written."""

from __future__ import annotations

import io
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from benchmarks.made_output import Made, make_output
from pipeline.cli import main
from pipeline.report import UnusableFolder, UnusableResults, build_report
from pipeline.report import build as building
from pipeline.report.folder import StoreFolder
from pipeline.report.sprites import make_sprite
from pipeline.report.words import FIGURE_WORDS, KIND_WORDS
from tests.pipeline.report.data import class_of, index_of
from transforms.statistics import FIGURES, KINDS

ROOT = pathlib.Path(__file__).parents[3]


@pytest.fixture
def copied(output: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    """The output, without its report, for tests that change it."""
    return pathlib.Path(shutil.copytree(output, tmp_path / "copied", ignore=shutil.ignore_patterns("report")))


def files_of(folder: pathlib.Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_command_says_where_the_page_is(
    copied: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(copied), "--to", str(tmp_path / "elsewhere" / "page")]) == 0
    page = tmp_path / "elsewhere" / "page" / "index.html"
    assert f"report: {page}" in capsys.readouterr().out
    assert page.is_file()
    assert not (copied / "report").exists()
    names = set(files_of(page.parent))
    assert names == {"index.html", "data/index.js"} | {
        name for k in range(6) for name in (f"data/c{k}.js", f"thumbs/c{k}.jpg")
    }


def test_maps_are_not_read(copied: pathlib.Path) -> None:
    for path in ("maps", "partials"):
        shutil.rmtree(copied / path)
    assert build_report(str(copied)).classes == 6


def test_two_builds_are_equal(output: pathlib.Path, tmp_path: pathlib.Path) -> None:
    build_report(str(output), str(tmp_path / "again"))
    assert files_of(tmp_path / "again") == files_of(output / "report")


def test_no_byte_of_the_data_can_end_a_script(output: pathlib.Path) -> None:
    for path in (output / "report" / "data").iterdir():
        content = path.read_bytes()
        assert content.isascii(), "so U+2028, which ends a line in old browsers, is an escape"
        assert not set(content) & set(b"<>&"), path.name
    page = (output / "report" / "index.html").read_text()
    assert "alert(1)" not in page
    assert page.count("<script") == page.count("</script>") == 3


def test_the_title_is_escaped(copied: pathlib.Path) -> None:
    run = copied / "run.json"
    run.write_text(run.read_text().replace('"name": "shapes"', '"name": "</title><script>alert(2)</script>"'))
    build_report(str(copied))
    page = (copied / "report" / "index.html").read_text()
    assert "<script>alert(2)" not in page
    assert "&lt;/title&gt;&lt;script&gt;alert(2)" in page


def test_nothing_on_the_page_comes_from_elsewhere(output: pathlib.Path) -> None:
    page = (output / "report" / "index.html").read_text()
    assert "http://www.w3.org/2000/svg" in page, "a name, not an address"
    assert page.replace("http://www.w3.org/2000/svg", "").count("http") == 0


@pytest.mark.parametrize(
    ("missing", "sentence"),
    [("examples.parquet", "no examples.parquet"), ("confusion.parquet", "no confusion.parquet")],
)
def test_an_output_of_an_earlier_version_has_a_report_that_says_what_is_missing(
    copied: pathlib.Path, missing: str, sentence: str
) -> None:
    (copied / missing).unlink()
    built = build_report(str(copied))
    assert [sentence in each for each in built.missing] == [True]
    assert index_of(copied / "report")["missing"] == list(built.missing)


def test_a_run_without_pictures_has_maps_and_says_so(tmp_path: pathlib.Path) -> None:
    make_output(tmp_path / "output", Made(("a", "b", "c"), images=15, grid=8, side=None))
    built = build_report(str(tmp_path / "output"))
    assert "output.images is null" in built.missing[0]
    page = class_of(tmp_path / "output" / "report", 1)
    assert page["sprite"] is None
    assert all(example["map"] for example in page["examples"])
    assert not (tmp_path / "output" / "report" / "thumbs").exists()


@pytest.mark.parametrize(
    ("missing", "sentence"),
    [
        ("run.json", "is no output of a run: there is no run.json in it"),
        ("summary.json", "has no summary.json: no run into it has ended yet"),
        ("classes.parquet", "has no classes.parquet"),
    ],
)
def test_a_folder_without_results_is_refused_in_a_sentence(
    copied: pathlib.Path, missing: str, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (copied / missing).unlink()
    assert main(["report", str(copied)]) == 2
    assert sentence in capsys.readouterr().err
    assert not (copied / "report").exists()


def test_a_damaged_file_is_named(copied: pathlib.Path) -> None:
    (copied / "examples.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(UnusableResults, match=r"examples\.parquet cannot be read"):
        build_report(str(copied))
    assert not (copied / "report").exists()


def test_a_folder_that_is_no_report_is_not_replaced(output: pathlib.Path, tmp_path: pathlib.Path) -> None:
    other = tmp_path / "site"
    other.mkdir()
    build_report(str(output), str(other))  # an empty folder is free
    (other / "index.html").write_text("<h1>mine</h1>")
    with pytest.raises(UnusableFolder, match=r"has an index\.html that is no report"):
        build_report(str(output), str(other))
    (other / "index.html").rename(other / "notes.html")
    with pytest.raises(UnusableFolder, match="is not empty and holds no report"):
        build_report(str(output), str(other))
    assert (other / "notes.html").read_text() == "<h1>mine</h1>"


def test_a_build_that_fails_leaves_the_old_report(
    output: pathlib.Path, copied: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_report(str(copied))
    before = files_of(copied)

    def fail(title: str) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(building, "page", fail)
    with pytest.raises(UnusableFolder, match="cannot be written"):
        build_report(str(copied))
    assert files_of(copied) == before


@pytest.mark.slow
def test_a_killed_build_leaves_the_old_report_and_the_next_one_clears_up(copied: pathlib.Path) -> None:
    build_report(str(copied))
    before = files_of(copied / "report")
    stall = "import time; from pipeline.report import build; build.page = lambda title: time.sleep(60); "
    code = f"{stall} build.build_report({str(copied)!r})"
    killed = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    until = time.monotonic() + 60
    while not list(copied.glob(".report~*~new/data/index.js")) and time.monotonic() < until:
        time.sleep(0.05)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    assert files_of(copied / "report") == before
    assert list(copied.glob(".report~*"))
    build_report(str(copied))
    assert list(copied.glob(".report~*")) == []


def test_in_a_store_the_old_page_goes_first_and_old_files_go_last(tmp_path: pathlib.Path) -> None:
    for name in ("index.html", "data/c0.js", "data/c9.js", "thumbs/c9.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("old")
    store = StoreFolder(str(tmp_path))
    assert not (tmp_path / "index.html").exists()
    store.write("data/c0.js", b"new")
    store.write("index.html", b"new")
    assert (tmp_path / "data" / "c9.js").exists()
    store.clear()
    assert files_of(tmp_path) == {"data/c0.js": b"new", "index.html": b"new"}


def test_sprites_keep_each_image_in_its_cell() -> None:
    def encoded(colour: tuple[int, int, int], size: tuple[int, int]) -> bytes:
        file = io.BytesIO()
        Image.new("RGB", size, colour).save(file, "PNG")
        return file.getvalue()

    colours = [(230, 20, 20), (20, 230, 20), (20, 20, 230), (240, 240, 10), (10, 240, 240)]
    sizes = [(30, 18), (28, 20), (13, 7), (30, 20), (1, 1)]
    sprite = make_sprite([*map(encoded, colours, sizes), None, b"no image"])
    assert sprite is not None
    assert (sprite.cell_width % 8, sprite.cell_height % 8) == (0, 0)
    assert sprite.sizes == (*sizes, None, None)
    pixels = np.asarray(Image.open(io.BytesIO(sprite.jpeg)).convert("RGB")).astype(int)
    for place, (colour, (width, height)) in enumerate(zip(colours, sizes, strict=True)):
        top, left = place // sprite.columns * sprite.cell_height, place % sprite.columns * sprite.cell_width
        cell = pixels[top : top + height, left : left + width]
        assert cell.shape[:2] == (height, width)
        assert np.abs(cell - colour).max() <= 6
    assert make_sprite([None, b"no image"]) is None


def test_every_figure_and_every_kind_has_words() -> None:
    assert {each.name for each in FIGURE_WORDS} == set(FIGURES)
    assert {each.name for each in KIND_WORDS} == {kind.name for kind in KINDS}
