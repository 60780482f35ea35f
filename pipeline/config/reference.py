"""Writes the reference of the configuration from the schema: the help, the full file, and docs/configuration.md."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from typing import Any

import yaml
from pydantic.fields import FieldInfo

from pipeline.config.problems import is_leaf
from pipeline.config.schema import schema_keys
from transforms.targets import Targets

_WIDTH = 100  # of the help, in characters
_YAML_WIDTH = 118  # of the full file, in characters

# What the full file has for the keys that have no default.
_EXAMPLES = {"input.shards": "data/*.tfrecord", "model.path": "model.keras", "output.path": "out/run"}

_PAGE = """# Configuration

`fullgrad run CONFIG.yaml` reads one YAML file. This page lists every key. `fullgrad run --help` says the same.

- A key that is absent has its default. Required are `input.shards`, `output.path`, and `model.path` or
  `model.application`.
- `--set KEY=VALUE` sets a key from the command line, such as `--set explain.batch_size=64`. It wins over the file.
- A relative path starts from the folder in which the command is started.
- An unknown key or a wrong value is refused in one sentence that names the line and what would be right.
- The files in [configs](../configs) are examples. Each holds only the keys that it sets.

The schema in [pipeline/config](../pipeline/config) is the source of this page: `python -m pipeline.config` prints it.

## Keys
{keys}

## The full file

Every key at its default, with an example for each key that is required:

```yaml
{file}
```
"""


def describe_keys() -> str:
    """Every key with its default and its description, for a terminal."""
    blocks = []
    for key, field in schema_keys().items():
        default = _status(field)
        text = textwrap.fill(field.description or "", _WIDTH, initial_indent="    ", subsequent_indent="    ")
        blocks.append(f"{key}{f'  ({default})' if default else ''}\n{text}")
    return "\n".join(blocks)


def full_file() -> str:
    """A configuration file in YAML with every key, its description as a comment, and its default.

    The required keys have examples. The keys of a section that may be a value instead, such as those of
    `model.preprocess.scale`, are comments.
    """
    return "\n".join(_lines())


def configuration_page() -> str:
    """The content of docs/configuration.md."""
    return _PAGE.format(keys="\n".join(_entries()), file=full_file())


def _entries() -> Iterator[str]:
    """The keys as lists in Markdown, with a heading for each part of the file."""
    for key, field in schema_keys().items():
        if "." not in key:
            yield f"\n### `{key}`\n\n{field.description}\n"
            continue
        status = _status(field)
        yield f"- `{key}`{f' ({_as_code(status)})' if status else ''}: {_escaped(field.description or '')}"


def _as_code(status: str) -> str:
    name, colon, value = status.partition(": ")
    return f"{name}: `{value}`" if colon else status


def _escaped(text: str) -> str:
    """Text that Markdown shows as it is."""
    return "".join(f"\\{each}" if each in "*_[]<>`" else each for each in text)


def _lines() -> Iterator[str]:
    """The lines of the full file."""
    keys = schema_keys()
    for number, (key, field) in enumerate(keys.items()):
        *sections, name = key.split(".")
        indent = "  " * len(sections)
        if not sections and number:
            yield ""
        yield from textwrap.wrap(
            field.description or "",
            _YAML_WIDTH,
            initial_indent=f"{indent}# ",
            subsequent_indent=f"{indent}# ",
            break_long_words=False,
            break_on_hyphens=False,
        )
        # The section above has a value here, so the key must not be set beside it.
        is_comment = any(is_leaf(keys[".".join(sections[:depth])]) for depth in range(1, len(sections) + 1))
        yield f"{indent}{'# ' if is_comment else ''}{name}:{_written(key, field)}"


def _written(key: str, field: FieldInfo) -> str:
    """What stands behind a key and its colon in the full file."""
    if not is_leaf(field):
        return ""
    value = _EXAMPLES.get(key, None if field.is_required() else _plain(field))
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000, allow_unicode=True)
    return f" {text.removesuffix('...' + chr(10)).strip()}"


def _status(field: FieldInfo) -> str:
    """`required`, the default, or nothing for a section."""
    if not is_leaf(field):
        return ""
    if field.is_required():
        return "required"
    value = _plain(field)
    return f"default: {value if isinstance(value, str) else json.dumps(value)}"


def _plain(field: FieldInfo) -> Any:
    """A key's default as a value of YAML."""
    value = field.get_default(call_default_factory=True)
    if isinstance(value, Targets):
        value = value.to_setting()
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value
