"""A check and a comparison in the report, in browsers."""

from __future__ import annotations

import pathlib

import pytest

from tests.browser.bidi import Browser
from tests.browser.test_report import click, text, texts, violations
from tests.pipeline.report.conftest import NAMES
from tests.pipeline.report.data import class_of, index_of

pytestmark = pytest.mark.browser


@pytest.fixture
def page(tested: pathlib.Path) -> str:
    """The address of the report with a check and a comparison; `browser` opens it."""
    return (tested / "report" / "index.html").as_uri()


def assert_shown_well(browser: Browser, axe: str) -> None:
    """No barrier, nothing that the data wrote as markup, and nothing wider than a phone."""
    assert violations(browser, axe) == []
    assert browser.evaluate("document.querySelectorAll('main script, main i, main b').length") == 0
    browser.resize(360, 780)
    assert browser.evaluate("document.documentElement.scrollWidth") <= 360
    browser.resize(1280, 900)


def test_a_check_is_said_first_and_shown_before_and_after(browser: Browser, tested: pathlib.Path, axe: str) -> None:
    listed = index_of(tested / "report")["checks"]["listed"]
    assert texts(browser, "h2")[:2] == ["What was tested", "What stands out"]
    assert text(browser, ".finding p") == "octagon rests on the bottom right. used"
    assert text(browser, ".finding .more") == listed[0]["sentence"]
    browser.wait("document.querySelectorAll('.finding .changes .pair').length === 4")
    click(browser, ".tested summary")
    assert texts(browser, ".tested li .note") == [each["sentence"] for each in listed]
    assert texts(browser, ".tested li .verdict") == [each["verdict"] for each in listed]
    assert_shown_well(browser, axe)

    browser.go("#class/2")
    findings = class_of(tested / "report", 2)["checks"]["findings"]
    assert texts(browser, ".checked summary .verdict") == [each["verdict"] for each in findings]
    assert browser.evaluate("document.querySelectorAll('.checked[open]').length") == 1
    drop = f"{findings[0]['logit_drop']:.3g}"
    assert text(browser, ".effects tbody tr td:nth-child(4)").startswith(drop)
    assert text(browser, ".changes .caption") == f"{NAMES[2]} → {NAMES[3]}"
    described = "document.querySelector('.changes [role=img]').ariaLabel"
    assert browser.evaluate(described) == f'{NAMES[2]} "1" <i>.png as it is: taken for {NAMES[2]}'
    browser.evaluate("void document.querySelectorAll('.checked').forEach((each) => (each.open = true))")
    browser.wait("document.querySelectorAll('.checked .frame').length === 6")
    assert_shown_well(browser, axe)


def test_a_comparison_has_a_view_of_its_own(browser: Browser, tested: pathlib.Path, axe: str) -> None:
    comparison = index_of(tested / "report")["comparison"]
    click(browser, "nav [data-view=comparison]")
    browser.shown("#comparison")
    assert text(browser, "h1") == "Comparison"
    assert text(browser, ".sides .facts dd") == "out/<b>first</b>"
    columns = comparison["classes"]
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)][1:]
    names = ".compared tbody th a"
    by_likeness = sorted(rows, key=lambda row: (row["spearman_mean"] is None, row["spearman_mean"]))
    assert texts(browser, names) == [row["class_name"] for row in by_likeness]
    click(browser, ".compared th[data-sort=changed] button")
    by_change = sorted(rows, key=lambda row: -row["changed"] / row["images"])
    assert texts(browser, names) == [row["class_name"] for row in by_change]
    known = [each for each in comparison["changed"] if each["example"]]
    links = ".scroll:last-of-type tbody th a"
    assert texts(browser, links) == [each["image_id"] for each in known]
    assert_shown_well(browser, axe)
    click(browser, links)
    browser.shown("#image/{}/{}/{}".format(*known[0]["example"]))
    assert text(browser, "h1") == known[0]["image_id"]


def test_the_sections_have_no_barriers_in_the_dark(dark: Browser, page: str, axe: str) -> None:
    dark.resize(1280, 900)
    dark.open("about:blank")
    dark.open(page)
    for view in ("#overview", "#class/0", "#comparison"):
        dark.go(view)
        assert violations(dark, axe) == [], view
