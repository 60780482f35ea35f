import numpy as np
import pytest

from transforms.statistics import Moments
from transforms.statistics.standout import Standout, place_of
from transforms.statistics.standout import standouts as standouts_of_both

CELLS = 14


def maps(generator: np.random.Generator, count: int, marked: tuple[slice, slice] | None = None) -> np.ndarray:
    """Maps of unit mass; a mark takes a tenth of it."""
    drawn = generator.gamma(2, size=(count, CELLS, CELLS))
    drawn /= drawn.sum(axis=(1, 2), keepdims=True)
    if marked is not None:
        drawn *= 0.9
        drawn[:, *marked] += 0.1 / drawn[0, *marked].size
    return drawn


def standouts(moments: dict[int, Moments], **least: float) -> list[Standout]:
    """Those of classes that differ in their shares alone, because each map has the same evidence in all."""
    return standouts_of_both(moments, moments, **least)


def moments(*groups: np.ndarray) -> dict[int, Moments]:
    return {k: Moments.of(group) for k, group in enumerate(groups)}


@pytest.mark.parametrize("classes", [2, 3, 8])
@pytest.mark.parametrize(
    ("mark", "place"),
    [
        ((slice(11, 13), slice(11, 13)), "bottom right"),
        ((slice(0, 2), slice(6, 8)), "top"),
        ((slice(6, 8), slice(6, 8)), "centre"),
        ((slice(6, 8), slice(0, 2)), "left"),
    ],
)
def test_a_mark_is_found_where_it_is(classes: int, mark: tuple[slice, slice], place: str) -> None:
    generator = np.random.default_rng(0)
    groups = [maps(generator, 60, mark if k == 1 else None) for k in range(classes)]
    found, *more = standouts(moments(*groups))
    # Shares add up to one. Of two classes, the other one has a little more in all other cells.
    assert not more or classes == 2
    assert (found.class_index, found.place, found.images) == (1, place, 60)
    assert found.cells[mark].all()
    assert found.cells.sum() == 4
    assert found.share == pytest.approx(0.1 + 0.9 * 4 / 196, abs=0.01)
    assert found.others == pytest.approx(4 / 196, abs=0.005)
    assert found.effect > found.gap > 0 or classes == 2


def test_one_class_or_none_gives_nothing() -> None:
    assert standouts({}) == []
    assert standouts(moments(maps(np.random.default_rng(0), 60))) == []


def test_classes_alike_give_nothing() -> None:
    generator = np.random.default_rng(1)
    assert standouts(moments(*(maps(generator, 60) for _ in range(8)))) == []


def test_a_certain_but_small_difference_is_not_worth_a_look() -> None:
    generator = np.random.default_rng(2)
    groups = [maps(generator, 5000) for _ in range(3)]
    groups[0][:, 3, 3] *= 1.2
    assert standouts(moments(*groups)) == []
    assert len(standouts(moments(*groups), least_effect=0.1, least_gap=0.1)) == 1


def test_what_two_classes_share_is_not_a_class_that_stands_out() -> None:
    generator = np.random.default_rng(3)
    mark = slice(11, 13), slice(11, 13)
    groups = [maps(generator, 200, mark if k < 2 else None) for k in range(8)]
    assert standouts(moments(*groups)) == []


def test_the_largest_effect_comes_first() -> None:
    generator = np.random.default_rng(4)
    groups = [maps(generator, 100) for _ in range(4)]
    groups[1][:, 2, 2] += 0.02
    groups[3][:, 9, 9] += 0.05
    assert [found.class_index for found in standouts(moments(*groups))] == [3, 1]


def test_places_in_words() -> None:
    cells = np.zeros((CELLS, CELLS), bool)
    cells[0], cells[-1], cells[:, 0], cells[:, -1] = True, True, True, True
    assert place_of(cells) == "along the border"
    assert place_of(np.ones_like(cells)) == "over most of the image"
    bottom = np.zeros_like(cells)
    bottom[12, 2:12] = True
    assert place_of(bottom) == "bottom"


@pytest.mark.parametrize("factor", [1, 3])
def test_more_evidence_everywhere_is_no_place(factor: float) -> None:
    generator = np.random.default_rng(5)
    groups = [maps(generator, 100) for _ in range(4)]
    amounts = [group * (factor if k == 2 else 1) for k, group in enumerate(groups)]
    assert standouts_of_both(moments(*groups), moments(*amounts)) == []


def test_a_larger_share_of_less_evidence_does_not_stand_out() -> None:
    generator = np.random.default_rng(6)
    groups = [maps(generator, 100, (slice(0, 2), slice(0, 2)) if k == 2 else None) for k in range(4)]
    amounts = [group * (0.1 if k == 2 else 1) for k, group in enumerate(groups)]
    assert standouts_of_both(moments(*groups), moments(*amounts)) == []
    [found] = standouts_of_both(moments(*groups), moments(*groups))
    assert (found.class_index, found.place) == (2, "top left")
