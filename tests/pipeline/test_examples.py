"""The images, examples and confusion that a whole run writes equal what DuckDB finds in its maps."""

from __future__ import annotations

import io
import json
import pathlib
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.config import Config
from pipeline.report import build_report
from pipeline.run import launch, prepare
from tests import shards
from tests.samples import configuration, encoded_images
from transforms.output import CONFUSION, EXAMPLES, MAPS, decode_map, read_maps, read_table
from transforms.statistics import EXAMPLES_OF_KIND, KINDS, resample

COUNT = 60


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The output of a run on 60 images, a third of them without a label, each explained for two classes."""
    folder = tmp_path_factory.mktemp("examples")
    samples: list[Any] = [(i, image, label if int(i[5:9]) % 3 else None) for i, image, label in encoded_images(COUNT)]
    shards.write_tfrecord(folder / "a.tfrecord", samples[:40])
    shards.write_tfrecord(folder / "b.tfrecord", samples[40:])
    value = configuration(
        folder, str(folder / "*.tfrecord"), explain={"targets": "top-2"}, input={"images_per_unit": 7}
    )
    launch(prepare(Config.from_dict(value)))
    return str(folder / "out")


@pytest.fixture(scope="module")
def maps(out: str) -> pa.Table:
    """All rows of maps, with the similarity of each coarse map to its class's mean, from NumPy."""
    rows = list(read_maps(out))
    similarity = np.full(len(rows), np.nan)
    for target in {row["target"] for row in rows}:
        own = [i for i, row in enumerate(rows) if row["target"] == target and row["coarse_map"].any()]
        coarse = np.stack([rows[i]["coarse_map"].ravel() for i in own]).astype(np.float64)
        mean = coarse.mean(axis=0)
        similarity[own] = coarse @ mean / np.linalg.norm(coarse, axis=1) / np.linalg.norm(mean)
    table = pa.Table.from_pylist([{k: v for k, v in r.items() if k not in ("map", "coarse_map")} for r in rows])
    return table.append_column("similarity", pa.array(similarity.astype(np.float32), mask=np.isnan(similarity)))


ORDER = {
    "typical": ("similarity", "true", "DESC"),
    "unusual": ("similarity", "true", "ASC"),
    "confident": ("probability", "true", "DESC"),
    "unsure": ("probability", "true", "ASC"),
    "wrong": ("probability", "label != predicted AND predicted = target", "DESC"),
    "border": ("border_mass", "true", "DESC"),
    "corner": ("corner_mass", "true", "DESC"),
}


def test_every_kind_of_every_class_has_the_first_rows_of_its_ranking(out: str, maps: pa.Table) -> None:
    assert {kind.name for kind in KINDS} == set(ORDER)
    found = duckdb.sql(f"SELECT class, kind, rank, score, shard, \"index\" FROM '{out}/examples.parquet'").fetchall()
    ranked = [row for row in found if row[1] != "cluster"]
    assert ranked == sorted(ranked, key=lambda row: row[:3])
    kinds = set()
    for class_index in range(3):
        for kind, (score, where, order) in ORDER.items():
            expected = duckdb.sql(
                f'SELECT shard, "index", {score} FROM maps WHERE target = {class_index} AND {where} AND {score} IS NOT '
                f'NULL ORDER BY {score} {order}, shard, "index" LIMIT {EXAMPLES_OF_KIND}'
            ).fetchall()
            rows = [row for row in found if row[:2] == (class_index, kind)]
            assert [row[2] for row in rows] == list(range(1, len(expected) + 1))
            assert [row[4:] for row in rows] == [row[:2] for row in expected], (class_index, kind)
            np.testing.assert_allclose([row[3] for row in rows], [row[2] for row in expected], rtol=1e-6)
            kinds |= {kind} if rows else set()
    assert kinds == set(ORDER), "the test's run has examples of every kind"


def test_every_example_equals_the_row_of_maps_that_it_came_from(out: str, maps: pa.Table) -> None:
    similarity = {(r["shard"], r["index"], r["target"]): r["similarity"] for r in maps.to_pylist()}
    rows = {(row["shard"], row["index"], row["target"]): row for row in read_maps(out)}
    examples = read_table(f"{out}/examples.parquet").to_pylist()
    assert any(not rows[e["shard"], e["index"], e["target"]]["map"].any() for e in examples), "also without mass"
    for example in examples:
        key = example["shard"], example["index"], example["target"]
        row = rows[key]
        assert example["class"] == example["target"]
        assert example["class_name"] == example["target_name"]
        same = [name for name in EXAMPLES.names if name in row and not name.startswith("map")]
        assert {name: example[name] for name in same} == {name: row[name] for name in same}
        assert (example["similarity"] is None) == (similarity[key] is None)
        if similarity[key] is not None:
            assert example["similarity"] == pytest.approx(similarity[key], rel=1e-6)
        expected = resample(row["map"][None].astype(np.float64), (56, 56))[0]
        assert (example["map_height"], example["map_width"], example["map_dtype"]) == (56, 56, "uint8")
        # Twice rounded to 255 steps: the stored small map, which has 16² cells here, and the map of the example.
        step = np.ptp(row["map"]) * (16 / 56) ** 2 / 255
        np.testing.assert_allclose(decode_map(example), expected, atol=1.02 * step + 1e-12)


def test_confusion_counts_each_image_once(out: str) -> None:
    expected = duckdb.sql(f"""
        SELECT label, label_name, predicted, predicted_name, count(*)
        FROM (SELECT DISTINCT shard, "index", label, label_name, predicted, predicted_name FROM '{out}/maps/*.parquet')
        WHERE label IS NOT NULL GROUP BY ALL ORDER BY label, predicted
    """).fetchall()
    table = read_table(f"{out}/confusion.parquet")
    assert table.schema.names == CONFUSION.names
    assert [tuple(row.values()) for row in table.to_pylist()] == expected
    assert sum(row[-1] for row in expected) == 40


def test_the_image_of_a_row_is_what_the_model_saw(out: str) -> None:
    encoded = {image_id: image for image_id, image, _ in encoded_images(COUNT)}
    for row in read_maps(out, columns=["image_id", "image"]):
        assert row["image"]["path"] == row["image_id"]
        shown = Image.open(io.BytesIO(row["image"]["bytes"]))
        original = Image.open(io.BytesIO(encoded[row["image_id"]]))
        np.testing.assert_array_equal(np.asarray(shown), np.asarray(original))


def test_hugging_face_is_told_every_column(out: str) -> None:
    part = next(pathlib.Path(out, "maps").glob("*.parquet"))
    for path, columns in ((part, MAPS), (pathlib.Path(out, "examples.parquet"), EXAMPLES)):
        schema = pq.read_schema(path)
        assert schema.names == columns.names
        assert {b"fullgrad.schema_version", b"fullgrad.fingerprint"} <= schema.metadata.keys()
        features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
        assert list(features) == columns.names
        assert features["image"] == {"_type": "Image"}
        assert features["map"] == {"dtype": "binary", "_type": "Value"}
        assert features["index"] == {"dtype": "int64", "_type": "Value"}
        assert features["correct"] == {"dtype": "bool", "_type": "Value"}
    assert json.loads(pq.read_schema(part).metadata[b"huggingface"])["info"]["features"]["coarse_map"] == {
        "feature": {"dtype": "float32", "_type": "Value"},
        "_type": "Sequence",
    }


def test_the_report_of_a_run_shows_each_example_once(out: str, tmp_path: pathlib.Path) -> None:
    built = build_report(out, str(tmp_path / "report"))
    [(examples, classes)] = duckdb.sql(
        f"""SELECT count(DISTINCT (class, shard, "index")), count(DISTINCT class) FROM '{out}/examples.parquet'"""
    ).fetchall()
    assert (built.examples, built.missing) == (examples, ())
    assert len(list((tmp_path / "report" / "thumbs").iterdir())) == classes
