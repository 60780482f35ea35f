"""Submits one job to an engine, waits for its end, and cancels it if the launcher is interrupted or loses it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Sequence

import apache_beam as beam
import grpc
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.runners.runner import PipelineResult, PipelineRunner, PipelineState

from pipeline.config import Runner
from pipeline.engines.job_servers import FLINK, SPARK
from pipeline.engines.lost_workers import noting_lost_workers
from pipeline.engines.options import flink_of, job_name


class JobFailed(RuntimeError):
    """The engine did not run the job to its end; a clause that says why, and what happened to the job."""


class NoSpaceLeft(JobFailed):
    """A worker or the launcher found no space left on a file system."""


class Interrupted(KeyboardInterrupt):
    """The launcher was interrupted; a clause that says what happened to the job, empty if nothing is left of it."""


def new_pipeline(runner: Runner, flags: Sequence[str]) -> beam.Pipeline:
    """An empty pipeline for an engine."""
    return beam.Pipeline(runner=_runner(runner.name), options=PipelineOptions(list(flags)))


def run_to_its_end(pipeline: beam.Pipeline, runner: Runner, flags: Sequence[str]) -> None:
    """Runs a pipeline.

    Raises:
      NoSpaceLeft: a file system was full.
      JobFailed: the engine gave up, or somebody else cancelled the job.
      Interrupted: on Ctrl-C, after the job was cancelled.
    """
    on_interrupt = signal.getsignal(signal.SIGINT)
    result = None
    lost: list[str] = []
    try:
        with noting_lost_workers() as lost:
            result = pipeline.run()
            if threading.current_thread() is threading.main_thread():
                # Beam's own handler would stop the job server that it started, and nobody could cancel the job then.
                signal.signal(signal.SIGINT, on_interrupt)
            state = result.wait_until_finish()
    except KeyboardInterrupt as error:
        # A job that runs elsewhere would go on beside the next one.
        raise Interrupted(_cancelled(result, runner, flags)) from error
    except Exception as error:  # runners raise whatever they raise
        kind = NoSpaceLeft if _is_full_disk(error) else JobFailed
        reason = lost[0] if lost and kind is JobFailed else _reason(error)
        parts = [reason, _hint(error, runner), _left_behind(runner, flags)]
        raise kind("; ".join(filter(None, parts))) from error
    if state not in (PipelineState.DONE, None):
        left = _left_behind(runner, flags)
        ended = f"the pipeline ended in state {state}; the runner's log says why"
        raise JobFailed("; ".join(filter(None, [ended, left])))


def _runner(name: str) -> PipelineRunner | str:
    # The name DirectRunner may look for another runner's binary and download it, so this takes the class.
    return FnApiRunner() if name == "direct" else name


def _reason(error: Exception) -> str:
    """The message of an error in one line."""
    if _is_full_disk(error):
        return "there is no space left on a file system"
    # gRPC's own text has several lines, and the last one says nothing.
    details = error.details() if isinstance(error, grpc.RpcError) and hasattr(error, "details") else None
    lines = (details or str(error)).strip().splitlines() or [type(error).__name__]
    # Python says what is wrong after the stack, Java before it.
    of_java = any(line.startswith("\tat ") for line in lines)
    return lines[0 if of_java else -1].strip().rstrip(".")


def _is_full_disk(error: Exception) -> bool:
    """Whether a file system had no space, or a file became larger than is allowed. Workers' errors come as text."""
    return any(words in str(error) for words in ("[Errno 28]", "No space left", "[Errno 27]"))


def _hint(error: Exception, runner: Runner) -> str:
    """What helps, where Beam's own words do not say it."""
    for server in (FLINK, SPARK):
        if runner.name.lower() == f"{server.engine}runner" and "job server jar" in str(error):
            return f"`fullgrad {server.name} DIR` makes a job server for runner.options.{server.option}"
    return ""


def _cancelled(result: PipelineResult | None, runner: Runner, flags: Sequence[str]) -> str:
    """Cancels a job. Returns what happened to it as a clause, empty for a job that ends with the launcher."""
    name = job_name(flags)
    try:
        problem = _cancel(result)
        if runner.name == "FlinkRunner":
            cluster = flink_of(flags)
            if cluster is not None:
                return cluster.cancel(name or "")
            if PipelineOptions(list(flags)).get_all_options().get("job_endpoint"):
                return (
                    f"the job {name} may go on, as Beam's job server does not cancel it in Flink; cancel it on Flink's "
                    "page, and next time let runner.options.flink_master say where Flink is"
                )
            return ""
    except KeyboardInterrupt:
        return f"nobody waited for the end of the job {name}, which may go on"
    if problem is not None and runner.name != "direct":
        return f"the job {name} may go on, as {runner.name} could not be told to cancel it ({problem})"
    return ""


def _cancel(result: PipelineResult | None) -> str | None:
    """Tells Beam to cancel a job. Returns why it could not, or None."""
    if result is None:
        return None
    try:
        result.cancel()
    except Exception as error:  # the runner may have been interrupted as well
        return _reason(error)
    return None


def _left_behind(runner: Runner, flags: Sequence[str]) -> str:
    """What happened to a job that failed or whose job server was lost. In Flink such a job would go on."""
    cluster = flink_of(flags) if runner.name == "FlinkRunner" else None
    name = job_name(flags)
    if cluster is None or name is None:
        return ""
    try:
        if all(job.has_ended for job in cluster.jobs(name)):
            return ""
    except OSError as error:
        return f"the job {name} may go on in Flink ({error})"
    return cluster.cancel(name)
