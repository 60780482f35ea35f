"""Browsers that are started once for all tests, and the report that they open."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Iterator

import pytest

from tests.browser.axe import axe_source
from tests.browser.bidi import BROWSERS, Browser, Unavailable
from tests.cluster.missing import skip_or_fail
from tests.pipeline.report.conftest import output, tested  # noqa: F401


def _started(name: str, *, dark: bool) -> Iterator[Browser]:
    with contextlib.ExitStack() as stack:
        try:
            browser = stack.enter_context(BROWSERS[name](dark=dark))
        except Unavailable as reason:
            skip_or_fail(f"{name}: {reason}")
        yield browser


@pytest.fixture(scope="session", params=BROWSERS)
def light(request: pytest.FixtureRequest) -> Iterator[Browser]:
    """Each browser in its light mode."""
    yield from _started(request.param, dark=False)


@pytest.fixture(scope="session", params=BROWSERS)
def dark(request: pytest.FixtureRequest) -> Iterator[Browser]:
    """Each browser in its dark mode."""
    yield from _started(request.param, dark=True)


@pytest.fixture
def page(output: pathlib.Path) -> str:  # noqa: F811
    """The address of the report's page on disk."""
    return (output / "report" / "index.html").as_uri()


@pytest.fixture
def browser(light: Browser, page: str) -> Iterator[Browser]:
    """A browser that shows the overview. After the test, it must not have complained or asked for other addresses."""
    light.resize(1280, 900)
    light.messages.clear()
    light.requests.clear()
    light.open("about:blank")
    light.open(page)
    yield light
    assert [message for message in light.messages if message.level in ("error", "warning", "warn")] == []
    assert {url.partition(":")[0] for url in light.requests} <= {"file", "about"}


@pytest.fixture(scope="session")
def axe() -> str:
    """The source of axe-core."""
    try:
        return axe_source()
    except Unavailable as reason:
        skip_or_fail(reason)
