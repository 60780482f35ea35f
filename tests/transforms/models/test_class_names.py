"""Files of class names, by law: whatever the names are, a file that numbers them gives them back."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transforms.models.class_names import UnreadableNames, class_names

# Names with letters, digits and what sets cells apart, which begin as they like.
NAME = st.text("ab3 ,;.-'[:\"Ä", min_size=1, max_size=8).map(str.strip).filter(bool)
NAMES = st.lists(NAME, min_size=2, max_size=12, unique=True)


@given(NAMES)
def test_json_gives_the_names_back(names: list[str]) -> None:
    by_number = {str(place): name for place, name in enumerate(names)}
    by_name = {name: place for place, name in enumerate(names)}
    for value in (names, by_number, by_name, {place: ["n0", name] for place, name in by_number.items()}):
        for indent in (None, 2):
            assert class_names(json.dumps(value, indent=indent)) == tuple(names)


@given(NAMES, st.sampled_from(",\t;"), st.booleans(), st.randoms(use_true_random=False))
def test_a_table_gives_the_names_back(names: list[str], delimiter: str, first: bool, shuffled: random.Random) -> None:
    rows = [(str(place), name) for place, name in enumerate(names)]
    shuffled.shuffle(rows)
    sink = io.StringIO()
    writer = csv.writer(sink, delimiter=delimiter, quoting=csv.QUOTE_ALL)
    for row in [("index", "name"), *rows]:
        writer.writerow(row if first else row[::-1])
    assert class_names(sink.getvalue()) == tuple(names)


@given(st.lists(st.text("abÄ -", min_size=1, max_size=8).map(str.strip).filter(str.isalpha), min_size=2, unique=True))
def test_numbered_and_plain_lines_give_the_names_back(names: list[str]) -> None:
    assert class_names("\n".join(names)) == tuple(names)
    for apart in (" ", "\t", ": ", ",", ") ", " - "):
        assert class_names("\n".join(f"{place}{apart}{name}" for place, name in enumerate(names))) == tuple(names)


@given(st.text(max_size=60))
def test_any_text_is_names_or_refused(text: str) -> None:
    with contextlib.suppress(UnreadableNames):
        names = class_names(text)
        assert names
        assert all(isinstance(name, str) for name in names)


@pytest.mark.parametrize("text", ["", "\n \n", "\x1f", "\n\x1c\x85\u2028\n"])
def test_an_empty_file_is_refused(text: str) -> None:
    with pytest.raises(UnreadableNames, match="is empty, where one name a line was expected"):
        class_names(text)
