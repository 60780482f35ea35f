"""The report in Chromium and Firefox, from disk: views, sorting, filters, keyboard, barriers, escapes, alignment."""

from __future__ import annotations

import io
import json
import pathlib
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from benchmarks.made_output import Made, make_output
from pipeline.report import build_report
from tests.browser.bidi import Browser
from tests.pipeline.report.conftest import NAMES
from tests.pipeline.report.data import class_of, index_of

pytestmark = pytest.mark.browser

VIEWS = ("#overview", "#classes", "#class/0", "#class/2")


def text(browser: Browser, selector: str) -> str:
    return browser.evaluate(f"document.querySelector({json.dumps(selector)}).textContent")


def texts(browser: Browser, selector: str) -> list[str]:
    return browser.evaluate(f"[...document.querySelectorAll({json.dumps(selector)})].map((each) => each.textContent)")


def click(browser: Browser, selector: str) -> None:
    browser.evaluate(f"void document.querySelector({json.dumps(selector)}).click()")


def image_view(output: pathlib.Path, index: int = 0, kind: str = "typical", rank: int = 0) -> str:
    page = class_of(output / "report", index)
    example = page["examples"][page["kinds"][kind][rank][0]]
    return f"#image/{index}/{kind}/{example['key']}"


# ---- views


def test_the_overview_begins_with_the_class_that_stands_out(browser: Browser, output: pathlib.Path) -> None:
    index = index_of(output / "report")
    assert text(browser, "h1") == index["title"]
    assert text(browser, ".finding p") == index["findings"][0]["sentence"]
    browser.wait("document.querySelectorAll('.strip a').length === 10")
    assert f"{100 * index['totals']['accuracy']:.1f}\u00a0%" in texts(browser, ".tiles .value")
    failures = texts(browser, ".failure summary")
    assert [words.split()[0] for words in failures] == ["UndecodableImage", "NoImage"]
    assert "<b>truncated</b>" in text(browser, ".failure li"), "a message is text"
    assert text(browser, ".unchecked") == f"fullgrad check {output} tests whether the model uses what stands out."
    assert not browser.evaluate("document.querySelector('nav [data-view=comparison]').checkVisibility()")


def test_every_view_shows_its_class_or_image(browser: Browser, output: pathlib.Path) -> None:
    for number, name in enumerate(NAMES):
        browser.go(f"#class/{number}")
        assert text(browser, "h1") == name
        assert len(texts(browser, ".maps figure")) == 4
        page = class_of(output / "report", number)
        cards = sum(map(len, page["kinds"].values()))
        browser.wait(f"document.querySelectorAll('.card').length === {cards}")
        assert len(texts(browser, ".bars li")) == len(page["taken_for"]) + len(page["taken_as"])
        assert len(texts(browser, "svg.box")) == 12
    address = image_view(output)
    browser.go(address)
    example = next(each for each in class_of(output / "report", 0)["examples"] if address.endswith(each["key"]))
    assert text(browser, "h1") == example["id"]
    explained, given, bias, unlocated = (f"{value:.3g}".replace("-", "−") for value in example["terms"])
    shown = [value.rstrip("0").rstrip(".") for value in texts(browser, ".law td.number")]
    assert shown == [given, bias, unlocated, explained]
    assert example["shard"] in texts(browser, ".facts dd")


def test_names_and_ids_are_shown_as_text(browser: Browser, output: pathlib.Path) -> None:
    browser.evaluate("void (window.alerts = 0, window.alert = () => window.alerts++)")
    for view in (*VIEWS, image_view(output, 2), image_view(output, 5)):
        browser.go(view)
        assert browser.evaluate("document.querySelectorAll('main script, main i, main b').length") == 0
    assert browser.evaluate("window.alerts") == 0
    browser.go("#class/2")
    assert text(browser, "h1") == "<script>alert(1)</script>"
    browser.go(image_view(output, 5))
    assert text(browser, "h1").startswith('tri & "angle"\u2028 "x" & <i>')


def test_an_address_that_is_not_there_is_said_to_be_so(browser: Browser, page: str) -> None:
    for address in ("#class/99", "#image/0/typical/none", "#class/x"):
        browser.go(address)
        assert text(browser, "h1") == "Not found"


# ---- the table


def test_the_table_sorts_and_filters(browser: Browser, output: pathlib.Path) -> None:
    table = index_of(output / "report")["classes"]
    browser.go("#classes")
    names = "tbody th a"
    assert texts(browser, names) == list(NAMES)
    for key, values in (("accuracy", table["accuracy"]), ("corner_mass", table["mean"]["corner_mass"])):
        order = sorted(range(len(NAMES)), key=lambda row: (-values[row], row))
        click(browser, f"th[data-sort={key}] button")
        assert texts(browser, names) == [NAMES[row] for row in order]
        assert browser.evaluate(f"document.querySelector('th[data-sort={key}]').ariaSort") == "descending"
        click(browser, f"th[data-sort={key}] button")
        assert texts(browser, names) == [NAMES[row] for row in sorted(order, key=lambda row: (values[row], row))]
    browser.evaluate("void document.getElementById('filter').focus()")
    browser.press(*"STAR")
    assert texts(browser, names) == ["star"]
    assert text(browser, "p[role=status].note") == "1 of 6 classes"
    browser.go("#class/4")
    browser.go("#classes")
    assert texts(browser, names) == ["star"], "the table is as it was left"
    browser.evaluate("void document.getElementById('filter').select()")
    browser.press("Backspace")
    click(browser, ".filter input[type=checkbox]")
    assert texts(browser, names) == ["octagon"]


def test_a_long_table_is_filled_in_order(light: Browser, tmp_path: pathlib.Path) -> None:
    names = [f"class number {i}" for i in range(130)]
    make_output(tmp_path / "output", Made(names, images=4, grid=8, examples=False))
    build_report(str(tmp_path / "output"))
    light.open((tmp_path / "output" / "report" / "index.html").as_uri())
    light.go("#classes")
    click(light, "th[data-sort=name] button")
    click(light, "th[data-sort=class] button")
    click(light, "th[data-sort=class] button")
    light.wait("document.querySelectorAll('tbody tr').length === 130")
    assert texts(light, "tbody th a") == names[::-1]


# ---- keyboard


def focused(browser: Browser) -> str:
    return browser.evaluate("document.activeElement.textContent.trim() || document.activeElement.id")


def test_everything_is_reached_by_keyboard(browser: Browser, output: pathlib.Path) -> None:
    browser.press("Tab")
    assert focused(browser) == "Skip to the content"
    assert browser.evaluate("document.activeElement.getBoundingClientRect().top") >= 0, "it is seen"
    browser.press("Enter")
    assert browser.evaluate("document.activeElement.id") == "main"
    browser.press("Tab")
    assert focused(browser) == "octagon"
    assert browser.evaluate("parseFloat(getComputedStyle(document.activeElement).outlineWidth)") >= 2
    browser.press("Enter")
    browser.shown("#class/0")
    first, second = image_view(output), image_view(output, rank=1)
    browser.evaluate("void document.querySelector('.card a').focus()")
    browser.press("Enter")
    browser.shown(first)
    browser.press("ArrowLeft")
    browser.press("ArrowRight")
    browser.shown(second)
    browser.evaluate("void history.back()")
    browser.shown(first)
    browser.press("ArrowRight")
    browser.shown(second)
    browser.press("Escape")
    browser.shown("#class/0")
    assert browser.evaluate("document.activeElement.getAttribute('href')") == second, "back where one was"
    browser.press("Escape")
    browser.shown("#classes")


# ---- how maps are shown


def test_the_switches_change_all_examples(browser: Browser) -> None:
    browser.go("#class/0")
    layers = "document.querySelector('.card .picture').querySelectorAll('canvas').length"
    for mode, count in (("image", 1), ("map", 1), ("overlay", 2)):
        click(browser, f"input[value={mode}]")
        assert browser.evaluate(layers) == count
    browser.evaluate(
        "void ((slider) => { slider.value = 30; slider.dispatchEvent(new Event('input')) })"
        "(document.querySelector('input[type=range]'))"
    )
    assert set(browser.evaluate("[...document.querySelectorAll('canvas.over')].map((c) => c.style.opacity)")) == {"0.3"}
    rendering = "getComputedStyle(document.querySelector('.card canvas.map')).imageRendering"
    assert browser.evaluate(rendering) == "pixelated"
    click(browser, ".controls .check input")
    assert browser.evaluate(rendering) == "auto"
    click(browser, ".controls .check input")
    browser.evaluate("void (display.opacity = 0.7)")


def test_colours_are_even_steps_of_lightness(browser: Browser) -> None:
    def lightness(table: list[list[int]]) -> np.ndarray:
        rgb = np.asarray(table) / 255
        linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        to_lms = [[0.4122214708, 0.5363325363, 0.0514459929], [0.2119034982, 0.6806995451, 0.1073969566]]
        to_lms.append([0.0883024619, 0.2817188376, 0.6299787005])
        return np.cbrt(linear @ np.transpose(to_lms)) @ [0.2104542553, 0.793617785, -0.0040720468]

    sequential = np.diff(lightness(browser.evaluate("colours.sequential")))
    assert sequential.min() > 0
    assert np.ptp(np.convolve(sequential, np.ones(32) / 32, "valid")) < 0.15 * sequential.mean()
    diverging = lightness(browser.evaluate("colours.diverging"))
    assert np.abs(diverging - diverging[::-1]).max() < 0.01, "both signs weigh the same"
    assert 127 <= diverging.argmax() <= 128


@pytest.fixture(scope="module")
def marked(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A report in which one pixel of an image and the same pixel of its map are marked. Images are 32 × 24."""
    path = tmp_path_factory.mktemp("marked") / "output"
    make_output(path, Made(("a", "b", "c"), images=15, grid=16, side=32, signed=True))
    table = pq.read_table(path / "examples.parquet")
    pixels = np.full((24, 32, 3), 40, np.uint8)
    pixels[6:9, 22:24] = 255  # rows 6 to 9 of 24 are 4 to 6 of 16, columns 22 to 24 of 32 are 11 to 12
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    codes = np.zeros((16, 16), np.uint8)
    codes[4:6, 11] = 255
    count = table.num_rows
    changed = {
        "map": pa.array([codes.tobytes()] * count),
        "map_scale": pa.array([1 / 255] * count),
        "map_offset": pa.array([0.0] * count),
        "image": pa.array([{"bytes": file.getvalue(), "path": "marked.png"}] * count, table.schema.field("image").type),
    }
    for name, column in changed.items():
        table = table.set_column(table.schema.get_field_index(name), name, column)
    pq.write_table(table, path / "examples.parquet")
    build_report(str(path))
    return path


def seen_alone(browser: Browser, layer: str) -> dict[str, float]:
    """Where the mark of one layer lies on the screen, in shares of the first overlay; `pixel` is a pixel's share."""
    hide = f"each.style.visibility = each.classList.contains('{layer}') ? 'visible' : 'hidden'"
    browser.run(
        "document.querySelectorAll('.picture').forEach((each) => (each.style.background = 'black'));"
        f"document.querySelectorAll('.picture canvas').forEach((each) => ({hide}));"
    )
    clip = browser.evaluate(
        "((box) => ({x: box.x + scrollX, y: box.y + scrollY, width: box.width, height: box.height}))"
        "(document.querySelector('canvas.over').parentElement.getBoundingClientRect())"
    )
    seen = np.asarray(Image.open(io.BytesIO(browser.screenshot(clip=clip))).convert("L")).astype(int)
    # Without the page behind its round corners.
    seen[[0, 1, 2, -1, -2, -3]] = seen[:, [0, 1, 2, -1, -2, -3]] = seen.min()
    height, width = seen.shape
    assert width / height == pytest.approx(32 / 24, abs=0.06)
    rows, columns = np.nonzero(seen > (seen.min() + seen.max()) / 2)
    return {
        "top": rows.min() / height,
        "bottom": (rows.max() + 1) / height,
        "left": columns.min() / width,
        "right": (columns.max() + 1) / width,
        "pixel": 1 / min(height, width),
    }


def test_a_marked_pixel_lies_under_its_cell_of_the_map(light: Browser, marked: pathlib.Path) -> None:
    light.resize(1280, 900)
    light.open("about:blank")
    light.open((marked / "report" / "index.html").as_uri())
    for address in (image_view(marked), "#class/0"):
        light.go(address)
        image, saliency = (seen_alone(light, layer) for layer in ("photo", "map"))
        for side, expected in {"top": 4 / 16, "bottom": 6 / 16, "left": 11 / 16, "right": 12 / 16}.items():
            assert image[side] == pytest.approx(saliency[side], abs=1.01 * image["pixel"]), (address, side)
            # The page may begin between two pixels of the screen.
            assert image[side] == pytest.approx(expected, abs=2 * image["pixel"]), (address, side)


# ---- barriers and widths


def violations(browser: Browser, axe: str) -> list[dict[str, Any]]:
    browser.run(axe)
    found = browser.evaluate("axe.run(document, {resultTypes: ['violations']}).then((result) => result.violations)")
    return [
        {"rule": each["id"], "impact": each["impact"], "nodes": [node["html"][:160] for node in each["nodes"][:3]]}
        for each in found
        if each["impact"] in ("serious", "critical")
    ]


def assert_no_barriers(browser: Browser, output: pathlib.Path, page: str, axe: str) -> None:
    browser.resize(1280, 900)
    browser.open("about:blank")
    browser.open(page)
    for view in (*VIEWS, image_view(output)):
        browser.go(view)
        assert violations(browser, axe) == [], view


def brightness(browser: Browser) -> int:
    return browser.evaluate("getComputedStyle(document.body).backgroundColor.match(/[0-9]+/g).map(Number)[0]")


def test_axe_finds_nothing_serious_in_any_view(light: Browser, output: pathlib.Path, page: str, axe: str) -> None:
    assert_no_barriers(light, output, page, axe)
    assert brightness(light) > 200


def test_axe_finds_nothing_serious_in_the_dark(dark: Browser, output: pathlib.Path, page: str, axe: str) -> None:
    assert_no_barriers(dark, output, page, axe)
    assert brightness(dark) < 60


def test_nothing_is_wider_than_a_phone(browser: Browser, output: pathlib.Path) -> None:
    browser.resize(360, 780)
    for view in (*VIEWS, image_view(output)):
        browser.go(view)
        assert browser.evaluate("document.documentElement.scrollWidth") <= 360, view
        small = browser.evaluate(
            "[...document.querySelectorAll('main a, main button')].filter((each) => each.offsetHeight > 0 && "
            "getComputedStyle(each).fontSize.replace('px', '') < 12).length"
        )
        assert small == 0, "no text that cannot be read"
