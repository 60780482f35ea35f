"""The worker image: the Dockerfile, the lock files, and what comes of them, without a container engine.

Tests marked `image` take the Dockerfile's steps, in its order, into a fresh virtual environment of the image's Python.
Left out is what belongs to the machine and not to Python (the user, Beam's folder), and the installation of NVIDIA's
libraries, several GB that do nothing without a GPU: of these a resolver checks that they are there and fit together.
"""

from __future__ import annotations

import contextlib
import dataclasses
import email.parser
import io
import json
import os
import pathlib
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import tomllib
from collections.abc import Callable, Iterator, Sequence

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from dockerfile_parse import DockerfileParser
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from pipeline.config import Config
from pipeline.graph import build
from pipeline.run import prepare, read_summary
from tests.samples import configuration, encoded_images
from tests.shards import write_tfrecord

ROOT = pathlib.Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SCRIPTS = pathlib.Path(sysconfig.get_path("scripts"))
LOCKS = ("requirements.lock", "requirements-cuda.lock")


# ---- reading the Dockerfile and the lock files


@dataclasses.dataclass(frozen=True)
class Stage:
    """From one FROM to the next.

    Attributes:
      base: what it starts from: an image with its tag, or an earlier stage.
      name: as later stages call it.
      steps: each an instruction and its value.
    """

    base: str
    name: str | None
    steps: list[tuple[str, str]]

    def values(self, instruction: str) -> list[str]:
        return [value for name, value in self.steps if name == instruction]


def stages() -> list[Stage]:
    found: list[Stage] = []
    for step in DockerfileParser(fileobj=io.BytesIO((ROOT / "Dockerfile").read_bytes())).structure:
        if step["instruction"] == "FROM":
            base, *named = re.split(r"\s+AS\s+", step["value"], flags=re.IGNORECASE)
            found.append(Stage(base, named[0] if named else None, []))
        elif step["instruction"] != "COMMENT":
            found[-1].steps.append((step["instruction"], step["value"]))
    return found


def tag(stage: Stage) -> tuple[str, str]:
    """The image that a stage starts from, and its tag."""
    image, _, version = stage.base.partition(":")
    return image, version


BEAM, WORKER, UNPRIVILEGED = stages()


def pins(text: str) -> dict[str, str]:
    """The versions in a lock file's text, by package."""
    return dict(re.findall(r"^([a-z0-9-]+)==(\S+)", text, re.MULTILINE))


PINS = {name: pins((ROOT / name).read_text()) for name in LOCKS}
ALL_PINS = {name: version for lock in PINS.values() for name, version in lock.items()}


def platform_of(lock: str) -> tuple[str, str]:
    """The Python and the platform for which a lock file was made, such as 3.11 and x86_64-manylinux_2_36."""
    found = re.search(r"^# Python (\S+), (\S+)\. Made by \.ci/lock", (ROOT / lock).read_text(), re.MULTILINE)
    assert found, f"{lock} does not say what it is for"
    return found[1], found[2]


PYTHON, PLATFORM = platform_of("requirements.lock")


# ---- the Dockerfile


def test_hadolint_finds_nothing() -> None:
    ran = subprocess.run([SCRIPTS / "hadolint", ROOT / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout + ran.stderr) == (0, "")


def test_every_base_is_pinned_to_a_patch_version() -> None:
    names = {stage.name for stage in stages()}
    for stage in stages():
        if stage.base not in names:
            assert re.match(r"\d+\.\d+\.\d+(-|$)", tag(stage)[1]), stage.base


def test_python_is_the_same_everywhere() -> None:
    image, version = tag(WORKER)
    assert image == "python"
    assert tag(BEAM)[0] == f"apache/beam_python{PYTHON}_sdk"
    assert version.startswith(f"{PYTHON}.")
    assert f"Programming Language :: Python :: {PYTHON}" in PROJECT["classifiers"]
    assert platform_of("requirements-cuda.lock") == (PYTHON, PLATFORM)


def test_the_lock_files_are_for_the_c_library_of_the_base() -> None:
    glibc = {"bookworm": "2_36", "trixie": "2_41"}[tag(WORKER)[1].rpartition("-")[2]]
    assert f"x86_64-manylinux_{glibc}" == PLATFORM


def test_the_entry_point_is_that_of_the_beam_that_is_installed() -> None:
    assert tag(BEAM)[1] == ALL_PINS["apache-beam"]
    assert f"--from={BEAM.name} /opt/apache/beam /opt/apache/beam" in WORKER.values("COPY")
    assert WORKER.values("ENTRYPOINT") == ['["/opt/apache/beam/boot"]']


def test_the_image_runs_without_root() -> None:
    assert UNPRIVILEGED.base == WORKER.name
    assert UNPRIVILEGED.steps == [("USER", "1000")], "a number, which Kubernetes can tell from root's"
    assert "useradd --create-home --uid 1000 worker" in WORKER.values("RUN")
    # What the entry point writes, it then writes where that user may: into the working directory, and not into /opt.
    assert WORKER.values("WORKDIR")[-1] == "/home/worker"
    assert "RUN_PYTHON_SDK_IN_DEFAULT_ENVIRONMENT=1" in WORKER.values("ENV")


def test_a_change_of_code_leaves_the_layers_of_packages_as_they_are() -> None:
    steps = [value for name, value in WORKER.steps if name in ("COPY", "RUN")]
    places = [
        next(i for i, step in enumerate(steps) if words in step)
        for words in ("-r requirements-cuda.lock", "-r requirements.lock", "pipeline pipeline", "--no-deps")
    ]
    assert places == sorted(places)
    before_packages = " ".join(steps[: places[1]])
    assert "pyproject.toml" not in before_packages
    assert "transforms" not in before_packages


def test_the_container_engine_is_given_what_is_copied() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in lines, "nothing else"
    for sources, _ in copies():
        for source in sources:
            assert f"!{source}" in lines
            assert (ROOT / source).exists()


def copies() -> list[tuple[list[str], str]]:
    """What the image copies of this project, and to where."""
    found = [value.split() for value in WORKER.values("COPY") if not value.startswith("--from")]
    return [(words[:-1], words[-1]) for words in found]


# ---- the lock files


def required(*extras: str) -> list[Requirement]:
    """What the project requires, with extras."""
    texts = [*PROJECT["dependencies"], *(each for extra in extras for each in PROJECT["optional-dependencies"][extra])]
    return [Requirement(text) for text in texts]


@pytest.mark.parametrize("requirement", required("aws", "gcp", "cuda"), ids=str)
def test_a_pinned_version_is_one_that_the_project_allows(requirement: Requirement) -> None:
    assert Version(ALL_PINS[canonicalize_name(requirement.name)]) in requirement.specifier


@pytest.mark.parametrize("lock", LOCKS)
def test_all_is_pinned_and_has_hashes_and_no_line_names_a_registry(lock: str) -> None:
    entries = re.split(r"\n(?=\S)", re.sub(r"^#.*\n", "", (ROOT / lock).read_text(), flags=re.MULTILINE).strip())
    assert len(entries) == len(PINS[lock]) >= 10
    for entry in entries:
        assert re.fullmatch(r"[a-z0-9-]+==\S+ \\\n( +--hash=sha256:[0-9a-f]{64}( \\)?\n?)+( +#.*\n?)+", entry), entry
        assert "://" not in entry


def test_nvidia_s_libraries_have_a_file_of_their_own() -> None:
    assert all(name.startswith("nvidia-") for name in PINS["requirements-cuda.lock"])
    assert not any(name.startswith("nvidia-") for name in PINS["requirements.lock"])


@pytest.mark.network
def test_the_lock_files_are_what_their_script_makes(tmp_path: pathlib.Path) -> None:
    """Of versions, which a later release does not change, but a change of pyproject.toml or a package's withdrawal."""
    for name in (*LOCKS, "pyproject.toml", "README.md", "LICENSE", ".ci/lock"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    path = f"{SCRIPTS}{os.pathsep}{os.environ['PATH']}"
    subprocess.run([tmp_path / ".ci" / "lock"], env={**os.environ, "PATH": path}, check=True)
    assert {name: pins((tmp_path / name).read_text()) for name in LOCKS} == PINS


def resolve(lock: pathlib.Path, target: pathlib.Path) -> subprocess.CompletedProcess[str]:
    """Asks the resolver what it would install into an empty folder for the image; it reads packages' metadata alone."""
    arguments = [SCRIPTS / "uv", "pip", "install", "--dry-run", "--require-hashes", "--requirements", lock]
    arguments += ["--target", target, "--python-version", PYTHON, "--python-platform", PLATFORM]
    return subprocess.run(arguments, capture_output=True, text=True, check=False)


@pytest.mark.network
def test_nvidia_s_libraries_are_there_for_the_image_and_need_nothing_else(tmp_path: pathlib.Path) -> None:
    """Resolved, not installed."""
    lock = ROOT / "requirements-cuda.lock"
    resolved = resolve(lock, tmp_path / "image")
    assert resolved.returncode == 0, resolved.stderr
    assert pins(re.sub(r"^ \+ ", "", resolved.stderr, flags=re.MULTILINE)) == PINS["requirements-cuda.lock"]
    # A lock file that lacks one is seen.
    (tmp_path / "lacking").write_text(re.sub(r"^nvidia-nvjitlink[\s\S]*?(?=^\S|\Z)", "", lock.read_text(), flags=re.M))
    lacking = resolve(tmp_path / "lacking", tmp_path / "image")
    assert lacking.returncode != 0
    assert "nvidia-nvjitlink" in lacking.stderr


# ---- the image, as far as it goes without a container engine


@dataclasses.dataclass(frozen=True)
class Image:
    """What the Dockerfile's steps made.

    Attributes:
      environment: the virtual environment that stands for the image's Python.
      home: the working directory of a worker.
      variables: those that the Dockerfile sets, but for PATH and LD_LIBRARY_PATH.
    """

    environment: pathlib.Path
    home: pathlib.Path
    variables: dict[str, str]

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Runs a command as a worker's process would be."""
        return subprocess.run(
            command, cwd=self.home, env=self.process_variables(), capture_output=True, text=True, check=False
        )

    def process_variables(self) -> dict[str, str]:
        return {"PATH": f"{self.environment / 'bin'}:/usr/bin:/bin", "HOME": str(self.home), **self.variables}


def image_python() -> str:
    """An interpreter of the image's version, where this machine is of the image's kind and has one."""
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        pytest.skip(f"the lock files are for {PLATFORM}, and this machine is not")
    if f"{sys.version_info[0]}.{sys.version_info[1]}" == PYTHON:
        return sys.executable
    found = shutil.which(f"python{PYTHON}")
    if found is None:
        pytest.skip(f"there is no python{PYTHON}, which is the image's")
    return found


@pytest.fixture(scope="module")
def image() -> Iterator[Image]:
    with tempfile.TemporaryDirectory(prefix="image-") as folder:
        root = pathlib.Path(folder)
        subprocess.run([image_python(), "-m", "venv", root / "python"], check=True)
        yield build_image(root, root / "python")


# Steps of the Dockerfile that a test does not take: the first changes the machine, the second loads several GB.
NOT_RUN = (
    "useradd --create-home --uid 1000 worker",
    "pip install --no-cache-dir --require-hashes -r requirements-cuda.lock",
)


def build_image(root: pathlib.Path, environment: pathlib.Path) -> Image:
    """Runs the Dockerfile's steps with `root` for / and the virtual environment for the image's Python."""
    outside = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    # The base has no compiler.
    variables = {**outside, "PATH": f"{environment / 'bin'}:/usr/bin:/bin", "CC": "false", "CXX": "false"}
    variables.pop("VIRTUAL_ENV", None)
    assert set(NOT_RUN) <= set(WORKER.values("RUN"))
    folder, set_by_image = root, {}
    for instruction, value in WORKER.steps:
        if instruction == "WORKDIR":
            folder = root / value.lstrip("/")
            folder.mkdir(parents=True, exist_ok=True)
        elif instruction == "COPY" and not value.startswith("--from"):
            *sources, target = value.split()
            for source in sources:
                copy(ROOT / source, folder / target)
        elif instruction == "RUN" and value not in NOT_RUN:
            assert value.startswith("pip install "), f"may be no step for a virtual environment: {value}"
            # What pip keeps adds to the image, but spares the next test the downloads.
            command = value.replace(" --no-cache-dir", "")
            ran = subprocess.run(
                ["sh", "-ec", command], cwd=folder, env=variables, capture_output=True, text=True, check=False
            )
            assert ran.returncode == 0, f"{command}\n{ran.stdout[-4000:]}\n{ran.stderr[-4000:]}"
        elif instruction == "ENV":
            set_by_image.update(pair.split("=", 1) for pair in value.split())
    for path in ("PATH", "LD_LIBRARY_PATH"):  # where a driver would be mounted
        set_by_image.pop(path)
    return Image(environment, folder, set_by_image)


def copy(source: pathlib.Path, target: pathlib.Path) -> None:
    """As COPY does: a folder's content, or a file into a folder."""
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy(source, target)


def in_the_image(test: Callable[..., None]) -> Callable[..., None]:
    """Marks a test of what the steps made, the first of which waits for them."""
    return pytest.mark.image(pytest.mark.timeout(1800)(test))


@in_the_image
def test_what_is_installed_is_what_is_locked(image: Image) -> None:
    listed = json.loads(image.run("pip", "list", "--format=json", "--disable-pip-version-check").stdout)
    installed = {canonicalize_name(each["name"]): each["version"] for each in listed}
    assert installed.pop("fullgrad-beam") == PROJECT["version"]
    installed.pop("pip")  # the base's
    assert installed == PINS["requirements.lock"]


@in_the_image
def test_nvidia_s_libraries_are_those_that_tensorflow_asks_for(image: Image) -> None:
    [metadata] = (image.environment / "lib").glob("python*/site-packages/tensorflow-*.dist-info/METADATA")
    requirements = email.parser.Parser().parsestr(metadata.read_text()).get_all("Requires-Dist") or []
    asked = [
        requirement
        for requirement in map(Requirement, requirements)
        if requirement.marker is not None and requirement.marker.evaluate({"extra": "and-cuda"})
        if not requirement.marker.evaluate({"extra": ""})
    ]
    assert {requirement.name for requirement in asked} == PINS["requirements-cuda.lock"].keys()
    for requirement in asked:
        assert Version(ALL_PINS[requirement.name]) in requirement.specifier


@in_the_image
def test_the_command_is_there_and_is_the_installed_one(image: Image) -> None:
    helped = image.run("fullgrad", "--help")
    assert helped.returncode == 0, helped.stderr
    assert "inspect" in helped.stdout
    where = image.run("python", "-c", "import pipeline, transforms; print(pipeline.__file__, transforms.__file__)")
    assert where.stdout.count("site-packages") == 2, where


@pytest.mark.parametrize(
    "command",
    [
        ["python", "-c", "import apache_beam.runners.worker.sdk_worker_main"],
        ["python", "-m", "apache_beam.runners.worker.worker_pool_main", "--help"],
        ["python", "-m", "pip", "freeze", "--all"],
        ["python", "-c", "import apache_beam.io.gcp.gcsio, apache_beam.runners.dataflow.internal.apiclient"],
    ],
    ids=["a worker", "a worker pool", "the entry point's log", "Google Cloud"],
)
@in_the_image
def test_what_the_entry_point_and_dataflow_call_is_there(image: Image, command: Sequence[str]) -> None:
    ran = image.run(*command)
    assert ran.returncode == 0, ran.stderr


@in_the_image
def test_beam_s_entry_point_explains_images_in_it_as_a_pool_s_worker(image: Image, tmp_path: pathlib.Path) -> None:
    """Beam's own entry point, built from its source, which starts one process that loads the model once."""
    if f"{sys.version_info[0]}.{sys.version_info[1]}" != PYTHON:
        pytest.skip(f"a launcher must have the image's Python, {PYTHON}, and this is another")
    boot = entry_point(tmp_path)
    shards = [str(write_tfrecord(tmp_path / f"{i}.tfrecord", encoded_images(12, seed=i))) for i in range(2)]
    plan = prepare(Config.from_dict(configuration(tmp_path, shards)))
    plan.settings.output.create()
    with worker_pool(image, boot, tmp_path / "pool.log") as address:
        flags = ["--job_endpoint=embed", "--environment_type=EXTERNAL", f"--environment_config={address}"]
        pipeline = beam.Pipeline(runner="PortableRunner", options=PipelineOptions(flags))
        build(pipeline, plan.units, plan.settings)
        assert pipeline.run().wait_until_finish() == "DONE"
    assert read_summary(plan.settings.output).images == 24
    receipts = plan.settings.output.read_receipts()
    assert len({receipt.worker for receipt in receipts}) == 1
    assert [receipt.models_loaded for receipt in receipts] == [1, 1]
    assert str(os.getpid()) not in {receipt.worker.rpartition("/")[2] for receipt in receipts}
    # Where the user of the image may write.
    assert (image.home / "pipeline_options.json").exists()
    assert not pathlib.Path("/opt/apache/beam-venv").exists()


def entry_point(folder: pathlib.Path) -> pathlib.Path:
    """Builds what is /opt/apache/beam/boot in the image."""
    if shutil.which("go") is None:
        pytest.skip("there is no Go, with which Beam's entry point is built")
    package = f"github.com/apache/beam/sdks/v2/python/container@v{tag(BEAM)[1]}"
    subprocess.run(["go", "install", package], env={**os.environ, "GOBIN": str(folder)}, check=True)
    return folder / "container"


# Beam's worker pool as it is, but on the loopback interface alone and at a free port, which it tells.
POOL = """
import concurrent.futures, grpc, sys
from apache_beam.portability.api import beam_fn_api_pb2_grpc
from apache_beam.runners.worker.worker_pool_main import BeamFnExternalWorkerPoolServicer

server = grpc.server(concurrent.futures.ThreadPoolExecutor())
pool = BeamFnExternalWorkerPoolServicer(use_process=True, container_executable=sys.argv[1])
beam_fn_api_pb2_grpc.add_BeamFnExternalWorkerPoolServicer_to_server(pool, server)
port = server.add_insecure_port("127.0.0.1:0")
server.start()
print(port, flush=True)
server.wait_for_termination()
"""


@contextlib.contextmanager
def worker_pool(image: Image, boot: pathlib.Path, log: pathlib.Path) -> Iterator[str]:
    """Runs a worker pool of the image while the block lasts; gives its address."""
    with log.open("w") as sink:
        process = subprocess.Popen(
            [image.environment / "bin" / "python", "-c", POOL, boot],
            cwd=image.home,
            env=image.process_variables(),
            stdout=subprocess.PIPE,
            stderr=sink,
            text=True,
        )
        try:
            assert process.stdout is not None
            port = process.stdout.readline().strip()
            assert port, log.read_text()
            yield f"localhost:{port}"
        finally:
            process.terminate()
            process.wait()
