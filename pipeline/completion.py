"""The command `completion`: a shell's script that completes the command line, made from the arguments themselves."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

SHELLS = ("bash", "zsh", "tcsh", "fish")
_FOLDERS = ("OUTPUT", "DIR", "A", "B")
_FILES = ("MODEL", "DATA", "PATH", "CONFIG.yaml")


def completion_arguments(commands: Any) -> None:
    """Adds the arguments of `fullgrad completion` to the commands."""
    command = commands.add_parser(
        "completion",
        help="print a script with which a shell completes this command",
        description="Prints a script with which a shell completes commands, options, files and keys of the "
        'configuration. For bash, in ~/.bashrc: eval "$(fullgrad completion bash)". For zsh: fullgrad completion zsh > '
        "a file _fullgrad in a folder of $fpath. For fish: fullgrad completion fish > "
        "~/.config/fish/completions/fullgrad.fish.",
    )
    command.add_argument("shell", choices=SHELLS, help="the shell")


def print_completion(shell: str, fullgrad: argparse.ArgumentParser) -> int:
    """Prints the script of a shell for a parser, which is changed; returns the exit code."""
    import shtab

    from pipeline.config import schema_keys

    for action in _actions(fullgrad):
        metavar = action.metavar if isinstance(action.metavar, str) else ""
        if action.dest == "overrides":  # of --set; the parser must not refuse others, but it parses no more
            action.choices = [f"{key}=" for key in schema_keys()]
        elif metavar in _FOLDERS:
            action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
        elif metavar in _FILES or metavar.startswith("FILE"):
            action.complete = shtab.FILE  # type: ignore[attr-defined]
    print(shtab.complete(fullgrad, shell=shell))
    return 0


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """A parser's arguments and those of its commands."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _actions(command)
        else:
            yield action
