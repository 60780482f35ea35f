"""What a summary flags, and how it says so."""

import dataclasses
import json

import numpy as np

from pipeline.summary import Notable, Summary, summarize
from tests.transforms.statistics.samples import GRID, random_rows
from transforms.statistics import SHARES, Digest, Exceeding, PartialStatistics, map_figures, resample, unit_mass

FOUND = Notable(1, "cat", "bottom right", 0.9, 0.9, 0.13, 0.04, 1.62, 1.1, 1200)


def digests(marked: int | None) -> list[Digest]:
    """Of three classes; the maps of one have a bright bottom right corner."""
    rows = random_rows(240, 0)
    maps = rows.maps + 0.01
    if marked is not None:
        maps[rows.targets == marked, 7:, 7:] += 3
    partial = PartialStatistics(GRID)
    coarse, evidence = resample(unit_mass(maps), (14, 14)), resample(maps, (14, 14))
    partial.add(dataclasses.replace(rows, maps=maps, coarse=coarse, evidence=evidence, figures=map_figures(maps)))
    return [Digest.of(index, statistics) for index, statistics in partial.classes.items()]


def test_a_class_with_its_evidence_elsewhere_is_notable_and_the_place_is_named() -> None:
    [found] = summarize("run", [], digests(marked=2), ["ant", "bee", "cat"]).notable
    assert (found.class_index, found.class_name, found.place) == (2, "cat", "bottom right")
    assert found.mean > 2 * found.others
    assert found.y > 0.75
    assert found.x > 0.75


def test_classes_alike_are_not_notable() -> None:
    assert summarize("run", [], digests(marked=None), None).notable == []


def test_a_sentence_says_how_much_where_of_how_many_and_what_to_do_next() -> None:
    assert FOUND.sentence() == (
        "class 'cat' holds 13% of its evidence at the bottom right, the other classes 4% "
        "(1.6 standard deviations more, 1,200 maps); fullgrad check tells whether the model uses it"
    )


def test_a_part_of_a_class_is_said_to_be_a_part() -> None:
    part = dataclasses.replace(FOUND, mean=0.31, others=0.01, effect=None, gap=0.3)
    assert part.sentence() == (
        "31% of the images of class 'cat' have more of their evidence at the bottom right than 99% of the other "
        "classes' images (1,200 maps); fullgrad check tells whether the model uses it"
    )
    summary = dataclasses.replace(summarize("run", [], [], None), notable=[part])
    assert Summary.from_dict(json.loads(summary.to_json())) == summary


def test_a_part_of_a_class_is_notable_unless_the_whole_class_is() -> None:
    rare, common = np.full(SHARES, 0.01), np.full(SHARES, 0.01)
    rare[195] = 0.3
    exceeding = {k: Exceeding(200, (200 * (rare if k == 1 else common)).astype(int), 20, 2000) for k in range(3)}
    [part] = summarize("run", [], digests(marked=None), ["ant", "bee", "cat"], exceeding=exceeding).notable
    assert (part.class_name, part.place, part.effect) == ("bee", "bottom right", None)
    assert part.mean == 0.3
    [whole] = summarize("run", [], digests(1), None, exceeding=exceeding).notable
    assert whole.effect is not None


def test_a_sentence_has_the_digits_that_show_the_difference() -> None:
    close = dataclasses.replace(FOUND, class_name=None, mean=0.0411, others=0.0389, place="along the border")
    assert close.sentence().startswith("class 1 holds 4.1% of its evidence along the border, the other classes 3.9% (")


def test_a_summary_is_read_again_and_flags_of_earlier_versions_are_left_out() -> None:
    summary = dataclasses.replace(summarize("run", [], [], None), notable=[FOUND])
    stored = json.loads(summary.to_json())
    assert Summary.from_dict(stored) == summary
    old = {"class_index": 3, "class_name": None, "figure": "corner_mass", "mean": 0.1, "others": 0.0, "z": 4.7}
    assert Summary.from_dict({**stored, "notable": [old]}).notable == []
