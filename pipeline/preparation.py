"""Checks a run before it starts, and plans it."""

from __future__ import annotations

import dataclasses
import errno
import time
import uuid
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from pipeline.class_names import ClassNames, class_names_of, earlier_names
from pipeline.config import Config
from pipeline.engines.options import beam_flags
from pipeline.fields import find_fields
from pipeline.identity import check_output, fingerprint_of_identity, identity_of
from pipeline.plan import plan_units
from pipeline.repairs import Repairs, find_repairs
from pipeline.scale_doubts import scale_doubts
from pipeline.settings import field_names, model_spec, worker_settings
from transforms.explain import ExplainSettings
from transforms.filesystems import STORE_ERRORS, check_file_system, use_options
from transforms.fullgrad import Agreement
from transforms.models import LoadedModel, load_once, with_class_names
from transforms.output import Output
from transforms.sources import LeftOut, find_shards, source_for, with_distinct_names
from transforms.unit import Receipt, Unit


class CannotRun(ValueError):
    """The request cannot be run; one sentence that names the file or key and what would be right."""


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """A run that was checked and may start.

    Attributes:
      config: as given.
      settings: what workers are told.
      receipts: the receipts that the output already has, without those of units that are dropped.
      repairs: what is to be mended in the output first.
      units: the units that are still to be computed.
      model: the loaded model.
      agreement: how far the exposed logits are from the model's own output.
      beam_flags: options for Beam, as on its command line.
      left_out: in words, what was found beside the images in folders and is not read; empty for nothing.
      fields: one line that says which fields of the shards hold image, id and label; None if no shard shows it.
      class_names: the names of the classes, and where they come from.
      doubts: what may not be what was meant, one sentence each: names that the data contradict, a scale of pixels that
        the model was not trained with.
      startup: when everything was `imported`, the `model` loaded, all `planned`, and the exposed logits `compared` with
        the model's own; seconds since the epoch.
    """

    config: Config
    settings: ExplainSettings
    receipts: list[Receipt]
    repairs: Repairs
    units: list[Unit]
    model: LoadedModel
    agreement: Agreement
    beam_flags: tuple[str, ...]
    left_out: str
    fields: str | None
    class_names: ClassNames
    doubts: tuple[str, ...]
    startup: Mapping[str, float]

    @property
    def images_expected(self) -> int | None:
        """Records of all units, done and to do; None if some were not counted."""
        counts = [unit.records for unit in self.units]
        if any(count is None for count in counts):
            return None
        return sum(count or 0 for count in counts) + sum(r.images + r.failed for r in self.receipts)


def prepare(config: Config, beam_options: Sequence[str] = ()) -> Plan:
    """Checks everything that can be checked before the run, and plans it. Writes nothing.

    Args:
      config: what to run.
      beam_options: further options for Beam, as on its command line; they win over those of the configuration.

    Raises:
      CannotRun: model, input, output or options do not allow it.
    """
    try:
        return _prepare(config, beam_options)
    except ValueError as error:  # all errors that are expected here are of this kind, each with its own sentence
        raise CannotRun(str(error)) from error
    except STORE_ERRORS as error:
        raise CannotRun(f"a file of the input, the model or the output cannot be read: {error}") from error


def _prepare(config: Config, beam_options: Sequence[str]) -> Plan:
    startup = {"imported": time.time()}
    run = uuid.uuid4().hex[:12]
    flags = beam_flags(config.runner, beam_options, run)
    use_options(flags)
    _check_file_systems(config)

    spec = model_spec(config)
    model = load_once(spec)
    startup["model"] = time.time()
    model.check(config.explain.targets, config.explain.method, config.explain.channels)
    # Planning waits for files meanwhile.
    beside = ThreadPoolExecutor(1, thread_name_prefix="compare")
    agreement = beside.submit(model.compare)
    beside.shutdown(wait=False)

    fields = field_names(config)
    labelled = fields.label != ""
    left_out = LeftOut()
    shards = find_shards(
        config.input.shards,
        config.input.format,
        spec.class_names if labelled else None,
        model.exposed.classes if labelled else None,
        labelled=labelled,
        left_out=left_out,
    )
    source = source_for(shards[0].format, fields)
    source.check(shards[0])
    found = find_fields(source, shards, model, config.explain.targets)

    identity = identity_of(config, spec)
    output = Output(config.output.path, fingerprint_of_identity(identity), run, flags)
    try:
        check_output(output, identity)
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        raise CannotRun(f"output.path: {output.path} cannot be written; its name is too long") from error
    named = class_names_of(config.model.class_names, source, shards, model, earlier_names(output))
    if named.names is not None and named.names != spec.class_names:
        spec = with_class_names(spec, named.names)
        model = load_once(spec)
    repairs = find_repairs(shards, output, config.input.changed)
    receipts = list(repairs.kept)
    units = plan_units(
        with_distinct_names(shards, [receipt.unit.shard for receipt in receipts]),
        source,
        receipts,
        images_per_unit=None if config.input.images_per_unit == "auto" else config.input.images_per_unit,
        limit=config.input.limit,
    )
    doubts = (*named.warnings, *scale_doubts(source, shards, model))
    counts = [unit.records for unit in units if unit.records is not None]
    settings = worker_settings(config, run=run, spec=spec, output=output, unit_images=max(counts, default=None))
    startup["planned"] = time.time()
    agreed = agreement.result()
    startup["compared"] = time.time()
    return Plan(
        config, settings, receipts, repairs, units, model, agreed, flags, str(left_out), found, named, doubts, startup
    )


def _check_file_systems(config: Config) -> None:
    """Refuses paths on file systems that are not installed here.

    Raises:
      UnusableFileSystem: names the key, and what to install.
    """
    for path in config.input.shards:
        check_file_system("input.shards", path)
    check_file_system("output.path", config.output.path)
    for key in ("path", "weights", "class_names"):
        path = getattr(config.model, key)
        if path is not None:
            check_file_system(f"model.{key}", path)
