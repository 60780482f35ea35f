"""Options for Beam, and runners: what is refused before the run, and what is said of one that gives up."""

from __future__ import annotations

import json
import os
import pathlib
from typing import Any

import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from pipeline.cli import main
from pipeline.config import Config
from pipeline.run import CannotRun, prepare


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--no_such_option=3"], "Beam knows no option 'no_such_option'"),
        (["--direct_num_workers=many"], "direct_num_workers: invalid int value: 'many'"),
        (["--runner=FlinkRunner"], "runner.name names the runner"),
    ],
)
def test_a_beam_option_that_beam_does_not_take_is_refused_before_the_run(
    dataset: dict[str, Any], options: list[str], words: str
) -> None:
    with pytest.raises(CannotRun) as error:
        prepare(Config.from_dict(dataset), options)
    assert words in str(error.value)
    assert "\n" not in str(error.value)
    assert not os.path.exists(dataset["output"]["path"])


@pytest.mark.parametrize(
    ("location", "words"),
    [({}, "is missing"), ({"prism_location": "nowhere/prism"}, "is nowhere/prism, which is no file")],
)
def test_prism_is_never_downloaded(dataset: dict[str, Any], location: dict[str, str], words: str) -> None:
    value = {**dataset, "runner": {"name": "PrismRunner", "options": location}}
    with pytest.raises(CannotRun, match=f"prism_location {words}.*`go install .*/cmd/prism@v2") as error:
        prepare(Config.from_dict(value))
    assert "\n" not in str(error.value)


def test_a_runner_that_gives_up_is_told_of_in_one_sentence(
    dataset: dict[str, Any], capfd: pytest.CaptureFixture[str], tmp_path: pathlib.Path
) -> None:
    config = tmp_path / "config.json"
    nobody = {"name": "PrismRunner", "options": {"job_endpoint": "localhost:1", "job_server_timeout": 1}}
    config.write_text(json.dumps({**dataset, "runner": nobody}))
    assert main(["run", str(config)]) == 1
    last = capfd.readouterr().err.splitlines()[-1]
    assert last.startswith("fullgrad: PrismRunner did not run the job to its end: ")
    assert last.endswith("the same command goes on with what is missing")


def test_beam_options_of_the_command_line_win_over_the_configuration_s(dataset: dict[str, Any]) -> None:
    value = {**dataset, "runner": {"options": {"direct_num_workers": 3, "worker_machine_type": "n1-standard-4"}}}
    plan = prepare(Config.from_dict(value), ["--direct_num_workers=1"])
    options = PipelineOptions(list(plan.beam_flags)).get_all_options()
    assert (options["direct_num_workers"], options["machine_type"]) == (1, "n1-standard-4")
