"""Engines that are started once for all tests, and the data that they explain."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest

from pipeline.config import Config
from pipeline.run import launch, prepare
from tests import shards
from tests.cluster.artifacts import Unavailable
from tests.cluster.engines import ENGINES, Engine
from tests.cluster.flink import FlinkCluster
from tests.cluster.missing import skip_or_fail
from tests.samples import configuration, encoded_images

SMALL, LARGE = (20, 20, 20, 20, 20, 20), 600
SLOW = 240


def _started(name: str, factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with contextlib.ExitStack() as stack:
        try:
            engine = stack.enter_context(ENGINES[name](factory.mktemp(name)))
        except Unavailable as reason:
            skip_or_fail(f"{name}: {reason}")
        yield engine


@pytest.fixture(scope="session")
def prism(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    yield from _started("prism", tmp_path_factory)


@pytest.fixture(scope="session")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    yield from _started("processes", tmp_path_factory)


@pytest.fixture(scope="session")
def flink(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    yield from _started("flink", tmp_path_factory)


@pytest.fixture(scope="session")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    yield from _started("spark", tmp_path_factory)


@pytest.fixture
def cluster(flink: Engine) -> FlinkCluster:
    """The cluster of the engine `flink`, after both slots are free again."""
    assert flink.flink is not None
    flink.flink.wait_for_free_slots()
    return flink.flink


@pytest.fixture(scope="session", params=list(ENGINES))
def engine(request: pytest.FixtureRequest) -> Engine:
    """Each of the engines; skipped if it is not available."""
    engine: Engine = request.getfixturevalue(request.param)
    return engine


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A configuration with six small shards and then a large one, which takes seconds; each shard is one unit."""
    folder = tmp_path_factory.mktemp("dataset")
    samples = encoded_images(sum(SMALL) + LARGE)
    for i, count in enumerate(SMALL):
        shards.write_tfrecord(folder / f"{i}-small.tfrecord", samples[i * count : (i + 1) * count])
    shards.write_tfrecord(folder / "9-large.tfrecord", samples[sum(SMALL) :])
    return configuration(folder, str(folder / "*.tfrecord"), explain={"batch_size": 2})


@pytest.fixture(scope="session")
def expected(dataset: dict[str, Any]) -> str:
    """The output of an undisturbed direct run."""
    launch(prepare(Config.from_dict(dataset)))
    return str(dataset["output"]["path"])


@pytest.fixture(scope="session")
def slow(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A configuration with many units of about a second each, so that a job can be ended in the middle."""
    folder = tmp_path_factory.mktemp("slow")
    shard = shards.write_tfrecord(folder / "all.tfrecord", encoded_images(SLOW))
    explain = {"method": "smoothgrad", "samples": 150, "batch_size": 2}
    return configuration(folder, str(shard), input={"images_per_unit": 10}, explain=explain)


@pytest.fixture(scope="session")
def expected_slow(slow: dict[str, Any]) -> str:
    """The output of a direct run with this configuration."""
    launch(prepare(Config.from_dict(slow)))
    return str(slow["output"]["path"])
