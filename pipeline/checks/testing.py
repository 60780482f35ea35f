"""The second half of a check: is what was located used? Covers it, covers as much elsewhere, and adds it to others."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Sequence

import numpy as np

from pipeline.checks.forward import Forward
from pipeline.checks.schemas import ANSWERS
from pipeline.checks.work import CheckSettings, ComputeUnits, Picture, decoded, encoded, in_groups, side_by_side
from transforms.models import LoadedModel
from transforms.output import open_parquet
from transforms.probing import Box, Donor, Finding, Grid, cover, mask_of, pasted

# The changes of an image. `own` images are of the finding's class, `other` ones are not.
AS_IT_IS, COVERED, BLURRED, ELSEWHERE = "as it is", "covered", "blurred", "covered elsewhere"
OTHER, OTHER_COVERED, PASTED, CONTROL = "other", "other covered", "pasted", "pasted control"

_ELSEWHERE_TIMES = 3
_TOGETHER = 8  # images whose variants go through in one call
_SHOWN_SIDE = 96  # pixels, the longer side of a picture that is kept


@dataclasses.dataclass(frozen=True, slots=True)
class TestSettings(CheckSettings):
    """What workers are told about the test.

    Attributes:
      findings: what is tested, by class.
      donors: the file with the images whose parts are pasted: a row group for each class of `donor_classes`.
      donor_classes: in the order of the row groups.
      id: tells these findings and donors from others, in the names of parts.
    """

    findings: dict[int, tuple[Finding, ...]]
    donors: str
    donor_classes: tuple[int, ...]
    id: str


@dataclasses.dataclass(frozen=True, slots=True)
class _Variant:
    """A changed image, and what it is an answer to.

    Attributes:
      finding: of which class and kind.
      change: one of the changes above.
      target: the class whose logit counts.
      pixels: uint8 [H, W, C].
    """

    finding: Finding
    change: str
    target: int
    pixels: np.ndarray


class TestUnits(ComputeUnits):
    """Changes each image in every way that the findings ask for, and writes what the model answers."""

    schema = ANSWERS

    def __init__(self, settings: TestSettings):
        super().__init__(settings)
        self._tests = settings
        self.step = f"tested-{settings.id}"

    def rows(self, pictures: Iterator[Picture], forward: Forward, model: LoadedModel) -> Iterator[dict[str, object]]:
        grid = Grid(*model.input_size)
        donors = Donors(self._tests.donors, self._tests.donor_classes, grid)

        def answer(group: list[Picture]) -> list[tuple[Picture, list[_Variant], np.ndarray]]:
            variants = [_variants(picture, self._tests.findings, donors, grid) for picture in group]
            # Several findings ask about an image as it is, which is one and the same array.
            different = {id(variant.pixels): variant.pixels for each in variants for variant in each}
            logits = dict(zip(different, forward(np.stack(list(different.values()))), strict=True))
            return [
                (picture, each, np.stack([logits[id(variant.pixels)] for variant in each]))
                for picture, each in zip(group, variants, strict=True)
            ]

        for group in side_by_side(answer, in_groups(pictures, _TOGETHER), forward.at_once):
            for picture, variants, logits in group:
                probabilities = model.exposed.probabilities(logits)
                for i, variant in enumerate(variants):
                    yield {
                        "class": variant.finding.class_index,
                        "kind": variant.finding.kind,
                        "change": variant.change,
                        "shard": picture.shard,
                        "index": picture.record.index,
                        "image_id": picture.record.image_id,
                        "label": picture.label,
                        "target": variant.target,
                        "logit": logits[i, variant.target],
                        "probability": probabilities[i, variant.target],
                        "predicted": logits[i].argmax(),
                        "picture": encoded(variant.pixels, "WEBP", _SHOWN_SIDE) if picture.chosen.kept else None,
                    }


def _variants(picture: Picture, findings: dict[int, tuple[Finding, ...]], donors: Donors, grid: Grid) -> list[_Variant]:
    """All that is asked about an image."""
    made: list[_Variant] = []
    target = picture.chosen.target
    if picture.chosen.own:
        for number, finding in enumerate(findings.get(target, ())):
            made += _as_own(picture, finding, grid, number)
    for k in picture.chosen.other_of:
        for number, finding in enumerate(findings.get(k, ())):
            made += _as_other(picture, finding, donors, grid, number)
    return made


def _as_own(picture: Picture, finding: Finding, grid: Grid, number: int) -> Iterator[_Variant]:
    """An image of the class itself: with the place covered, blurred, and with as much covered elsewhere."""
    if not finding.boxes:
        return
    image, target = picture.pixels, picture.chosen.target
    generator = picture.generator(1, finding.class_index, number)
    yield _Variant(finding, AS_IT_IS, target, image)
    yield _Variant(finding, COVERED, target, _covered(image, finding.boxes, generator))
    mask = mask_of(finding.boxes, grid.height, grid.width)
    yield _Variant(finding, BLURRED, target, cover(image[None], mask, generator, "blur")[0])
    controls = len(finding.controls)
    for number in generator.permutation(controls)[:_ELSEWHERE_TIMES].tolist():
        yield _Variant(finding, ELSEWHERE, target, _covered(image, finding.controls[number], generator))


def _as_other(picture: Picture, finding: Finding, donors: Donors, grid: Grid, number: int) -> Iterator[_Variant]:
    """An image of another class: with the same place covered, and with the class's evidence pasted.

    The control is the same place of an image of any class but the finding's: pasting anything changes an image.
    """
    image, k = picture.pixels, finding.class_index
    generator = picture.generator(2, k, number)
    yield _Variant(finding, OTHER, picture.chosen.target, image)
    if finding.boxes:
        yield _Variant(finding, OTHER_COVERED, picture.chosen.target, _covered(image, finding.boxes, generator))
    donor, control = donors.pair(k, finding.kind == "part", generator)
    if donor is None or control is None:
        return
    boxes = finding.boxes or (donor.peak,)
    yield _Variant(finding, PASTED, k, pasted(image, donor.pixels, boxes))
    yield _Variant(finding, CONTROL, k, pasted(image, control.pixels, boxes))


def _covered(image: np.ndarray, boxes: Sequence[Box], generator: np.random.Generator) -> np.ndarray:
    covered: np.ndarray = cover(image[None], mask_of(tuple(boxes), *image.shape[:2]), generator)[0]
    return covered


class Donors:
    """The images whose parts are pasted. Reads the classes that are asked for."""

    def __init__(self, path: str, classes: Sequence[int], grid: Grid):
        self._path = path
        self._groups = {k: group for group, k in enumerate(classes)}
        self._grid = grid
        self._of_class = functools.lru_cache(maxsize=64)(self._read)

    def pair(self, own: int, part: bool, generator: np.random.Generator) -> tuple[Donor | None, Donor | None]:
        """A donor of a class, or of a part of it, and one of another class; None where there is none."""
        others = [k for k in self._groups if k != own]
        control = others[int(generator.integers(len(others)))] if others else None
        return tuple(
            None if k is None or k not in self._groups else _one(self._of_class(k)[part and k == own], generator)
            for k in (own, control)
        )  # type: ignore[return-value]

    def _read(self, class_index: int) -> tuple[list[Donor], list[Donor]]:
        """The donors of a class, and those of a part of it."""
        with open_parquet(self._path) as file:
            rows = file.read_row_group(self._groups[class_index], use_threads=False).to_pylist()
        donors: tuple[list[Donor], list[Donor]] = ([], [])
        for row in rows:
            donors[row["part"]].append(Donor(decoded(row["pixels"]), self._grid.boxes[row["peak"]]))
        return donors


def _one(donors: list[Donor], generator: np.random.Generator) -> Donor:
    return donors[int(generator.integers(len(donors)))]
