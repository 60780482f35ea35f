"""configs/: the project and Beam take every run, and Flink's cluster on Kubernetes is the one that its run expects."""

from __future__ import annotations

import pathlib
import tomllib
from typing import Any

import apache_beam as beam
import pytest
import yaml
from apache_beam.options.pipeline_options import PipelineOptions

from pipeline.config import Config, load_config, schema_keys
from pipeline.config.problems import is_leaf
from pipeline.run import prepare
from tests.samples import configuration, encoded_images
from tests.shards import write_tfrecord

ROOT = pathlib.Path(__file__).parent.parent
CONFIGS = ROOT / "configs"
# A cluster of Kubernetes is among them, which is no run.
RUNS = [path for path in sorted(CONFIGS.glob("*.yaml")) if "apiVersion" not in yaml.safe_load(path.read_text())]
DEPLOYMENT: dict[str, Any] = yaml.safe_load((CONFIGS / "flink-deployment.yaml").read_text())
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]

every_run = pytest.mark.parametrize("path", RUNS, ids=lambda path: path.stem)


def _at(key: str, value: Any) -> Any:
    for name in key.split("."):
        value = value[name]
    return value


def test_there_is_a_run_for_each_of_the_places() -> None:
    assert {path.stem for path in RUNS} >= {"demo", "local", "flink", "dataflow"}
    assert load_config(CONFIGS / "flink.yaml").runner.name == "FlinkRunner"
    assert load_config(CONFIGS / "dataflow.yaml").runner.name == "DataflowRunner"


# ---- runs


@every_run
def test_a_run_that_says_so_has_every_key(path: pathlib.Path) -> None:
    load_config(path)
    text = path.read_text()
    if "Every key is here" in text.replace("\n# ", " "):
        assert [key for key in schema_keys() if not _has(yaml.safe_load(text), key)] == []


def _has(value: Any, key: str) -> bool:
    try:
        _at(key, value)
    except (KeyError, TypeError):  # the second where a section is written as one word, such as `scale: auto`
        return False
    return True


@every_run
def test_what_is_not_said_to_be_set_is_at_its_default(path: pathlib.Path) -> None:
    marked = _marked(path)
    assert marked >= {"input.shards", "model.path", "output.path"}
    defaults = Config.from_dict({"input": {"shards": "a"}, "model": {"path": "m"}, "output": {"path": "o"}}).to_dict()
    shown = yaml.safe_load(path.read_text())
    for key, field in schema_keys().items():
        is_set = any(f"{key}.".startswith(f"{each}.") for each in marked)
        if is_leaf(field) and not is_set and _has(shown, key):
            assert _at(key, shown) == _at(key, defaults), f"{path.name}: {key}"


def _marked(path: pathlib.Path) -> set[str]:
    """The keys whose lines say that they are set for this example, or for the demo."""
    marked = set()
    sections: list[str] = []
    for line in path.read_text().splitlines():
        name, colon, _ = line.partition(":")
        if not colon or not name.strip().isidentifier():
            continue
        depth = (len(name) - len(name.lstrip())) // 2
        sections = [*sections[:depth], name.strip()]
        if "# set for th" in line:
            marked.add(".".join(sections))
    return marked


@pytest.fixture
def small_run(tmp_path: pathlib.Path) -> dict[str, Any]:
    """A configuration for twelve images."""
    return configuration(tmp_path, str(write_tfrecord(tmp_path / "a.tfrecord", encoded_images(12))))


@every_run
def test_beam_takes_the_options(path: pathlib.Path, small_run: dict[str, Any]) -> None:
    """Beam's own checks, which a pipeline makes of its options; with `dry_run`, without asking Google about buckets."""
    runner = load_config(path).to_dict()["runner"]
    plan = prepare(Config.from_dict({**small_run, "runner": runner}), ["--dry_run=true"])
    name = {"direct": "DirectRunner"}.get(runner["name"], runner["name"])
    options = beam.Pipeline(runner=name, options=PipelineOptions(list(plan.beam_flags))).options.get_all_options()
    for option, value in runner["options"].items():
        given = options[{"worker_machine_type": "machine_type"}.get(option, option)]
        assert str(given) == str(value)


# ---- Flink


def test_flink_s_workers_need_nothing_that_is_staged(small_run: dict[str, Any]) -> None:
    """So that job server and TaskManagers need no folder in common, and the worker's entry point installs nothing."""
    runner = load_config(CONFIGS / "flink.yaml").to_dict()["runner"]
    plan = prepare(Config.from_dict({**small_run, "runner": runner}))
    pipeline = beam.Pipeline(runner=runner["name"], options=PipelineOptions(list(plan.beam_flags)))
    environment = pipeline.runner.default_environment(pipeline.options).to_runner_api(None)
    assert environment.urn == "beam:env:external:v1"
    assert list(environment.dependencies) == []


@pytest.fixture
def flink() -> dict[str, Any]:
    """Beam's options of configs/flink.yaml."""
    return load_config(CONFIGS / "flink.yaml").runner.options


@pytest.fixture
def task_manager() -> dict[str, dict[str, Any]]:
    """The containers of a TaskManager's pod, by name."""
    containers = DEPLOYMENT["spec"]["taskManager"]["podTemplate"]["spec"]["containers"]
    return {container["name"]: container for container in containers}


def test_the_deployment_is_one_of_flink_s_operator() -> None:
    assert (DEPLOYMENT["apiVersion"], DEPLOYMENT["kind"]) == ("flink.apache.org/v1beta1", "FlinkDeployment")


def test_the_deployment_has_the_flink_of_the_run(flink: dict[str, Any]) -> None:
    spec = DEPLOYMENT["spec"]
    assert spec["flinkVersion"] == f"v{flink['flink_version'].replace('.', '_')}"
    assert spec["image"].startswith(f"flink:{flink['flink_version']}.")


def test_every_task_manager_has_a_worker_pool_beside_it(
    flink: dict[str, Any], task_manager: dict[str, dict[str, Any]]
) -> None:
    # The operator merges what it knows of Flink's own container into the one of this name.
    assert set(task_manager) == {"flink-main-container", "worker-pool"}
    pool = task_manager["worker-pool"]
    assert pool["args"] == ["--worker_pool"]
    assert "command" not in pool, "the image's entry point is the worker pool's"
    assert [f"localhost:{port['containerPort']}" for port in pool["ports"]] == [flink["environment_config"]]
    # The entry point has no option for the port.
    assert flink["environment_config"] == "localhost:50000"
    assert flink["environment_type"] == "EXTERNAL"


def test_the_worker_pool_alone_has_the_gpu(task_manager: dict[str, dict[str, Any]]) -> None:
    having = [name for name, each in task_manager.items() if "nvidia.com/gpu" in str(each.get("resources"))]
    assert having == ["worker-pool"]
    assert task_manager["worker-pool"]["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert "gpu" not in str(DEPLOYMENT["spec"]["jobManager"])


def test_the_worker_pool_sees_the_run_s_files_where_the_launcher_does(task_manager: dict[str, dict[str, Any]]) -> None:
    config = load_config(CONFIGS / "flink.yaml")
    [mount] = task_manager["worker-pool"]["volumeMounts"]
    volumes = {volume["name"] for volume in DEPLOYMENT["spec"]["taskManager"]["podTemplate"]["spec"]["volumes"]}
    assert mount["name"] in volumes
    for path in (*config.input.shards, config.model.path, config.output.path):
        assert str(path).startswith(f"{mount['mountPath']}/")


def test_everywhere_the_image_is_this_version_s(task_manager: dict[str, dict[str, Any]]) -> None:
    image = f"fullgrad-worker:{VERSION}"
    assert task_manager["worker-pool"]["image"] == image
    assert f"docker build --tag {image} ." in (ROOT / "Dockerfile").read_text()
    assert f" {image} --worker_pool" in (CONFIGS / "flink.yaml").read_text()
    on_google_cloud = load_config(CONFIGS / "dataflow.yaml").runner.options["sdk_container_image"]
    assert str(on_google_cloud).endswith(f":{VERSION}")
    assert f"docker build --tag {on_google_cloud} ." in (CONFIGS / "dataflow.yaml").read_text()
