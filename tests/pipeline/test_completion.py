"""`fullgrad completion`: real shells load the script and complete command lines."""

from __future__ import annotations

import pathlib
import shutil
import subprocess

import pytest

from pipeline.cli import main

# What bash does when Tab is pressed at the end of the words.
TAB_IN_BASH = """
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
function=$(complete -p fullgrad | sed 's/.*-F \\([^ ]*\\).*/\\1/')
$function fullgrad "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


def script(shell: str, folder: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> pathlib.Path:
    assert main(["completion", shell]) == 0
    path = folder / f"completion.{shell}"
    path.write_text(capsys.readouterr().out)
    return path


def output_of(shell: str, *arguments: str, folder: pathlib.Path) -> list[str]:
    if shutil.which(shell) is None:
        pytest.skip(f"there is no {shell}")
    ran = subprocess.run([shell, *arguments], cwd=folder, capture_output=True, text=True, check=False, timeout=60)
    assert ran.stderr == ""
    return ran.stdout.split("\n")


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["ex"], {"export"}),
        (["run", "--dry"], {"--dry-run"}),
        (["demo", "--shortcut", ""], {"corner", "wandering", "border", "none"}),
        (["run", "--set", "explain.batch"], {"explain.batch_size="}),
        (["run", "conf"], {"config.yaml", "configs"}),
        (["status", "conf"], {"configs"}),
        (["completion", "f"], {"fish"}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bash_completes_commands_options_values_keys_files_and_folders(
    words: list[str], found: set[str], tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = script("bash", tmp_path, capsys)
    (tmp_path / "config.yaml").touch()
    (tmp_path / "configs").mkdir()
    lines = output_of("bash", "-c", TAB_IN_BASH, "tab", str(path), "fullgrad", *words, folder=tmp_path)
    assert set(lines) - {""} == found


def test_fish_completes_commands_and_keys(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = script("fish", tmp_path, capsys)
    for line, word in (("fullgrad ex", "export"), ("fullgrad run --set explain.batch", "explain.batch_size=")):
        lines = output_of("fish", "--no-config", "-c", f"source {path}; complete -C '{line}'", folder=tmp_path)
        assert [each.partition("\t")[0] for each in lines if each] == [word]


def test_zsh_takes_the_script(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    script("zsh", tmp_path, capsys).rename(tmp_path / "_fullgrad")
    commands = f"fpath=({tmp_path} $fpath); autoload -Uz compinit; compinit -u -d {tmp_path}/dump; "
    commands += "print $_comps[fullgrad]; autoload +X _fullgrad && print loaded"
    assert output_of("zsh", "-f", "-c", commands, folder=tmp_path) == ["_fullgrad", "loaded", ""]
