"""How much memory one record may take, so that no record and no shard can fill it."""

from __future__ import annotations

# The most bytes of a record, decompressed. It is as much as the largest image has that Pillow decodes: 2^28 bytes in 8
# bits and 3 channels.
RECORD_BYTES = 256 << 20

# The most bytes of a member of a tar that holds a label, an id or JSON. JSON takes up to 50 times its size as Python's
# values.
TEXT_BYTES = 4 << 20

# The kind of error of a record that is larger.
TOO_LARGE = "TooLarge"


def too_large(what: str, size: int, limit: int, key: str = "input.record_mib") -> str:
    """The problem of a record, in one sentence: `the 'jpg' member of sample 'a' has … bytes, more than …`."""
    hint = f" ({key} sets the limit)" if key else ""
    return f"{what} has {size:,} bytes, more than the {limit:,} that are read{hint}"
