"""Turns the parts of a check into `checks.parquet`: one row per class and finding, the most convincing first."""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.checks.sentences import sentence
from pipeline.checks.testing import (
    AS_IT_IS,
    BLURRED,
    CONTROL,
    COVERED,
    ELSEWHERE,
    OTHER,
    OTHER_COVERED,
    PASTED,
)
from transforms.probing import Finding, Grid
from transforms.probing.look import Alikeness, alikeness
from transforms.probing.places import mask_of
from transforms.probing.verdict import (
    FALSE_DISCOVERIES,
    LEAST_ALIKENESS,
    Answers,
    Judgement,
    false_discovery,
    interval,
    judge,
    share_interval,
)

_VERDICTS = ("used", "undecided", "salient only")
_OTHERS_COMPARED = 256  # patches of other classes


@dataclasses.dataclass(frozen=True, slots=True)
class Located:
    """Where the evidence of a class lies, on n of its images.

    Attributes:
      rows: the rows of `LOCATED`.
      drops: float32 [n, P], what covering each window costs.
    """

    rows: pa.Table
    drops: np.ndarray


@dataclasses.dataclass(frozen=True, slots=True)
class _Gathered:
    """The answers to a finding, and what of them the judgement does not need.

    Attributes:
      answers: as `judge` takes them.
      into: the class that most of the turned images turn into; None if none is turned.
      accuracy: before and after covering, on images with a label; NaN without labels.
    """

    answers: Answers
    into: int | None
    accuracy: tuple[float, float]


def check_rows(
    located: Mapping[int, Located],
    findings: Mapping[int, tuple[Finding, ...]],
    tested: pa.Table,
    grid: Grid,
    channels: int,
    name_of: Callable[[int | None], str | None],
) -> list[dict[str, Any]]:
    """The rows of `CHECKS`: those that stand out and are used first, then by the size of the effect.

    Args:
      located: what the first half found, by class.
      findings: what was tested, by class.
      tested: the rows of `ANSWERS`.
      grid: the windows of the first half.
      channels: of the images.
      name_of: a class's name.
    """
    alike = _alikeness(located, grid, channels)
    gathered = _gathered(tested)
    flat = [finding for own in findings.values() for finding in own if (finding.class_index, finding.kind) in gathered]
    got = [gathered[finding.class_index, finding.kind] for finding in flat]
    looks = dict(zip(alike, _stand_out(alike.values()), strict=True))
    judged = judge(flat, [each.answers for each in got], [looks[f.class_index] for f in flat])
    rows = [
        _row(finding, each, judgement, located[finding.class_index], alike[finding.class_index], looks, grid, name_of)
        for finding, each, judgement in zip(flat, got, judged, strict=True)
    ]
    mains = _mains(rows)
    rows = [{**row, "main": mains.get(row["class"]) == row["kind"]} for row in rows]
    return sorted(rows, key=lambda row: (*_convincing(row), row["class"], row["kind"]))


def _mains(rows: Iterable[Mapping[str, Any]]) -> dict[int, str]:
    """For each class that rests on something, the kind of finding that says best what: the smallest part of the image
    that does two thirds of what any part does. A tag in a corner is also on the border."""
    used: dict[int, list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        if row["verdict"] == "used":
            used[row["class"]].append(row)
    found = {}
    for k, own in used.items():
        enough = max(map(_effect, own)) * 2 / 3
        best = min((row for row in own if _effect(row) >= enough), key=lambda row: (row["area"], row["kind"] == "look"))
        found[k] = best["kind"]
    return found


def _convincing(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """Sorts rows: what is used, the main finding of a class, what stands out, then the largest effect."""
    return _VERDICTS.index(row["verdict"]), not row["main"], not row["stands_out"], -_effect(row)


def _effect(row: Mapping[str, Any]) -> float:
    """The share of predictions that a finding turns, beyond the controls."""
    added, control, turned, elsewhere, others = (
        row[name] or 0.0 for name in ("added", "added_control", "turned", "turned_elsewhere", "turned_others")
    )
    return float(max(added - control, turned - max(elsewhere, others)))


def _alikeness(located: Mapping[int, Located], grid: Grid, channels: int) -> dict[int, Alikeness]:
    """How alike the patches of each class are, compared with those of the other classes."""
    shape = (*grid.window, channels)
    patches = {
        k: np.stack([np.frombuffer(patch, np.uint8).reshape(shape) for patch in each.rows["patch"].to_pylist()])
        for k, each in located.items()
    }
    found = {}
    for k, own in patches.items():
        # As many of each class, so that no class decides what is usual.
        rest = [other for j, other in patches.items() if j != k]
        each = max(1, _OTHERS_COMPARED // max(1, len(rest)))
        step = max(1, len(rest) // _OTHERS_COMPARED)
        others = np.concatenate([other[:each] for other in rest[::step]]) if rest else own[:0]
        enough = len(own) > 1 and len(others) > 1
        found[k] = alikeness(own, others, np.random.default_rng(k)) if enough else Alikeness(0.0, 1.0)
    return found


def _stand_out(alike: Iterable[Alikeness]) -> list[bool]:
    alike = list(alike)
    q = false_discovery([each.p for each in alike])
    return [each.excess >= LEAST_ALIKENESS and own <= FALSE_DISCOVERIES for each, own in zip(alike, q, strict=True)]


def _gathered(tested: pa.Table) -> dict[tuple[int, str], _Gathered]:
    """The answers by class and kind of finding."""
    columns = ("class", "kind", "change", "shard", "index", "label", "target", "logit", "probability", "predicted")
    by_image: dict[tuple[int, str], dict[tuple[str, int], dict[str, list[Any]]]] = defaultdict(
        lambda: defaultdict(lambda: defaultdict(list))
    )
    for k, kind, change, shard, index, *answer in zip(*(tested[c].to_pylist() for c in columns), strict=True):
        by_image[k, kind][shard, index][change].append(answer)
    return {
        (k, kind): _gather(k, [changes for _, changes in sorted(images.items())])
        for (k, kind), images in by_image.items()
    }


def _gather(class_index: int, images: list[dict[str, list[Any]]]) -> _Gathered:
    """The answers to one finding. An answer is (label, target, logit, probability, predicted)."""
    own: dict[str, list[float]] = defaultdict(list)
    others: dict[str, list[float]] = defaultdict(list)
    into: Counter[int] = Counter()
    right: list[tuple[bool, bool]] = []
    for changes in images:
        if AS_IT_IS in changes:
            [(label, target, logit, probability, predicted)] = changes[AS_IT_IS]
            if predicted != target:  # rounding decides a tie otherwise than in the run
                continue
            for change in (COVERED, BLURRED, ELSEWHERE):
                own[f"drop {change}"].append(float(np.mean([logit - each[2] for each in changes[change]])))
                own[f"turned {change}"].append(float(np.mean([each[4] != target for each in changes[change]])))
            [(*_, after, answer)] = changes[COVERED]
            own["lost"].append(probability - after)
            if answer != target:
                into[answer] += 1
            if label is not None:
                right.append((label == predicted, label == answer))
        elif OTHER in changes:
            [(_, target, logit, _, predicted)] = changes[OTHER]
            if predicted == class_index:
                continue
            for each in changes.get(OTHER_COVERED, ()):
                others["drop"].append(logit - each[2])
                others["turned"].append(float(each[4] != predicted))
            for name, change in (("added", PASTED), ("control", CONTROL)):
                others[name] += [float(each[4] == class_index) for each in changes.get(change, ())]
    answers = Answers(
        drop=np.asarray(own[f"drop {COVERED}"]),
        turned=np.asarray(own[f"turned {COVERED}"], bool),
        drop_blurred=np.asarray(own[f"drop {BLURRED}"]),
        turned_blurred=np.asarray(own[f"turned {BLURRED}"], bool),
        drop_elsewhere=np.asarray(own[f"drop {ELSEWHERE}"]),
        turned_elsewhere=np.asarray(own[f"turned {ELSEWHERE}"]),
        drop_others=np.asarray(others["drop"]),
        turned_others=np.asarray(others["turned"], bool),
        added=np.asarray(others["added"], bool),
        added_control=np.asarray(others["control"], bool),
        lost_probability=np.asarray(own["lost"]),
    )
    before, after = np.asarray(right, float).reshape(-1, 2).mean(axis=0) if right else (np.nan, np.nan)
    return _Gathered(answers, into.most_common(1)[0][0] if into else None, (float(before), float(after)))


def _row(
    finding: Finding,
    gathered: _Gathered,
    judgement: Judgement,
    located: Located,
    alike: Alikeness,
    looks: Mapping[int, bool],
    grid: Grid,
    name_of: Callable[[int | None], str | None],
) -> dict[str, Any]:
    answers, boxes, k = gathered.answers, finding.boxes, finding.class_index
    height, width = grid.height, grid.width
    row: dict[str, Any] = {
        "class": k,
        "class_name": name_of(k),
        "kind": finding.kind,
        "verdict": judgement.verdict,
        "stands_out": looks[k] if finding.kind == "look" else judgement.out_of_place,
        "place": finding.place,
        "top": min((box.top for box in boxes), default=0) / height if boxes else None,
        "left": min((box.left for box in boxes), default=0) / width if boxes else None,
        "bottom": max((box.bottom for box in boxes), default=0) / height if boxes else None,
        "right": max((box.right for box in boxes), default=0) / width if boxes else None,
        "area": float(mask_of(boxes, height, width).mean()) if boxes else float(np.prod(grid.window)) / height / width,
        "located_images": len(located.drops),
        "near": _near(finding, located, grid),
        "alikeness": alike.excess,
        "alikeness_p": alike.p,
        "images": len(answers.drop),
        "others": len(answers.added),
        "logit_drop": _mean(answers.drop),
        "probability_drop": _mean(answers.lost_probability),
        "turned": _mean(answers.turned),
        "turned_into": gathered.into,
        "turned_into_name": name_of(gathered.into),
        "accuracy_before": gathered.accuracy[0],
        "accuracy_after": gathered.accuracy[1],
        "added": _mean(answers.added),
        "added_control": _mean(answers.added_control),
        "p_cover": judgement.p_cover,
        "q_cover": judgement.q_cover,
        "p_add": judgement.p_add,
        "q_add": judgement.q_add,
        "covering_map": located.drops.mean(axis=0),
        "covering_map_height": grid.shape[0],
        "covering_map_width": grid.shape[1],
    }
    for where in ("blurred", "elsewhere", "others"):
        row[f"logit_drop_{where}"] = _mean(getattr(answers, f"drop_{where}"))
        row[f"turned_{where}"] = _mean(getattr(answers, f"turned_{where}"))
    ends = {
        "logit_drop": interval(answers.drop),
        "probability_drop": interval(answers.lost_probability),
        "turned": share_interval(answers.turned),
        "added": share_interval(answers.added),
    }
    for name, (low, high) in ends.items():
        row[f"{name}_low"], row[f"{name}_high"] = low, high
    row = {name: None if isinstance(value, float) and np.isnan(value) else value for name, value in row.items()}
    return {**row, "sentence": sentence(row)}


def _near(finding: Finding, located: Located, grid: Grid) -> float | None:
    """The share of images in which the window that costs most touches the place."""
    if not finding.boxes:
        return None
    peaks = located.drops.argmax(axis=1)
    return float(np.mean([any(grid.boxes[peak].overlaps(box) for box in finding.boxes) for peak in peaks]))


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else np.nan
