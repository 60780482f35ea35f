"""Reads YAML from a file and from `--set`, and remembers where each key stands."""

from __future__ import annotations

import dataclasses
import pathlib
import re
from collections.abc import Container, Mapping, Sequence
from typing import Any

import yaml

from pipeline.config.problems import ConfigError, shortened, show, within


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
        text = pathlib.Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist, where a configuration file was expected") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {(error.strerror or str(error)).lower()}") from None
    except ValueError:
        raise ConfigError(f"{path} is not text in UTF-8, as a configuration file must be") from None

    try:
        return _parse_yaml(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigError(f"{path}{place}: {_syntax_problem(error)}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}") from None


def parse_override(text: str, mappings: Container[str] = frozenset()) -> Override:
    """Reads a `KEY=VALUE`. The value is everything after the first `=`, without the spaces around it.

    A value is YAML if it begins with a bracket, a brace or a quote, if its key takes a mapping, or if it has several
    lines. Any other value is a number, a switch or null if YAML reads it so, and text otherwise. A `#` never begins a
    comment.

    Args:
      text: as on the command line.
      mappings: the keys that take a mapping. For them `a: b` is a mapping, for others it is text.

    Raises:
      ConfigError: the text is not `KEY=VALUE`, or its value is not YAML though it begins like YAML.
    """
    key, equals, right = text.partition("=")
    key, right = key.strip(), right.strip()
    if not equals or not all(key.split(".")):
        raise ConfigError(f"--set {shortened(text)}: this must be KEY=VALUE, such as explain.batch_size=64")
    is_yaml = right.startswith(("[", "{", '"', "'"))
    if not is_yaml and key not in mappings and "\n" not in right:
        return Override(text, key, _plain_value(right))
    # YAML would drop everything after a #, so a character that means nothing and is not in the text replaces it.
    stand_in = next(character for character in map(chr, range(0xE000, 0xF8FF)) if character not in right)
    try:
        value = _replaced(_parse_yaml(right.replace("#", stand_in))[0], stand_in, "#")
    except yaml.YAMLError as error:
        if not is_yaml:
            return Override(text, key, _plain_value(right))
        problem = _syntax_problem(error) if isinstance(error, yaml.MarkedYAMLError) else "this is not YAML"
        if "<document start>" in problem:
            problem = f"text follows what the first {right[0]} begins, so the whole value must be put in quotes"
        raise ConfigError(
            f"--set {shortened(text)}: the value of `{key}` cannot be read; {problem.replace(stand_in, '#')}"
        ) from None
    return Override(text, key, value if is_yaml or isinstance(value, dict | list) else _plain_value(right))


def _plain_value(text: str) -> Any:
    """The number, switch or null that YAML reads from a text, or the text itself."""
    loader = _Loader("")
    try:
        tag = loader.resolve(yaml.ScalarNode, text, (True, False))
        if tag.rpartition(":")[2] not in ("null", "bool", "int", "float"):
            return text
        return loader.construct_document(yaml.ScalarNode(tag, text))
    finally:
        loader.dispose()


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


class _Loader(yaml.SafeLoader):
    """A YAML loader that reads 1e-3 as a number, and dates, times and numbers with leading zeros as text."""

    yaml_implicit_resolvers = {  # noqa: RUF012  PyYAML declares it for instances
        first: [
            (tag, pattern) for tag, pattern in resolvers if tag.rpartition(":")[2] not in ("timestamp", "int", "float")
        ]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"[-+]?(0|[1-9][0-9]{0,99})$"), list("-+0123456789"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?([0-9]+\.[0-9]*([eE][-+]?[0-9]+)?|\.[0-9]+([eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+)$"),
    list("-+.0123456789"),
)


def _parse_yaml(text: str) -> tuple[Any, dict[str, int]]:
    """The value of a YAML document, and the line of each key by its dotted name. A key given twice is an error."""
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None, {}
        lines: dict[str, int] = {}
        _note_keys(node, "", lines, frozenset())
        return loader.construct_document(node), lines
    finally:
        loader.dispose()


def _note_keys(node: yaml.Node, prefix: str, lines: dict[str, int], above: frozenset[int]) -> None:
    """Notes the line of each key in and below the node. Turns keys into text, as YAML reads `on` and `1` otherwise."""
    if id(node) in above:
        mark = node.start_mark
        raise yaml.constructor.ConstructorError(None, None, "this value contains itself", mark)
    above = above | {id(node)}
    if isinstance(node, yaml.SequenceNode):
        for each in node.value:
            _note_keys(each, f"{prefix.removesuffix('.')}[].", {}, above)
    if not isinstance(node, yaml.MappingNode):
        return
    for name, value in node.value:
        if isinstance(name, yaml.ScalarNode) and name.tag != "tag:yaml.org,2002:merge":
            name.tag = "tag:yaml.org,2002:str"
            key = prefix + name.value
            if key in lines:
                problem = f"the key `{key}` stands twice, here and on line {lines[key]}, where one would be right"
                raise yaml.constructor.ConstructorError(None, None, problem, name.start_mark)
            lines[key] = name.start_mark.line + 1
            _note_keys(value, f"{key}.", lines, above)


def _syntax_problem(error: yaml.MarkedYAMLError) -> str:
    if isinstance(error, yaml.constructor.ConstructorError):
        return error.problem or "this value cannot be read"
    if "alias" in (error.context or ""):
        return "this is not YAML, as text that begins with * must be put in quotes"
    if "cannot start any token" in (error.problem or ""):
        return f"this is not YAML: {error.problem} (indent with spaces, and put such text in quotes)"
    return f"this is not YAML: {', '.join(filter(None, [error.context, error.problem]))}"
