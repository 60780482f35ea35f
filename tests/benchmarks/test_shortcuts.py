"""The benchmark of shortcuts plants what it says, where it says, and scores it as it says."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.shortcuts.case import Case, Truth, carriers
from benchmarks.shortcuts.design import SHARES, planted, unplanted
from benchmarks.shortcuts.drawing import FAMILIES, SIDE, draw
from benchmarks.shortcuts.evidence import Evidence
from benchmarks.shortcuts.measuring import Measured
from benchmarks.shortcuts.plants import KINDS, Plant
from benchmarks.shortcuts.scores import STATISTICS, auroc
from benchmarks.shortcuts.verdicts import verdicts
from transforms.statistics import COARSE

CELLS = np.arange(SIDE) * COARSE // SIDE


@pytest.mark.parametrize("kind", KINDS)
def test_a_shortcut_changes_the_picture_where_it_lies_and_nowhere_else(kind: str) -> None:
    for look in range(4):
        plant = Plant(kind, 0, 1.0, 1.0, look)
        picture = draw(look, len(FAMILIES), np.random.default_rng(look))
        changed = (plant.add(picture, np.random.default_rng(0)) != picture.pixels).any(axis=2)
        assert changed.any()
        cells = plant.cells()
        if cells is not None:
            assert not changed[~cells[np.ix_(CELLS, CELLS)]].any()
            assert cells.mean() < 0.5
        if kind == "background":
            assert not changed[picture.mask].any()


def test_four_cases_hold_nearly_every_kind_with_every_share() -> None:
    cases = [planted("cnn", number) for number in range(5)]
    held = {(plant.kind, plant.share) for case in cases for plant in case.plants if plant.target >= 0}
    assert held == {(kind, share) for kind in KINDS for share in SHARES}
    for case in cases:
        targets = [plant.target for plant in case.plants if plant.target >= 0]
        assert len(targets) == len(set(targets)) == 5
    assert all(plant.target < 0 for number in range(4) for plant in unplanted("cnn", number).plants)


def test_shares_of_the_class_carry_a_shortcut_and_other_classes_do_not() -> None:
    case = Case("cnn", 4, (Plant("border", 2, 0.3, 1.0, 0), Plant("texture", -1, 0.1, 1.0, 0)), 0)
    labels = np.repeat(np.arange(4), 50)
    found = carriers(case, labels)
    assert found[labels == 2, 0].mean() == pytest.approx(0.3)
    assert not found[labels != 2, 0].any()
    assert found[:, 1].mean() == pytest.approx(0.1)


def test_auroc_counts_pairs() -> None:
    assert auroc(np.array([2.0, 1.0]), np.array([1.0, 0.0])) == pytest.approx(3.5 / 4)
    assert np.isnan(auroc(np.array([]), np.array([1.0])))


def test_a_used_shortcut_is_found_at_its_place_by_every_statistic_of_places() -> None:
    plant = Plant("corner tag", 1, 1.0, 1.0, 0)
    cells = plant.cells()
    assert cells is not None
    generator = np.random.default_rng(0)
    predicted = np.repeat(np.arange(4), 60)
    maps = generator.gamma(2, size=(len(predicted), COARSE, COARSE)).astype(np.float32)
    maps[predicted == 1] += 10 * cells
    empty = np.zeros((1, 1, len(predicted), COARSE, COARSE), np.float32)
    evidence = Evidence(
        predicted, predicted, np.ones(240), empty, empty, maps[None], maps[None], maps[None], maps[None], maps
    )
    truth = Truth(np.array([0.0, 0.9, 0.0, 0.0]), np.array([0.0, 0.1, 0.0, 0.0]))
    measured = Measured(Case("cnn", 4, (plant,), 0), evidence, [truth])
    for name, statistic in STATISTICS.items():
        found = verdicts(measured, statistic(maps, predicted, 4))
        assert [each.kind for each in found] == [None, "corner tag", None, None]
        assert max(found, key=lambda each: each.score).used, name
        assert found[1].at_place is (None if name == "border, corner z" else True), name
    flagged = verdicts(measured, flags=maps)
    assert [each.score > 0 for each in flagged] == [False, True, False, False]
