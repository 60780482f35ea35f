"""Names of classes in the data are found if they are names; a list in another order is told from other words."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import shards
from transforms.sources import Fields, contradictions, find_shards, names_in_data, source_for

ANIMALS = ("cat", "dog", "horse", "hog")


def names_of(path: pathlib.Path, classes: int = 4, **fields: str) -> dict[int, str] | None:
    found = find_shards(str(path), "auto", None, classes)
    names = names_in_data(source_for(found[0].format, Fields(**fields)), found, classes)
    return None if names is None else dict(names.names)


def tfrecord(path: pathlib.Path, pairs: Sequence[tuple[int, str]], text: str = "image/class/text") -> pathlib.Path:
    examples = [
        shards.example({"image/encoded": b"x", "image/class/label": label, text: name.encode()})
        for label, name in pairs
    ]
    path.write_bytes(b"".join(map(shards.frame, examples)))
    return path


def test_a_class_that_was_not_seen_stays_without_a_name(tmp_path: pathlib.Path) -> None:
    path = tfrecord(tmp_path / "a.tfrecord", [(3, "hog"), (0, "cat"), (3, "hog")])
    assert names_of(path) == {0: "cat", 3: "hog"}


def test_names_far_behind_in_the_data_are_found(tmp_path: pathlib.Path) -> None:
    tfrecord(tmp_path / "a.tfrecord", [(0, "cat")] * 200 + [(1, "dog")])
    tfrecord(tmp_path / "b.tfrecord", [(2, "horse")] * 20)
    assert names_of(tmp_path) == {0: "cat", 1: "dog", 2: "horse"}


def test_captions_are_no_names(tmp_path: pathlib.Path) -> None:
    assert names_of(tfrecord(tmp_path / "a.tfrecord", [(0, "a cat asleep"), (1, "a dog"), (0, "two cats")])) is None


def test_one_text_for_all_classes_is_no_name(tmp_path: pathlib.Path) -> None:
    assert names_of(tfrecord(tmp_path / "a.tfrecord", [(i, "animal") for i in range(4)])) is None


def test_a_label_beyond_the_classes_names_none(tmp_path: pathlib.Path) -> None:
    assert names_of(tfrecord(tmp_path / "a.tfrecord", [(4, "hog"), (1, "cat"), (2, "dog")])) == {1: "cat", 2: "dog"}


def test_without_labels_there_are_no_names(tmp_path: pathlib.Path) -> None:
    assert names_of(tfrecord(tmp_path / "a.tfrecord", [(0, "cat")]), label="") is None


def parquet(path: pathlib.Path, metadata: Mapping[str, object] | None = None, **columns: list[object]) -> pathlib.Path:
    table = pa.table({"image": [b"x"] * len(columns["label"]), **columns})
    if metadata is not None:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": metadata}})})
    pq.write_table(table, path)
    return path


def test_a_class_label_names_all_classes_also_those_without_images(tmp_path: pathlib.Path) -> None:
    metadata = {"label": {"names": list(ANIMALS), "_type": "ClassLabel"}}
    assert names_of(parquet(tmp_path / "a.parquet", metadata, label=[0, 1])) == dict(enumerate(ANIMALS))


def test_a_class_label_of_other_classes_than_the_model_s_is_not_used(tmp_path: pathlib.Path) -> None:
    metadata = {"label": {"names": list(ANIMALS), "_type": "ClassLabel"}}
    assert names_of(parquet(tmp_path / "a.parquet", metadata, label=[0, 1]), classes=1000) is None


@pytest.mark.parametrize("column", ["label_name", "class_name", "label_text", "label_str", "image/class/text"])
def test_a_column_of_texts_names_classes(column: str, tmp_path: pathlib.Path) -> None:
    path = parquet(tmp_path / "a.parquet", **{"label": [1, 0, 1], column: ["dog", "cat", "dog"]})
    assert names_of(path) == {0: "cat", 1: "dog"}


def test_coarse_labels_are_not_named_by_the_fine_ones_texts(tmp_path: pathlib.Path) -> None:
    texts = ["dog", "cat"]
    columns: dict[str, list[object]] = {"coarse_label": [1, 0], "label": [1, 0], "class_name": list(texts)}
    path = parquet(tmp_path / "a.parquet", **columns)
    assert names_of(path, label="coarse_label") is None


def test_class_folders_have_names(tmp_path: pathlib.Path) -> None:
    for name in ("b", "a"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").write_bytes(b"x")
    assert names_of(tmp_path, classes=2) == {0: "a", 1: "b"}


# ---- contradictions


def alarmed(names: Sequence[str], texts: Sequence[str]) -> bool:
    return bool(contradictions(names, dict(enumerate(texts))))


@given(st.permutations(ANIMALS))
def test_any_other_order_is_a_contradiction_and_the_same_order_is_none(order: list[str]) -> None:
    assert alarmed(order, ANIMALS) == (tuple(order) != ANIMALS)


@pytest.mark.parametrize(
    ("names", "texts"),
    [
        (("Great_White-Shark", "TENCH"), ("great white shark", "tench")),
        (("tench", "goldfish"), ("tench, Tinca tinca", "goldfish, Carassius auratus")),
        (("tench", "goldfish"), ("n01440764", "n01443537")),
        (("feline", "canine"), ("cat", "dog")),
        # ImageNet has two cranes, and lists call them differently.
        (("crane bird", "crane", "cat"), ("crane", "crane", "cat")),
    ],
)
def test_other_words_for_the_same_class_are_no_contradiction(names: Sequence[str], texts: Sequence[str]) -> None:
    assert not alarmed(names, texts)


def test_two_swapped_names_among_many_are_a_contradiction() -> None:
    names = [f"class {i}" for i in range(100)]
    swapped = [*names[:50], names[51], names[50], *names[52:]]
    found = contradictions(swapped, dict(enumerate(names)))
    assert [(each.index, each.configured, each.text) for each in found] == [
        (50, "class 51", "class 50"),
        (51, "class 50", "class 51"),
    ]
