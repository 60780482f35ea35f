"""Turns results into the values of the page's data files. The page's scripts document the form by their use."""

from __future__ import annotations

import datetime
import posixpath
import shlex
import zlib
from collections.abc import Mapping
from typing import Any

from pipeline.report.checked import Evidence, checks_value, class_checks_value
from pipeline.report.clustered import ClassClusters, clusters_value
from pipeline.report.compared import comparison_value
from pipeline.report.numbers import CodedMap, half_width, plain, plain_list, small, wilson
from pipeline.report.reading import ClassExamples, ClassTable, Example, FailureKind, Pair, Results
from pipeline.report.sprites import Sprite
from pipeline.report.words import (
    FAILURE_WORDS,
    FIGURE_WORDS,
    KIND_WORDS,
    MISSING_EXAMPLES,
    MISSING_IMAGES,
    MISSING_PAIRS,
    Finding,
    completeness_sentence,
)
from transforms.statistics import FIGURES, QUANTILES

_SMALL_SIDE = 14  # of the mean maps in the table of classes


def title_of(results: Results) -> str:
    """The page's title."""
    return f"What “{results.run['model']['name']}” looks at"


def index_value(
    results: Results,
    found: list[Finding],
    missing: list[str],
    addresses: Mapping[tuple[str, int], tuple[int, str, str]],
) -> dict[str, Any]:
    """What the overview and the table of classes show.

    Args:
      results: the output.
      found: what stands out.
      missing: sentences about what the output lacks.
      addresses: for images of the comparison that are examples, by shard and index: class, kind and key.
    """
    return {
        "title": title_of(results),
        "run": _run(results),
        "totals": _totals(results.summary),
        "completeness": {
            "sentence": completeness_sentence(results.summary["completeness"]),
            "quantiles": {name: plain(value) for name, value in (results.summary["completeness"] or {}).items()},
        },
        "missing": missing,
        "warnings": list(results.summary.get("warnings", [])),
        "failures": [_failure(kind) for kind in results.failures],
        "findings": [
            {
                "class": each.class_index,
                "figure": each.figure,
                "sentence": each.sentence,
                "value": plain(each.value),
                "others": plain(each.others),
                "kind": each.kind,
            }
            for each in found
        ],
        "figures": [
            {"name": each.name, "label": each.label, "unit": each.unit, "meaning": each.meaning}
            for each in FIGURE_WORDS
        ],
        "kinds": [
            {"name": each.name, "label": each.label, "meaning": each.meaning, "score": each.score, "unit": each.unit}
            for each in KIND_WORDS
        ],
        "quantiles": list(QUANTILES),
        "classes": _classes(results),
        "dataset": None if results.dataset is None else _dataset(results.dataset),
        "checks": checks_value(results.checks),
        "check_command": f"fullgrad check {shlex.quote(results.output.path)}",
        "comparison": comparison_value(results.comparison, addresses),
    }


def missing_sentences(results: Results, *, examples: bool, images: bool) -> list[str]:
    """What an output lacks, in sentences."""
    missing = [MISSING_PAIRS] if results.pairs is None else []
    if not examples:
        missing.append(MISSING_EXAMPLES)
    elif not images:
        missing.append(MISSING_IMAGES)
    return missing


def class_value(
    results: Results,
    row: int,
    examples: ClassExamples,
    sprite: Sprite | None,
    evidence: Evidence,
    evidence_sprite: Sprite | None,
    clusters: ClassClusters,
) -> dict[str, Any]:
    """What the page of one class and of its examples shows; `row` is the class's row in `results.classes`."""
    classes = results.classes
    index = int(classes.index[row])
    maps = {name: values[row] for name, values in classes.maps.items()}
    pairs = results.pairs or ()
    return {
        "maps": {name: None if values is None else _coded(CodedMap.of(values)) for name, values in maps.items()},
        "quantiles": {name: plain_list(classes.quantiles[row, column]) for column, name in enumerate(FIGURES)},
        "errors": plain_list(classes.errors[row]),
        "taken_for": None if results.pairs is None else _others(pairs, label=index),
        "taken_as": None if results.pairs is None else _others(pairs, predicted=index),
        "kinds": {
            kind: [[choice.number, plain(choice.score)] for choice in choices]
            for kind, choices in examples.kinds.items()
        },
        "examples": [_example(each) for each in examples.examples],
        "sprite": None if sprite is None else sprite.value(),
        "checks": class_checks_value((results.checks or {}).get(index), evidence, evidence_sprite),
        "clusters": clusters_value(clusters),
    }


def _coded(coded: CodedMap) -> list[Any]:
    return [coded.data, plain(coded.scale), plain(coded.offset), coded.height, coded.width]


def _run(results: Results) -> list[list[str]]:
    """What was run, as pairs of a name and a text."""
    run, configuration = results.run, results.run["configuration"]
    model, source, explain = run["model"], configuration["model"], configuration["explain"]
    targets = explain["targets"]
    shards = configuration["input"]["shards"]
    facts = [
        ("Model", f"{model['name']} ({source['path'] or source['application']}), {model['classes']:,} classes"),
        ("Explained", str(model.get("explains", "the logit"))),
        ("Images", ", ".join(shards) if isinstance(shards, list | tuple) else str(shards)),
        ("Method", f"{explain['method']}, maps: {explain['maps']}"),
        ("Classes explained", targets if isinstance(targets, str) else ", ".join(str(each) for each in targets)),
        ("Contrast", "" if explain["contrast"] == "none" else explain["contrast"]),
        ("Engine", configuration["runner"]["name"]),
        ("Started", _moment(run["started"])),
        ("Run", run["run"]),
        ("Fingerprint", run["fingerprint"]),
        ("Output", results.output.path),
        ("Versions", ", ".join(f"{name} {version}" for name, version in run["versions"].items())),
    ]
    return [[name, text] for name, text in facts if text]


def _moment(seconds: float) -> str:
    moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return f"{moment:%Y-%m-%d %H:%M} UTC"


def _totals(summary: dict[str, Any]) -> dict[str, Any]:
    interval = wilson(summary["correct"], summary["labelled"])
    return {
        "images": summary["images"],
        "maps": summary["rows"],
        "failed": summary["failed"],
        "failed_fraction": plain(summary["failed_fraction"]),
        "labelled": summary["labelled"],
        "correct": summary["correct"],
        "accuracy": plain(summary["accuracy"]),
        "interval": None if interval is None else [plain(end) for end in interval],
        "images_per_second": plain(summary["images_per_second"]),
        "seconds": plain(summary["seconds"]),
        "repeated_ids": summary.get("repeated_ids") or 0,
    }


def _failure(kind: FailureKind) -> dict[str, Any]:
    return {
        "error": kind.error,
        "meaning": FAILURE_WORDS.get(kind.error, ""),
        "count": kind.count,
        "examples": [
            {
                "id": each.image_id,
                "shard": each.shard,
                "index": each.index,
                "stage": each.stage,
                "message": each.message,
            }
            for each in kind.examples
        ],
    }


def _classes(results: Results) -> dict[str, Any]:
    """The table of classes, a list for each column: much smaller than an object for each class."""
    classes = results.classes
    intervals = [wilson(*counts) for counts in zip(classes.correct.tolist(), classes.labelled.tolist(), strict=True)]
    rates = [
        plain(correct / labelled) if labelled else None
        for correct, labelled in zip(classes.correct.tolist(), classes.labelled.tolist(), strict=True)
    ]
    half = half_width(classes.std, classes.images)
    means = [None if each is None else CodedMap.of(small(each, _SMALL_SIDE)) for each in classes.maps["mean"]]
    return {
        "index": classes.index.tolist(),
        "name": classes.names,
        "images": classes.images.tolist(),
        "labelled": classes.labelled.tolist(),
        "correct": classes.correct.tolist(),
        "accuracy": rates,
        "low": [None if each is None else plain(each[0]) for each in intervals],
        "high": [None if each is None else plain(each[1]) for each in intervals],
        "probability": plain_list(classes.probability),
        "similarity": plain_list(classes.similarity),
        "flags": _flags(results),
        "mean": {name: plain_list(classes.mean[:, column]) for column, name in enumerate(FIGURES)},
        "half": {name: plain_list(half[:, column]) for column, name in enumerate(FIGURES)},
        "map": [None if each is None else _coded(each) for each in means],
    }


def _flags(results: Results) -> list[list[str]]:
    flags: dict[int, list[str]] = {int(index): [] for index in results.classes.index}
    for notable in results.summary["notable"]:
        if "place" in notable:  # earlier versions flagged classes by figures of the whole map
            flags[notable["class_index"]].append(notable["place"])
    return list(flags.values())


def _dataset(dataset: ClassTable) -> dict[str, Any]:
    half = half_width(dataset.std, dataset.images)
    mean = dataset.maps["mean"][0]
    return {
        "images": int(dataset.images[0]),
        "mean": {name: plain(dataset.mean[0, column]) for column, name in enumerate(FIGURES)},
        "half": {name: plain(half[0, column]) for column, name in enumerate(FIGURES)},
        "quantiles": {name: plain_list(dataset.quantiles[0, column]) for column, name in enumerate(FIGURES)},
        "map": None if mean is None else _coded(CodedMap.of(mean)),
    }


def _others(pairs: tuple[Pair, ...], *, label: int | None = None, predicted: int | None = None) -> list[list[Any]]:
    """The other classes of a class's wrong answers, the most frequent first: class, name, images."""
    found = [
        (pair.predicted, pair.predicted_name, pair.images)
        if label is not None
        else (pair.label, pair.label_name, pair.images)
        for pair in pairs
        if pair.label != pair.predicted and (pair.label == label if label is not None else pair.predicted == predicted)
    ]
    return [list(each) for each in sorted(found, key=lambda each: (-each[2], each[0]))]


def example_key(shard: str, index: int) -> str:
    """The name of an image in the page's addresses. It stays the same when the report is built again."""
    return f"{zlib.crc32(shard.encode()):08x}-{index}"


def _example(example: Example) -> dict[str, Any]:
    terms = (example.explained, example.input_term, example.bias_term, example.unlocated_term)
    return {
        "key": example_key(example.shard, example.index),
        "id": example.image_id,
        "shard": example.shard,
        "file": posixpath.basename(example.shard),
        "index": example.index,
        "label": example.label,
        "label_name": example.label_name,
        "predicted": example.predicted,
        "predicted_name": example.predicted_name,
        "rank": example.target_rank,
        "logit": plain(example.logit),
        "probability": plain(example.probability),
        "contrast": example.contrast_class,
        "terms": [plain(term) for term in terms],
        "error": plain(example.completeness_error),
        "similarity": plain(example.similarity),
        "figures": [plain(example.figures[FIGURES.index(each.name)]) for each in FIGURE_WORDS],
        "map": None
        if example.map is None
        else _coded(
            CodedMap.of_codes(example.map, example.map_scale, example.map_offset, example.map_height, example.map_width)
        ),
    }
