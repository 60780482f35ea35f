"""What all tests share."""

from __future__ import annotations

import os
import pathlib

import pytest


@pytest.fixture(scope="session")
def test_data() -> pathlib.Path:
    """The folder of real models and images; tests that need it are skipped where it is absent."""
    root = pathlib.Path(__file__).parent.parent
    folder = pathlib.Path(os.environ.get("FULLGRAD_TEST_DATA", root.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("the folder of real models and images is not there (FULLGRAD_TEST_DATA)")
    return folder


@pytest.fixture(scope="session")
def small_output(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The output of a run on two TFRecord shards of 20 and 13 images, explained for two classes each. Do not change it.

    The shards are beside it. In b.tfrecord, the last image has the id of the first.
    """
    # Importing these takes seconds, for which no other test should wait.
    from tests import shards
    from tests.runs import run
    from tests.samples import encoded_images

    folder = tmp_path_factory.mktemp("small")
    samples = encoded_images(33)
    samples[-1] = (samples[20][0], *samples[-1][1:])
    shards.write_tfrecord(folder / "a.tfrecord", samples[:20])
    shards.write_tfrecord(folder / "b.tfrecord", samples[20:])
    return run(folder, str(folder / "*.tfrecord"), explain={"targets": "top-2"})
