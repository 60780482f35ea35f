"""Judges what a model answered: is what was found used, or only salient? Paired tests, intervals, and stated rules."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np
from scipy import stats

from transforms.probing.findings import Finding

Verdict: TypeAlias = Literal["used", "salient only", "undecided"]

FALSE_DISCOVERIES = 0.05  # the rate, by Benjamini & Hochberg, over all findings and tests of a check
LEAST_FLIPS = 0.15  # the smallest share of turned predictions, beyond those of the control, that counts
LEAST_RATIO = 2.0  # covering must cost so many times what the controls cost
CLEAR_FLIPS = 0.5  # a border that turns so many more images than its control needs no comparison by covering
LEAST_ALIKENESS = 0.15

_DRAWS = 1_000


@dataclasses.dataclass(frozen=True, slots=True)
class Answers:
    """What the model answered about a finding, on n images of the class and m of other classes.

    A drop is by how much the logit of the predicted class falls. An image is turned if its prediction changes.

    Attributes:
      drop, turned: float64 and bool [n], where the place is covered; empty for a finding without a place.
      drop_blurred, turned_blurred: the same with the second filling.
      drop_elsewhere, turned_elsewhere: float64 [n], where as much is covered elsewhere; means over the places.
      drop_others, turned_others: float64 and bool [m], where the same place of other classes' images is covered.
      added: bool [m], whether pasting the class's evidence turns an image of another class into the class.
      added_control: bool [m], the same with the same place of images of any other class.
      lost_probability: float64 [n], by how much the probability falls where the place is covered.
    """

    drop: np.ndarray
    turned: np.ndarray
    drop_blurred: np.ndarray
    turned_blurred: np.ndarray
    drop_elsewhere: np.ndarray
    turned_elsewhere: np.ndarray
    drop_others: np.ndarray
    turned_others: np.ndarray
    added: np.ndarray
    added_control: np.ndarray
    lost_probability: np.ndarray


@dataclasses.dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict and what it follows from.

    Attributes:
      out_of_place: covering costs the class far more than covering as much elsewhere, and far more than covering the
        same place costs other classes. Or it is a border that turns most images that it is added to.
      verdict: `used` if the finding stands out and changes predictions; `salient only` if neither covering nor adding
        turns `LEAST_FLIPS` of the images, with 95 % confidence; otherwise `undecided`.
      p_cover, p_add: of the two tests; 1 where a test was not possible.
      q_cover, q_add: the same, corrected for the number of tests.
    """

    out_of_place: bool
    verdict: Verdict
    p_cover: float
    p_add: float
    q_cover: float
    q_add: float


def judge(findings: Sequence[Finding], answers: Sequence[Answers], alike: Sequence[bool]) -> list[Judgement]:
    """Judges all findings of a check together, as their number decides what chance alone would bring.

    What has a place is used if covering it costs the class more than both controls (`LEAST_RATIO`, both tests), and if
    one of two things turns predictions (`LEAST_FLIPS` beyond the controls): adding it to other images, or covering it.
    In the middle of the image only adding counts: an object that is covered turns predictions too. A look is used if
    adding it turns predictions, and the patches are alike. An object that is cut out and pasted turns some predictions
    as well, but objects do not look alike from picture to picture. A border that is covered costs other classes much,
    too, as it is a large part of the image. So one that turns most images that it is added to (`CLEAR_FLIPS`) is used,
    if nothing smaller of the class is; no object fits into a border.

    Args:
      findings: what was tested.
      answers: to each finding.
      alike: whether the patches of the finding's class look alike.
    """
    p_cover = [_p_cover(each) for each in answers]
    p_add = [_p_add(each) for each in answers]
    corrected = false_discovery([*p_cover, *p_add])
    judged: list[Judgement] = []
    clear = []  # the borders that turn most images that they are added to
    for i, (finding, each) in enumerate(zip(findings, answers, strict=True)):
        q_cover, q_add = corrected[i], corrected[len(answers) + i]
        adds = q_add <= FALSE_DISCOVERIES and _adds(each)
        out_of_place = q_cover <= FALSE_DISCOVERIES and _costs_more(each)
        if finding.kind == "border" and adds and each.added.mean() - each.added_control.mean() >= CLEAR_FLIPS:
            clear.append(i)
        if finding.kind == "look":
            used = alike[i] and adds
        else:
            used = out_of_place and (adds or (_turns(each) and not finding.central))
        verdict: Verdict = "used" if used else "salient only" if _surely_little(each) else "undecided"
        judged.append(Judgement(out_of_place, verdict, p_cover[i], p_add[i], q_cover, q_add))
    explained = {finding.class_index for finding, each in zip(findings, judged, strict=True) if each.verdict == "used"}
    for i in clear:
        if findings[i].class_index not in explained:
            judged[i] = dataclasses.replace(judged[i], out_of_place=True, verdict="used")
    return judged


def _p_cover(answers: Answers) -> float:
    """The larger of two one-sided p: against elsewhere (signed ranks, paired) and against other classes (ranks)."""
    if len(answers.drop) < 2 or len(answers.drop_others) < 2:
        return 1.0
    differences = answers.drop - answers.drop_elsewhere
    elsewhere = stats.wilcoxon(differences, alternative="greater").pvalue if differences.any() else 1.0
    others = stats.mannwhitneyu(answers.drop, answers.drop_others, alternative="greater").pvalue
    return float(max(elsewhere, others))


def _p_add(answers: Answers) -> float:
    """McNemar's exact test, one-sided: the images that only one of the two pastes turns."""
    better = int((answers.added & ~answers.added_control).sum())
    worse = int((answers.added_control & ~answers.added).sum())
    return float(stats.binomtest(better, better + worse, alternative="greater").pvalue) if better + worse else 1.0


def _costs_more(answers: Answers) -> bool:
    own = answers.drop.mean()
    return bool(own > 0 and own >= LEAST_RATIO * max(answers.drop_elsewhere.mean(), answers.drop_others.mean()))


def _turns(answers: Answers) -> bool:
    control = max(answers.turned_elsewhere.mean(), answers.turned_others.mean())
    return bool(answers.turned.mean() - control >= LEAST_FLIPS)


def _adds(answers: Answers) -> bool:
    if not len(answers.added):
        return False
    added, control = answers.added.mean(), answers.added_control.mean()
    return bool(added - control >= LEAST_FLIPS and added >= LEAST_RATIO * control)


def _surely_little(answers: Answers) -> bool:
    """Whether no effect of the least size fits the answers, with 95 % confidence."""
    effects = [answers.added.astype(float) - answers.added_control]
    if len(answers.turned):
        effects.append(answers.turned - answers.turned_elsewhere)
    return all(len(each) > 1 and interval(each)[1] < LEAST_FLIPS for each in effects)


def false_discovery(p: Sequence[float]) -> list[float]:
    """q of each p: the rate of false discoveries if all up to this one count (Benjamini & Hochberg 1995)."""
    return [float(q) for q in stats.false_discovery_control(np.asarray(p, float))] if len(p) else []


def share_interval(turned: np.ndarray) -> tuple[float, float]:
    """The 95 % interval of a share, by Wilson's score, from bool [n]; NaN for no images."""
    if not len(turned):
        return np.nan, np.nan
    found = stats.binomtest(int(turned.sum()), len(turned)).proportion_ci(0.95, "wilson")
    return float(found.low), float(found.high)


def interval(values: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """The 95 % interval of the mean of float64 [n], by the bootstrap's percentiles; NaN for no images."""
    if not len(values):
        return np.nan, np.nan
    drawn = np.random.default_rng(seed).integers(0, len(values), (_DRAWS, len(values)))
    low, high = np.quantile(values[drawn].mean(axis=1), [0.025, 0.975])
    return float(low), float(high)
