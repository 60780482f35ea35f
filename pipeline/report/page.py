"""Makes the page and its data files: text that a browser reads from disk."""

from __future__ import annotations

import importlib.resources
import json
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

# In this order they are joined into the page. Each file uses only what stands before it, until the page starts.
STYLES = ("base.css", "views.css", "findings.css")
SCRIPTS = (
    "store.js",
    "elements.js",
    "colours.js",
    "maps.js",
    "charts.js",
    "checked.js",
    "clusters.js",
    "overview.js",
    "classes.js",
    "class.js",
    "image.js",
    "comparison.js",
    "router.js",
)


def page(title: str) -> str:
    """The page, with its styles and scripts inline. All of a run but the title is in the data files."""
    environment = Environment(
        loader=PackageLoader("pipeline.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template("index.html.j2").render(
        title=title,
        styles=[_source(name) for name in STYLES],
        scripts=[_source(name) for name in SCRIPTS],
    )


def data_script(call: str, *values: Any) -> str:
    """A script that hands values to the page: `call(value, …);`. A page from disk can load data in no other way.

    The values become JSON that is also safe inside a script: no character of it ends the script or opens a comment.
    """
    return f"{call}({', '.join(_json(value) for value in values)});\n"


def _json(value: Any) -> str:
    # ensure_ascii also writes U+2028 and U+2029 as escapes, which old browsers take for ends of lines.
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _source(name: str) -> Markup:
    """A style or script of ours, which is written into the page as it stands."""
    return Markup(importlib.resources.files("pipeline.report").joinpath("templates", name).read_text("utf-8"))
