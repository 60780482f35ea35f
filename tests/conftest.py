"""What all tests share."""

from __future__ import annotations

import os
import pathlib

import pytest

# What takes longest, and so begins first. Tests of a group stay in one process: servers are started once, and no two
# processes fetch their programs at the same time.
_GROUPS = {
    "tests/cluster/": "cluster",
    "tests/pipeline/engines/test_job_servers.py": "cluster",
    "tests/test_image.py": "image",
}


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With `--dist=loadgroup`, keeps the tests of a file in one process: they share what their fixtures make."""
    if not config.pluginmanager.hasplugin("xdist"):
        return
    order = {name: place for place, name in enumerate(dict.fromkeys(_GROUPS.values()))}

    def group_of(item: pytest.Item) -> str:
        file = item.nodeid.partition("::")[0]
        return next((group for start, group in _GROUPS.items() if file.startswith(start)), file)

    for item in items:
        item.add_marker(pytest.mark.xdist_group(group_of(item)))
    if config.getoption("dist") == "loadgroup" or hasattr(config, "workerinput"):
        items.sort(key=lambda item: order.get(group_of(item), len(order)))


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
