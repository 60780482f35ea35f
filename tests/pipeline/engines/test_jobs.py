"""Jobs that do not come to an end, and what is said of them; with engines, tests/cluster tries it."""

from __future__ import annotations

import socket

import apache_beam as beam
import pytest

from pipeline.config import Runner
from pipeline.engines.jobs import JobFailed, new_pipeline, run_to_its_end


@pytest.mark.parametrize("engine", ["flink", "spark"])
def test_where_beam_cannot_download_its_job_server_the_command_that_makes_one_is_named(engine: str) -> None:
    with socket.socket() as taken:  # bound, and nobody listens
        taken.bind(("127.0.0.1", 0))
        runner = Runner(name=f"{engine.capitalize()}Runner")
        flags = [f"--{engine}_job_server_jar=http://127.0.0.1:{taken.getsockname()[1]}/job-server.jar"]
        pipeline = new_pipeline(runner, flags)
        _ = pipeline | beam.Create([1])
        with pytest.raises(JobFailed) as error:
            run_to_its_end(pipeline, runner, flags)
    assert f"`fullgrad {engine}-job-server DIR` makes a job server" in str(error.value)
    assert "\n" not in str(error.value)


def test_of_an_error_in_a_worker_its_last_line_is_told() -> None:
    def fail(_: int) -> None:
        raise ValueError("this is why")

    pipeline = new_pipeline(Runner(), [])
    _ = pipeline | beam.Create([1]) | beam.Map(fail)
    with pytest.raises(JobFailed, match="this is why") as error:
        run_to_its_end(pipeline, Runner(), [])
    assert "\n" not in str(error.value)
