"""Parses YAML text within stated bounds: plain values only, no deep nesting, nothing that aliases blow up."""

from __future__ import annotations

import re
from typing import Any

import yaml

from pipeline.config.problems import shortened

# No configuration comes near these bounds. Within them, reading takes at most a second or two.
MOST_BYTES = 1 << 20
MOST_VALUES = 100_000  # a value counts each time that an alias repeats it
DEEPEST = 50

_TAG = "tag:yaml.org,2002:"
_NUMBERS_AND_SWITCHES = ("null", "bool", "int", "float")
_KINDS = {yaml.ScalarNode: (*_NUMBERS_AND_SWITCHES, "str"), yaml.SequenceNode: ("seq",), yaml.MappingNode: ("map",)}


class _Loader(yaml.SafeLoader):
    """A YAML loader that reads 1e-3 as a number, and dates, times and numbers with leading zeros as text.

    It counts values while it composes them, so that it stops before a document takes long.
    """

    yaml_implicit_resolvers = {  # noqa: RUF012  PyYAML declares it for instances
        first: [
            (tag, pattern)
            for tag, pattern in resolvers
            if tag.rpartition(":")[2] not in ("timestamp", "int", "float", "value")
        ]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def __init__(self, text: str):
        super().__init__(text)
        self._depth = self._values = 0
        self._sizes: dict[yaml.Node, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()
        self._depth += 1
        if self._depth > DEEPEST:
            raise _refused(f"values are nested more than {DEEPEST} deep, which no key takes", event.start_mark)
        before = self._values
        node: yaml.Node | None = super().compose_node(parent, index)
        assert node is not None
        # An alias within its own value has no size yet; `_check` refuses it.
        self._values += self._sizes.get(node, 1) if isinstance(event, yaml.AliasEvent) else 1
        if self._values > MOST_VALUES:
            raise _refused(
                f"more than {MOST_VALUES:,} values, those that aliases repeat counted each time", event.start_mark
            )
        self._sizes.setdefault(node, self._values - before)
        self._depth -= 1
        return node


_Loader.add_implicit_resolver(f"{_TAG}int", re.compile(r"[-+]?(0|[1-9][0-9]{0,99})$"), list("-+0123456789"))
_Loader.add_implicit_resolver(
    f"{_TAG}float",
    re.compile(r"[-+]?([0-9]+\.[0-9]*([eE][-+]?[0-9]+)?|\.[0-9]+([eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+)$"),
    list("-+.0123456789"),
)


def plain_value(text: str) -> Any:
    """The number, switch or null that YAML reads from a text, or the text itself."""
    loader = _Loader("")
    try:
        tag = loader.resolve(yaml.ScalarNode, text, (True, False))
        if tag.removeprefix(_TAG) not in _NUMBERS_AND_SWITCHES:
            return text
        return loader.construct_document(yaml.ScalarNode(tag, text))
    finally:
        loader.dispose()


def parse_yaml(text: str) -> tuple[Any, dict[str, int]]:
    """The value of a YAML document, None if it is empty, and the line of each key by its dotted name.

    Raises:
      yaml.YAMLError: the text is not YAML, has a key twice, has a tag that means anything but text, a number, a switch,
        null, a list or a mapping, or is beyond the bounds of this module.
    """
    if len(text) > MOST_BYTES:
        raise yaml.YAMLError(f"it has more than {MOST_BYTES:,} characters")
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None, {}
        lines: dict[str, int] = {}
        _check(loader, node, "", lines, frozenset())
        return _unshared(loader.construct_document(node)), lines
    finally:
        loader.dispose()


def _check(loader: _Loader, node: yaml.Node, prefix: str, lines: dict[str, int], above: frozenset[int]) -> None:
    """Checks the tags in and below a node, and notes the line of each key.

    It turns keys into text, as YAML reads `on` and `1` otherwise.
    """
    if id(node) in above:
        raise _refused("this value contains itself", node.start_mark)
    _check_tag(loader, node)
    above = above | {id(node)}
    if isinstance(node, yaml.SequenceNode):
        for each in node.value:
            _check(loader, each, f"{prefix.removesuffix('.')}[].", {}, above)
    if not isinstance(node, yaml.MappingNode):
        return
    for name, value in node.value:
        if not isinstance(name, yaml.ScalarNode):
            raise _refused("a key must be text on one line, not a list or a mapping", name.start_mark)
        if name.tag == f"{_TAG}merge":
            _check(loader, value, prefix, {}, above)
            continue
        name.tag = f"{_TAG}str"
        _check_tag(loader, name)
        key = prefix + name.value
        if key in lines:
            first = lines[key]
            problem = f"the key `{shortened(key)}` stands twice, here and on line {first}, where one would be right"
            raise _refused(problem, name.start_mark)
        lines[key] = name.start_mark.line + 1
        _check(loader, value, f"{key}.", lines, above)


def _check_tag(loader: _Loader, node: yaml.Node) -> None:
    """Refuses tags such as !!binary and !!python/name, and those that do not fit their value, such as `!!int x`."""
    name = node.tag.removeprefix(_TAG)
    shown = f"!!{name}" if name != node.tag else node.tag
    if name not in _KINDS[type(node)]:
        raise _refused(f"the tag {shortened(shown)} is not taken here; write the value without it", node.start_mark)
    if isinstance(node, yaml.ScalarNode) and not is_unicode(node.value):
        raise _refused("this text has half of a surrogate pair, which is no character", node.start_mark)
    if isinstance(node, yaml.ScalarNode) and name in _NUMBERS_AND_SWITCHES:
        plain = loader.resolve(yaml.ScalarNode, node.value, (True, False)).removeprefix(_TAG)
        if plain != name and (name, plain) != ("float", "int"):
            raise _refused(f"the tag {shown} does not fit its value; write the value without it", node.start_mark)


def is_unicode(text: str) -> bool:
    """Whether a text can be written in UTF-8: Python keeps other bytes of a command line as halves of surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _unshared(value: Any) -> Any:
    """The value with a copy for each alias, so that `--set` changes one of them alone."""
    if isinstance(value, list):
        return [_unshared(each) for each in value]
    if isinstance(value, dict):
        return {key: _unshared(each) for key, each in value.items()}
    return value


def _refused(problem: str, mark: yaml.Mark | None) -> yaml.constructor.ConstructorError:
    return yaml.constructor.ConstructorError(None, None, problem, mark)
