"""The wheel and the source distribution: built, checked, installed without the repository, and used."""

from __future__ import annotations

import dataclasses
import email.parser
import email.policy
import os
import pathlib
import re
import subprocess
import sys
import sysconfig
import tarfile
import zipfile

import pytest

ROOT = pathlib.Path(__file__).parent.parent
SCRIPTS = pathlib.Path(sysconfig.get_path("scripts"))

pytestmark = pytest.mark.network  # a build asks for setuptools


@dataclasses.dataclass(frozen=True)
class Distributions:
    """What is released."""

    wheel: pathlib.Path
    sdist: pathlib.Path


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Distributions:
    """Both, the wheel built from the source distribution."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run([SCRIPTS / "uv", "build", "--quiet", "--out-dir", folder, ROOT], check=True)
    [wheel], [sdist] = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return Distributions(wheel, sdist)


def test_an_index_takes_both(built: Distributions) -> None:
    command = [sys.executable, "-m", "twine", "check", "--strict", built.wheel, built.sdist]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_the_description_has_no_link_that_leads_nowhere_on_an_index(built: Distributions) -> None:
    with zipfile.ZipFile(built.wheel) as archive:
        [name] = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        metadata = email.parser.BytesParser(policy=email.policy.compat32).parsebytes(archive.read(name))
    text = metadata.get_payload()
    assert isinstance(text, str)
    assert metadata["Description-Content-Type"] == "text/markdown"
    links = re.findall(r"\]\(([^)]*)\)", text)
    assert links
    assert [link for link in links if not link.startswith("https://")] == []
    # What it names instead is in the source distribution.
    with tarfile.open(built.sdist) as tar:
        held = {name.partition("/")[2] for name in tar.getnames()}
    named = set(re.findall(r"`((?:docs|examples|configs|pipeline|transforms)(?:/[\w./-]+)?)`", text))
    assert len(named) > 10
    assert {path for path in named if path not in held} == set()


@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_it_is_installed_without_the_repository_and_works(
    kind: str, built: Distributions, tmp_path: pathlib.Path
) -> None:
    uv, environment = SCRIPTS / "uv", tmp_path / "environment"
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, environment], check=True)
    python = environment / "bin" / "python"
    subprocess.run([uv, "pip", "install", "--quiet", "--no-deps", "--python", python, getattr(built, kind)], check=True)
    # What it requires is taken from the tests' environment, whose own .pth files are not read from here.
    [packages] = (environment / "lib").glob("python*/site-packages")
    (packages / "requirements.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    outside = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}

    def run(*command: str | pathlib.Path) -> str:
        ran = subprocess.run(command, cwd=tmp_path, env=outside, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    assert run(environment / "bin" / "fullgrad", "--version").startswith("fullgrad 0.")
    assert "explain.batch_size" in run(environment / "bin" / "fullgrad", "run", "--help")
    files = {path.relative_to(ROOT).as_posix() for path in (ROOT / "pipeline" / "report" / "templates").rglob("*.*")}
    files |= {"pipeline/py.typed", "transforms/py.typed", "fullgrad_beam.py"}
    assert [name for name in sorted(files) if not (packages / name).is_file()] == []
    assert str(packages) in run(python, "-c", "import pipeline, transforms; print(pipeline.__file__, transforms)")
