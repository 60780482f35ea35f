"""How often `fullgrad run` and `fullgrad check` are right about planted shortcuts, from image files to verdicts.

    python -m benchmarks.shortcuts.checks [--case NUMBER …] [--five] [--cache FOLDER] [--backbone FILE.tgz]
                                          [--images 40] [--tested 128] [--csv FILE]

The test images of each case are written as PNG files into class folders. `fullgrad run` explains them with its
defaults, and `fullgrad check` checks all classes. The table holds what they say against what was planted: which classes
the run flags, which ones the check calls used, and whether the place is right. `--five` adds the case of five strong
shortcuts in one model: tag, border, text line, wandering tag, background.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import pathlib
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from benchmarks.shortcuts.case import Case, Truth
from benchmarks.shortcuts.design import cases
from benchmarks.shortcuts.measuring import read_truths, trained_and_tested
from benchmarks.shortcuts.plants import Plant
from benchmarks.tables import Report
from transforms.statistics import COARSE

FIVE = Case(
    "mobilenet",
    8,
    (
        Plant("corner tag", 6, 1.0, 1.0, 0),
        Plant("border", 3, 1.0, 1.0, 3),
        Plant("text line", 7, 1.0, 1.0, 3),
        Plant("wandering tag", 5, 1.0, 1.0, 2),
        Plant("background", 4, 1.0, 1.0, 4),
    ),
    4000,
    train=150,
)


@dataclasses.dataclass(frozen=True, slots=True)
class Said:
    """What was said of one class, and what is true of it.

    Attributes:
      case, class_index: which class.
      plant, truth: its shortcut; None for an innocent class.
      flagged: the places that the run flags.
      clusters: the places of its clusters.
      verdicts: the findings that the check calls used, the main one first.
    """

    case: str
    class_index: int
    plant: Plant | None
    truth: Truth | None
    flagged: tuple[str, ...]
    clusters: tuple[str, ...]
    verdicts: tuple[dict[str, Any], ...]

    @property
    def used(self) -> bool:
        """Whether the model uses the shortcut."""
        return self.truth is not None and self.truth.used_by(self.class_index)

    @property
    def at_place(self) -> bool | None:
        """Whether the main finding touches the shortcut; None if that has no place or nothing is said."""
        cells = None if self.plant is None else self.plant.cells(COARSE)
        if cells is None or not self.verdicts or self.verdicts[0]["top"] is None:
            return None
        box = self.verdicts[0]
        top, left = int(box["top"] * COARSE), int(box["left"] * COARSE)
        bottom, right = int(np.ceil(box["bottom"] * COARSE)), int(np.ceil(box["right"] * COARSE))
        return bool(cells[top:bottom, left:right].any())


def said_of(case: Case, folder: pathlib.Path, package: str | None, images: int, tested: int) -> list[Said]:
    """Runs and checks a case, as far as the folder does not hold it yet."""
    output = folder / "checks" / case.name / f"{images}-{tested}"
    if not (output / "checks.parquet").exists():
        _prepare(case, folder, package, output.parent / "images")
        _fullgrad("run", str(_configuration(case, folder, output)))
        _fullgrad("check", str(output), "--images", str(images), "--tested", str(tested))
    truths = read_truths(case, folder)
    checks = pq.read_table(output / "checks.parquet").to_pylist()
    summary = json.loads((output / "summary.json").read_text())
    clusters = pq.read_table(output / "clusters.parquet").to_pylist()
    planted = {plant.target: (plant, truth) for plant, truth in zip(case.plants, truths, strict=True)}
    found = []
    for k in sorted({row["class"] for row in checks}):
        plant, truth = planted.get(k, (None, None))
        used = [row for row in checks if row["class"] == k and row["verdict"] == "used"]
        found.append(
            Said(
                case.name,
                k,
                plant,
                truth,
                tuple(each["place"] for each in summary["notable"] if each["class_index"] == k),
                tuple(each["peak"] for each in clusters if each["class"] == k and each["peak"]),
                tuple(sorted(used, key=lambda row: not row["main"])),
            )
        )
    return found


def _prepare(case: Case, folder: pathlib.Path, package: str | None, images: pathlib.Path) -> None:
    import keras  # slow

    from benchmarks.shortcuts import models

    trained_and_tested(case, folder, package)
    data = models.dataset(case, models.TEST)
    for i, (pixels, label) in enumerate(zip(data.images, data.labels.tolist(), strict=True)):
        path = images / f"class {label:02d}" / f"{i:05d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    keras.utils.clear_session()


def _configuration(case: Case, folder: pathlib.Path, output: pathlib.Path) -> pathlib.Path:
    path = output.parent / "configuration.yaml"
    settings = {
        "input": {"shards": str(output.parent / "images"), "format": "folder"},
        "model": {"path": str(folder / f"{case.name}.keras")},
        "output": {"path": str(output)},
    }
    path.write_text(json.dumps(settings))  # JSON is YAML
    return path


def _fullgrad(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "pipeline", *arguments], check=True)


def table_of_classes(report: Report, said: Sequence[Said]) -> None:
    """Each planted class, and each innocent one of which something is said."""
    rows = []
    for each in said:
        if each.plant is None and not each.flagged and not each.verdicts:
            continue
        if each.plant is None or each.truth is None:
            planted, flips = "–", "–"
        else:
            planted = f"{each.plant.kind}, {each.plant.share:.0%}"
            flips = f"{each.truth.flips[each.class_index]:.0%} ({each.truth.before[each.class_index]:.0%})"
        main = each.verdicts[0] if each.verdicts else None
        rows.append(
            (
                f"{each.case}, {each.class_index}",
                planted,
                flips,
                ", ".join(each.flagged) or "–",
                "–" if main is None else f"{main['kind']}: {main['place'] or 'a look'}",
                "–" if main is None else main["sentence"],
            )
        )
    report.table("classes", ("model, class", "planted", "flips (without it)", "flagged", "used", "sentence"), rows)


def table_of_verdicts(report: Report, said: Sequence[Said]) -> None:
    """How many classes of each sort are flagged and called used."""
    rows = []
    for name, chosen in (
        *(
            (f"used, {share:.0%} of the class", [s for s in said if s.used and s.plant.share == share])
            for share in (1, 0.3, 0.1)
        ),
        ("planted and not used", [s for s in said if s.plant is not None and not s.used]),
        ("innocent", [s for s in said if s.plant is None]),
    ):
        places = [s.at_place for s in chosen if s.at_place is not None]
        rows.append(
            (
                name,
                str(len(chosen)),
                str(sum(bool(s.flagged) for s in chosen)),
                str(sum(bool(s.verdicts) for s in chosen)),
                str(sum(bool(s.flagged) and bool(s.verdicts) for s in chosen)),
                f"{sum(places)} of {len(places)}" if places else "–",
            )
        )
    columns = ("classes", "number", "flagged", "called used", "flagged and called used", "main finding at the shortcut")
    report.table("verdicts", columns, rows)


def _of_share(said: Sequence[Said], share: float) -> list[Said]:
    return [each for each in said if each.used and each.plant is not None and each.plant.share == share]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", type=int, nargs="*", default=[], help="the numbers of the cases to run, from 0")
    parser.add_argument("--five", action="store_true", help="also the case of five strong shortcuts")
    parser.add_argument("--cache", type=pathlib.Path, default=pathlib.Path.home() / ".cache" / "fullgrad-shortcuts")
    parser.add_argument("--backbone", metavar="FILE.tgz", help="npm's nsfwjs, packed: MobileNetV2's weights")
    parser.add_argument("--images", type=int, default=40, help="as of fullgrad check")
    parser.add_argument("--tested", type=int, default=128, help="as of fullgrad check")
    parser.add_argument("--csv", metavar="FILE", help="also write the tables to this file")
    arguments = parser.parse_args()
    chosen = [*([FIVE] if arguments.five else []), *(cases(quick=False)[i] for i in arguments.case)]
    said = [
        each
        for case in chosen
        for each in said_of(case, arguments.cache, arguments.backbone, arguments.images, arguments.tested)
    ]
    report = Report()
    table_of_classes(report, said)
    table_of_verdicts(report, said)
    if arguments.csv:
        report.write(arguments.csv)


if __name__ == "__main__":
    main()
