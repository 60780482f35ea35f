"""Launches a planned run, waits for its end, and reads the summary that it wrote."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import socket
import time
from collections.abc import Callable, Mapping
from typing import Any

from pipeline.engines.jobs import JobFailed, NoSpaceLeft, new_pipeline, run_to_its_end
from pipeline.engines.options import UnusableEngine, check_reachable, job_name
from pipeline.graph import build
from pipeline.identity import UnusableOutput, check_output, claim_output, identity_of
from pipeline.inspection import inspect_exposed
from pipeline.preparation import CannotRun, Plan
from pipeline.progress import LauncherAtWork
from pipeline.repairs import drop_damaged, repair
from pipeline.space import no_space_left
from pipeline.summary import Summary
from pipeline.verdict import with_doubts
from transforms.clusters import forget_clusters
from transforms.filesystems import SECRETS, STORE_ERRORS
from transforms.fullgrad import channel_layer
from transforms.methods import METHODS
from transforms.output import SCHEMA_VERSION, Output
from transforms.output.leftovers import is_running


class RunFailed(RuntimeError):
    """The runner gave up; one sentence that says why, and that the same command goes on."""


def check_engine(plan: Plan) -> None:
    """Refuses an engine that could not be given the job.

    Raises:
      CannotRun: there is no Java to start Beam's job server, or no Flink cluster at the given address.
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
      CannotRun: the output cannot be written, or the engine could not be given the job.
      RunFailed: the runner gave up, or somebody else cancelled the job.
    """
    runner, output = plan.config.runner, plan.settings.output
    check_engine(plan)
    try:
        output.create()
        earlier = claim_output(output, identity_of(plan.config, plan.settings.model), _run_json_text(plan))
        output.clear_temporary(_ended(earlier))
        repair(plan.repairs, output)
        if not plan.settings.clusters:
            forget_clusters(output)
    except ValueError as error:
        raise CannotRun(str(error)) from error
    except STORE_ERRORS as error:
        raise CannotRun(f"output.path: {output.path} cannot be written; give a folder that can ({error})") from error
    on_start()
    pipeline = new_pipeline(runner, plan.beam_flags)
    units = [*(receipt.unit for receipt in plan.receipts), *plan.units]
    build(pipeline, units, plan.settings, runner.accelerator)
    try:
        with LauncherAtWork(output):
            run_to_its_end(pipeline, runner, plan.beam_flags)
    except JobFailed as error:
        if " is damaged (" in str(error):  # else the same command would fail in the same way
            drop_damaged(output)
        reason = no_space_left(output.path) if isinstance(error, NoSpaceLeft) else error
        raise RunFailed(
            f"{runner.name} did not run the job to its end: {reason}; what was committed until then stays, and the "
            "same command goes on with what is missing"
        ) from error
    output.clear_temporary()
    try:
        check_output(output, identity_of(plan.config, plan.settings.model))
    except UnusableOutput as error:
        raise RunFailed(f"another run has claimed the output meanwhile: {error}") from error
    summary = read_summary(output)
    doubted = with_doubts(plan, summary)
    if doubted != summary:
        try:
            output.write_json(output.file("summary.json"), doubted.to_json())
        except STORE_ERRORS as error:
            raise RunFailed(
                f"{output.file('summary.json')} cannot be written again with its warnings: {error}"
            ) from error
    return doubted


def read_summary(output: Output) -> Summary:
    """The summary of the last run into an output.

    Raises:
      CannotRun: no run into it has ended yet.
    """
    summary = output.read_json("summary.json")
    if summary is None:
        raise CannotRun(f"{output.path} has no summary.json: no run into it has ended yet")
    return Summary.from_dict(summary)


def _ended(earlier: Mapping[str, Any] | None) -> list[str]:
    """The earlier run, if it is known to have ended: its launcher was all of it, and was a process of this machine."""
    try:
        assert earlier is not None
        host, process = earlier["launcher"]["host"], earlier["launcher"]["process"]
        alone = earlier["configuration"]["runner"]["name"] == "direct"
        gone = alone and host == socket.gethostname() and not is_running(process)
        return [earlier["run"]] if gone else []
    except (AssertionError, KeyError, TypeError):  # of an earlier version
        return []


def _run_json_text(plan: Plan) -> str:
    return json.dumps(_run_json(plan), indent=1)


def _run_json(plan: Plan) -> dict[str, Any]:
    """The content of run.json."""
    return {
        "schema_version": SCHEMA_VERSION,
        "run": plan.settings.run,
        "job": job_name(plan.beam_flags),
        "started": time.time(),
        "launcher": {"host": socket.gethostname(), "process": os.getpid()},
        "startup": dict(plan.startup),
        "fingerprint": plan.settings.output.fingerprint,
        "identity": identity_of(plan.config, plan.settings.model),
        "configuration": _without_secrets(plan.config.to_dict()),
        "plan": {
            "units": len(plan.units) + len(plan.receipts),
            "units_to_do": len(plan.units),
            "images": plan.images_expected,
            "left_out": plan.left_out,
            "fields": plan.fields,
        },
        "class_names": plan.class_names.to_dict(),
        "versions": {
            "python": platform.python_version(),
            **{
                name: importlib.metadata.version(name)
                for name in ("apache-beam", "keras", "numpy", "pillow", "pyarrow", "tensorflow")
            },
        },
        "model": {
            **inspect_exposed(plan.model.exposed, plan.agreement).to_dict(),
            "channel_layer": _channel_layer(plan),
        },
    }


def _channel_layer(plan: Plan) -> str | None:
    explain = plan.config.explain
    return channel_layer(plan.model.exposed, explain.channels) if METHODS[explain.method].complete else None


def _without_secrets(configuration: dict[str, Any]) -> dict[str, Any]:
    """The configuration without the values of options that are keys to a store, as everybody may read run.json."""
    options = configuration["runner"]["options"]
    shown = {name: "(not shown)" if name in SECRETS else value for name, value in options.items()}
    return {**configuration, "runner": {**configuration["runner"], "options": shown}}
