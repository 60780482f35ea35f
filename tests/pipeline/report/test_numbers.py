"""Every number in the report equals one that DuckDB computes from the output's Parquet files."""

from __future__ import annotations

import json
import math
import pathlib
from typing import Any

import duckdb
import numpy as np
import pytest

from pipeline.report.numbers import wilson
from pipeline.report.words import FIGURE_WORDS, KIND_WORDS
from tests.pipeline.report.conftest import NAMES
from tests.pipeline.report.data import class_of, index_of, map_of
from transforms.statistics import FIGURES

RELATIVE = 1e-5  # the data files have six significant digits
QUANTILES = ("p05", "p25", "p50", "p75", "p95")


def query(output: pathlib.Path, sql: str) -> list[tuple[Any, ...]]:
    return duckdb.sql(sql.replace("$", str(output))).fetchall()


def same(value: Any, expected: Any) -> None:
    """Equal numbers, or both missing."""
    flat, wanted = ([each] if not isinstance(each, list | tuple) else list(each) for each in (value, expected))
    assert len(flat) == len(wanted)
    for one, other in zip(flat, wanted, strict=True):
        if one is None or other is None:
            assert one is None
            assert other is None
        else:
            assert one == pytest.approx(other, rel=RELATIVE, abs=1e-12)


def numbers_in(value: Any) -> int:
    if isinstance(value, dict):
        return sum(map(numbers_in, value.values()))
    if isinstance(value, list):
        return sum(map(numbers_in, value))
    return isinstance(value, int | float) and not isinstance(value, bool)


@pytest.fixture(scope="module")
def index(output: pathlib.Path) -> dict[str, Any]:
    return index_of(output / "report")


def test_the_totals_equal_counts_of_images(output: pathlib.Path, index: dict[str, Any]) -> None:
    totals = index["totals"]
    [(labelled, correct)] = query(
        output, "SELECT sum(images), sum(images) FILTER (label = predicted) FROM '$/confusion.parquet'"
    )
    [(failed,)] = query(output, "SELECT count(*) FROM '$/errors/*.parquet'")
    [(images,)] = query(output, "SELECT images FROM '$/classes.parquet' WHERE class = -1")
    summary = json.loads((output / "summary.json").read_text())
    assert (totals["labelled"], totals["correct"], totals["failed"]) == (labelled, correct, failed)
    assert (totals["images"], totals["maps"]) == (images, images)
    same(totals["accuracy"], correct / labelled)
    same(totals["failed_fraction"], failed / (images + failed))
    same(totals["interval"], wilson(int(correct), int(labelled)))
    same(totals["images_per_second"], summary["images_per_second"])
    same(totals["seconds"], summary["seconds"])
    assert totals["repeated_ids"] == 0
    assert numbers_in(totals) == 12, "all of them are compared"
    same(list(index["completeness"]["quantiles"].values()), list(summary["completeness"].values()))


def test_wilsons_interval_is_the_published_one() -> None:
    # Newcombe, Statistics in Medicine 17 (1998), table I, method 3: 81 of 263, 15 of 148, 0 of 20, 1 of 29.
    for (correct, images), (low, high) in {
        (81, 263): (0.2553, 0.3662),
        (15, 148): (0.0624, 0.1605),
        (0, 20): (0.0, 0.1611),
        (1, 29): (0.0061, 0.1718),
    }.items():
        assert wilson(correct, images) == pytest.approx((low, high), abs=6e-5)
    assert wilson(0, 0) is None


def test_failures_by_kind_equal_the_error_rows(output: pathlib.Path, index: dict[str, Any]) -> None:
    counts = query(output, "SELECT error, count(*) AS n FROM '$/errors/*.parquet' GROUP BY error ORDER BY n DESC")
    assert [(each["error"], each["count"]) for each in index["failures"]] == counts
    rows = set(query(output, "SELECT error, image_id, shard, \"index\", stage, message FROM '$/errors/*.parquet'"))
    for kind in index["failures"]:
        assert kind["meaning"]
        assert len(kind["examples"]) == min(5, kind["count"])
        for each in kind["examples"]:
            assert (kind["error"], *each.values()) in rows


def test_the_table_of_classes_equals_classes_parquet(output: pathlib.Path, index: dict[str, Any]) -> None:
    table = index["classes"]
    figures = ", ".join(
        f"{name}_mean, CASE WHEN images > 1 THEN 1.96 * {name}_std / sqrt(images) END" for name in FIGURES
    )
    rows = query(
        output,
        "SELECT class, class_name, images, labelled, correct, correct / labelled, mean_probability, similarity, "
        f"mean_map, {figures} FROM '$/classes.parquet' WHERE class >= 0 ORDER BY class",
    )
    assert len(rows) == len(NAMES) == len(table["index"])
    for place, row in enumerate(rows):
        number, name, images, labelled, correct, accuracy, probability, similarity, mean_map, *values = row
        plain = [table[key][place] for key in ("index", "name", "images", "labelled", "correct")]
        assert plain == [number, name, images, labelled, correct]
        same(
            [table[key][place] for key in ("accuracy", "probability", "similarity")],
            [accuracy, probability, similarity],
        )
        same([table["low"][place], table["high"][place]], wilson(correct, labelled))
        same([table[what][name][place] for name in FIGURES for what in ("mean", "half")], values)
        # A cell of the small map is the sum of the cells there; here 20 cells become 14.
        small, half_step = map_of(table["map"][place])
        side = math.isqrt(len(mean_map))
        shares = np.zeros((14, side))
        for cell in range(side):
            for share in range(100):
                shares[int((cell + (share + 0.5) / 100) * 14 / side), cell] += 0.01
        expected = shares @ np.reshape(mean_map, (side, side)) @ shares.T
        assert np.abs(small - expected).max() < half_step + 0.02 * expected.max()
        assert small.sum() == pytest.approx(1, abs=half_step * small.size)


def test_the_datasets_figures_equal_its_row(output: pathlib.Path, index: dict[str, Any]) -> None:
    dataset = index["dataset"]
    columns = ", ".join(
        f"{name}_mean, 1.96 * {name}_std / sqrt(images), " + ", ".join(f"{name}_{q}" for q in QUANTILES)
        for name in FIGURES
    )
    [row] = query(output, f"SELECT images, mean_map, {columns} FROM '$/classes.parquet' WHERE class = -1")
    images, mean_map, *values = row
    assert dataset["images"] == images
    found = []
    for name in FIGURES:
        found += [dataset["mean"][name], dataset["half"][name], *dataset["quantiles"][name]]
    same(found, values)
    shown, half_step = map_of(dataset["map"])
    assert np.abs(shown.ravel() - mean_map).max() < half_step * 1.01


@pytest.mark.parametrize("number", range(len(NAMES)))
def test_a_classs_page_equals_its_row_and_its_pairs(output: pathlib.Path, number: int) -> None:
    page = class_of(output / "report", number)
    columns = ", ".join(f"{name}_{q}" for name in FIGURES for q in QUANTILES)
    maps = ("mean", "std", "contrast", "wrong")
    [row] = query(
        output,
        f"SELECT {', '.join(f'{name}_map' for name in maps)}, completeness_error_p50, completeness_error_p95, "
        f"completeness_error_max, {columns} FROM '$/classes.parquet' WHERE class = {number}",
    )
    for name, expected in zip(maps, row[:4], strict=True):
        if expected is None:
            assert page["maps"][name] is None
        else:
            shown, half_step = map_of(page["maps"][name])
            assert np.abs(shown.ravel() - expected).max() < half_step * 1.01, name
    same(page["errors"], row[4:7])
    same([value for name in FIGURES for value in page["quantiles"][name]], row[7:])
    pairs = "FROM '$/confusion.parquet' WHERE label != predicted AND"
    taken_for = query(output, f"SELECT predicted, predicted_name, images {pairs} label = {number}")
    taken_as = query(output, f"SELECT label, label_name, images {pairs} predicted = {number}")
    for shown, expected in ((page["taken_for"], taken_for), (page["taken_as"], taken_as)):
        assert sorted(map(tuple, shown)) == sorted(expected)
        assert [images for _, _, images in shown] == sorted((images for _, _, images in shown), reverse=True)


@pytest.mark.parametrize("number", range(len(NAMES)))
def test_a_classs_examples_equal_examples_parquet(output: pathlib.Path, number: int) -> None:
    page = class_of(output / "report", number)
    figures = ", ".join(each.name for each in FIGURE_WORDS)
    rows = query(
        output,
        'SELECT kind, rank, score, image_id, shard, "index", label, label_name, predicted, predicted_name, '
        "target_rank, logit, probability, contrast_class, explained, input_term, bias_term, unlocated_term, "
        f"completeness_error, similarity, map, map_scale, map_offset, {figures} "
        f"FROM '$/examples.parquet' WHERE class = {number} ORDER BY kind, rank",
    )
    assert sum(len(choices) for choices in page["kinds"].values()) == len(rows)
    assert set(page["kinds"]) <= {kind.name for kind in KIND_WORDS}
    assert len({(row[4], row[5]) for row in rows}) == len(page["examples"]), "each image once"
    for kind, rank, score, image_id, shard, place, *rest in rows:
        at, shown_score = page["kinds"][kind][rank - 1]
        same(shown_score, score)
        example = page["examples"][at]
        assert [example[key] for key in ("id", "shard", "index")] == [image_id, shard, place]
        names = ("label", "label_name", "predicted", "predicted_name", "rank")
        assert [example[key] for key in names] == rest[:5]
        shown = [example["logit"], example["probability"], example["contrast"], *example["terms"]]
        same([*shown, example["error"], example["similarity"]], rest[5:14])
        codes, scale, offset = rest[14:17]
        values, _ = map_of(example["map"])
        expected = np.frombuffer(codes, np.uint8) * scale + offset
        np.testing.assert_allclose(values.ravel(), expected, rtol=RELATIVE, atol=RELATIVE * abs(expected).max())
        same(example["figures"], rest[17:])


def test_findings_have_numbers_of_the_classes_and_words_for_newcomers(
    output: pathlib.Path, index: dict[str, Any]
) -> None:
    first = index["findings"][0]
    assert index["classes"]["name"][index["classes"]["index"].index(first["class"])] == "octagon"
    [(own, others)] = query(
        output,
        "SELECT max(corner_mass_mean) FILTER (class = 0), avg(corner_mass_mean) FILTER (class > 0) "
        "FROM '$/classes.parquet'",
    )
    assert first["figure"] == "place"
    same([first["value"], first["others"]], [own, others])
    assert first["sentence"].startswith(f"octagon: {100 * own:.0f}\u00a0% of its evidence lies at the bottom right; ")
    assert f"other classes: {100 * others:.1f}\u00a0%." in first["sentence"]
    for each in index["findings"]:
        if each["figure"] == "confusion":
            [(most, labelled)] = query(
                output,
                f"SELECT max(images) FILTER (label != predicted), sum(images) FROM '$/confusion.parquet' "
                f"WHERE label = {each['class']}",
            )
            assert (each["value"], each["others"]) == (most, labelled)
    flagged = [flags for flags in index["classes"]["flags"] if flags]
    assert flagged == [["bottom right"]]
