"""Says in words what numbers mean: the figures, the kinds of examples and failures, and what stands out."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from pipeline.report.reading import ClassTable, Pair, Results
from transforms.statistics.effects import LEAST_IMAGES


@dataclasses.dataclass(frozen=True, slots=True)
class Figure:
    """A figure of maps in words.

    Attributes:
      name: its column.
      label: its name on the page.
      unit: `share` is shown in percent, `number` as it is.
      meaning: one sentence.
    """

    name: str
    label: str
    unit: str
    meaning: str


FIGURE_WORDS = (
    Figure("corner_mass", "Corner", "share", "The share of the saliency in the fullest corner, a fifth of the sides."),
    Figure("border_mass", "Border", "share", "The share of the saliency within a tenth of the side from an edge."),
    Figure("area50", "Area of 50 %", "share", "The smallest part of the image that holds half of the saliency."),
    Figure("area90", "Area of 90 %", "share", "The smallest part of the image that holds 90 % of the saliency."),
    Figure("entropy", "Evenness", "number", "Entropy: 0 if all saliency is in one pixel, 1 if it is even."),
    Figure("gini", "Concentration", "number", "Gini coefficient: 0 for an even map, near 1 for a single pixel."),
    Figure("spread", "Spread", "number", "How far the saliency lies from its centre, in sides of the image."),
    Figure("center_y", "Centre, down", "number", "The centre of the saliency: 0 at the top, 1 at the bottom."),
    Figure("center_x", "Centre, across", "number", "The centre of the saliency: 0 at the left, 1 at the right."),
    Figure("peak_y", "Peak, down", "number", "The strongest pixel: 0 at the top, 1 at the bottom."),
    Figure("peak_x", "Peak, across", "number", "The strongest pixel: 0 at the left, 1 at the right."),
    Figure("total", "Total", "number", "The sum of the map, not normalised."),
)


@dataclasses.dataclass(frozen=True, slots=True)
class Kind:
    """A kind of examples in words.

    Attributes:
      name: as in examples.parquet.
      label: its heading.
      meaning: one sentence.
      score: what its images are ranked by.
      unit: of the score, as in `Figure`.
    """

    name: str
    label: str
    meaning: str
    score: str
    unit: str


KIND_WORDS = (
    Kind("typical", "Typical", "Their maps are most like the mean map of the class.", "cosine of the two", "number"),
    Kind("unusual", "Unusual", "Their maps are least like the mean map of the class.", "cosine of the two", "number"),
    Kind(
        "wrong", "Wrong", "They have the label below, but the model takes them for this class.", "probability", "share"
    ),
    Kind("confident", "Confident", "The model is most certain of the class.", "probability", "share"),
    Kind("unsure", "Unsure", "The model is least certain of the class.", "probability", "share"),
    Kind("corner", "Corner", "The largest share of their saliency lies in one corner.", "share there", "share"),
    Kind("border", "Border", "The largest share of their saliency lies along the border.", "share there", "share"),
)

FAILURE_WORDS = {
    "NoImage": "The record has no image.",
    "AmbiguousSample": "The sample has several images.",
    "UnusableLabel": "The label does not say which class the image has.",
    "TooLarge": "The record is larger than the limit.",
    "EmptyShard": "The shard has no records.",
    "DamagedShard": "The rest of the shard cannot be read.",
    "UndecodableImage": "The image cannot be decoded.",
    "NotFinite": "The model gave a value that is not a number, or infinite.",
    "OutOfMemory": "The memory was too small for the image.",
}

MISSING_EXAMPLES = "This output has no examples.parquet, so there are no single images to show."
MISSING_IMAGES = "This run kept no pictures (output.images is null), so maps are shown without their images."
MISSING_PAIRS = "This output has no confusion.parquet, so the report cannot say which classes are mistaken for which."

# What follows the first finding of a class.
_HINT = " If the object is not there, the model may rely on something else."

# How many pairs of classes that are mistaken for each other are findings, and from how many images on.
_PAIRS = 3
_PAIR_IMAGES = 5


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """Something that a person should look at.

    Attributes:
      class_index: the class that it is about.
      figure: what it is about: `place` or `confusion`.
      sentence: what stands out, for a reader who does not know the method.
      value, others: the number of the class, and what it is compared with.
      kind: the kind of examples that shows it; None if there is none.
    """

    class_index: int
    figure: str
    sentence: str
    value: float
    others: float
    kind: str | None


_CORNERS = ("top left", "top right", "bottom left", "bottom right")
_PHRASES = ("along the border", "over most of the image")  # the places that are no part of the image with a name


def class_label(index: int, name: str | None) -> str:
    """A class as the report names it."""
    return name if name else f"class {index}"


def percent(share: float) -> str:
    """A share in words, with as many digits as a reader needs. The space does not break a line."""
    digits = 0 if share >= 0.095 or share == 0 else 1
    return f"{100 * share:.{digits}f}\u00a0%"


def where(place: str) -> str:
    """A place in words as part of a sentence: "at the bottom right", "along the border"."""
    return place if place in _PHRASES else f"at the {place}"


def findings(results: Results) -> list[Finding]:
    """What stands out, the most striking first: places that a class looks at, then classes taken for another."""
    return [*_places(results), *_mistaken(results.classes, results.pairs or ())]


def nothing_sentence(results: Results) -> str:
    """What the report says if nothing stands out. It claims only what the run's maps and labels can show."""
    compared = int((results.classes.images >= LEAST_IMAGES).sum())
    if compared >= 2:
        places = "No class looks at a place much more than the others."
    else:
        places = (
            f"Whether a class looks at a place more than the others is not known: at least two classes need "
            f"{LEAST_IMAGES} maps each."
        )
    mistakes = "No two classes are often mistaken." if results.summary["labelled"] else "No image has a label."
    return f"{places} {mistakes} The table of classes shows what there is."


def _places(results: Results) -> list[Finding]:
    found: list[Finding] = []
    for notable in results.summary["notable"]:
        if "place" not in notable:
            continue  # flagged by an earlier version, by figures of the whole map
        index, place = notable["class_index"], notable["place"]
        name = class_label(index, notable["class_name"])
        own, others = percent(notable["mean"]), percent(notable["others"])
        if notable.get("effect") is None:
            sentence = (
                f"{name}: {own} of its images have more of their evidence {where(place)} than 99\u00a0% of the other "
                f"classes' images; of other classes: {others}."
            )
        else:
            sentence = f"{name}: {own} of its evidence lies {where(place)}; other classes: {others}."
        found.append(
            Finding(
                index,
                "place",
                sentence + _HINT,
                notable["mean"],
                notable["others"],
                {"along the border": "border"}.get(place, "corner" if place in _CORNERS else "typical"),
            )
        )
    return found


def _mistaken(classes: ClassTable, pairs: Sequence[Pair]) -> list[Finding]:
    labelled = dict(zip(classes.index.tolist(), classes.labelled.tolist(), strict=True))
    wrong = [pair for pair in pairs if pair.label != pair.predicted and pair.images >= _PAIR_IMAGES]
    wrong.sort(key=lambda pair: (-pair.images, pair.label, pair.predicted))
    return [
        Finding(
            pair.label,
            "confusion",
            f"{class_label(pair.label, pair.label_name)}: {pair.images:,} of its {labelled[pair.label]:,} images are "
            f"taken for {class_label(pair.predicted, pair.predicted_name)}.",
            float(pair.images),
            float(labelled[pair.label]),
            None,
        )
        for pair in wrong[:_PAIRS]
        if labelled.get(pair.label)
    ]


def completeness_sentence(errors: dict[str, float] | None) -> str:
    """What the completeness error of a run says about its maps."""
    if not errors:
        return "This method does not divide the logit into terms, so there is no completeness error."
    sentence = (
        "The parts of every explanation must add up to the number that is explained. The completeness error is the "
        "relative difference. "
    )
    if errors["max"] <= 1e-3:
        return sentence + "It is near 0 for every image here: nothing was lost."
    return sentence + "It is above 0.001 for some images here: their maps leave out a part of the explanation."
