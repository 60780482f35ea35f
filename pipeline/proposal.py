"""Writes what was found as a commented configuration."""

from __future__ import annotations

import dataclasses
import json
import re
import textwrap
from collections.abc import Sequence

import yaml

from pipeline.findings import Findings, Request
from pipeline.scaling import Trial

_WIDTH = 112
# How unlikely it must be that a scale is better by chance, to propose it although the model scales inside.
_SURE = 0.001
# The misfit at the first BatchNorm up to which a scale fits, and by how much the next one must be worse.
_FITS, _CLEARLY = 0.7, 2.0


@dataclasses.dataclass(frozen=True, slots=True)
class Scale:
    """A proposed scale as it stands in the configuration, why it is proposed, and whether that is known."""

    value: str
    why: str
    known: bool


def propose_scale(found: Findings, request: Request) -> Scale:
    """The scale of pixels: what the model does itself, else what tells the labels, its BatchNorm, or its name."""
    trials = {trial.scale: trial for trial in found.trials}
    best = found.trials[0] if found.trials else None
    labelled = best is not None and len(best.right) > 0
    inside = ", ".join(map(str, found.scaling_layers))
    own = "auto" if request.application is not None else "none" if inside else None
    if own is not None:
        what = (
            f"auto is the preprocessing of {request.application} in Keras."
            if request.application is not None
            else f"The model scales pixels 0 to 255 itself: {inside}."
        )
        used = trials.get((found.family if own == "auto" else "none") or "none")
        if best is None or used is None or not labelled:
            return Scale(own, what, True)
        if best.tells(found.chance) and best is not used and best.beats(used, _SURE):
            return Scale(best.scale, f"{what} But {_figures([best, used])}.", True)
        return Scale(own, f"{what} With it, {_figures([used])}.", True)
    nothing = "No layer inside the model scales the pixels."
    if best is not None and labelled and best.tells(found.chance):
        others = [trial for trial in found.trials[1:] if not best.beats(trial)]
        close = f" {_listed(others)} may be as good: this sample cannot tell." if others else ""
        return Scale(best.scale, f"{nothing} Tried without training: {_figures(found.trials)}.{close}", True)
    tried = f" The labels do not tell either: the best, {_figures(found.trials[:1])}." if labelled else ""
    fits = sorted((t for t in found.trials if t.misfit is not None), key=lambda trial: trial.misfit or 0.0)
    if len(fits) > 1 and (fits[0].misfit or 0) < _FITS and (fits[1].misfit or 0) > _CLEARLY * (fits[0].misfit or 0):
        measured = ", ".join(f"{trial.misfit:.1f} with {trial.scale}" for trial in fits)
        why = (
            f"{nothing}{tried} The model's first BatchNorm has kept what its values were in training. On {found.tried} "
            f"images, they differ by this many standard deviations: {measured}."
        )
        return Scale(fits[0].scale, why, True)
    if found.family is not None:
        why = (
            f"{nothing}{tried} It contains a Keras application, so that application's own preprocessing is proposed. "
            "If yours was another one, say so here."
        )
        return Scale(found.family, why, False)
    why = (
        f"{nothing}{tried} So this cannot be known here: was the model given values 0 to 255 in training? Then none is "
        "right. For 0 to 1, write {divide: 255}; for -1 to 1, tf; for ImageNet's mean and deviation, torch; for those "
        "subtracted in the order blue, green, red, caffe."
    )
    return Scale("none", why, False)


def _figures(trials: Sequence[Trial]) -> str:
    """Such as `torch predicts 55 of 64 labelled images correctly (86 %), tf 43 of 64 (67 %)`."""
    parts: list[str] = []
    for trial in trials:
        of = f"{int(trial.right.sum())} of {len(trial.right)}"
        verb = " predicts" if not parts else ""
        what = " labelled images correctly" if not parts else ""
        parts.append(f"{trial.scale}{verb} {of}{what} ({trial.accuracy:.0%})")
    return ", ".join(parts)


def _listed(trials: Sequence[Trial]) -> str:
    return " and ".join(trial.scale for trial in trials)


# ---- the text


def configuration_text(found: Findings, request: Request, scale: Scale, *, name: str, output: str, names: str) -> str:
    """The configuration as YAML with comments.

    Args:
      found: from `find_out`.
      request: what the user named.
      scale: from `propose_scale`.
      name: the file that it is written to.
      output: `output.path`.
      names: the file of class names that is written beside it; empty for none.
    """
    lines = [
        *_comment(
            f"Written by `fullgrad init` from what it found. docs/configuration.md has every key. Relative paths start "
            f"from the folder in which the command is started. `fullgrad run {name} --dry-run` checks this file and "
            "writes nothing.",
            0,
        ),
        "",
        "input:",
        *_comment(_of_data(found), 2),
        *_shards(request.data),
        *_fields(found),
        *_comment(_of_labels(found), 2),
        "",
        "model:",
        *_comment(_of_model(found), 2),
        *_model(request),
        *_comment(_of_names(found, names), 2),
        *([f"  class_names: {quoted(names)}"] if names else []),
        "  preprocess:",
        *_comment(scale.why, 4),
        f"    scale: {scale.value}",
        *_comment(_of_sizes(found), 4),
        *_resize(found),
        "",
        "output:",
        *_comment("The same command goes on here with what is missing.", 2),
        f"  path: {quoted(output)}",
    ]
    return "\n".join(lines) + "\n"


def _comment(text: str, indent: int) -> list[str]:
    clean = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    start = " " * indent + "# "
    return textwrap.wrap(
        clean,
        _WIDTH,
        initial_indent=start,
        subsequent_indent=start,
        break_long_words=False,
        break_on_hyphens=False,
    )


def quoted(text: str) -> str:
    """The text as a YAML scalar, in quotes where YAML would read something else."""
    if re.fullmatch(r"[A-Za-z_./][A-Za-z0-9_./*+-]*", text) and yaml.safe_load(text) == text:
        return text
    return json.dumps(text, ensure_ascii=False)


def _of_data(found: Findings) -> str:
    shards = found.shards
    kind = {"folder": "folder", "tfrecord": "TFRecord file", "webdataset": "tar", "parquet": "Parquet file"}
    what = kind[shards[0].format] if shards[0].label is None else "class folder"
    left_out = f" Left out: {found.left_out}." if found.left_out else ""
    return (
        f"{len(shards):,} {what}{'' if len(shards) == 1 else 's'} with "
        f"{'' if found.counted else 'about '}{found.images:,} images.{left_out}"
    )


def _shards(data: Sequence[str]) -> list[str]:
    if len(data) == 1:
        return [f"  shards: {quoted(data[0])}"]
    return ["  shards:", *(f"    - {quoted(path)}" for path in data)]


def _fields(found: Findings) -> list[str]:
    fields = {"image": found.fields.image, "label": found.fields.label}
    lines = [
        f"    {key}: {quoted(value) if value else json.dumps(value)}"
        for key, value in fields.items()
        if value is not None
    ]
    return ["  fields:", *lines] if lines else []


def _of_labels(found: Findings) -> str:
    where = f"{found.found}." if found.found else "No record could be read yet."
    if found.labels.why:
        return f"{where} The labels are not used: {found.labels.why}."
    if found.labels.field is None and found.found:
        return f"{where} Without labels there is no accuracy; all else is the same."
    return where


def _of_model(found: Findings) -> str:
    exposed = found.model.exposed
    height, width, channels = exposed.input_shape
    size = "images of any size" if found.any_size else f"{height}×{width} pixels"
    end = {"logits": "ends in logits", "probabilities": "ends in probabilities"}.get(exposed.ends_in)
    others = [str(layer) for layer in found.layers if layer.does != "scales"]
    also = f" Also inside: {', '.join(others)}." if others else ""
    return (
        f"It takes {size} with {channels} channel{'' if channels == 1 else 's'}, has {exposed.classes} classes and "
        f"{end or f'ends in a {exposed.ends_in}'}.{also}"
    )


def _model(request: Request) -> list[str]:
    keys = {
        "path": request.path,
        "application": request.application,
        "weights": request.weights if request.application is not None else None,
        "output": request.output,
    }
    lines = [f"  {key}: {quoted(value)}" for key, value in keys.items() if value is not None]
    if request.trust:
        lines.append("  trust: true")
    if request.custom_objects:
        lines.append(f"  custom_objects: {json.dumps(list(request.custom_objects))}")
    return lines


def _of_names(found: Findings, names: str) -> str:
    if names:
        return (
            f"The labels are names. {quoted(names)} lists them in alphanumeric order, as Keras numbers classes. If "
            "your model numbers them otherwise, put them into its order."
        )
    if found.class_names is not None:
        return f"The classes have their names from {found.class_names}. To give others: class_names: FILE."
    return "No names of classes were found. A file that lists them, one a line: class_names: FILE."


def _of_sizes(found: Findings) -> str:
    if found.size is not None and found.any_size:
        same = len(found.sizes) == 1 and found.model.input_size in found.sizes
        why = "as all sampled images have" if same else "as is usual; the sampled images differ in size"
        return f"The model leaves the size open. This is the size that it gets, {why}."
    height, width = found.model.input_size
    if found.sizes <= {(height, width)}:
        return f"The images have the size that the model takes, {height}×{width}."
    return (
        f"Images are stretched to {height}×{width}, as Keras' loaders do. To keep their shape and cut out the centre: "
        "resize: {how: center_crop}."
    )


def _resize(found: Findings) -> list[str]:
    return [] if found.size is None else ["    resize:", f"      shape: [{found.size[0]}, {found.size[1]}]"]
