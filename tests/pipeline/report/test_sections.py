"""A check, clusters and a comparison in the report: the numbers of their files, and nothing without these."""

from __future__ import annotations

import io
import pathlib
import shutil
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.report import UnusableResults, build_report
from pipeline.report.checked import NUMBERS
from pipeline.report.compared import COUNTS, MEANS
from pipeline.report.words import percent
from tests.pipeline.report.conftest import NAMES
from tests.pipeline.report.data import class_of, index_of, map_of
from tests.pipeline.report.sections import SIDES
from tests.pipeline.report.test_numbers import query, same

WORDS = ("kind", "verdict", "stands_out", "main", "sentence", "place")
ENDS = ("before", "before_name", "after", "after_name")


@pytest.fixture(scope="module")
def index(tested: pathlib.Path) -> dict[str, Any]:
    return index_of(tested / "report")


def test_the_overview_lists_the_findings_in_the_order_of_the_file(tested: pathlib.Path, index: dict[str, Any]) -> None:
    rows = query(tested, f"SELECT class, class_name, {', '.join(WORDS)} FROM '$/checks.parquet'")
    shown = index["checks"]
    assert [tuple(each.values()) for each in shown["listed"]] == rows
    assert (shown["findings"], shown["classes"], shown["used"]) == (len(rows), len(NAMES) - 1, 1)
    assert rows[0][:4] == (0, "octagon", "place", "used")


@pytest.mark.parametrize("number", range(len(NAMES) - 1))
def test_a_classs_checks_equal_checks_parquet(tested: pathlib.Path, number: int) -> None:
    shown = class_of(tested / "report", number)["checks"]
    words = (*WORDS, "images", "others", "turned_into", "turned_into_name")
    rows = query(tested, f"SELECT {', '.join((*words, *NUMBERS))} FROM '$/checks.parquet' WHERE class = {number}")
    assert len(shown["findings"]) == len(rows) == 5
    for finding, row in zip(shown["findings"], rows, strict=True):
        assert list(finding) == [*words, *NUMBERS]
        assert [finding[name] for name in words] == list(row[: len(words)])
        same([finding[name] for name in NUMBERS], row[len(words) :])


@pytest.mark.parametrize("number", range(len(NAMES)))
def test_a_classs_clusters_equal_clusters_parquet_and_their_examples(tested: pathlib.Path, number: int) -> None:
    page = class_of(tested / "report", number)
    if number == len(NAMES) - 1:
        assert page["clusters"] is None
        return
    rows = query(
        tested,
        "SELECT view, cluster, size, share, labelled, accuracy, peak, cells, mean_map, peak_share, peak_others "
        f"FROM '$/clusters.parquet' WHERE class = {number} ORDER BY view, cluster",
    )
    shown = [(view["view"], each) for view in page["clusters"] for each in view["clusters"]]
    assert [view["view"] for view in page["clusters"]] == ["channels", "maps"]
    assert len(rows) == len(shown) == 4
    for (view, each), row in zip(shown, rows, strict=True):
        assert (view, each["cluster"], each["size"]) == row[:3]
        assert (each["labelled"], each["peak"], each["cells"]) == (row[4], row[6], row[7])
        same([each["share"], each["accuracy"]], [row[3], row[5]])
        values, half_step = map_of(each["map"])
        assert np.abs(values.ravel() - row[8]).max() < half_step * 1.01
        if row[6] is None:
            assert each["sentence"] == "78\u00a0% of this class: their evidence lies where that of the others does."
        else:
            assert each["sentence"].startswith(
                "22\u00a0% of this class have more of their evidence at the bottom right: "
            )
            assert each["sentence"].endswith(f": {percent(row[9])} of it; the others {percent(row[10])}.")
    for cluster in (0, 1):
        examples = query(
            tested,
            "SELECT shard, \"index\", score FROM '$/examples.parquet' "
            f"WHERE class = {number} AND kind = 'cluster' AND cluster = {cluster} ORDER BY rank",
        )
        choices = page["kinds"][f"cluster-{cluster}"]
        places = [(page["examples"][at]["shard"], page["examples"][at]["index"]) for at, _ in choices]
        assert places == [row[:2] for row in examples]
        same([score for _, score in choices], [row[2] for row in examples])


def test_a_classs_pictures_are_those_of_evidence_parquet(tested: pathlib.Path) -> None:
    for number in range(len(NAMES) - 1):
        checks = class_of(tested / "report", number)["checks"]
        rows = query(
            tested,
            'SELECT finding, kind, shard, "index", image_id, predicted_before, predicted_before_name, predicted_after, '
            'predicted_after_name, [top, "left", bottom, "right"], probability_before, probability_after, before, '
            f"after FROM '$/evidence.parquet' WHERE class = {number} AND rank <= 6 ORDER BY finding, kind, rank",
        )
        assert len(checks["pairs"]) == len(rows) == 18
        columns, (width, height) = checks["sprite"]["columns"], checks["sprite"]["cell"]
        sprite = np.asarray(Image.open(tested / "report" / "thumbs" / f"c{number}-checked.jpg")).astype(int)
        for pair, row in zip(
            sorted(checks["pairs"], key=lambda each: (each["finding"], each["kind"])), rows, strict=True
        ):
            names = ("finding", "kind", "shard", "index", "id", *(f"predicted_{end}" for end in ENDS))
            assert [pair[name] for name in names] == list(row[:9])
            same([*pair["box"], pair["probability_before"], pair["probability_after"]], [*row[9], *row[10:12]])
            assert (pair["pictures"][1] is None) == (pair["kind"] == "evidence")
            for place, picture in zip(pair["pictures"], row[12:], strict=True):
                if place is not None:
                    [level] = {Image.open(io.BytesIO(picture["bytes"])).getpixel((0, 0))[0]}
                    top, left = place // columns * height, place % columns * width
                    assert abs(sprite[top + 12, left + 12, 0] - level) <= 3


def test_a_class_that_was_not_checked_has_no_checks(tested: pathlib.Path) -> None:
    assert class_of(tested / "report", len(NAMES) - 1)["checks"] is None


def test_a_comparisons_classes_equal_its_file(tested: pathlib.Path, index: dict[str, Any]) -> None:
    shown = index["comparison"]
    assert shown["sides"] == SIDES
    numbers = ["changed_low", "changed_high", *(f"{name}_{what}" for name in MEANS for what in ("mean", "low", "high"))]
    columns = ["class", "class_name", *COUNTS, *numbers]
    rows = query(tested, f"SELECT {', '.join(columns)} FROM '$/comparison_classes.parquet' ORDER BY class")
    assert len(rows) == len(NAMES) + 1
    assert list(shown["classes"]) == columns
    for *words, row in zip(*shown["classes"].values(), rows, strict=True):
        assert words[:7] == list(row[:7])
        same(words[7:], row[7:])


def test_changed_images_are_the_least_alike_and_lead_to_their_examples(
    tested: pathlib.Path, index: dict[str, Any]
) -> None:
    shown = index["comparison"]["changed"]
    names = [name for name in shown[0] if name != "example"]
    columns = ", ".join(name.replace("index", '"index"') for name in names)
    rows = query(
        tested,
        f"SELECT {columns} FROM '$/comparison.parquet' WHERE changed "
        'ORDER BY spearman NULLS LAST, shard, "index" LIMIT 24',
    )
    assert len(shown) == len(rows) == 24
    examples = set(query(tested, "SELECT shard, \"index\" FROM '$/examples.parquet'"))
    for each, row in zip(shown, rows, strict=True):
        for name, value in zip(names, row, strict=True):
            if isinstance(value, float):
                same(each[name], value)
            else:
                assert each[name] == value
        assert (each["example"] is not None) == ((each["shard"], each["index"]) in examples)
        if each["example"]:
            number, kind, key = each["example"]
            page = class_of(tested / "report", number)
            [at] = [place for place, example in enumerate(page["examples"]) if example["key"] == key]
            assert page["examples"][at]["id"] == each["image_id"]
            assert at in [place for place, _ in page["kinds"][kind]]
    assert {each["example"] is None for each in shown} == {True, False}


def test_an_output_without_check_and_comparison_has_neither(output: pathlib.Path) -> None:
    index = index_of(output / "report")
    assert index["checks"] is index["comparison"] is None
    assert index["check_command"] == f"fullgrad check {output}"
    assert class_of(output / "report", 0)["checks"] is None
    assert not list((output / "report" / "thumbs").glob("*-checked.jpg"))


def test_a_check_without_pictures_still_has_its_numbers(tested: pathlib.Path, tmp_path: pathlib.Path) -> None:
    copied = pathlib.Path(shutil.copytree(tested, tmp_path / "copied"))
    (copied / "evidence.parquet").unlink()
    build_report(str(copied))
    checks = class_of(copied / "report", 0)["checks"]
    assert (len(checks["findings"]), checks["pairs"], checks["sprite"]) == (5, [], None)


@pytest.mark.parametrize("name", ["checks", "evidence", "clusters", "comparison", "comparison_classes"])
def test_a_damaged_file_of_a_section_is_named(tested: pathlib.Path, tmp_path: pathlib.Path, name: str) -> None:
    copied = pathlib.Path(shutil.copytree(tested, tmp_path / "copied", ignore=shutil.ignore_patterns("report")))
    (copied / f"{name}.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(UnusableResults, match=rf"{name}\.parquet cannot be read"):
        build_report(str(copied))
    assert not (copied / "report").exists()
