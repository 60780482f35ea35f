"""Builds the API reference from the docstrings: `python docs/reference.py [FOLDER]`. A warning is an error.

Needs the extra `docs`. The default folder is out/reference; open its index.html.
"""

from __future__ import annotations

import pathlib
import re
import sys
import warnings

import pdoc
import pdoc.render

import transforms

# A package's page has the names in its `__all__`.
MODULES = (
    "transforms",
    "transforms.fullgrad",
    "!transforms.fullgrad.expose",  # a module with the name of the function that it is for
    "transforms.fullgrad.maps",
    "transforms.fullgrad.rules",
    "transforms.fullgrad.terms",
    "transforms.images",
    "transforms.models",
    "transforms.output",
    "transforms.pictures",
    "transforms.probing",
    "transforms.sources",
    "transforms.statistics",
    "transforms.unit",
)


class BrokenReference(Exception):
    """A page links to a place that is not there; one sentence that names both."""


def build(folder: pathlib.Path) -> None:
    """Writes a page for each module, and index.html.

    Raises:
      BrokenReference: a link has no target.
      UserWarning: pdoc warns of a name that it cannot find, or of a docstring that it cannot read.
    """
    for name in transforms.__all__:  # imported on first use, and pdoc uses none
        setattr(transforms, name, getattr(transforms, name))
    pdoc.render.configure(docformat="google", footer_text="fullgrad-beam", search=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        pdoc.pdoc(*MODULES, output_directory=folder)
    check_links(folder)


def check_links(folder: pathlib.Path) -> None:
    """Checks that each link between pages, and each anchor, has its target.

    Raises:
      BrokenReference: one has none.
    """
    script = re.compile(r"<script.*?</script>", re.DOTALL)
    pages = {path.resolve(): script.sub("", path.read_text()) for path in folder.rglob("*.html")}
    anchors = {path: set(re.findall(r'\bid="([^"]+)"', text)) for path, text in pages.items()}
    for path, text in pages.items():
        for link in re.findall(r'\bhref="([^"]+)"', text):
            if re.match(r"[a-z]+:|//", link):
                continue
            page, _, anchor = link.partition("#")
            target = (path.parent / page).resolve() if page else path
            if target not in pages or (anchor and anchor not in anchors[target]):
                raise BrokenReference(f"{path.relative_to(folder.resolve())} links to {link}, which is not there")


if __name__ == "__main__":
    to = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "out/reference")
    build(to)
    print(f"made {to / 'index.html'}")
