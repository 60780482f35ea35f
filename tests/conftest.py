"""What all tests share."""

from __future__ import annotations

import collections
import os
import pathlib
from typing import Any

import pytest

# Tests that run in one process, although they are in several files: servers are started once, and no two processes
# fetch their programs at the same time. They take longest, so they begin first.
_GROUPS = {
    "tests/cluster/": "cluster",
    "tests/pipeline/engines/test_job_servers.py": "cluster",
    "tests/test_image.py": "image",
}

# These engines share no programs with the others, so they are a group of their own.
_LIGHT_ENGINES = ("[prism]", "[processes]")


# Files that take longest of the rest. They come next, so that no process ends with one while the others have nothing.
_LONG = (
    "tests/transforms/test_inference.py",
    "tests/pipeline/test_run.py",
    "tests/pipeline/test_storage.py",
    "tests/pipeline/test_cli.py",
    "tests/transforms/sources/test_fuzz.py",
    "tests/test_contributing.py",
    "tests/field/test_keras2_models.py",
    "tests/transforms/fullgrad/test_families.py",
)


def _group_of(nodeid: str) -> str:
    """The group of a test; that of most tests is their file, as they share what its fixtures make."""
    file = nodeid.partition("::")[0]
    if file.startswith("tests/cluster/") and nodeid.endswith(_LIGHT_ENGINES):
        return "light engines"
    return next((group for start, group in _GROUPS.items() if file.startswith(start)), file)


# Every test that was collected, whatever is chosen of them; for tests/test_sets.py.
COLLECTED = pytest.StashKey[list[pytest.Item]]()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Marks the slow ones among a test's cases, and puts the groups first."""
    cases: collections.Counter[tuple[Any, ...]] = collections.Counter()
    for item in items:
        if few := item.get_closest_marker("quick_cases"):
            test = item.path, item.parent, getattr(item, "originalname", item.name)
            if cases[test] % few.kwargs["every"]:
                item.add_marker(pytest.mark.slow)
            cases[test] += 1
    config.stash[COLLECTED] = list(items)
    first = [*dict.fromkeys(_GROUPS.values()), "light engines", *_LONG]
    items.sort(key=lambda item: first.index(group) if (group := _group_of(item.nodeid)) in first else len(first))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """The processes of `--numprocesses=auto`: one for each core, up to four, for the whole set of tests.

    For tests that are named there is none: each process would import TensorFlow first, longer than most files take.
    """
    if config.args_source is not pytest.Config.ArgsSource.TESTPATHS:
        return 0
    return min(4, os.cpu_count() or 1)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With pytest-xdist, gives each process whole groups."""
    from xdist.scheduler import LoadScopeScheduling

    class Groups(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return _group_of(nodeid)

    return Groups(config, log) if config.getoption("dist") == "loadscope" else None


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
