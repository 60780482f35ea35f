"""Verdicts: what is planted is called used, and chance alone is not."""

import dataclasses

import numpy as np
import pytest

from transforms.probing.findings import Finding
from transforms.probing.look import alikeness
from transforms.probing.places import Box
from transforms.probing.verdict import Answers, interval, judge, share_interval

CORNER = Finding(0, "place", "bottom right", (Box(8, 8, 10, 10),), ())
MIDDLE = dataclasses.replace(CORNER, place="centre")
LOOK = Finding(0, "look", None, (), ())


def answers(seed=0, *, cost=0.0, turned=0.0, added=0.0, everywhere=0.0, n=128):
    """Answers in which covering costs `cost` more than the controls, and turns or adds so many more."""
    g = np.random.default_rng(seed)

    def flips(share):
        return g.random(n) < share

    return Answers(
        drop=g.normal(everywhere + cost, 1, n),
        turned=flips(0.05 + turned),
        drop_blurred=g.normal(everywhere + cost, 1, n),
        turned_blurred=flips(0.05 + turned),
        drop_elsewhere=g.normal(everywhere, 1, n),
        turned_elsewhere=flips(0.05).astype(float),
        drop_others=g.normal(everywhere, 1, n),
        turned_others=flips(0.05),
        added=flips(0.05 + added),
        added_control=flips(0.05),
        lost_probability=g.uniform(0, 1, n),
    )


def verdicts(finding, several, alike=False):
    return [each.verdict for each in judge([finding] * len(several), several, [alike] * len(several))]


def test_what_costs_and_turns_predictions_is_used():
    assert verdicts(CORNER, [answers(cost=2, turned=0.5)]) == ["used"]
    assert verdicts(CORNER, [answers(cost=2, added=0.5)]) == ["used"]


def test_a_border_that_turns_most_images_is_used_though_covering_it_costs_other_classes_as_much():
    border = dataclasses.replace(CORNER, kind="border", place="border")
    assert verdicts(border, [answers(everywhere=3, added=0.8)]) == ["used"]
    assert verdicts(border, [answers(everywhere=3, added=0.3)]) == ["undecided"]
    assert verdicts(CORNER, [answers(everywhere=3, added=0.8)]) == ["undecided"]
    both = judge([border, CORNER], [answers(everywhere=3, added=0.8), answers(1, cost=2, added=0.5)], [False, False])
    assert [each.verdict for each in both] == ["undecided", "used"], "the corner is what the border has"


def test_what_costs_and_turns_nothing_is_only_salient():
    assert verdicts(CORNER, [answers(cost=2)]) == ["salient only"]


def test_in_the_middle_covering_alone_proves_nothing():
    assert verdicts(MIDDLE, [answers(cost=2, turned=0.5)]) == ["undecided"]
    assert verdicts(MIDDLE, [answers(cost=2, added=0.5)]) == ["used"]


def test_what_costs_as_much_elsewhere_is_not_used():
    assert verdicts(CORNER, [answers(cost=0.5, everywhere=2, turned=0.5)]) == ["undecided"]


def test_a_look_is_used_only_if_it_looks_alike():
    assert verdicts(LOOK, [answers(added=0.5)], alike=True) == ["used"]
    assert verdicts(LOOK, [answers(added=0.5)], alike=False) == ["undecided"]


def test_few_images_leave_it_undecided():
    assert verdicts(CORNER, [answers(cost=0.5, turned=0.2, n=6)]) == ["undecided"]


@pytest.mark.parametrize(("classes", "runs"), [(2, 40), (8, 10), (100, 1)])
def test_on_null_data_nothing_is_called_used(classes, runs):
    used = 0
    for run in range(runs):
        several = [answers(seed=run * 1000 + k) for k in range(classes)]
        used += "used" in verdicts(CORNER, several) or "used" in verdicts(LOOK, several, alike=True)
    assert used == 0


def test_intervals_cover_what_they_should():
    g = np.random.default_rng(1)
    shares = [share_interval(g.random(60) < 0.3) for _ in range(100)]
    means = [interval(g.exponential(1, 60), seed=i) for i in range(100)]
    assert np.mean([low <= 0.3 <= high for low, high in shares]) == pytest.approx(0.95, abs=0.06)
    assert np.mean([low <= 1.0 <= high for low, high in means]) == pytest.approx(0.93, abs=0.07)


# ---- looks


def patches(count, seed, mark=None, shift=0):
    g = np.random.default_rng(seed)
    made = np.clip(g.normal(g.uniform(40, 215, (count, 1, 1, 3)), 15, (count, 12, 12, 3)), 0, 255).astype(np.uint8)
    if mark is not None:
        for each in made:
            y, x = g.integers(0, shift + 1, 2)
            each[y : y + 8, x : x + 8] = mark
    return made


def test_a_mark_is_alike_wherever_in_the_patch_it_is():
    found = alikeness(patches(40, 0, (250, 210, 40), shift=4), patches(200, 1), np.random.default_rng(0))
    assert found.excess > 0.3
    assert found.p < 1e-6


def test_patches_of_any_class_are_no_more_alike_than_others():
    excess = [alikeness(patches(40, i), patches(200, 100 + i), np.random.default_rng(i)) for i in range(20)]
    assert max(abs(each.excess) for each in excess) < 0.1
    assert np.mean([each.p < 0.05 for each in excess]) <= 0.15


def test_grey_patches_are_compared_too():
    own, others = patches(20, 0, (250, 250, 250), shift=4)[..., :1], patches(100, 1)[..., :1]
    assert alikeness(own, others, np.random.default_rng(0)).excess > 0.15
