"""Engines that are started once for all tests, and what they are given to explain."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from pipeline.config import Config
from pipeline.run import launch, prepare
from tests import shards
from tests.cluster.artifacts import Unavailable
from tests.cluster.engines import ENGINES, Engine
from tests.samples import configuration, encoded_images

SMALL, LARGE = (20, 20, 20, 20, 20, 20), 600


@pytest.fixture(scope="session", params=list(ENGINES))
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """Each of the engines; skipped where it cannot be had."""
    try:
        starting = ENGINES[request.param](tmp_path_factory.mktemp(request.param))
        engine = starting.__enter__()
    except Unavailable as reason:
        pytest.skip(f"{request.param}: {reason}")
    try:
        yield engine
    finally:
        starting.__exit__(None, None, None)


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A configuration for six small shards, and behind them a large one, which takes seconds; each is one unit."""
    folder = tmp_path_factory.mktemp("dataset")
    samples = encoded_images(sum(SMALL) + LARGE)
    for i, count in enumerate(SMALL):
        shards.write_tfrecord(folder / f"{i}-small.tfrecord", samples[i * count : (i + 1) * count])
    shards.write_tfrecord(folder / "9-large.tfrecord", samples[sum(SMALL) :])
    return configuration(folder, str(folder / "*.tfrecord"), explain={"batch_size": 2})


@pytest.fixture(scope="session")
def expected(dataset: dict[str, Any]) -> str:
    """The output of a direct run that nothing disturbed."""
    launch(prepare(Config.from_dict(dataset)))
    return str(dataset["output"]["path"])
