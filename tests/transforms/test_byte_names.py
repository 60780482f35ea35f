"""Names that are not UTF-8 become text and back, and no two get the same text."""

from __future__ import annotations

import os

from hypothesis import given
from hypothesis import strategies as st

from transforms.byte_names import PRINTABLE, as_text, from_text

names = st.binary(max_size=20) | st.text(alphabet="\\x5cff41é", max_size=12).map(str.encode)


@given(names)
def test_a_name_is_found_again_from_its_text(name: bytes) -> None:
    text = as_text(name)
    assert os.fsencode(from_text(text)) == name
    assert as_text(os.fsdecode(name)) == text
    assert text.encode().decode() == text


@given(st.text())
def test_usual_names_stay_as_they_are(name: str) -> None:
    if "\\x" not in name:
        assert as_text(name) == name == from_text(name)


def test_any_name_can_be_printed() -> None:
    assert "a\udcff\ud800".encode("utf-8", PRINTABLE) == rb"a\xff\xed\xa0\x80"
