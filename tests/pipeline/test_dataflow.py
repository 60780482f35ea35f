"""The pipeline, translated for Dataflow by Beam as configs/dataflow.yaml has it; nothing is sent.

Beam is told to write a template, to stage into a local folder, and to go without credentials: then it makes the whole
job and gives it to nobody. No part of it is replaced.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Callable
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability import common_urns
from apache_beam.portability.api import beam_runner_api_pb2

from pipeline.config import Config, load_config
from pipeline.graph import build
from pipeline.run import prepare
from tests.samples import configuration, encoded_images
from tests.shards import write_tfrecord

RUNNER = load_config(pathlib.Path(__file__).parents[2] / "configs" / "dataflow.yaml").to_dict()["runner"]
ACCELERATOR = common_urns.resource_hints.ACCELERATOR.urn


@dataclasses.dataclass(frozen=True)
class Job:
    """What Dataflow would be sent.

    Attributes:
      environment: how the job is to run, as in Dataflow's API.
      components: those of the pipeline, which is staged as a file.
      staged: the names of all files that are staged.
    """

    environment: dict[str, Any]
    components: Any
    staged: list[str]

    @property
    def workers(self) -> dict[str, Any]:
        [pool] = self.environment["workerPools"]
        return pool

    def hints(self) -> dict[str, str]:
        """The accelerators that are asked for, by the steps that ask."""
        found = {}
        for transform in self.components.transforms.values():
            if transform.environment_id:  # the service's own steps, such as GroupByKey, have none
                hints = self.components.environments[transform.environment_id].resource_hints
                if ACCELERATOR in hints:
                    found[transform.unique_name] = hints[ACCELERATOR].decode()
        return found


@pytest.fixture
def translated(tmp_path: pathlib.Path) -> Callable[[dict[str, Any]], Job]:
    """Translates a run of 24 images in two shards with a section `runner`."""

    def translate(runner: dict[str, Any]) -> Job:
        shards = [str(write_tfrecord(tmp_path / f"{i}.tfrecord", encoded_images(12, seed=i))) for i in range(2)]
        job, staging = tmp_path / "job.json", tmp_path / "staging"
        staging.mkdir()
        plan = prepare(
            Config.from_dict({**configuration(tmp_path, shards), "runner": runner}),
            [
                f"--template_location={job}",
                f"--staging_location={staging}",
                f"--temp_location={tmp_path}/temp",
                "--no_auth",
                "--dataflow_endpoint=http://localhost:1",  # Google's own takes no local folders
            ],
        )
        pipeline = beam.Pipeline(runner=runner["name"], options=PipelineOptions(list(plan.beam_flags)))
        build(pipeline, plan.units, plan.settings, plan.config.runner.accelerator)
        pipeline.run()
        graph = beam_runner_api_pb2.Pipeline.FromString((staging / "pipeline.pb").read_bytes())
        environment = json.loads(job.read_text())["environment"]
        return Job(environment, graph.components, [path.name for path in staging.iterdir()])

    return translate


def test_the_workers_that_explain_have_the_accelerator_and_no_others(translated: Callable[..., Job]) -> None:
    job = translated(RUNNER)
    assert job.hints() == {"ExplainUnits/ParDo(ExplainUnits)": RUNNER["accelerator"]}
    # And they are told apart from the others, of which there are some.
    assert len(job.components.environments) == len(job.workers["sdkHarnessContainerImages"]) == 2


def test_without_an_accelerator_there_is_one_kind_of_worker(translated: Callable[..., Job]) -> None:
    job = translated({**RUNNER, "accelerator": None})
    assert job.hints() == {}
    assert len(job.components.environments) == len(job.workers["sdkHarnessContainerImages"]) == 1


def test_every_step_runs_in_the_image_and_nothing_is_installed_into_it(translated: Callable[..., Job]) -> None:
    job, image = translated(RUNNER), RUNNER["options"]["sdk_container_image"]
    for environment in job.components.environments.values():
        assert environment.urn == common_urns.environments.DOCKER.urn
        assert beam_runner_api_pb2.DockerPayload.FromString(environment.payload).container_image == image
        assert list(environment.dependencies) == []
    assert {each["containerImage"] for each in job.workers["sdkHarnessContainerImages"]} == {image}
    assert job.staged == ["pipeline.pb"]


def test_the_machines_are_as_configured(translated: Callable[..., Job]) -> None:
    job, options = translated(RUNNER), RUNNER["options"]
    assert job.workers["machineType"] == options["worker_machine_type"]
    assert job.workers["diskSizeGb"] == options["disk_size_gb"]
    assert job.workers["numWorkers"] == options["num_workers"]
    assert job.workers["autoscalingSettings"] == {
        "algorithm": "AUTOSCALING_ALGORITHM_BASIC",  # the API's name for THROUGHPUT_BASED
        "maxNumWorkers": options["max_num_workers"],
    }
    assert job.environment["serviceAccountEmail"] == options["service_account_email"]


def test_a_machine_has_one_process_so_that_the_model_is_loaded_once(translated: Callable[..., Job]) -> None:
    job = translated(RUNNER)
    # Beam itself adds use_multiple_sdk_containers, one process a core, unless it is told not to.
    assert "no_use_multiple_sdk_containers" in job.environment["experiments"]
    assert "use_multiple_sdk_containers" not in job.environment["experiments"]
    assert job.workers["numThreadsPerWorker"] == RUNNER["options"]["number_of_worker_harness_threads"]


def test_without_that_experiment_there_would_be_a_process_a_core(translated: Callable[..., Job]) -> None:
    options = {**RUNNER["options"], "experiments": ["some_other"]}
    assert "use_multiple_sdk_containers" in translated({**RUNNER, "options": options}).environment["experiments"]


def test_workers_are_told_the_options(translated: Callable[..., Job]) -> None:
    told = translated(RUNNER).environment["sdkPipelineOptions"]["options"]
    elsewhere = {"staging_location", "temp_location", "worker_machine_type", "experiments"}
    for name in RUNNER["options"].keys() - elsewhere:
        assert told[name] == RUNNER["options"][name], name
