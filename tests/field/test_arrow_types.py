"""Parquet files in the types that other writers than pandas choose: views, as Polars has them, and their neighbours.

apache/iceberg-python#1745 and pola-rs/polars#26427 are about tables of Polars, apache/arrow-rs#5618 about Parquet.
"""

from __future__ import annotations

import pathlib
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.field.colours import IMAGES, RIGHT, colour_config, colour_run, predicted_by_keras
from tests.samples import CLASS_NAMES
from transforms.sources.parquet import ParquetSource

ENCODED = [image for _, image, _ in IMAGES]
IDS = [image_id for image_id, _, _ in IMAGES]
NAMES = [CLASS_NAMES[label] for label in RIGHT]
CELLS = [{"bytes": image, "path": image_id} for image, image_id in zip(ENCODED, IDS, strict=True)]
SIZE = max(map(len, ENCODED))

IMAGES_AS = {
    "binary": pa.array(ENCODED, pa.binary()),
    "binary_view": pa.array(ENCODED, pa.binary_view()),
    "large_binary": pa.array(ENCODED, pa.large_binary()),
    # What stands behind the end of a PNG is no part of it.
    "fixed_size_binary": pa.array([image.ljust(SIZE, b"\0") for image in ENCODED], pa.binary(SIZE)),
    "dictionary": pa.array(ENCODED, pa.binary()).dictionary_encode(),
    "struct": pa.array(CELLS, pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
    "struct of views": pa.array(CELLS, pa.struct([("bytes", pa.binary_view()), ("path", pa.string_view())])),
    "struct of large": pa.array(CELLS, pa.struct([("path", pa.large_string()), ("bytes", pa.large_binary())])),
}
LABELS_AS = {
    "string_view": pa.array(NAMES, pa.string_view()),
    "large_string": pa.array(NAMES, pa.large_string()),
    "binary_view": pa.array([name.encode() for name in NAMES], pa.binary_view()),
    "large_binary": pa.array([name.encode() for name in NAMES], pa.large_binary()),
    "dictionary of large": pa.array(NAMES, pa.large_string()).dictionary_encode(),
    "list of views": pa.array([[name] for name in NAMES], pa.list_(pa.string_view())),
    "uint8": pa.array(RIGHT, pa.uint8()),
    "nothing": pa.nulls(12),
}
# pyarrow writes these only from some version on, or not at all; what it cannot write, nobody has.
MAYBE_LABELS_AS = {
    "list_view": pa.array([[int(place == label) for place in range(3)] for label in RIGHT], pa.list_view(pa.int8())),
    "runs": pa.RunEndEncodedArray.from_arrays(list(range(1, 13)), NAMES, pa.run_end_encoded(pa.int32(), pa.string())),
    "dictionary of views": pa.DictionaryArray.from_arrays(
        pa.array(RIGHT, pa.int8()), pa.array(CLASS_NAMES, pa.string_view())
    ),
}


def write(path: pathlib.Path, **columns: Any) -> str:
    try:
        pq.write_table(pa.table(columns), path)
    except pa.ArrowNotImplementedError as error:  # an older pyarrow writes no views, nor reads them
        pytest.skip(f"pyarrow {pa.__version__}: {error}")
    return str(path)


@pytest.mark.quick_cases(every=4)
@pytest.mark.parametrize("kind", IMAGES_AS)
def test_images_of_any_type_are_read(kind: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    ids = pa.array(IDS, pa.string_view())
    source = write(tmp_path / "a.parquet", image=IMAGES_AS[kind], id=ids, label=RIGHT)
    ran = colour_run(capsys, colour_config(tmp_path, source))
    assert (ran.code, ran.errors) == (0, [])
    assert [row["image_id"] for row in ran.rows] == IDS
    assert [row["predicted"] for row in ran.rows] == predicted_by_keras(tmp_path / "model.keras")
    assert ran.summary["accuracy"] == 1.0


@pytest.mark.quick_cases(every=3)
@pytest.mark.parametrize("kind", [kind for kind in IMAGES_AS if kind.startswith("struct")])
def test_the_path_in_the_struct_is_the_id(
    kind: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ran = colour_run(capsys, colour_config(tmp_path, write(tmp_path / "a.parquet", image=IMAGES_AS[kind])))
    assert "id: the image's path in column 'image'" in ran.out
    assert [row["image_id"] for row in ran.rows] == IDS


@pytest.mark.quick_cases(every=4)
@pytest.mark.parametrize("kind", LABELS_AS)
def test_labels_of_any_type_are_read(kind: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write(tmp_path / "a.parquet", image=ENCODED, id=IDS, label=LABELS_AS[kind])
    ran = colour_run(capsys, colour_config(tmp_path, source, CLASS_NAMES))
    assert ran.code == 0
    assert "label: column 'label' (" in ran.out
    assert [row["label"] for row in ran.rows] == ([None] * 12 if kind == "nothing" else RIGHT)


@pytest.mark.parametrize("kind", MAYBE_LABELS_AS)
def test_labels_of_types_that_few_can_write_are_read_or_cannot_be_written(
    kind: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    array = MAYBE_LABELS_AS[kind]
    schema = pa.schema([("image", pa.binary()), ("label", array.type)])
    assert ParquetSource()._columns(schema).label == "label"
    try:
        source = write(tmp_path / "a.parquet", image=ENCODED, label=array)
    except pa.ArrowNotImplementedError:
        return
    ran = colour_run(capsys, colour_config(tmp_path, source, CLASS_NAMES))
    assert [row["label"] for row in ran.rows] == RIGHT


def test_a_type_that_holds_no_image_is_named(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write(tmp_path / "a.parquet", image=pa.array(IDS, pa.string_view()))
    ran = colour_run(capsys, colour_config(tmp_path, source))
    assert ran.code == 2
    assert "has no column of images" in ran.err
    assert "'image: string_view'" in ran.err
