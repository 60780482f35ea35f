"""A run, from its configuration to its exit code: check, plan, launch, follow, sum up."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import platform
import re
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pipeline.config import DEFAULT_IDENTITY, Config
from pipeline.config import Resize as ResizeSetting
from pipeline.engines.jobs import JobFailed, new_pipeline, run_to_its_end
from pipeline.engines.options import UnusableEngine, beam_flags, check_reachable, job_name
from pipeline.fields import find_fields
from pipeline.graph import build
from pipeline.inspection import Inspection, inspect_exposed
from pipeline.plan import plan_units
from pipeline.summary import Summary
from transforms.explain import ExplainSettings
from transforms.filesystems import SECRETS, STORE_ERRORS, check_file_system, use_options
from transforms.fullgrad import Agreement
from transforms.images import Affine, Resize
from transforms.models import LoadedModel, ModelSpec, fingerprint_of, load_once, read_class_names
from transforms.output import SCHEMA_VERSION, Output
from transforms.sources import Fields, LeftOut, find_shards, source_for, with_distinct_names
from transforms.unit import Receipt, Unit


class CannotRun(ValueError):
    """The request cannot be run; one sentence that names the file or key and what would be right."""


class RunFailed(RuntimeError):
    """The runner gave up; one sentence that says why, and that the same command goes on."""


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """A run that was checked and may start.

    Attributes:
      config: as given.
      settings: what workers are told.
      receipts: what the output has already.
      units: what is still to be computed.
      model: loaded here, which showed that it can be.
      agreement: how far the exposed logits are from the model's own output.
      beam_flags: options for Beam, as on its command line.
      left_out: what was found beside the images in folders and is not read, in words; empty where there is nothing.
      fields: which fields of the shards hold image, id and label, in one line; None where no shard tells.
      startup: when everything was `imported`, the `model` loaded and `compared` with what will be explained, and all
        `planned`; seconds since the epoch.
    """

    config: Config
    settings: ExplainSettings
    receipts: list[Receipt]
    units: list[Unit]
    model: LoadedModel
    agreement: Agreement
    beam_flags: tuple[str, ...]
    left_out: str
    fields: str | None
    startup: Mapping[str, float]

    @property
    def images_expected(self) -> int | None:
        """Records of all units, done and to do; None where some were not counted."""
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
    startup = {"imported": time.time()}
    run = uuid.uuid4().hex[:12]
    try:
        flags = beam_flags(config.runner, beam_options, run)
        use_options(flags)
        _check_file_systems(config)
        spec = _model_spec(config)
        model = load_once(spec)
        startup["model"] = time.time()
        model.check(config.explain.targets, config.explain.method)
        agreement = model.compare()
        startup["compared"] = time.time()
        fields = Fields(config.input.fields.image, config.input.fields.id, config.input.fields.label)
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
        settings = ExplainSettings(
            run=run,
            output=Output(config.output.path, _fingerprint(config, spec), run, flags),
            model=spec,
            fields=fields,
            targets=config.explain.targets,
            method=config.explain.method,
            maps=config.explain.maps,
            biases=config.explain.biases,
            contrast=config.explain.contrast,
            samples=config.explain.samples,
            noise_level=config.explain.noise_level,
            seed=config.explain.seed,
            map_size=config.output.map_size,
            map_dtype=config.output.map_dtype,
            grid=config.output.grid,
            unit_images=None,  # known once units are planned
            batch_size=None if config.explain.batch_size == "auto" else config.explain.batch_size,
            jit={"auto": None, "on": True, "off": False}[config.explain.jit],
        )
        _check_output(config, settings.output, spec)
        receipts = settings.output.read_receipts()
        units = plan_units(
            with_distinct_names(shards, [receipt.unit.shard for receipt in receipts]),
            source,
            receipts,
            images_per_unit=None if config.input.images_per_unit == "auto" else config.input.images_per_unit,
            limit=config.input.limit,
        )
    except ValueError as error:  # of which all those here are kinds, each with its own sentence
        raise CannotRun(str(error)) from error
    except STORE_ERRORS as error:
        raise CannotRun(f"a file of the input, the model or the output cannot be read: {error}") from error
    counts = [unit.records for unit in units if unit.records is not None]
    settings = dataclasses.replace(settings, unit_images=max(counts, default=None))
    startup["planned"] = time.time()
    return Plan(config, settings, receipts, units, model, agreement, flags, str(left_out), found, startup)


def check_engine(plan: Plan) -> None:
    """Refuses an engine that would not get the job.

    Raises:
      CannotRun: there is no Java to start Beam's job server with, or no Flink cluster where one is said to be.
    """
    try:
        check_reachable(plan.config.runner, plan.beam_flags)
    except UnusableEngine as error:
        raise CannotRun(str(error)) from error


def launch(plan: Plan, *, on_start: Callable[[], None] = lambda: None) -> Summary:
    """Runs a plan to its end and returns the summary that it wrote.

    Args:
      plan: from `prepare`.
      on_start: called when the output folder has been made.

    Raises:
      CannotRun: the output cannot be written, or the engine would not get the job.
      RunFailed: the runner gave up, or somebody else cancelled the job.
    """
    runner, output = plan.config.runner, plan.settings.output
    check_engine(plan)
    try:
        output.create()
        output.clear_temporary()
        output.write_json(output.file("run.json"), json.dumps(_run_json(plan), indent=1))
    except STORE_ERRORS as error:
        raise CannotRun(f"output.path: {output.path} cannot be written; give a folder that can ({error})") from error
    on_start()
    pipeline = new_pipeline(runner, plan.beam_flags)
    units = [*(receipt.unit for receipt in plan.receipts), *plan.units]
    build(pipeline, units, plan.settings, runner.accelerator)
    try:
        run_to_its_end(pipeline, runner, plan.beam_flags)
    except JobFailed as error:
        raise RunFailed(
            f"{runner.name} did not run the job to its end: {error}; what was committed until then stays, and the same "
            "command goes on with what is missing"
        ) from error
    output.clear_temporary()
    return read_summary(output)


def read_summary(output: Output) -> Summary:
    """What the last run into an output wrote.

    Raises:
      CannotRun: none has ended yet.
    """
    summary = output.read_json("summary.json")
    if summary is None:
        raise CannotRun(f"{output.path} has no summary.json: no run into it has ended yet")
    return Summary.from_dict(summary)


def problems_of(summary: Summary, plan: Plan) -> list[str]:
    """What did not hold, one sentence each; the exit code is 1 if there is any."""
    config, tolerance = plan.config, plan.model.exposed.tolerance
    problems = []
    if summary.failed_fraction > config.errors.max_fraction:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(summary.failures.items()))
        problems.append(
            f"{summary.failed_fraction:.2%} of the images failed ({kinds}), more than errors.max_fraction = "
            f"{config.errors.max_fraction:g}; {config.output.path}/errors says which and why"
        )
    if not summary.images:
        problems.append(f"no image was explained; {config.output.path}/errors says why")
    complete = config.explain.biases == "all"
    if complete and summary.completeness and not summary.completeness["max"] <= tolerance:
        problems.append(
            f"the decomposition is not complete: the largest completeness_error is {summary.completeness['max']:.1e}, "
            f"more than {tolerance:g}; `fullgrad inspect` says which layers are to blame"
        )
    return problems


def warnings_of(summary: Summary, plan: Plan) -> list[str]:
    """What holds as it was asked for and may not be what was meant, one sentence each; the exit code stays."""
    config, tolerance = plan.config, plan.model.exposed.tolerance
    warnings = list(summary.warnings)
    if config.explain.biases == "explicit" and summary.completeness and summary.completeness["max"] > tolerance:
        warnings.append(
            "the terms do not add up to the logit: explain.biases = explicit leaves out those of activations, and the "
            f"largest completeness_error is {summary.completeness['max']:.1e}, where {tolerance:g} is complete; "
            "explain.biases = all has all terms"
        )
    return warnings


def _check_file_systems(config: Config) -> None:
    """Refuses paths on file systems that are not installed here.

    Raises:
      UnusableFileSystem: names the key, and what is to be installed.
    """
    for path in config.input.shards:
        check_file_system("input.shards", path)
    check_file_system("output.path", config.output.path)
    for key in ("path", "weights", "class_names"):
        path = getattr(config.model, key)
        if path is not None:
            check_file_system(f"model.{key}", path)


def _model_spec(config: Config) -> ModelSpec:
    model = config.model
    custom_objects = model.custom_objects or ()
    return ModelSpec(
        fingerprint=fingerprint_of(model.path, model.application, model.weights, custom_objects),
        path=model.path,
        application=model.application,
        weights=model.weights,
        output=model.output,
        trust=model.trust,
        resize=_resize(model.preprocess.resize),
        scale=_scale(config),
        class_names=None if model.class_names is None else read_class_names(model.class_names),
        exif=model.preprocess.exif,
        custom_objects=custom_objects,
    )


def _resize(setting: ResizeSetting) -> Resize:
    return Resize(setting.shape, setting.how, setting.short_side, setting.filter)


def _scale(config: Config) -> str | Affine:
    scale = config.model.preprocess.scale
    if isinstance(scale, str):
        return scale
    return Affine(scale.divide, scale.mean, scale.std)


def _identity(config: Config, spec: ModelSpec) -> dict[str, Any]:
    """What decides the content of an output; plain values."""
    return {**config.identity(), "model_content": spec.fingerprint}


def _fingerprint(config: Config, spec: ModelSpec) -> str:
    text = json.dumps(_identity(config, spec), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _check_output(config: Config, output: Output, spec: ModelSpec) -> None:
    """Refuses an output that belongs to a run with other settings, or whose files could not be found again."""
    if re.search(r"[*?\[]", output.path):
        raise CannotRun(f"output.path: {output.path} has one of * ? [ in it, which stand for patterns; choose another")
    earlier = output.read_json("run.json")
    if earlier is None:
        return
    if not isinstance(earlier, dict) or not {"fingerprint", "identity"} <= earlier.keys():
        raise CannotRun(f"output.path: {output.path} has a run.json that no run of fullgrad wrote; choose another")
    if (version := earlier.get("schema_version")) != SCHEMA_VERSION:
        raise CannotRun(
            f"output.path: {output.path} was written with version {version} of the columns, where this version of "
            f"fullgrad writes version {SCHEMA_VERSION}; choose another output.path, or delete that one"
        )
    if earlier["fingerprint"] == output.fingerprint:
        return
    now, then = ({**DEFAULT_IDENTITY, **_flat(each)} for each in (_identity(config, spec), earlier["identity"]))
    key = next((key for key in now if now[key] != then.get(key)), "the configuration")
    differs = (
        "another model file"
        if key == "model_content"
        else f"{key} = {json.dumps(then.get(key))}, where it is now {json.dumps(now.get(key))}"
    )
    raise CannotRun(
        f"output.path: {output.path} holds a run with {differs}; choose another output.path, or delete that one"
    )


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix.removesuffix("."): value}
    return {key: leaf for name, inner in value.items() for key, leaf in _flat(inner, f"{prefix}{name}.").items()}


def _without_secrets(configuration: dict[str, Any]) -> dict[str, Any]:
    """A configuration as it may lie beside the output: options that are keys to a store have no value."""
    options = configuration["runner"]["options"]
    shown = {name: "(not shown)" if name in SECRETS else value for name, value in options.items()}
    return {**configuration, "runner": {**configuration["runner"], "options": shown}}


def _run_json(plan: Plan) -> dict[str, Any]:
    inspection: Inspection = inspect_exposed(plan.model.exposed, plan.agreement)
    return {
        "schema_version": SCHEMA_VERSION,
        "run": plan.settings.run,
        "job": job_name(plan.beam_flags),
        "started": time.time(),
        "startup": dict(plan.startup),
        "fingerprint": plan.settings.output.fingerprint,
        "identity": _identity(plan.config, plan.settings.model),
        "configuration": _without_secrets(plan.config.to_dict()),
        "plan": {
            "units": len(plan.units) + len(plan.receipts),
            "units_to_do": len(plan.units),
            "images": plan.images_expected,
            "left_out": plan.left_out,
            "fields": plan.fields,
        },
        "versions": {
            "python": platform.python_version(),
            **{
                name: importlib.metadata.version(name)
                for name in ("apache-beam", "keras", "numpy", "pillow", "pyarrow", "tensorflow")
            },
        },
        "model": inspection.to_dict(),
    }
