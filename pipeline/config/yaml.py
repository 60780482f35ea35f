"""Reads YAML from a file and from `--set`, and remembers where each key stands."""

from __future__ import annotations

import dataclasses
import os
import select
import stat
from collections.abc import Container, Mapping, Sequence
from typing import Any

import yaml

from pipeline.config.loader import DEEPEST, MOST_BYTES, is_unicode, parse_yaml, plain_value
from pipeline.config.problems import ConfigError, shortened, show, within

_PIPE_SECONDS = 4
_PRIVATE = (*range(0xE000, 0xF8FF), *range(0xF0000, 0xFFFFD))  # characters without a meaning


@dataclasses.dataclass(frozen=True, slots=True)
class Override:
    """A `KEY=VALUE` from the command line, with its value parsed."""

    text: str
    key: str
    value: Any


@dataclasses.dataclass(frozen=True, slots=True)
class Source:
    """Where values come from, for error messages."""

    name: str
    lines: Mapping[str, int] = dataclasses.field(default_factory=dict)
    overrides: Sequence[Override] = ()

    def of(self, *keys: str) -> str:
        """The place of the first key that has one. The command line wins over the file."""
        for override in reversed(self.overrides):
            if any(within(key, override.key) or (within(override.key, key) and key not in self.lines) for key in keys):
                return f"{self.name} with --set {shortened(override.text)}"
        for key in keys:
            if key in self.lines:
                return f"{self.name}, line {self.lines[key]}"
        return self.name


def read_yaml(path: str) -> tuple[Any, dict[str, int]]:
    """The file's content, None if it is empty, and the line of each key by its dotted name.

    Raises:
      ConfigError: if the file cannot be read or is not YAML.
    """
    try:
        content = _content(path)
        text = content.decode("utf-8-sig")  # some editors begin a file with a byte order mark
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist, where a configuration file was expected") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {(error.strerror or str(error)).lower()}") from None
    except ValueError:
        raise ConfigError(f"{path} is not text in UTF-8, as a configuration file must be") from None
    if len(content) > MOST_BYTES:
        raise ConfigError(f"{path} has more than {MOST_BYTES:,} bytes, which is too large for a configuration file")

    try:
        return parse_yaml(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigError(f"{path}{place}: {_syntax_problem(error)}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}") from None


def _content(path: str) -> bytes:
    """The content of a file, or its first `MOST_BYTES` + 1 bytes. A pipe to which nobody writes is an error."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # without O_NONBLOCK, this may wait for a writer for ever
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        is_pipe = stat.S_ISFIFO(os.fstat(descriptor).st_mode)
        parts: list[bytes] = []
        left = MOST_BYTES + 1
        while left:
            if is_pipe and not select.select([descriptor], [], [], _PIPE_SECONDS)[0]:
                raise OSError(None, f"nothing came through this pipe for {_PIPE_SECONDS} seconds")
            part = file.read(left)
            if not part:
                break
            parts.append(part)
            left -= len(part)
    return b"".join(parts)


def parse_override(text: str, mappings: Container[str] = frozenset(), empty: Container[str] = frozenset()) -> Override:
    """Reads a `KEY=VALUE`. The value is everything after the first `=`, without the spaces around it.

    A value is YAML if it begins with a bracket, a brace or a quote, if its key takes a mapping, or if it has several
    lines. Any other value is a number, a switch or null if YAML reads it so, and text otherwise. A `#` never begins a
    comment. No value at all is null, but empty text for a key to which that means something: a shell makes
    `input.fields.label=` of `input.fields.label=''`.

    Args:
      text: as on the command line.
      mappings: the keys that take a mapping. For them `a: b` is a mapping, for others it is text.
      empty: the keys that take empty text.

    Raises:
      ConfigError: the text is not `KEY=VALUE`, or its value is not YAML though it begins like YAML.
    """
    key, equals, right = text.partition("=")
    key, right = key.strip(), right.strip()
    names = key.split(".")
    if not equals or not all(names) or len(names) > DEEPEST:
        raise ConfigError(f"--set {shortened(text)}: this must be KEY=VALUE, such as explain.batch_size=64")
    if not is_unicode(text):
        raise ConfigError(f"--set {shortened(text)}: this must be text in UTF-8")
    if not right and key in empty:
        return Override(text, key, "")
    is_yaml = right.startswith(("[", "{", '"', "'"))
    if not is_yaml and key not in mappings and "\n" not in right:
        return Override(text, key, plain_value(right))
    # YAML would drop everything after a #, so a character that means nothing and is not in the text replaces it.
    stand_in = next(character for character in map(chr, _PRIVATE) if character not in right)
    try:
        value = _replaced(parse_yaml(right.replace("#", stand_in))[0], stand_in, "#")
    except yaml.YAMLError as error:
        if not is_yaml:
            return Override(text, key, plain_value(right))
        problem = _syntax_problem(error) if isinstance(error, yaml.MarkedYAMLError) else "this is not YAML"
        if "<document start>" in problem:
            problem = f"text follows what the first {right[0]} begins, so the whole value must be put in quotes"
        raise ConfigError(
            f"--set {shortened(text)}: the value of `{key}` cannot be read; {problem.replace(stand_in, '#')}"
        ) from None
    return Override(text, key, value if is_yaml or isinstance(value, dict | list) else plain_value(right))


def _replaced(value: Any, old: str, new: str) -> Any:
    """The value with `old` replaced by `new` in all of its text."""
    if isinstance(value, str):
        return value.replace(old, new)
    if isinstance(value, list):
        return [_replaced(each, old, new) for each in value]
    if isinstance(value, dict):
        return {_replaced(key, old, new): _replaced(each, old, new) for key, each in value.items()}
    return value


def apply_override(override: Override, value: dict[str, Any]) -> None:
    """Sets the override's key in place, and makes the sections above it that are missing.

    Raises:
      ConfigError: a key above it has a value that is not a section.
    """
    *sections, name = override.key.split(".")
    for depth, section in enumerate(sections, 1):
        inner = value.get(section)
        if inner is None:
            inner = value[section] = {}
        if not isinstance(inner, dict):
            above = ".".join(sections[:depth])
            raise ConfigError(
                f"--set {shortened(override.text)}: `{override.key}` cannot be set, as `{above}` is {show(inner)}, "
                "which has no keys"
            )
        value = inner
    value[name] = override.value


def _syntax_problem(error: yaml.MarkedYAMLError) -> str:
    if isinstance(error, yaml.constructor.ConstructorError):
        return error.problem or "this value cannot be read"
    if "alias" in (error.context or ""):
        return "this is not YAML, as text that begins with * must be put in quotes"
    if "cannot start any token" in (error.problem or ""):
        return f"this is not YAML: {error.problem} (indent with spaces, and put such text in quotes)"
    return f"this is not YAML: {', '.join(filter(None, [error.context, error.problem]))}"
