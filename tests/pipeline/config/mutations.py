"""Makes wrong configurations out of right ones, by a seed: cut, doubled and nested text, tags, aliases, odd values."""

from __future__ import annotations

import random
import re

# Values, each of which some reader of YAML has not survived.
_ODD = (
    "!!int x",
    "!!int ''",
    "!!int 0x1F",
    "!!int " + "9" * 5_000,
    "!!float x",
    "!!float 1:2:3",
    "!!float .nan",
    "!!bool maybe",
    "!!null x",
    "!!binary aGVsbG8=",
    "!!binary é",
    "!!timestamp 2001-01-01",
    "!!timestamp x",
    "!!set {a, b}",
    "!!omap [a: 1]",
    "!!pairs [a: 1]",
    "!!seq {a: 1}",
    "!!map [1]",
    "!!str [1]",
    "!!str {=: 1}",
    "!!python/name:os.system",
    "!!python/object/apply:os.system [true]",
    "!!python/tuple [1, 2]",
    "!own 1",
    "! 1",
    "!<tag:yaml.org,2002:int> x",
    "=",
    "<<",
    "~",
    "null",
    "on",
    ".nan",
    ".inf",
    "-.INF",
    "1e999",
    "-1e-999",
    "9" * 80,
    "9" * 6_000,
    "-0",
    "0o17",
    "0b11",
    "1_000",
    "190:20:30",
    "2001-01-01",
    "2001-99-99 99:99:99",
    "''",
    '"\\0"',
    '"\\uD800"',
    '"\\x1b[31m"',
    '"a\\nb"',
    "'" + "x" * 20_000 + "'",
    "[" * 30 + "]" * 30,
    "[" * 3_000 + "]" * 3_000,
    "{a: " * 200 + "1" + "}" * 200,
    "- " * 300 + "x",
    "&a [*a]",
    "&a {x: *a}",
    "&a {<<: *a}",
    "*nowhere",
    "{<<: {a: 1}, <<: {b: 2}}",
    "{<<: [{a: 1}, 5]}",
    "{<<: 5}",
    "{? [1, 2] : 3}",
    "{? {a: 1} : 3}",
    "{.nan: 1, .nan: 2}",
    "{1: 1, '1': 2, on: 3}",
    "{null: 1}",
    "{true: 1, !!bool true: 2}",
    "{a: 1, a: 2}",
    "[&b x, *b, *b]",
    "&c {d: &d [1, 2], e: *d}",
    "|\n    text\n    more",
    ">-\n    text",
    "|9\n  text",
    "%YAML 9.9",
    "--- x",
    "...",
    "@x",
    "`x`",
    "\t",
    "# nothing",
    "[a, b",
    "{a: ",
    "'",
    '"',
    "\ufeff",
    "\x00",
    "\x85",
    "\u2028",
    "\U0001f600",
    "{divide: 0}",
    "{shape: [1000000000, 1000000000]}",
    "[207, 281, 99999999999999999999]",
    "[-1, 1.5, true, null]",
    "../../../etc/passwd",
    "s3:",
    "://",
)
_BOMB = "".join(
    f"b{i}: &b{i} [{', '.join([f'*b{i - 1}' if i else 'x'] * 9)}]\n" if i else "b0: &b0 [x, x, x]\n" for i in range(9)
)
_MERGED_BOMB = "m0: &m0 {x: 1}\n" + "".join(
    f"m{i}: &m{i} {{<<: [{', '.join([f'*m{i - 1}'] * 9)}]}}\n" for i in range(1, 9)
)


def mutated(text: str, chance: random.Random) -> bytes:
    """A configuration with one to four changes."""
    for _ in range(chance.randint(1, 4)):
        text = chance.choice(_CHANGES)(text, chance)
    content = text.encode("utf-8", "surrogatepass")
    return chance.choice(_ENCODINGS)(content, chance) if chance.random() < 0.1 else content


def mutated_setting(keys: list[str], chance: random.Random) -> str:
    """A `KEY=VALUE`, most often with a key that there is and a value that it does not take."""
    key = chance.choice(keys)
    if chance.random() < 0.1:
        key = chance.choice(("", ".", "a" * 300, f"{key}." * 3 + "x", "x." * 2_000 + "x", f"{key}.{key}", "\udcff"))
    return f"{key}={chance.choice(_ODD)}" if chance.random() < 0.95 else key


def _value(text: str, chance: random.Random) -> str:
    """Another value for a key."""
    ends = [match.end() for match in re.finditer(r": ", text)]
    if not ends:
        return text + chance.choice(_ODD)
    at = chance.choice(ends)
    end = re.compile(r"[\n,}]|$").search(text, at)
    assert end is not None
    return text[:at] + chance.choice(_ODD) + text[end.start() :]


def _inserted(text: str, chance: random.Random) -> str:
    at = chance.randint(0, len(text))
    return text[:at] + chance.choice(_ODD) + text[at:]


def _cut(text: str, chance: random.Random) -> str:
    start = chance.randint(0, len(text))
    return text[:start] + text[start + chance.randint(1, 30) :]


def _doubled(text: str, chance: random.Random) -> str:
    start = chance.randint(0, len(text))
    part = text[start : start + chance.randint(1, 80)]
    return text[:start] + part * chance.choice((2, 2, 2, 50)) + text[start:]


def _character(text: str, chance: random.Random) -> str:
    at = chance.randint(0, len(text))
    return text[:at] + chr(chance.choice((chance.randint(0, 127), chance.randint(0, 0x10FFFF)))) + text[at + 1 :]


def _lines(text: str, chance: random.Random) -> str:
    lines = text.splitlines(keepends=True)
    chance.shuffle(lines)
    return "".join(lines)


def _indented(text: str, chance: random.Random) -> str:
    lines = text.splitlines(keepends=True) or [""]
    at = chance.randrange(len(lines))
    lines[at] = chance.choice((" ", "  ", "\t", "- ", "? ", ": ", "    " * 40)) + lines[at]
    return "".join(lines)


def _bombed(text: str, chance: random.Random) -> str:
    bomb, last = chance.choice(((_BOMB, "*b8"), (_MERGED_BOMB, "*m8")))
    return bomb + text + f"input: {last}\n" if chance.random() < 0.5 else bomb + text


def _tagged(text: str, chance: random.Random) -> str:
    tag = chance.choice(("!!int", "!!float", "!!bool", "!!null", "!!str", "!!seq", "!!map", "!!binary", "!!set", "!x"))
    return re.sub(r": ", lambda match: f": {tag} " if chance.random() < 0.3 else match[0], text)


_CHANGES = (_value, _value, _value, _inserted, _cut, _doubled, _character, _lines, _indented, _bombed, _tagged)
_ENCODINGS = (
    lambda content, chance: b"\xef\xbb\xbf" + content,
    lambda content, chance: content.decode("utf-8", "replace").encode("utf-16"),
    lambda content, chance: content[: chance.randint(0, len(content))],
    lambda content, chance: content + bytes([chance.randint(128, 255)]),
    lambda content, chance: content.replace(b"\n", b"\r\n"),
    lambda content, chance: content.replace(b"\n", b"\r"),
)
