"""Finds the fields of the shards that hold image, id and label, and refuses labels that cannot be used."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from transforms.explain import label_of
from transforms.models import LoadedModel
from transforms.sources import DamagedShard, Found, Source, UnreadableInput
from transforms.sources.base import FIRST_RECORDS
from transforms.sources.files import file_name
from transforms.targets import Targets
from transforms.unit import Shard

# An empty shard, or one damaged at its beginning, shows no fields. So many shards are opened until one shows them.
_SHARDS = 16


def find_fields(source: Source, shards: Sequence[Shard], model: LoadedModel, targets: Targets) -> str | None:
    """One line that says which fields hold image, id and label, or that there is no label; None if no shard shows it.

    Raises:
      UnreadableInput: none of the first labels can be used, or labels are to be explained and there are none.
    """
    for shard in shards[:_SHARDS]:
        found = source.found(shard)
        if found is None:
            continue
        if found.label is not None and shard.label is not None:
            by_name = model.name_of(shard.label) == file_name(shard.path)
            how = "by its name in model.class_names" if by_name else "counted in sorted order"
            found = dataclasses.replace(found, label=f"{found.label}, {how}")
        if found.label is None and targets.kind == "label":
            raise UnreadableInput(f"explain.targets is label, but in {shard.path} {found.no_label()}")
        if found.label is not None and shard.label is None:
            _check_labels(source, shard, found, model)
        return found.sentence()
    return None


def _check_labels(source: Source, shard: Shard, found: Found, model: LoadedModel) -> None:
    # One label that cannot be used becomes an error row. If none of the first can be used, a setting is wrong.
    problem: ValueError | None = None
    try:
        for record in source.read(shard, 0, FIRST_RECORDS):
            try:
                if label_of(record, model) is not None:
                    return
            except ValueError as error:
                problem = problem or error
    except DamagedShard:
        return
    if problem is not None:
        raise UnreadableInput(
            f'{shard.path}: {problem}; input.fields.label may name another field, or be "" to go without labels'
        )
