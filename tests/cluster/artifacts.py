"""The servers' programs and libraries. The clients of the package registries fetch them once, into a cache of the user.

`FULLGRAD_PRISM` and `FULLGRAD_FLINK_JOB_SERVER` name local files that are taken instead.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import pathlib
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import time
from collections.abc import Callable, Sequence

import apache_beam as beam

from pipeline.engines import job_servers

CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "fullgrad-beam-tests"
FLINK = "1.20.5"
FLINK_LINE = FLINK.rpartition(".")[0]  # Beam names its job servers by it
VERSITYGW = "v1.8.0"

_UV = [os.path.join(sysconfig.get_path("scripts"), "uv"), "tool"]

_ASK_AGAIN_SECONDS = 24 * 3600.0


class Unavailable(Exception):
    """A server is not available here; one sentence that says why."""


def prism() -> pathlib.Path:
    """The binary of Prism, in the version of Beam.

    Raises:
      Unavailable: there is no Go, or the module cannot be had.
    """
    package = f"github.com/apache/beam/sdks/v2/go/cmd/prism@v{beam.__version__}"

    def make(folder: pathlib.Path) -> None:
        _run(["go", "install", package], env={"GOBIN": str(folder)})

    return _local_file("FULLGRAD_PRISM") or _cached(f"prism-{beam.__version__}", make) / "prism"


def s3_server() -> pathlib.Path:
    """A server that speaks S3 and keeps its objects in a folder.

    Raises:
      Unavailable: there is no Go, or the module cannot be had.
    """

    def make(folder: pathlib.Path) -> None:
        package = f"github.com/versity/versitygw/cmd/versitygw@{VERSITYGW}"
        _run(["go", "install", package], env={"GOBIN": str(folder)})

    return _cached(f"versitygw-{VERSITYGW}", make) / "versitygw"


def flink() -> pathlib.Path:
    """The folder with the jars of a Flink distribution, from the source distribution that PyPI has.

    Raises:
      Unavailable: there is no Java from 11 on, or the package cannot be had.
    """
    _require_java()

    def make(folder: pathlib.Path) -> None:
        # An environment that uv made has no pip.
        pip = (
            [sys.executable, "-m", "pip"] if importlib.util.find_spec("pip") else [*_UV, "run", "--from", "pip", "pip"]
        )
        _run([*pip, "download", "--quiet", "--no-deps", "--dest", str(folder), f"apache-flink-libraries=={FLINK}"])
        [source] = folder.glob("*.tar.gz")
        with tarfile.open(source) as archive:
            for member in archive:
                if re.fullmatch(r"[^/]+/deps/lib/[^/]+\.jar", member.name):
                    member.name = member.name.rpartition("/")[2]
                    archive.extract(member, folder, filter="data")
        source.unlink()

    return _cached(f"flink-{FLINK}", make)


def flink_job_server() -> pathlib.Path:
    """Beam's job server for this version of Flink.

    Raises:
      Unavailable: there is no Java or Maven, or the modules cannot be had.
    """
    return _local_file("FULLGRAD_FLINK_JOB_SERVER") or _job_server(job_servers.FLINK)


def spark_job_server() -> pathlib.Path:
    """Beam's job server for Spark. Spark itself is among its libraries.

    Raises:
      Unavailable: there is no Java or Maven, or the modules cannot be had.
    """
    return _job_server(job_servers.SPARK)


def _job_server(server: job_servers.JobServer) -> pathlib.Path:
    """A job server, made in the same way as by the command line."""
    _require_java()

    def make(folder: pathlib.Path) -> None:
        try:
            job_servers.make_job_server(server, folder)
        except job_servers.CannotMake as error:
            raise Unavailable(str(error)) from error

    version = hashlib.sha256(job_servers.pom_of(server).encode()).hexdigest()[:8]
    return _cached(f"{server.name}-{version}", make) / f"{server.name}.jar"


def beam_in_flink() -> list[pathlib.Path]:
    """The job server's jars that a Flink cluster needs on its class path. Flink has its own modules and logging, so
    these are left out."""
    libraries = _job_server(job_servers.FLINK).parent / "libs"
    return [jar for jar in sorted(libraries.glob("*.jar")) if not jar.name.startswith(("flink-", "slf4j-"))]


def _local_file(variable: str) -> pathlib.Path | None:
    name = os.environ.get(variable)
    if name is not None and not os.path.isfile(name):
        raise Unavailable(f"{variable} is {name}, which is no file")
    return None if name is None else pathlib.Path(name)


def _require_java() -> None:
    text = _run(["java", "-version"])
    found = re.search(r'version "(\d+)', text)
    if found is None or int(found[1]) < 11:
        raise Unavailable(f"Flink {FLINK} needs Java from 11 on, and `java` here is {text.splitlines()[0]}")


def _cached(name: str, make: Callable[[pathlib.Path], None]) -> pathlib.Path:
    """A folder of the cache that `make` fills. After a failure, the next attempt is a day later."""
    folder, failure = CACHE / name, CACHE / f"{name}.unavailable"
    if folder.is_dir():
        return folder
    if failure.exists() and failure.stat().st_mtime > time.time() - _ASK_AGAIN_SECONDS:
        raise Unavailable(failure.read_text().strip())
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=CACHE) as work:
        part = pathlib.Path(work, name)
        part.mkdir()
        try:
            make(part)
        except Unavailable as error:
            failure.write_text(f"{error}\n")
            raise
        with contextlib.suppress(OSError):  # tests of another checkout made it at the same time
            part.rename(folder)
    return folder


def _run(command: Sequence[str], env: dict[str, str] | None = None) -> str:
    """The output of a command, on both streams.

    Raises:
      Unavailable: there is no such command, it fails, or takes more than ten minutes.
    """
    if shutil.which(command[0]) is None:
        raise Unavailable(f"there is no `{command[0]}` here")
    try:
        done = subprocess.run(
            command,
            env={**os.environ, **(env or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=600,
        )
    except subprocess.TimeoutExpired as error:
        raise Unavailable(f"`{command[0]}` took more than ten minutes to fetch {command[-1]}") from error
    if done.returncode:
        raise Unavailable(f"`{command[0]}` cannot fetch it: {job_servers.last_words(done.stdout)}")
    return done.stdout
