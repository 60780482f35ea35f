"""What the tests of whole runs share."""

from __future__ import annotations

import pathlib
from typing import Any

import pytest

from tests import shards
from tests.samples import configuration, encoded_images


@pytest.fixture
def dataset(tmp_path: pathlib.Path) -> dict[str, Any]:
    """A configuration for two TFRecord shards of 20 and 13 images."""
    samples = encoded_images(33)
    shards.write_tfrecord(tmp_path / "a.tfrecord", samples[:20])
    shards.write_tfrecord(tmp_path / "b.tfrecord", samples[20:])
    return configuration(tmp_path, str(tmp_path / "*.tfrecord"))
