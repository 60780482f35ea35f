"""Turns the options for Beam, from configuration and command line, into flags, and checks them."""

from __future__ import annotations

import contextlib
import difflib
import io
import os
import shutil
import zipfile
from collections.abc import Sequence

import apache_beam as beam
from apache_beam.options.pipeline_options import (
    FlinkRunnerOptions,
    GoogleCloudOptions,
    JobServerOptions,
    PipelineOptions,
    PortableOptions,
    PrismRunnerOptions,
    SparkRunnerOptions,
)

from pipeline.config import Runner
from pipeline.engines.flink import Flink
from pipeline.engines.job_servers import FLINK, SPARK, JobServer


class UnusableEngine(ValueError):
    """The engine or an option for it cannot be used; one sentence that names it and what would be right."""


# Options that Beam's job server for Flink takes and ignores in a batch job.
_WITHOUT_EFFECT = ("number_of_execution_retries", "execution_retry_delay")


def beam_flags(runner: Runner, further: Sequence[str], run: str) -> tuple[str, ...]:
    """The options for Beam as flags. Those of the command line come last, so they win.

    A job gets its own name, `fullgrad-RUN` or `JOB_NAME-RUN`, by which it can be found in its engine. A name for
    Dataflow is kept as it is, because Dataflow refuses a second job with the same name.

    Args:
      runner: which engine, and the configuration's options.
      further: the options of the command line.
      run: the run's id.

    Raises:
      UnusableEngine: Beam does not know an option, or does not take its value.
    """
    flags: list[str] = []
    for name, value in runner.options.items():
        if isinstance(value, bool):
            flags.extend([f"--{name}"] if value else [])
        else:
            flags.extend(f"--{name}={each}" for each in (value if isinstance(value, list) else [value]))
    flags.extend(further)
    if any(flag.partition("=")[0] == "--runner" for flag in further):
        raise UnusableEngine(
            "--runner after -- is not taken: runner.name names the runner, as in --set runner.name=direct"
        )
    options = check_options(flags)
    name = options.view_as(GoogleCloudOptions).job_name
    if runner.name != "direct" and not (name and runner.name == "DataflowRunner"):
        flags.append(f"--job_name={name or 'fullgrad'}-{run}")
    if runner.name == "PrismRunner" and not options.view_as(PortableOptions).job_endpoint:
        _check_prism(options.view_as(PrismRunnerOptions).prism_location)
    if runner.name == "FlinkRunner":
        submit_one_jar = options.view_as(FlinkRunnerOptions).flink_submit_uber_jar
        _check_jar(FLINK, options.view_as(FlinkRunnerOptions).flink_job_server_jar, submit_one_jar)
    if runner.name == "SparkRunner":
        submit_one_jar = options.view_as(SparkRunnerOptions).spark_submit_uber_jar
        _check_jar(SPARK, options.view_as(SparkRunnerOptions).spark_job_server_jar, submit_one_jar)
    return tuple(flags)


def job_name(flags: Sequence[str]) -> str | None:
    """The name that a job with these flags has in its engine."""
    name: str | None = PipelineOptions(list(flags)).view_as(GoogleCloudOptions).job_name
    return name


def flink_of(flags: Sequence[str]) -> Flink | None:
    """The Flink cluster that the flags name; None if they name none."""
    return Flink.at(PipelineOptions(list(flags)).view_as(FlinkRunnerOptions).flink_master)


def check_reachable(runner: Runner, flags: Sequence[str]) -> None:
    """Refuses an engine that could not be given the job, before anything is written.

    Raises:
      UnusableEngine: there is no Java to start Beam's job server, or no Flink cluster at the given address.
    """
    options = PipelineOptions(list(flags))
    if runner.name not in ("FlinkRunner", "SparkRunner") or options.view_as(PortableOptions).job_endpoint:
        return
    java = options.view_as(JobServerOptions).job_server_java_launcher
    alone = options.view_as(FlinkRunnerOptions).flink_submit_uber_jar
    alone = alone or options.view_as(SparkRunnerOptions).spark_submit_uber_jar
    if not alone and shutil.which(java) is None:
        raise UnusableEngine(
            f"runner.name: {runner.name} needs Java for Beam's job server, and there is no `{java}` here; install Java "
            "(11 or later), or let runner.options.job_endpoint name a job server that runs"
        )
    cluster = flink_of(flags) if runner.name == "FlinkRunner" else None
    if cluster is not None:
        try:
            cluster.version()
        except OSError as error:
            raise UnusableEngine(
                f"runner.options.flink_master: {error}; it must be HOST:PORT of the REST interface of a Flink cluster "
                "that runs"
            ) from error


def check_options(flags: Sequence[str], what: str = "runner.options") -> PipelineOptions:
    """Beam's options from flags.

    Args:
      flags: as on Beam's command line.
      what: their name in an error message.

    Raises:
      UnusableEngine: Beam does not know one, or does not take its value.
    """
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):  # argparse's usage of several hundred lines
            options = PipelineOptions(list(flags))
            known = options.get_all_options()
            unknown = options.get_all_options(retain_unknown_options=True).keys() - known.keys()
    except SystemExit as error:
        last = complaint.getvalue().strip().splitlines()[-1].rpartition("error: ")[2]
        raise UnusableEngine(f"{what}: Beam does not take these, {last}") from error
    for name in _WITHOUT_EFFECT:
        if name in unknown:
            raise UnusableEngine(
                f"{what}: {name} does nothing, as Flink restarts Beam's jobs only as the cluster is told; leave it "
                "out, and set restart-strategy.type in Flink's own configuration"
            )
    if unknown:
        name = sorted(unknown)[0]
        nearest = difflib.get_close_matches(name, known, 1)
        meant = f"; did you mean {nearest[0]!r}?" if nearest else ""
        raise UnusableEngine(f"{what}: Beam knows no option {name!r}{meant}")
    return options


def _check_prism(location: str | None) -> None:
    """Refuses options with which Beam would download a binary."""
    if location is None or not os.path.isfile(location):
        package = f"github.com/apache/beam/sdks/v2/go/cmd/prism@v{beam.__version__}"
        is_wrong = "is missing" if location is None else f"is {location}, which is no file"
        raise UnusableEngine(
            f"runner.options.prism_location {is_wrong}; "
            f"it must be a Prism binary on this machine, as `go install {package}` makes one, or "
            "runner.options.job_endpoint the address of one that runs"
        )


def _check_jar(server: JobServer, jar: str | None, submit_one_jar: bool) -> None:
    """Refuses a job server that does not exist, or that is not one whole jar if it must be."""
    if jar is None or "://" in jar:
        return
    key = f"runner.options.{server.option}"
    if not os.path.isfile(jar):
        raise UnusableEngine(
            f"{key} is {jar}, which is no file; it must be Beam's job server, as `fullgrad {server.name} DIR` makes "
            "one, or null to have Beam download it"
        )
    try:
        with zipfile.ZipFile(jar) as archive:
            is_thin = not any(name.endswith(".class") for name in archive.namelist())
    except zipfile.BadZipFile as error:
        raise UnusableEngine(f"{key} is {jar}, which is no jar") from error
    if submit_one_jar and is_thin:
        raise UnusableEngine(
            f"{key} is {jar}, which only names the jars beside it, and runner.options."
            f"{server.engine}_submit_uber_jar sends it alone; leave that out, or give Beam's own job "
            "server, which is one jar"
        )
