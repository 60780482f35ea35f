"""The clusters that a whole run writes: planted groups are found, and a run that goes on writes the same ones."""

from __future__ import annotations

import io
import pathlib
import shutil
from typing import Any

import duckdb
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.config import Config
from pipeline.run import launch, prepare
from tests import shards
from tests.samples import SIDE, configuration, save_model
from transforms.output import CLUSTER_MEMBERS, CLUSTERS, Output, read_table

FILES = {"clusters.parquet": CLUSTERS, "cluster_members.parquet": CLUSTER_MEMBERS}
COUNT = 100
CLASSES = (1, 2)


def marked(number: int) -> bool:
    return number % 5 < 2


def samples() -> list[tuple[str, bytes, int]]:
    """Noise. Two fifths of the images have a bright checkerboard in the bottom right corner."""
    generator = np.random.default_rng(0)
    result = []
    for number in range(COUNT):
        pixels = generator.integers(60, 160, (SIDE, SIDE, 3), np.uint8)
        if marked(number):
            pixels[-6:, -6:] = 255 * (np.indices((6, 6)).sum(axis=0) // 2 % 2)[..., None]
        sink = io.BytesIO()
        Image.fromarray(pixels).save(sink, "PNG")
        result.append((f"image{number:04d}.png", sink.getvalue(), number % 3))
    return result


def run(value: dict[str, Any], **changes: Any) -> pathlib.Path:
    for key, setting in changes.items():
        section, name = key.split("_", 1)
        value[section][name] = setting
    launch(prepare(Config.from_dict(value)))
    return pathlib.Path(value["output"]["path"])


@pytest.fixture(scope="module")
def value(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The configuration of a run that explains each image for two classes."""
    folder = tmp_path_factory.mktemp("clusters")
    shards.write_tfrecord(folder / "a.tfrecord", samples()[:60])
    shards.write_tfrecord(folder / "b.tfrecord", samples()[60:])
    save_model(folder / "model.keras", seed=5)
    explain = {"targets": list(CLASSES), "jit": "off"}
    return configuration(folder, str(folder / "*.tfrecord"), explain=explain, input={"images_per_unit": 40})


@pytest.fixture(scope="module")
def out(value: dict[str, Any]) -> pathlib.Path:
    return run(value)


def rows(path: pathlib.Path) -> dict[str, list[dict[str, Any]]]:
    return {name: read_table(str(path / name)).to_pylist() for name in FILES}


def cluster_examples(path: pathlib.Path) -> list[tuple[Any, ...]]:
    columns = 'class, cluster, rank, score, shard, "index", similarity, image_id'
    return duckdb.sql(f"SELECT {columns} FROM '{path}/examples.parquet' WHERE kind = 'cluster'").fetchall()


def test_a_planted_group_is_found_in_each_class(out: pathlib.Path) -> None:
    found = rows(out)
    carries = {f"image{number:04d}.png" for number in range(COUNT) if marked(number)}
    for class_index in CLASSES:
        scores = {}
        for row in found["clusters.parquet"]:
            # The network is random: its five channels do not tell the groups apart, its maps do.
            if (row["class"], row["view"]) == (class_index, "maps"):
                members = {
                    each["image_id"]
                    for each in found["cluster_members.parquet"]
                    if (each["class"], each["view"], each["cluster"]) == (class_index, "maps", row["cluster"])
                }
                scores[row["cluster"]] = 2 * len(members & carries) / (len(members) + len(carries)), row["peak"]
        score, peak = max(scores.values())
        assert score > 0.9
        assert peak == "bottom right"


def test_the_columns_agree_with_the_maps_and_with_each_other(out: pathlib.Path) -> None:
    for name, schema in FILES.items():
        stored = pq.read_schema(out / name)
        assert stored.names == schema.names
        assert {b"fullgrad.schema_version", b"fullgrad.fingerprint"} <= stored.metadata.keys()
    counted = duckdb.sql(f"""
        SELECT m.class, m.view, m.cluster, count(*), count(maps.correct), count(*) FILTER (maps.correct),
          list(m.image_id ORDER BY m.closeness DESC, m.shard, m."index")[:12],
          list(m.closeness ORDER BY m.closeness DESC)[:12]
        FROM '{out}/cluster_members.parquet' m
        JOIN '{out}/maps/*.parquet' maps ON maps.target = m.class AND (maps.shard, maps."index") = (m.shard, m."index")
        GROUP BY ALL ORDER BY ALL
    """).fetchall()
    found = rows(out)["clusters.parquet"]
    names = ("class", "view", "cluster", "size", "labelled", "correct", "typical_ids")
    assert [tuple(row[name] for name in names) for row in found] == [each[:7] for each in counted]
    assert len(counted) >= 2 * 2 * len(CLASSES)
    best: list[tuple[Any, ...]] = []
    for row, (*_, closeness) in zip(found, counted, strict=True):
        assert row["class_name"] == {1: "green", 2: "blue"}[row["class"]]
        assert row["accuracy"] == row["correct"] / row["labelled"]
        of_view = [each for each in found if (each["class"], each["view"]) == (row["class"], row["view"])]
        assert sum(each["share"] for each in of_view) == pytest.approx(1)
        assert np.isfinite([row["share"], *row["mean_map"]]).all()
        assert len(row["mean_map"]) == 196
        assert sum(row["mean_map"]) == pytest.approx(1, abs=1e-5)
        if row["cells"]:
            assert row["peak_share"] == pytest.approx(sum(row["mean_map"][cell] for cell in row["cells"]), rel=1e-5)
            assert row["peak_share"] > row["peak_others"]
        else:
            assert (row["peak"], row["peak_share"], row["peak_others"]) == (None, None, None)
        if row["view"] == "channels":  # the best view, whose clusters have examples
            places = zip(row["typical_shards"], row["typical_indices"], row["typical_ids"], closeness, strict=True)
            for rank, (shard, index, image_id, close) in enumerate(places, 1):
                best.append((row["class"], row["cluster"], rank, pytest.approx(close), shard, index, image_id))
    assert [(*each[:6], each[7]) for each in cluster_examples(out)] == best
    assert all(each[6] is not None for each in cluster_examples(out))


def test_a_run_that_goes_on_writes_the_clusters_of_an_undisturbed_one(
    value: dict[str, Any], out: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    copied = tmp_path / "out"
    shutil.copytree(out, copied)
    for name in FILES:
        (copied / name).unlink()
    # As if the run had been killed while it computed this unit.
    output = Output(str(copied))
    unit = output.read_receipts()[1].unit
    for path in (output.receipt(unit), output.part("maps", unit)):
        pathlib.Path(path).unlink()
    run({**value, "output": {**value["output"], "path": str(copied)}})
    assert rows(copied) == rows(out)
    assert cluster_examples(copied) == cluster_examples(out)


@pytest.mark.slow
def test_other_units_give_the_same_clusters_and_a_finished_run_can_get_or_lose_them(
    value: dict[str, Any], out: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    changed = {**value, "input": dict(value["input"]), "output": {**value["output"], "path": str(tmp_path / "out")}}
    other = run(changed, input_images_per_unit=25, output_clusters="off")
    assert not any((other / name).exists() for name in FILES)
    assert not cluster_examples(other)
    receipts = sorted(path.read_text() for path in (other / "receipts").iterdir())
    run(changed, output_clusters="on")
    assert receipts == sorted(path.read_text() for path in (other / "receipts").iterdir()), "nothing is explained again"
    expected = rows(out)
    for name, found in rows(other).items():
        assert len(found) == len(expected[name])
        for row, wanted in zip(found, expected[name], strict=True):
            # Maps from batches of other images differ in the last digits.
            same = [key for key, each in wanted.items() if isinstance(each, int | str) and key != "image_id"]
            assert {key: row[key] for key in same if key != "index"} == {
                key: wanted[key] for key in same if key != "index"
            }
    run(changed, output_clusters="off")
    assert not any((other / name).exists() for name in FILES)
