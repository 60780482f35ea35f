"""Finds what a configuration needs to know about a model and data: fields, labels, names, sizes, preprocessing."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Mapping, Sequence

import keras
from PIL import Image

from pipeline.sampling import sampled_records
from pipeline.scaling import IMAGES, Trial, best_scales, decoded, try_scales, usual_scales
from transforms.images import Preprocessing, Resize, application_family, preprocessing
from transforms.labels import UnusableLabel
from transforms.models import (
    LoadedModel,
    ModelSpec,
    OpenSize,
    PreprocessingLayer,
    fingerprint_of,
    load_once,
    preprocessing_layers,
)
from transforms.sources import Fields, LeftOut, Record, Source, UnreadableInput, find_shards, names_in_data, source_for
from transforms.sources.names import sampled_texts
from transforms.unit import Shard

# The size of the images for a model that takes any size, if those in the data differ.
_USUAL_SIZE = (224, 224)
# Shards on the local file system that are larger together are not counted.
_COUNTED_BYTES = 4 << 30


@dataclasses.dataclass(frozen=True, slots=True)
class Request:
    """What the user named: the model, as `ModelSpec` has it, and the data."""

    path: str | None
    application: str | None
    weights: str | None
    output: str | None
    trust: bool
    custom_objects: tuple[str, ...]
    size: tuple[int, int] | None
    data: tuple[str, ...]

    def spec(self, size: tuple[int, int] | None) -> ModelSpec:
        """The model without names and without a scale."""
        return ModelSpec(
            fingerprint=fingerprint_of(self.path, self.application, self.weights, self.custom_objects),
            path=self.path,
            application=self.application,
            weights=self.weights,
            output=self.output,
            trust=self.trust,
            resize=Resize(size),
            scale="none",
            class_names=None,
            custom_objects=self.custom_objects,
        )


@dataclasses.dataclass(frozen=True, slots=True)
class Labels:
    """The labels in the data.

    Attributes:
      field: where they are, in words; None if there are none.
      used: whether a run can use them.
      why: why they cannot be used, in one sentence; empty if they can, or if there are none.
      names: K names to write into a file, for labels that are names: in alphanumeric order, as Keras numbers them. None
        if labels are numbers, or too few of the names are known.
    """

    field: str | None
    used: bool
    why: str = ""
    names: tuple[str, ...] | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Findings:
    """All that was found.

    Attributes:
      model: the loaded model.
      size: the size to write down, as (height, width); None if the model has its own.
      any_size: whether the model takes images of any size.
      shards: of the data.
      images: how many there are; `counted` says whether the number is exact.
      fields: the fields to write down; None for those that are found anyway.
      found: one line that says which fields hold image, id and label; None if no shard shows it.
      left_out: what is in folders and is not read, in words; empty for nothing.
      labels: the labels.
      class_names: where the names of classes come from, in words; None if there are none.
      layers: those that prepare the image inside the model.
      family: the scale that belongs to the Keras application that the model is or contains; None if it is none.
      trials: scales that were tried, the best first; empty if nothing could be tried.
      tried: how many images they were tried on.
      chance: the share of those images that have the most frequent label: the accuracy of always giving that one. 1
        without labels.
      sizes: the (height, width) of sampled images, as they are stored.
    """

    model: LoadedModel
    size: tuple[int, int] | None
    any_size: bool
    shards: list[Shard]
    images: int
    counted: bool
    fields: Fields
    found: str | None
    left_out: str
    labels: Labels
    class_names: str | None
    layers: tuple[PreprocessingLayer, ...]
    family: str | None
    trials: list[Trial]
    tried: int
    chance: float
    sizes: set[tuple[int, int]]

    @property
    def scaling_layers(self) -> list[PreprocessingLayer]:
        return [layer for layer in self.layers if layer.does == "scales"]


def find_out(request: Request) -> Findings:
    """Loads the model, looks at the data, and tries the usual scales on a few images.

    Raises:
      ValueError: the model or the data cannot be used; one sentence says what would be right.
    """
    any_size = False
    try:
        model = load_once(request.spec(request.size))
    except OpenSize:
        any_size = True
        model = load_once(request.spec(_USUAL_SIZE))
    any_size = any_size or None in model.exposed.input_shape[:2]
    classes = model.exposed.classes
    left_out = LeftOut()
    problem = ""
    try:
        shards = find_shards(request.data, "auto", None, classes, left_out=left_out)
    except UnreadableInput as error:
        # Class folders that do not fit the model are images without labels.
        problem, left_out = str(error), LeftOut()
        shards = find_shards(request.data, "auto", None, None, labelled=False, left_out=left_out)
    source, fields = _source(shards, labelled=not problem)
    records = sampled_records(source, shards, IMAGES)
    sizes = {size for record in records if (size := _size_of(record.image or b"")) is not None}
    if any_size and request.size is None and len(sizes) == 1 and sizes != {_USUAL_SIZE}:
        model = load_once(request.spec(*sizes))
    found = next(filter(None, map(source.found, shards[:16])), None)
    field = None if found is None else found.label
    labels = Labels(None, False, problem) if problem else _labels(field, records, model, source, shards)
    layers, family = preprocessing_layers(model.exposed), _family(model, request.application)
    scales = dict(usual_scales(model.channels))
    if family is not None and family not in scales:
        scales[family] = preprocessing(family)
    scales_itself = any(layer.does == "scales" for layer in layers)
    own = family if request.application is not None else "none" if scales_itself else None
    trials, tried, chance = _trials(model, records, labels, scales, own)
    named = names_in_data(source, shards, classes) if labels.used else None
    images, counted = _count(source, shards, records)
    return Findings(
        model=model,
        size=request.size or (model.input_size if any_size else None),
        any_size=any_size,
        shards=shards,
        images=images,
        counted=counted,
        fields=dataclasses.replace(fields, label="") if labels.why else fields,
        found=None if found is None else found.sentence(),
        left_out=str(left_out),
        labels=labels,
        class_names=None if named is None or labels.names else named.source,
        layers=layers,
        family=family,
        trials=trials,
        tried=tried,
        chance=chance,
        sizes=sizes,
    )


def _source(shards: Sequence[Shard], *, labelled: bool) -> tuple[Source, Fields]:
    """The source that reads the shards, with the field of images if it has no usual name."""
    fields = Fields(label=None if labelled else "")
    source = source_for(shards[0].format, fields)
    try:
        source.check(shards[0])
    except UnreadableInput:
        images = source.image_fields(shards[0])
        if not images:
            raise
        fields = dataclasses.replace(fields, image=images[0])
        source = source_for(shards[0].format, fields)
        source.check(shards[0])
    return source, fields


def _size_of(image: bytes) -> tuple[int, int] | None:
    try:
        with Image.open(io.BytesIO(image)) as opened:
            return opened.height, opened.width
    except Exception:  # Pillow raises many kinds; the run reports images that cannot be decoded
        return None


def _labels(
    field: str | None, records: Sequence[Record], model: LoadedModel, source: Source, shards: Sequence[Shard]
) -> Labels:
    """Whether the sampled labels can be used, and if not, why."""
    if field is None:
        return Labels(None, False)
    problems, indices = [], []
    for record in records:
        try:
            if record.label_problem is not None:
                raise UnusableLabel(record.label_problem)
            if (index := model.index_of(record.label)) is not None:
                indices.append(index)
        except UnusableLabel as error:
            problems.append(str(error))
    if any(isinstance(record.label, str) for record in records) and problems:
        return _named_labels(field, model, source, shards)
    beyond = [record.label for record in records if record.label == model.exposed.classes]
    if beyond and 0 not in indices:
        return Labels(
            field,
            False,
            f"they are 1 to {model.exposed.classes}, and the model's classes are 0 to {model.exposed.classes - 1}: "
            "subtract 1 from the labels in the data to use them",
        )
    if problems and len(problems) > len(indices) / 20:
        return Labels(field, False, problems[0])
    return Labels(field, True)


def _named_labels(field: str, model: LoadedModel, source: Source, shards: Sequence[Shard]) -> Labels:
    """Labels that are names: they can be used if there are as many different ones as classes."""
    names = _all_names(source, shards, model.exposed.classes)
    if len(names) != model.exposed.classes:
        why = (
            f"they are names, of which {len(names)} different ones were seen ({_few(names)}), and the model has "
            f"{model.exposed.classes} classes: model.class_names must list the names in the order of the classes"
        )
        return Labels(field, False, why)
    return Labels(field, True, names=tuple(sorted(names)))


def _all_names(source: Source, shards: Sequence[Shard], classes: int) -> set[str]:
    names: set[str] = set()
    for text in sampled_texts(source, shards):
        if isinstance(text.label, str):
            names.add(text.label)
        if len(names) > classes:
            break
    return names


def _few(names: set[str]) -> str:
    shown = sorted(names)[:3]
    return ", ".join(map(repr, shown)) + (", …" if len(names) > 3 else "")


def _trials(
    model: LoadedModel,
    records: Sequence[Record],
    labels: Labels,
    scales: Mapping[str, Preprocessing],
    own: str | None,
) -> tuple[list[Trial], int, float]:
    """The trials, the best first, on how many images, and the share of the most frequent label among these.

    If the model's own scale is known and does well, no other one is tried.
    """
    places = {name: place for place, name in enumerate(labels.names or ())}
    known: list[tuple[Record, int]] = []
    for record in records if labels.used else ():
        try:
            label = places.get(str(record.label)) if places else model.index_of(record.label)
        except UnusableLabel:
            continue
        if label is not None:
            known.append((record, label))
    pixels, kept = decoded([record for record, _ in known], model)
    if kept:
        indices = [known[i][1] for i in kept]
        most = max(map(indices.count, set(indices)))
        chance = most / len(kept)
        if own is not None:
            (trial,) = try_scales(model, pixels, indices, {own: scales[own]})
            if trial.tells(chance):
                return [trial], len(kept), chance
        return best_scales(model, pixels, indices, scales), len(kept), chance
    pixels, kept = decoded(records, model)
    return (try_scales(model, pixels, None, scales) if kept else []), len(kept), 1.0


def _family(model: LoadedModel, application: str | None) -> str | None:
    """The scale of the Keras application that the model is or contains, by the name that Keras gives it.

    None if it is none, or if that application scales inside.
    """
    if application is not None:
        return application_family(application)
    names = [model.exposed.model.name, *(step.name.split("/")[0] for step in model.exposed.program.steps)]
    known = {_letters(name): name for name in dir(keras.applications) if name[0].isupper()}
    for name in dict.fromkeys(names):
        letters = _letters(name)
        fitting = [each for each in known if letters.startswith(each) and len(each) > 4]
        if fitting:
            return application_family(known[max(fitting, key=len)])
    return None


def _letters(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())


def _count(source: Source, shards: Sequence[Shard], records: Sequence[Record]) -> tuple[int, bool]:
    """The number of images, and whether it is exact."""
    if shards[0].format == "folder":
        return sum(shard.size for shard in shards), True
    local = all("://" not in shard.path for shard in shards)
    size = sum(shard.size for shard in shards)
    if shards[0].format == "parquet" or (local and size <= _COUNTED_BYTES):
        return sum(map(source.count, shards)), True
    each = sum(len(record.image or b"") for record in records) / max(1, len(records))
    return round(size / max(each, 1)), False
