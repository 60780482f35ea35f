"""Names that are not UTF-8, as text: each byte that is not UTF-8 becomes `\\xff`, and can be turned back."""

from __future__ import annotations

import codecs
import re

# A lone surrogate: Python holds a byte that is not UTF-8 as U+DC80 to U+DCFF (PEP 383). JSON may have others.
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_ESCAPE = re.compile(r"\\x([0-9a-f]{2})")


def as_text(name: str | bytes) -> str:
    r"""The name as text that UTF-8, and so Parquet and JSON, can hold.

    A byte that is not UTF-8 becomes `\x` and two digits, such as `\xff`. Four characters in the name that look like
    this, such as `\x41`, become `\x5cx41`, so that no two names get the same text. All other names stay as they are.

    Args:
      name: bytes, or text in which lone surrogates stand for such bytes, as in `os.fsdecode`.
    """
    if isinstance(name, bytes):
        name = name.decode("utf-8", "surrogateescape")
    if "\\x" in name:
        name = _ESCAPE.sub(r"\\x5cx\1", name)
    if name.isascii() or not _SURROGATE.search(name):
        return name
    return _SURROGATE.sub(lambda match: _escaped(match[0]), name)


def from_text(text: str) -> str:
    """The name whose text `as_text` made, with lone surrogates for bytes that are not UTF-8, as in `os.fsdecode`."""
    if "\\x" not in text:
        return text
    raw = re.sub(
        rb"\\x([0-9a-f]{2})", lambda match: bytes.fromhex(match[1].decode()), text.encode("utf-8", "surrogateescape")
    )
    return raw.decode("utf-8", "surrogateescape")


def printable(sentence: str) -> str:
    """A sentence with names in it, as text that can be printed and stored. It cannot be turned back."""
    return sentence if sentence.isascii() else _SURROGATE.sub(lambda match: _escaped(match[0]), sentence)


def _escaped(characters: str) -> str:
    """Lone surrogates as `as_text` writes them."""
    pieces = []
    for character in characters:
        code = ord(character)
        raw = bytes([code - 0xDC00]) if 0xDC80 <= code <= 0xDCFF else character.encode("utf-8", "surrogatepass")
        pieces.append("".join(f"\\x{byte:02x}" for byte in raw))
    return "".join(pieces)


def _encode_error(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return _escaped(error.object[error.start : error.end]), error.end


# The name of an error handler for streams, so that printing a name never fails: `stream.reconfigure(errors=…)`.
PRINTABLE = "fullgrad-names"
codecs.register_error(PRINTABLE, _encode_error)
