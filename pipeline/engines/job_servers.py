"""Makes Beam's job server for Flink or Spark from its modules.

Beam publishes the job server as one jar with everything in it, and downloads that jar if it is given none. A registry
may have the modules and not that jar. Then Maven fetches the modules, and a jar that only names them is put beside
them. Java starts it like the one jar, and Beam sends the named jars with each job.
"""

from __future__ import annotations

import dataclasses
import pathlib
import re
import shutil
import subprocess
import tempfile
import zipfile
from collections.abc import Sequence
from xml.sax.saxutils import escape

# A job server takes jobs of other Beam versions. docs/running.md says which versions were run together.
_BEAM = "2.62.0"
_FLINK = "1.20.5"
_SPARK = "3.5.9"


class CannotMake(ValueError):
    """The job server cannot be made on this machine; one sentence that says what is missing."""


@dataclasses.dataclass(frozen=True, slots=True)
class JobServer:
    """The parts of a job server.

    Attributes:
      name: of the jar.
      main_class: the class that Java starts.
      modules: its modules, each GROUP:NAME:VERSION; Maven adds what they depend on.
      held: modules whose versions are fixed if a dependency asks for them.
    """

    name: str
    main_class: str
    modules: tuple[str, ...]
    held: tuple[str, ...]

    @property
    def engine(self) -> str:
        """`flink` or `spark`."""
        return self.name.partition("-")[0]

    @property
    def option(self) -> str:
        """Beam's option for the jar."""
        return f"{self.name.replace('-', '_')}_jar"


FLINK = JobServer(
    "flink-job-server",
    "org.apache.beam.runners.flink.FlinkJobServerDriver",
    (f"org.apache.beam:beam-runners-flink-1.19:{_BEAM}", "org.slf4j:slf4j-simple:1.7.30"),
    tuple(
        f"org.apache.flink:flink-{name}:{_FLINK}"
        for name in "annotations clients core java metrics-core runtime streaming-java".split()
    ),
)

SPARK = JobServer(
    "spark-job-server",
    "org.apache.beam.runners.spark.SparkJobServerDriver",
    (
        f"org.apache.beam:beam-runners-spark-3:{_BEAM}",
        *(f"org.apache.spark:spark-{name}_2.12:{_SPARK}" for name in ("core", "streaming")),
        "org.slf4j:slf4j-simple:1.7.30",
    ),
    (),
)

# The modules of Java that Beam's own job servers open.
_OPENED = "java.base/java.lang java.base/java.util java.base/java.nio java.base/sun.nio.ch"

_LIBRARIES = "libs"


def make_job_server(server: JobServer, folder: pathlib.Path) -> pathlib.Path:
    """Makes a job server in a folder: the jar, and beside it `libs` with the jars that it names. Needs Maven and Java.

    Args:
      server: FLINK or SPARK.
      folder: a folder that is empty or does not exist yet. Nothing is left in it if this fails.

    Returns:
      The jar.

    Raises:
      CannotMake: the folder is in use, there is no Maven, or it cannot fetch the modules.
    """
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise CannotMake(f"{folder} is there already; give a folder that is not, or is empty")
    if shutil.which("mvn") is None:
        raise CannotMake("there is no `mvn` here, which fetches the job server's modules; install Maven, and Java")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as work:
            made = pathlib.Path(work, "made")
            libraries = made / _LIBRARIES
            pom = pathlib.Path(work, "pom.xml")
            pom.write_text(pom_of(server))
            _fetch(pom, libraries)
            names = sorted(library.name for library in libraries.glob("*.jar"))
            with zipfile.ZipFile(made / f"{server.name}.jar", "w") as jar:
                jar.writestr("META-INF/MANIFEST.MF", _manifest(server, names))
            made.replace(folder)
    except OSError as error:
        raise CannotMake(f"{folder} cannot be written: {(error.strerror or str(error)).lower()}") from error
    return folder / f"{server.name}.jar"


def pom_of(server: JobServer) -> str:
    """The Maven project that names a job server's modules."""
    return f"""<?xml version="1.0" encoding="UTF-8"?>
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>fullgrad-beam</groupId>
  <artifactId>{escape(server.name)}</artifactId>
  <version>1</version>
  <packaging>pom</packaging>
  <dependencyManagement>
    <dependencies>
{_dependencies(server.held)}
    </dependencies>
  </dependencyManagement>
  <dependencies>
{_dependencies(server.modules)}
  </dependencies>
</project>
"""


def _dependencies(modules: Sequence[str]) -> str:
    lines = []
    for module in modules:
        group, name, version = module.split(":")
        place = f"<groupId>{group}</groupId><artifactId>{name}</artifactId><version>{version}</version>"
        lines.append(f"      <dependency>{place}</dependency>")
    return "\n".join(lines)


def _fetch(pom: pathlib.Path, libraries: pathlib.Path) -> None:
    """Lets Maven fetch the modules and their dependencies into a folder.

    Raises:
      CannotMake: Maven fails.
    """
    command = ["mvn", "--quiet", "--batch-mode", "--no-transfer-progress", f"--file={pom}"]
    goal = ["dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={libraries}"]
    done = subprocess.run([*command, *goal], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode or not libraries.is_dir():
        raise CannotMake(f"Maven cannot fetch the job server's modules: {last_words(done.stdout)}")


def last_words(text: str) -> str:
    """The line in the output of Maven, Go or pip that says what is wrong."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    lines = [line.strip().removeprefix("[ERROR] ") for line in plain.splitlines() if line.strip()] or ["no reason"]
    # Maven's last lines are about itself; an earlier one names what is missing.
    said = next((line for line in lines if "not find" in line.lower() or "not transfer" in line.lower()), lines[0])
    # The address of the registry comes from its configuration and may hold a password.
    return re.sub(r"\s*\(?https?://\S*", "", said)[:400].strip()


def _manifest(server: JobServer, libraries: Sequence[str]) -> str:
    """The jar's manifest. Its lines have at most 72 bytes; a line that begins with a space continues the one before."""
    entries = (
        "Manifest-Version: 1.0",
        f"Main-Class: {server.main_class}",
        f"Add-Opens: {_OPENED}",
        f"Class-Path: {' '.join(f'{_LIBRARIES}/{name}' for name in libraries)}",
    )
    lines = []
    for entry in entries:
        lines.append(entry[:72])
        lines.extend(f" {entry[i : i + 71]}" for i in range(72, len(entry), 71))
    return "\r\n".join([*lines, "", ""])
