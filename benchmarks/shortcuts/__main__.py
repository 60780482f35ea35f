"""How well statistics of maps find planted shortcuts, where it is known which of them the model uses.

    python -m benchmarks.shortcuts [--quick | --case NUMBER …] [--cache FOLDER] [--backbone FILE.tgz] [--csv FILE]

Models, their answers and their maps are kept in the cache, so a second run only counts. `--cached` leaves out what the
cache does not hold. Without a backbone, MobileNetV2 starts from random weights, and finds little.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import pathlib
from collections.abc import Callable, Sequence

import numpy as np

from benchmarks.shortcuts.design import cases
from benchmarks.shortcuts.measuring import Measured, is_measured, measure
from benchmarks.shortcuts.plants import KINDS
from benchmarks.shortcuts.scores import MAPS, STATISTICS, Scores, auroc
from benchmarks.shortcuts.verdicts import Verdict, verdicts
from benchmarks.tables import Report

PLACED = ("corner tag", "fixed tag", "border", "text line")
SHARES = (1.0, 0.3, 0.1)


def table_of_cases(report: Report, measured: Sequence[Measured]) -> None:
    """What was planted, and what each model uses."""
    rows = []
    for each in measured:
        accuracy = np.mean(each.evidence.predicted == each.evidence.labels)
        for plant, truth in zip(each.case.plants, each.truths, strict=True):
            at_random = plant.target < 0
            flips, before = (
                (truth.flips.max(), truth.before[truth.flips.argmax()])
                if at_random
                else (truth.flips[plant.target], truth.before[plant.target])
            )
            where = "at random" if at_random else f"class {plant.target}"
            rows.append(
                (
                    f"{each.case.name} {accuracy:.0%}",
                    f"{plant.kind}, {where}",
                    f"{plant.share:.0%}",
                    f"{flips:.0%}",
                    f"{before:.0%}",
                    "–" if at_random else "yes" if truth.used_by(plant.target) else "no",
                )
            )
    report.table("planted", ("model, accuracy", "shortcut", "share", "flips", "without it", "used"), rows)


def table_of_statistics(report: Report, measured: Sequence[Measured]) -> None:
    """AUROC of used shortcuts against innocent classes, for each map and statistic."""
    rows = []
    for name, kind in MAPS.items():
        maps = [kind(each.evidence) for each in measured]
        for statistic, score in STATISTICS.items():
            scores = [
                score(each_maps, each.evidence.predicted, each.case.classes)
                for each, each_maps in zip(measured, maps, strict=True)
            ]
            rows.append((f"{name}: {statistic}", *_separation(measured, scores)))
    columns = [f"{'place' if placed else 'no place'}, {share:.0%}" for placed in (True, False) for share in SHARES]
    report.table("AUROC", ("map: statistic", *columns, "all", "all, within a model"), rows)


def _separation(measured: Sequence[Measured], scores: Sequence[Scores]) -> list[str]:
    groups: list[Callable[[Verdict], bool]] = [
        lambda v, placed=placed, share=share: (v.kind in PLACED) == placed and v.share == share
        for placed in (True, False)
        for share in SHARES
    ]
    found = [v for each, score in zip(measured, scores, strict=True) for v in verdicts(each, score)]
    innocent = np.asarray([v.score for v in found if v.kind is None])
    used = [v for v in found if v.used]
    cells = [_shown(auroc(np.asarray([v.score for v in used if group(v)]), innocent)) for group in groups]
    cells.append(_shown(auroc(np.asarray([v.score for v in used]), innocent)))
    within = []
    for each, score in zip(measured, scores, strict=True):
        own = verdicts(each, score)
        planted = np.asarray([v.score for v in own if v.used])
        within.append((auroc(planted, np.asarray([v.score for v in own if v.kind is None])), len(planted)))
    known = [(value, count) for value, count in within if not math.isnan(value)]
    values, counts = np.asarray(known or [(math.nan, 1)]).T
    cells.append(_shown(float(np.average(values, weights=counts))))
    return cells


def table_by_kind(report: Report, measured: Sequence[Measured], name: str, statistic: str) -> None:
    """One map and statistic in detail: each kind of shortcut."""
    scores = [STATISTICS[statistic](MAPS[name](e.evidence), e.evidence.predicted, e.case.classes) for e in measured]
    found = [v for each, score in zip(measured, scores, strict=True) for v in verdicts(each, score)]
    innocent = np.asarray([v.score for v in found if v.kind is None])
    rows = []
    for kind in KINDS:
        own = [v for v in found if v.kind == kind and v.used]
        located = [v.at_place for v in own if v.at_place is not None]
        rows.append(
            (
                kind,
                str(sum(v.kind == kind for v in found)),
                str(len(own)),
                ", ".join(f"{v.share:.0%}: {v.score:.2f}" for v in sorted(own, key=lambda v: -v.share)),
                _shown(auroc(np.asarray([v.score for v in own]), innocent)),
                f"{sum(located)} of {len(located)}" if located else "–",
            )
        )
    rows.append(("none", str(len(innocent)), "–", ", ".join(f"{v:.2f}" for v in sorted(innocent)[::-1]), "–", "–"))
    columns = ("shortcut", "classes", "used", "share: score of used ones", "AUROC", "peak at the shortcut")
    report.table(f"{name}: {statistic}", columns, rows)


def table_of_flags(report: Report, measured: Sequence[Measured]) -> None:
    """The flags of `standouts` with its own thresholds: how many are right."""
    rows = []
    sets = {name: [v for m in measured for v in verdicts(m, flags=kind(m.evidence))] for name, kind in MAPS.items()}
    before = []
    for m in measured:
        score = STATISTICS["border, corner z"](MAPS["reference"](m.evidence), m.evidence.predicted, m.case.classes)
        before += [dataclasses.replace(v, score=v.score if v.score >= 3 else 0.0) for v in verdicts(m, score)]
    sets["reference, border or corner z ≥ 3"] = before
    for name, flagged in sets.items():
        used = [v for v in flagged if v.used]
        innocent = [v for v in flagged if v.kind is None]
        ranked = sorted((v for v in flagged if v.score > 0 and (v.used or v.kind is None)), key=lambda v: -v.score)
        right = [v.at_place for v in used if v.score > 0 and v.at_place is not None]
        rows.append(
            (
                name,
                *(_part(v.score > 0 for v in used if v.share == share) for share in SHARES),
                _part(v.score > 0 for v in innocent),
                _part(v.used for v in ranked[:10]),
                _part(right),
            )
        )
    found_of = [f"found of {share:.0%}" for share in SHARES]
    columns = ("map", *found_of, "innocent flagged", "right of first 10", "place right")
    report.table("flags", columns, rows)


def _part(values: object) -> str:
    known = list(values)  # type: ignore[call-overload]
    return f"{sum(known)} of {len(known)}"


def _shown(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two small models alone; minutes")
    parser.add_argument("--case", type=int, nargs="+", help="the numbers of the cases to run, from 0")
    parser.add_argument("--cache", type=pathlib.Path, default=pathlib.Path.home() / ".cache" / "fullgrad-shortcuts")
    parser.add_argument("--cached", action="store_true", help="train nothing; count what the cache holds")
    parser.add_argument("--backbone", metavar="FILE.tgz", help="npm's nsfwjs, packed: MobileNetV2's weights")
    parser.add_argument("--map", default="positive part", choices=list(MAPS), help="shown in detail")
    parser.add_argument(
        "--statistic", default="gap, both", choices=list(STATISTICS), help="the statistic shown in detail"
    )
    parser.add_argument("--csv", metavar="FILE", help="also write the tables to this file")
    arguments = parser.parse_args()
    chosen = cases(arguments.quick)
    chosen = chosen if arguments.case is None else [chosen[i] for i in arguments.case]
    if arguments.cached:
        chosen = [case for case in chosen if is_measured(case, arguments.cache)]
    measured = [measure(case, arguments.cache, arguments.backbone) for case in chosen]
    if not measured:
        parser.error(f"{arguments.cache} holds no case; leave out --cached, and the models are trained")
    report = Report()
    table_of_cases(report, measured)
    table_of_statistics(report, measured)
    table_by_kind(report, measured, arguments.map, arguments.statistic)
    table_of_flags(report, measured)
    if arguments.csv:
        report.write(arguments.csv)


if __name__ == "__main__":
    main()
