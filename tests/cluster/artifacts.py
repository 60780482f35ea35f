"""What the servers are made of: fetched by the clients of the package registries, once, into a folder of the checkout.

`FULLGRAD_PRISM` and `FULLGRAD_FLINK_JOB_SERVER` name local files that are taken instead.
"""

from __future__ import annotations

import os
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Sequence

import apache_beam as beam

CACHE = pathlib.Path(__file__).parent.parent.parent / ".artifacts"
FLINK = "1.20.5"
FLINK_LINE = FLINK.rpartition(".")[0]  # by which Beam names its job servers

_ASK_AGAIN_SECONDS = 24 * 3600.0


class Unavailable(Exception):
    """A server cannot be had here; one sentence that says why."""


def prism() -> pathlib.Path:
    """Prism's binary, of the version of Beam.

    Raises:
      Unavailable: there is no Go, or the module cannot be had.
    """
    package = f"github.com/apache/beam/sdks/v2/go/cmd/prism@v{beam.__version__}"

    def make(folder: pathlib.Path) -> None:
        _run(["go", "install", package], env={"GOBIN": str(folder)})

    return _local_file("FULLGRAD_PRISM") or _cached(f"prism-{beam.__version__}", make) / "prism"


def flink() -> pathlib.Path:
    """The folder of the jars of a Flink distribution, from the wheel's source that PyPI has of it.

    Raises:
      Unavailable: there is no Java from 11 on, or the package cannot be had.
    """
    _require_java()

    def make(folder: pathlib.Path) -> None:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder)]
        _run([*pip, f"apache-flink-libraries=={FLINK}"])
        [source] = folder.glob("*.tar.gz")
        with tarfile.open(source) as archive:
            for member in archive:
                if re.fullmatch(r"[^/]+/deps/lib/[^/]+\.jar", member.name):
                    member.name = member.name.rpartition("/")[2]
                    archive.extract(member, folder, filter="data")
        source.unlink()

    return _cached(f"flink-{FLINK}", make)


def flink_job_server() -> pathlib.Path:
    """Beam's job server for that Flink, as one jar.

    Raises:
      Unavailable: there is no Java or Maven, or the registry does not have the jar.
    """
    _require_java()
    name = f"beam-runners-flink-{FLINK_LINE}-job-server"
    jar = f"org/apache/beam/{name}/{beam.__version__}/{name}-{beam.__version__}.jar"

    def make(folder: pathlib.Path) -> None:
        artifact = f"org.apache.beam:{name}:{beam.__version__}"
        get = ["mvn", "--quiet", "--batch-mode", f"-Dmaven.repo.local={folder}", "dependency:get"]
        _run([*get, f"-Dartifact={artifact}", "-Dtransitive=false"])

    return _local_file("FULLGRAD_FLINK_JOB_SERVER") or _cached(f"{name}-{beam.__version__}", make) / jar


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
    """A folder of the cache that `make` fills. What could not be had is not asked for again for a day."""
    folder, failure = CACHE / name, CACHE / f"{name}.unavailable"
    if folder.is_dir():
        return folder
    if failure.exists() and failure.stat().st_mtime > time.time() - _ASK_AGAIN_SECONDS:
        raise Unavailable(failure.read_text().strip())
    part = CACHE / f"{name}.part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        make(part)
    except Unavailable as error:
        failure.write_text(f"{error}\n")
        raise
    part.rename(folder)
    return folder


def _run(command: Sequence[str], env: dict[str, str] | None = None) -> str:
    """What a command says, on either stream.

    Raises:
      Unavailable: there is no such command, it fails, or takes more than five minutes.
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
            timeout=300,
        )
    except subprocess.TimeoutExpired as error:
        raise Unavailable(f"`{command[0]}` took more than five minutes to fetch {command[-1]}") from error
    if done.returncode:
        # Maven's last lines are about Maven; the first one names what is missing.
        lines = [line.removeprefix("[ERROR] ") for line in done.stdout.splitlines() if line.strip()] or ["no reason"]
        said = next((line for line in lines if "not find" in line.lower()), lines[-1])
        said = re.sub(r" (in|from/to) .*\(?https?://.*", "", said)  # which registry, is nobody's business here
        raise Unavailable(f"`{command[0]}` cannot fetch it: {said[:300]}")
    return done.stdout
