"""The Dockerfile, built by a container engine; and the image, run as a worker pool.

Bases that are not in the engine's store are replaced by stand-ins: Debian's Python of the same minor version, and
Beam's entry point built from its source. NVIDIA's libraries, several GB that do nothing without a GPU, are left out.
"""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Iterator

import pytest
from packaging.utils import canonicalize_name

from tests.containers import buildah
from tests.samples import encoded_images
from tests.shards import write_tfrecord
from tests.test_image import BEAM, PINS, PROJECT, PYTHON, ROOT, WORKER, copies, tag

IMAGE = "localhost/fullgrad-worker:tests"
PORT = 50000  # that of `--worker_pool`

pytestmark = [pytest.mark.image, pytest.mark.timeout(3000)]


@pytest.fixture(scope="module")
def store() -> buildah.Store:
    if os.environ.get("FULLGRAD_BUILD_IMAGE") != "1":
        pytest.skip("the image is built only if FULLGRAD_BUILD_IMAGE=1, as .ci/image sets it")
    if reason := buildah.missing():
        pytest.skip(reason)
    store = buildah.Store()
    if not store.has(f"docker.io/{BEAM.base}"):
        store.make_beam(f"docker.io/{BEAM.base}", tag(BEAM)[1])
    if not store.has(f"docker.io/library/{WORKER.base}"):
        store.make_python(f"docker.io/library/{WORKER.base}")
    return store


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """What the Dockerfile copies, with an empty list of NVIDIA's libraries."""
    folder = tmp_path_factory.mktemp("context")
    for name in ("Dockerfile", ".dockerignore", *(source for sources, _ in copies() for source in sources)):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, folder / name)
    (folder / "requirements-cuda.lock").write_text("# None, for a test without a GPU.\n")
    return folder


@pytest.fixture(scope="module")
def image(store: buildah.Store, context: pathlib.Path) -> str:
    """Builds the image."""
    store.build(context, IMAGE)
    return IMAGE


@pytest.fixture
def container(store: buildah.Store, image: str) -> Iterator[buildah.Container]:
    name = store.buildah("from", "--pull-never", image)
    yield buildah.Container(store, name)
    store.buildah("rm", name)


def test_it_runs_without_root_and_writes_in_its_home_alone(container: buildah.Container) -> None:
    assert container.run("id", "--user") == "1000"
    assert container.run("pwd") == "/home/worker"
    assert container.run("sh", "-c", "touch here && test ! -w /opt/fullgrad && test ! -w /opt/apache && ls") == "here"


def test_what_is_installed_is_what_is_locked(container: buildah.Container) -> None:
    listed = json.loads(container.run("pip", "list", "--format=json", "--disable-pip-version-check"))
    installed = {canonicalize_name(each["name"]): each["version"] for each in listed}
    assert installed.pop("fullgrad-beam") == PROJECT["version"]
    installed.pop("pip")  # the base's
    if "setuptools" not in PINS["requirements.lock"]:
        installed.pop("setuptools", None)
    assert installed == PINS["requirements.lock"]


def test_the_entry_point_is_a_pool_whose_workers_explain_images(
    store: buildah.Store, container: buildah.Container, tmp_path: pathlib.Path
) -> None:
    if f"{sys.version_info[0]}.{sys.version_info[1]}" != PYTHON:
        pytest.skip(f"a launcher must have the image's Python, {PYTHON}, and this is another")
    if shutil.which("unshare") is None or shutil.which("ip") is None:
        pytest.skip("there is no unshare and ip, which give the pool a network of its own")
    shards = [str(write_tfrecord(tmp_path / f"{i}.tfrecord", encoded_images(12, seed=i))) for i in range(2)]
    tmp_path.chmod(0o777)
    config = store.config(IMAGE)
    assert config["User"] == "1000"
    pool = store.command_in(container.name, [*config["Entrypoint"], "--worker_pool"], [f"{tmp_path}:{tmp_path}"])
    job = [sys.executable, "-m", "tests.containers.job", str(tmp_path), f"localhost:{PORT}", *shards]
    log = tmp_path / "pool.log"
    # A pool listens on every address. In a network of its own there is none but loopback.
    script = 'ip link set lo up; log=$1; pool=$2; shift 2; sh -c "exec $pool" > "$log" 2>&1 & '
    script += 'id=$!; "$@"; code=$?; kill -INT $id; wait $id; exit $code'
    command = ["unshare", "--net", "bash", "-c", script, "job", str(log), " ".join(pool), *job]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=400)
    assert ran.returncode == 0, ran.stderr[-3000:] + log.read_text()[-3000:]
    said = json.loads(ran.stdout.splitlines()[-1])
    assert (said["state"], said["images"], said["models_loaded"]) == ("DONE", 24, [1, 1])
    [worker] = said["workers"]
    assert worker.rpartition("/")[2] != str(said["launcher"])
    written = list((tmp_path / "out" / "maps").rglob("*.parquet"))
    assert written
    assert {path.stat().st_uid for path in written} == {1000}


def test_a_change_of_code_makes_the_layers_after_the_packages_anew_and_no_others(
    store: buildah.Store, image: str, context: pathlib.Path
) -> None:
    before = store.layers(image)
    changed = context / "pipeline" / "__init__.py"
    text = changed.read_text()
    changed.write_text(f"{text}# changed\n")
    try:
        store.build(context, f"{IMAGE}-changed")
    finally:
        changed.write_text(text)
    after = store.layers(f"{IMAGE}-changed")
    store.buildah("rmi", f"{IMAGE}-changed")
    same = [old == new for old, new in zip(before, after, strict=True)]
    place = [value for name, value in WORKER.steps if name in ("RUN", "COPY", "WORKDIR")].index("pipeline pipeline")
    kept = len(before) - same[::-1].index(True) if True in same else 0
    assert same[:kept] == [True] * kept
    assert kept >= place, "the packages are before"
    assert not same[-1]
