"""Job servers: what is refused, and the jar that names others; tests/cluster starts them."""

from __future__ import annotations

import dataclasses
import pathlib
import shutil
import zipfile

import pytest

from pipeline.cli import main
from pipeline.engines.job_servers import FLINK, SPARK, CannotMake, JobServer, last_words, make_job_server
from tests.cluster import artifacts
from tests.cluster.missing import skip_or_fail

needs_maven = pytest.mark.skipif(shutil.which("mvn") is None, reason="there is no Maven here")


def test_a_folder_that_is_in_use_is_refused_and_left_as_it_is(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine").write_text("text")
    for folder in (tmp_path, tmp_path / "mine"):
        assert main(["flink-job-server", str(folder)]) == 2
        assert f"{folder} is there already" in capsys.readouterr().err.replace("\n", " ")
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_without_maven_one_sentence_says_so(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CannotMake, match=r"^there is no `mvn` here.*install Maven, and Java$"):
        make_job_server(FLINK, tmp_path / "server")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.cluster
@needs_maven
def test_a_module_that_cannot_be_had_is_named_and_nothing_is_left(tmp_path: pathlib.Path) -> None:
    missing = dataclasses.replace(FLINK, modules=("org.apache.beam:beam-no-such-module:2.62.0",), held=())
    with pytest.raises(
        CannotMake, match=r"^Maven cannot fetch the job server's modules: .*beam-no-such-module"
    ) as error:
        make_job_server(missing, tmp_path / "server")
    assert "\n" not in str(error.value)
    assert "://" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.cluster
@pytest.mark.parametrize("server", [FLINK, SPARK], ids=lambda server: server.name)
def test_the_jar_names_every_jar_beside_it(server: JobServer) -> None:
    try:
        jar = {FLINK: artifacts.flink_job_server, SPARK: artifacts.spark_job_server}[server]()
    except artifacts.Unavailable as reason:
        skip_or_fail(reason)
    with zipfile.ZipFile(jar) as archive:
        assert archive.namelist() == ["META-INF/MANIFEST.MF"]
        manifest = archive.read("META-INF/MANIFEST.MF").decode()
    assert max(len(line) for line in manifest.split("\r\n")) <= 72  # the format's limit
    entries = dict(line.split(": ", 1) for line in manifest.replace("\r\n ", "").splitlines() if line)
    assert entries["Main-Class"] == server.main_class
    named = {(jar.parent / name).name for name in entries["Class-Path"].split()}
    assert named == {library.name for library in (jar.parent / "libs").iterdir()}
    assert any(name.startswith(server.modules[0].split(":")[1]) for name in named)


def test_of_what_maven_says_the_line_with_the_reason_is_told_without_the_registry() -> None:
    said = (
        "\x1b[1m[ERROR]\x1b[0m Failed to execute goal on project x\n"
        "[ERROR] Could not find artifact a:b:jar:1 in central (https://user:word@registry.example/maven) -> [Help 1]\n"
        "[ERROR] To see the full stack trace of the errors, re-run Maven with the -e switch.\n"
    )
    assert last_words(said).startswith("Could not find artifact a:b:jar:1 in central")
    assert "word" not in last_words(said)
    assert last_words("") == "no reason"
