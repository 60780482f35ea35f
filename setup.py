"""Makes the description for package indexes from README.md; all else is in pyproject.toml.

An index shows the description on a page of its own, where links into this repository lead nowhere. They become the
names of files, which the source distribution has.
"""

import pathlib
import re

from setuptools import setup

_NOTE = "*Files named here, such as `docs/input.md`, are in the source distribution.*"


def for_an_index(text: str) -> str:
    """README.md's text without links into the repository, without its images and without links to its own headings."""
    text = re.sub(r"!\[([^\]]*)\]\((?!https?:)[^)]*\)", r"*\1*", text)
    text = re.sub(r"\[([^\]]*)\]\(#[^)]*\)", r"\1", text)
    text = re.sub(r"\[([^\]]*)\]\((?!https?:)([^)#]+)[^)]*\)", _named, text)
    title, _, rest = text.partition("\n")
    return f"{title}\n\n{_NOTE}\n{rest}"


def _named(link: re.Match[str]) -> str:
    label, path = link.groups()
    return f"`{path}`" if label.strip("`") in path else f"{label} (`{path}`)"


setup(
    long_description=for_an_index((pathlib.Path(__file__).parent / "README.md").read_text(encoding="utf-8")),
    long_description_content_type="text/markdown",
)
