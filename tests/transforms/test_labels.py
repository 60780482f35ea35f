"""One rule for labels: what they may be, and which class they mean."""

from __future__ import annotations

import decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transforms.labels import Classes, UnusableLabel, as_label, places_of

ABC = Classes(3, ("a", "b", "c"))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        (0, 0),
        (7, 7),
        (-1, None),
        (True, 1),
        (3.0, 3),
        (-1.0, None),
        (float("nan"), None),
        (decimal.Decimal("3.00"), 3),
        (decimal.Decimal("NaN"), None),
        ("", None),
        (" cat\n", "cat"),
        (b"cat\0\0", "cat"),
        ("Käfer".encode(), "Käfer"),
        ("3", "3"),
        ([], None),
        ([5], 5),
        ([[5]], 5),
        ([None], None),
        (["cat"], "cat"),
        ([0, 1], (0.0, 1.0)),
        ((True, False), (1.0, 0.0)),
        (np.int64(4), 4),
        (np.array([4]), 4),
        (np.array([False, True]), (0.0, 1.0)),
        (np.float32(2), 2),
    ],
)
def test_a_label_is_an_index_a_name_numbers_or_unknown(value: Any, expected: Any) -> None:
    label = as_label(value)
    assert label == expected
    assert type(label) is type(expected)


@pytest.mark.parametrize(
    "value",
    [3.5, -0.5, float("inf"), decimal.Decimal("0.1"), b"\xff", {"a": 1}, object(), ["a", "b"], [[1, 0], [0, 1]]],
)
def test_what_can_be_no_label_is_refused_with_what_would_be_right(value: Any) -> None:
    with pytest.raises(UnusableLabel, match=r"^the label .*a label must be a class index, a class name, or"):
        as_label(value)


@given(st.integers(2, 50), st.data())
def test_a_list_with_one_largest_number_is_its_class(count: int, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, count - 1))
    share = data.draw(st.floats(1.01 / count, 1.0))
    rest = (1 - share) / (count - 1)
    values = tuple(share if each == place else rest for each in range(count))
    assert Classes(count).index_of(values) == place
    assert Classes(count).index_of(as_label(np.float16(values))) == place


@given(st.lists(st.booleans(), min_size=2, max_size=9).filter(lambda marks: sum(marks) != 1))
def test_no_or_several_marks_are_no_class(marks: list[bool]) -> None:
    with pytest.raises(UnusableLabel, match=r"marks \d+ classes|add up to 0"):
        Classes(len(marks)).index_of(as_label(marks))


@given(st.lists(st.text(min_size=1).map(str.strip).filter(bool), min_size=1, max_size=8))
def test_a_name_is_its_class_or_refused(names: list[str]) -> None:
    classes = Classes(len(names), names)
    for place, name in enumerate(names):
        try:
            assert classes.index_of(name) == place
        except UnusableLabel:
            digits = name.partition(".")[0]
            assert names.count(name) > 1 or int(digits) < len(names)


@pytest.mark.parametrize(("text", "index"), [("2", 2), ("2.0", 2), ("02", 2), ("-1", None), ("a", 0)])
def test_text_is_a_name_or_a_number(text: str, index: int | None) -> None:
    assert ABC.index_of(text) == index
    assert Classes(3).index_of(text) == index if text != "a" else True


@pytest.mark.parametrize(
    ("classes", "label", "words"),
    [
        (ABC, "d", "'d' is not among model.class_names"),
        (ABC, "3.5", "'3.5' is not among model.class_names"),
        (ABC, 4, "4 is beyond the model's 3 classes, which are 0 to 2"),
        (ABC, 3, "which are 0 to 2; do the labels begin at 1?"),
        (ABC, "3", "which are 0 to 2; do the labels begin at 1?"),
        (Classes(3), "a", "model.class_names must list the classes' names"),
        (Classes(4, "abab"), "b", "the name of the classes 1 and 3"),
        (Classes(12, ("a",) * 12), "a", "the name of the classes 0, 1, 2, 3, 4 and 7 more"),
        (Classes(3, ("1", "0", "2")), "0", "may mean class 0 or class 1"),
    ],
)
def test_a_label_of_no_one_class_is_refused(classes: Classes, label: Any, words: str) -> None:
    with pytest.raises(UnusableLabel) as error:
        classes.index_of(label)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_a_name_in_digits_that_counts_as_itself_or_beyond_is_the_class() -> None:
    assert Classes(3, ("0", "1", "2")).index_of("1") == 1
    assert Classes(3, ("0", "1", "7")).index_of("7") == 2


def test_places_are_all_classes_of_a_name() -> None:
    assert places_of("abcab") == {"a": (0, 3), "b": (1, 4), "c": (2,)}
