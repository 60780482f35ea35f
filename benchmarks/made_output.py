"""Makes an output's small files from drawn images and maps, for the report's benchmark and tests."""

from __future__ import annotations

import copy
import dataclasses
import io
import json
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from transforms.output import CLASSES, CONFUSION, ERRORS, EXAMPLES, Output, encode_maps
from transforms.statistics import FIGURES, QUANTILES, map_figures, resample, unit_mass
from transforms.statistics.classes import cosine
from transforms.unit import LabelCounts, Receipt, Shard, Unit

# So many classes are drawn. Further ones have the maps and pictures of these, as drawing takes longer than the report.
_DRAWN = 20


@dataclasses.dataclass(frozen=True, slots=True)
class Made:
    """What to make.

    Attributes:
      names: the classes.
      images: the number of images of a class.
      grid: the side of the maps.
      side: the longer side of the images in pixels; None for no images.
      signed: whether maps have negative values.
      marked: the class whose maps look into the bottom right corner; its images carry a mark there. None for none.
      examples, confusion: whether these files are written.
      ids: a pattern for ids, with {class} and {index}.
      failures: whether some images failed.
    """

    names: Sequence[str]
    images: int = 60
    grid: int = 56
    side: int | None = 96
    signed: bool = False
    marked: int | None = 0
    examples: bool = True
    confusion: bool = True
    ids: str = "{name}-{index:04d}.png"
    failures: bool = False


def make_output(path: pathlib.Path, made: Made, seed: int = 0) -> None:
    """Writes an output of drawn images into a new folder; it has no maps/, which the report does not read."""
    path.mkdir(parents=True)
    random = np.random.default_rng(seed)
    shard = "data/test.tfrecord-00000-of-00001"
    classes = len(made.names)
    drawn: list[_Class] = []
    rows, pairs = [], np.zeros((classes, classes), np.int64)
    writer = pq.ParquetWriter(path / "examples.parquet", EXAMPLES, compression="zstd") if made.examples else None
    total = np.zeros((made.grid, made.grid))
    everything = []
    for index in range(classes):
        if index < _DRAWN:
            drawn.append(_Class.drawn(random, made, index, shard))
        batch = drawn[index] if index < _DRAWN else drawn[index % _DRAWN].as_class(index, classes)
        np.add.at(pairs, (batch.labels, np.full(made.images, index)), 1)
        total += batch.unit.mean(axis=0)
        everything.append(batch.figures)
        rows.append(batch.row(made.names[index]))
        if writer is not None:
            writer.write_table(pa.Table.from_pylist(list(batch.examples(random, made)), EXAMPLES))
    if writer is not None:
        writer.close()
    whole = total / classes
    _compare(rows, pairs, whole)
    rows.insert(0, _dataset_row(rows, np.concatenate(everything), whole, pairs))
    pq.write_table(pa.Table.from_pylist(rows, CLASSES), path / "classes.parquet", compression="zstd")
    if made.confusion:
        confusion = [
            {
                "label": int(label),
                "label_name": made.names[label],
                "predicted": int(predicted),
                "predicted_name": made.names[predicted],
                "images": int(pairs[label, predicted]),
            }
            for label, predicted in np.argwhere(pairs > 0)
        ]
        pq.write_table(pa.Table.from_pylist(confusion, CONFUSION), path / "confusion.parquet")
    failures = {"UndecodableImage": 7, "NoImage": 2} if made.failures else {}
    _write_receipt(path, shard, made, failures, pairs)
    _write_json(path, made, rows, failures, pairs)


class _Class:
    """The drawn images of one class, all of which the model takes for it."""

    def __init__(self, index: int, shard: str, labels: np.ndarray, maps: np.ndarray, places: np.ndarray):
        self.index, self.shard, self.labels, self.places = index, shard, labels, places
        self.maps = maps
        self.unit = unit_mass(maps)
        self.figures = map_figures(maps)
        self.pictures: dict[int, bytes] = {}

    def as_class(self, index: int, classes: int) -> _Class:
        """The same images as those of another class."""
        other = copy.copy(self)
        other.index, other.labels = index, (self.labels - self.index + index) % classes
        return other

    @classmethod
    def drawn(cls, random: np.random.Generator, made: Made, index: int, shard: str) -> _Class:
        count, grid = made.images, made.grid
        labels = np.full(count, index)
        wrong = random.random(count) < 0.12
        labels[wrong] = (index + random.integers(1, 4, wrong.sum())) % len(made.names)
        places = random.uniform(0.3, 0.7, (count, 2))
        if index == made.marked:
            places[random.random(count) < 0.85] = 0.9
        at = (np.arange(grid) + 0.5) / grid
        width = random.uniform(0.06, 0.16, (count, 1, 1))
        square = (at[None, :, None] - places[:, :1, None]) ** 2 + (at[None, None, :] - places[:, 1:, None]) ** 2
        maps = np.exp(-square / (2 * width**2)) + random.gamma(1.0, 0.06, (count, grid, grid))
        if made.signed:
            maps -= 0.6 * np.roll(maps, grid // 4, axis=1)
        return cls(index, shard, labels, (0.01 * maps).astype(np.float32), places)

    def row(self, name: str) -> dict[str, Any]:
        figures = self.figures.astype(np.float64)
        wrong = self.unit[self.labels != self.index]
        errors = np.abs(np.sin(np.arange(len(self.maps)))) * 1e-7
        return {
            "class": self.index,
            "class_name": name,
            "images": len(self.maps),
            "mean_logit": 7.25,
            "mean_probability": 0.9,
            "mean_map": self.unit.mean(axis=0).ravel(),
            "std_map": self.unit.std(axis=0).ravel(),
            "wrong_map": wrong.mean(axis=0).ravel() if len(wrong) else None,
            **{f"{each}_mean": figures[:, i].mean() for i, each in enumerate(FIGURES)},
            **{f"{each}_std": figures[:, i].std() for i, each in enumerate(FIGURES)},
            **{
                f"{each}_{q}": np.quantile(figures[:, i], v)
                for i, each in enumerate(FIGURES)
                for q, v in QUANTILES.items()
            },
            **{f"completeness_error_{q}": np.quantile(errors, v) for q, v in (("p50", 0.5), ("p95", 0.95), ("max", 1))},
            **{f"{end}_{what}_ids": [] for end in ("top", "bottom") for what in ("logit", "similarity")},
        }

    def examples(self, random: np.random.Generator, made: Made) -> Iterator[dict[str, Any]]:
        coarse = resample(self.unit, (14, 14))
        similarity = cosine(coarse, coarse.mean(axis=0))
        probability = random.uniform(0.3, 1, len(self.maps)).astype(np.float32)
        border, corner = (self.figures[:, FIGURES.index(name)] for name in ("border_mass", "corner_mass"))
        every = np.arange(len(self.maps))
        kinds = {
            "border": (border, -border, every),
            "confident": (probability, -probability, every),
            "corner": (corner, -corner, every),
            "typical": (similarity, -similarity, every),
            "unsure": (probability, probability, every),
            "unusual": (similarity, similarity, every),
            "wrong": (probability, -probability, np.flatnonzero(self.labels != self.index)),
        }
        encoded = encode_maps(self.maps, "uint8")
        pictures = self.pictures
        for kind, (score, order, among) in kinds.items():
            for rank, i in enumerate(among[np.argsort(order[among], kind="stable")][:12].tolist(), 1):
                if made.side is not None and i not in pictures:
                    pictures[i] = _picture(random, made.side, self.places[i], marked=self.index == made.marked)
                label = int(self.labels[i])
                name = made.names[self.index]
                image_id = made.ids.format(name=name, index=i)
                explained, unlocated = np.float32(7 + probability[i]), np.float32(-0.4)
                yield {
                    "class": self.index,
                    "class_name": name,
                    "kind": kind,
                    "rank": rank,
                    "score": score[i],
                    "image_id": image_id,
                    "shard": self.shard,
                    "index": self.index * made.images + i,
                    "label": label,
                    "label_name": made.names[label],
                    "predicted": self.index,
                    "predicted_name": name,
                    "correct": label == self.index,
                    "target": self.index,
                    "target_name": name,
                    "target_rank": 0,
                    "logit": explained,
                    "probability": probability[i],
                    "explained": explained,
                    "input_term": explained - np.float32(2.5),
                    "bias_term": np.float32(2.5),
                    "unlocated_term": unlocated,
                    "completeness_error": np.float32(1e-7 * (1 + i % 3)),
                    "map": encoded.data[i],
                    "map_dtype": "uint8",
                    "map_scale": encoded.scale[i],
                    "map_offset": encoded.offset[i],
                    "map_height": made.grid,
                    "map_width": made.grid,
                    **{each: self.figures[i, column] for column, each in enumerate(FIGURES)},
                    "similarity": similarity[i],
                    "image": None if made.side is None else {"bytes": pictures[i], "path": image_id},
                }


def _picture(random: np.random.Generator, side: int, place: np.ndarray, *, marked: bool) -> bytes:
    """A soft ground with a bright square where the map looks, as WebP; small ones as PNG."""
    ground = Image.fromarray(random.integers(60, 190, (5, 5, 3), dtype=np.uint8)).resize((side, side), Image.BICUBIC)
    pixels = np.asarray(ground).copy()
    top, left = (int(each * side - side / 16) for each in place)
    pixels[top : top + side // 8, left : left + side // 8] = (255, 210, 40) if marked else (240, 240, 250)
    encoded = io.BytesIO()
    image = Image.fromarray(pixels)
    image.save(encoded, "WEBP", quality=80, method=0) if side > 64 else image.save(encoded, "PNG")
    return encoded.getvalue()


def _compare(rows: list[dict[str, Any]], pairs: np.ndarray, whole: np.ndarray) -> None:
    """Adds what a class has only in comparison with the others."""
    for row in rows:
        own = np.asarray(row["mean_map"]).reshape(whole.shape)
        row["contrast_map"] = (own - whole).ravel()
        row["similarity"] = float(cosine(own[None], whole)[0])
        row["labelled"] = int(pairs[row["class"]].sum())
        row["correct"] = int(pairs[row["class"], row["class"]])
    for figure in ("border_mass", "corner_mass"):
        means = np.asarray([row[f"{figure}_mean"] for row in rows])
        for i, row in enumerate(rows):
            others = np.delete(means, i)
            row[f"{figure}_z"] = (means[i] - others.mean()) / others.std(ddof=1) if len(others) > 1 else None


def _dataset_row(
    rows: list[dict[str, Any]], figures: np.ndarray, whole: np.ndarray, pairs: np.ndarray
) -> dict[str, Any]:
    return {
        **rows[0],
        "class": -1,
        "class_name": None,
        "images": len(figures),
        "labelled": int(pairs.sum()),
        "correct": int(np.trace(pairs)),
        "mean_map": whole.ravel(),
        **{f"{each}_mean": figures[:, i].mean(dtype=np.float64) for i, each in enumerate(FIGURES)},
        **{f"{each}_std": figures[:, i].std(dtype=np.float64) for i, each in enumerate(FIGURES)},
        **{
            f"{each}_{q}": np.quantile(figures[:, i], v) for i, each in enumerate(FIGURES) for q, v in QUANTILES.items()
        },
    }


def _write_receipt(path: pathlib.Path, shard: str, made: Made, failures: dict[str, int], pairs: np.ndarray) -> None:
    count = int(pairs.sum())
    unit = Unit(Shard(shard, "tfrecord", 0), 0, count)
    output = Output(str(path))
    output.create()
    receipt = Receipt(
        unit=unit,
        run="made",
        images=count,
        rows=count,
        failures=failures,
        started=0.0,
        ended=1.0,
        worker="w",
        models_loaded=1,
        labels=LabelCounts(len(made.names), count, int(np.trace(pairs))),
    )
    output.write_json(output.receipt(unit), receipt.to_json())
    rows = [
        {
            "image_id": f"broken-{i}.png",
            "shard": shard,
            "index": count + i,
            "stage": "decode",
            "error": error,
            "message": f"broken-{i}.png is no image: <b>truncated</b>",
        }
        for error, number in failures.items()
        for i in range(number)
    ]
    if rows:
        output.write_table(output.part("errors", unit), pa.Table.from_pylist(rows, ERRORS))


def _write_json(
    path: pathlib.Path, made: Made, rows: list[dict[str, Any]], failures: dict[str, int], pairs: np.ndarray
) -> None:
    count, correct, failed = int(pairs.sum()), int(np.trace(pairs)), sum(failures.values())
    notable = [
        {
            "class_index": row["class"],
            "class_name": row["class_name"],
            "place": "bottom right",
            "y": 12.5 / 14,
            "x": 12.5 / 14,
            "mean": row["corner_mass_mean"],
            "others": float(np.mean([r["corner_mass_mean"] for r in rows if r["class"] not in (-1, row["class"])])),
            "effect": 3.5,
            "gap": 3.0,
            "images": row["images"],
        }
        for row in rows
        if row["class"] == made.marked
    ]
    summary = {
        "run": "made",
        "units": 1,
        "units_computed": 1,
        "images": count,
        "rows": count,
        "failed": failed,
        "failures": failures,
        "failed_fraction": failed / (count + failed),
        "seconds": 12.5,
        "images_per_second": count / 12.5,
        "labelled": count,
        "correct": correct,
        "accuracy": correct / count,
        "completeness": {"p50": 1.1e-7, "p95": 3.2e-7, "p99": 4.5e-7, "max": 6.4e-7},
        "notable": notable,
        "repeated_ids": 0,
        "warnings": ["the labels seem to begin at 1"] if made.failures else [],
    }
    run = {
        "schema_version": "2",
        "run": "made",
        "job": None,
        "started": 1_790_000_000.0,
        "fingerprint": "0123456789abcdef",
        "configuration": {
            "input": {"shards": ["data/test.tfrecord-*"]},
            "model": {"path": "shapes.keras", "application": None},
            "explain": {
                "method": "fullgrad",
                "maps": "signed" if made.signed else "reference",
                "targets": "predicted",
                "contrast": "none",
            },
            "output": {"grid": made.grid},
            "runner": {"name": "direct"},
        },
        "versions": {"python": "3.12.0", "keras": "3.15.0"},
        "model": {"name": "shapes", "classes": len(made.names), "ends_in": "softmax", "explains": "the logit"},
    }
    (path / "summary.json").write_text(json.dumps(summary))
    (path / "run.json").write_text(json.dumps(run))
