"""Doubts the configured scale of pixels: a usual one suits the model far better. Never an error, only a warning."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipeline.label_doubts import NO_BETTER
from pipeline.sampling import sampled_records
from pipeline.scaling import IMAGES, decoded, try_scales, usual_scales
from transforms.explain import label_of
from transforms.filesystems import STORE_ERRORS
from transforms.models import LoadedModel
from transforms.sources import Source, source_for
from transforms.sources.names import spread
from transforms.unit import Shard

if TYPE_CHECKING:
    from pipeline.preparation import Plan
    from pipeline.summary import Summary

# How many images are looked at before a run, from how many shards that are not on the local file system.
_IMAGES, _REMOTE_SHARDS = 16, 4
# A misfit up to this one is no cause for doubt, whatever other scales give.
_FINE = 1.0
# An accuracy from here on is no cause for doubt, unless always giving the most frequent label is as good.
_GOOD = 0.5
_FEWEST = 10
_SURE = 0.001
_CONFIGURED = "as configured"


def scale_doubts(source: Source, shards: Sequence[Shard], model: LoadedModel) -> tuple[str, ...]:
    """One sentence if the values at the model's first BatchNorm are far from those in training, and near with a usual
    scale; else none. It needs no labels, and runs only the layers before that BatchNorm, on a few images.
    """
    if "://" in shards[0].path:
        shards = spread(shards, _REMOTE_SHARDS)
    try:
        pixels, _ = decoded(sampled_records(source, shards, _IMAGES), model)
    except STORE_ERRORS:  # the run itself reports files that cannot be read
        return ()
    if len(pixels) < _FEWEST:
        return ()
    (now,) = try_scales(model, pixels, None, {_CONFIGURED: model.preprocess})
    if now.misfit is None or now.misfit < _FINE:
        return ()
    best = try_scales(model, pixels, None, usual_scales(model.channels))[0]
    if not best.fits_better(now):
        return ()
    return (
        f"model.preprocess seems not to be as in training: the values at the model's first BatchNorm are "
        f"{now.misfit:.1f} standard deviations away from those in training, and with scale: {best.scale} only "
        f"{best.misfit:.1f}; `fullgrad init MODEL DATA` tries the usual scales",
    )


def better_scale(plan: Plan, summary: Summary) -> str | None:
    """One sentence if a usual scale gives far more correct predictions than the configured one; None otherwise.

    It runs the model on a few labelled images, only after a run whose accuracy is low, and only if nothing else
    explains that.
    """
    if summary.accuracy is None or summary.labelled < _FEWEST or plan.doubts:
        return None
    explained = any(NO_BETTER not in warning for warning in summary.warnings)
    if explained or (summary.accuracy >= _GOOD and not summary.warnings):
        return None
    shards = list({unit.shard.path: unit.shard for unit in (*(r.unit for r in plan.receipts), *plan.units)}.values())
    source = source_for(shards[0].format, plan.settings.fields)
    try:
        records = sampled_records(source, shards, IMAGES)
    except STORE_ERRORS:
        return None
    labelled = []
    for record in records:
        try:
            label = label_of(record, plan.model)
        except ValueError:
            continue
        if label is not None:
            labelled.append((record, label))
    pixels, places = decoded([record for record, _ in labelled], plan.model)
    if len(pixels) < _FEWEST:
        return None
    labels = [labelled[place][1] for place in places]
    few = slice(None, None, max(1, len(pixels) // _IMAGES))
    scales = usual_scales(plan.model.channels)
    first = try_scales(plan.model, pixels[few], labels[few], {**scales, _CONFIGURED: plan.model.preprocess})
    if first[0].scale == _CONFIGURED:
        return None
    both = {_CONFIGURED: plan.model.preprocess, first[0].scale: scales[first[0].scale]}
    best, now = try_scales(plan.model, pixels, labels, both)
    chance = max(labels.count(label) for label in set(labels)) / len(labels)
    if best.scale == _CONFIGURED or not best.beats(now, _SURE) or not best.tells(chance, _SURE):
        return None
    return (
        f"the accuracy is {summary.accuracy:.1%}, and model.preprocess seems not to be as in training: with scale: "
        f"{best.scale}, {best.right.sum()} of {len(labels)} images are predicted correctly, where it is "
        f"{now.right.sum()} as configured"
    )
