"""Options for Beam: what is refused, and what a job is called."""

from __future__ import annotations

import pathlib
import socket
import zipfile

import pytest
from apache_beam.options.pipeline_options import GoogleCloudOptions, PipelineOptions

from pipeline.config import Runner
from pipeline.engines.options import UnusableEngine, beam_flags, check_reachable, flink_of, job_name


def refusal(name: str, **options: object) -> str:
    """Why an engine with these options is refused; one line."""
    with pytest.raises(UnusableEngine) as error:
        beam_flags(Runner(name=name, options=options), [], "0123")
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("option", ["number_of_execution_retries", "execution_retry_delay"])
def test_options_that_do_nothing_are_refused_with_what_does_it(option: str) -> None:
    said = refusal("FlinkRunner", **{option: 5})
    assert option in said
    assert "restart-strategy.type in Flink's own configuration" in said


def test_an_option_that_beam_does_not_know_is_refused_with_the_nearest() -> None:
    assert refusal("FlinkRunner", paralelism=2) == (
        "runner.options: Beam knows no option 'paralelism'; did you mean 'parallelism'?"
    )
    assert refusal("direct", qqqqqqqqqq=2) == "runner.options: Beam knows no option 'qqqqqqqqqq'"


@pytest.mark.parametrize(
    ("name", "option", "command"),
    [
        ("FlinkRunner", "flink_job_server_jar", "fullgrad flink-job-server DIR"),
        ("SparkRunner", "spark_job_server_jar", "fullgrad spark-job-server DIR"),
    ],
)
def test_a_job_server_that_is_not_there_or_not_whole_is_refused(
    name: str, option: str, command: str, tmp_path: pathlib.Path
) -> None:
    said = refusal(name, **{option: "nowhere/x.jar"})
    assert f"runner.options.{option} is nowhere/x.jar, which is no file" in said
    assert f"`{command}`" in said
    (tmp_path / "text.jar").write_text("no zip")
    assert "which is no jar" in refusal(name, **{option: str(tmp_path / "text.jar")})
    with zipfile.ZipFile(tmp_path / "thin.jar", "w") as jar:
        jar.writestr("META-INF/MANIFEST.MF", "Manifest-Version: 1.0\n")
    alone = f"{option.partition('_')[0]}_submit_uber_jar"
    thin = {option: str(tmp_path / "thin.jar")}
    assert beam_flags(Runner(name=name, options=thin), [], "0123")
    assert f"runner.options.{alone} sends it alone" in refusal(name, **thin, **{alone: True})


def test_every_run_s_job_has_a_name_of_its_own() -> None:
    def name_of(runner: str, *further: str, run: str = "0123", **options: object) -> str | None:
        return job_name(beam_flags(Runner(name=runner, options=options), further, run))

    assert name_of("FlinkRunner") == "fullgrad-0123"
    assert name_of("FlinkRunner", run="4567") == "fullgrad-4567"
    assert name_of("SparkRunner", job_name="cifar") == "cifar-0123"
    assert name_of("FlinkRunner", "--job_name=birds", job_name="cifar") == "birds-0123"
    # Dataflow takes no two jobs of one name at a time, which somebody who names one may count on.
    assert name_of("DataflowRunner", job_name="cifar") == "cifar"
    assert name_of("DataflowRunner") == "fullgrad-0123"
    assert name_of("direct") is None


@pytest.mark.parametrize(
    ("master", "url"),
    [
        ("localhost:8081", "http://localhost:8081"),
        (" http://flink:80/ ", "http://flink:80"),
        ("https://flink", "https://flink"),
        ("[local]", None),
        ("[auto]", None),
    ],
)
def test_the_cluster_is_the_one_that_flink_master_names(master: str, url: str | None) -> None:
    cluster = flink_of([f"--flink_master={master}"])
    assert (cluster.url if cluster else None) == url


def test_an_engine_that_would_not_get_the_job_is_refused() -> None:
    runner = Runner(name="FlinkRunner")
    with pytest.raises(UnusableEngine, match=r"^runner\.name: FlinkRunner needs Java .* no `no-java` here"):
        check_reachable(runner, ["--job_server_java_launcher=no-java"])
    with socket.socket() as taken:  # bound, and nobody listens
        taken.bind(("127.0.0.1", 0))
        flags = [f"--flink_master=127.0.0.1:{taken.getsockname()[1]}", "--job_server_java_launcher=true"]
        with pytest.raises(UnusableEngine, match=r"^runner\.options\.flink_master: http://127.* does not answer"):
            check_reachable(runner, flags)
        check_reachable(runner, [*flags, "--job_endpoint=localhost:1"])  # which is asked, and not the cluster
    check_reachable(Runner(name="direct"), ["--job_server_java_launcher=no-java"])


def test_flags_of_the_command_line_come_last_and_win() -> None:
    flags = beam_flags(Runner(name="DataflowRunner", options={"job_name": "a"}), ["--job_name=b"], "0123")
    assert PipelineOptions(list(flags)).view_as(GoogleCloudOptions).job_name == "b"
