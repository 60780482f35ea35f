"""The API reference is built from the docstrings, without a warning or a broken link."""

from __future__ import annotations

import pathlib
import runpy

import pytest

from transforms import __all__ as PUBLIC

SCRIPT = runpy.run_path(str(pathlib.Path(__file__).parent.parent / "docs" / "reference.py"))


@pytest.mark.slow
def test_it_is_built_and_has_every_public_name(tmp_path: pathlib.Path) -> None:
    SCRIPT["build"](tmp_path)
    page = (tmp_path / "transforms.html").read_text()
    assert [name for name in PUBLIC if f'id="{name}"' not in page] == []
    assert 'id="full_gradients"' in (tmp_path / "transforms" / "fullgrad.html").read_text()


@pytest.mark.parametrize("link", ["other.html", "#nowhere"])
def test_a_link_without_a_target_is_an_error(link: str, tmp_path: pathlib.Path) -> None:
    (tmp_path / "index.html").write_text(f'<p id="here"><a href="#here">a</a> <a href="{link}">b</a></p>')
    with pytest.raises(SCRIPT["BrokenReference"], match=f"index.html links to {link}, which is not there"):
        SCRIPT["check_links"](tmp_path)
