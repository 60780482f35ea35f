"""zlib streams, read forwards: whole, in pieces, one after the other, and cut."""

from __future__ import annotations

import io
import random
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transforms.sources.compression import decompressed, is_zlib
from transforms.sources.files import GZIP_DAMAGE, skip

DATA = random.Random(0).randbytes(100_000) + bytes(900_000)


@pytest.mark.parametrize("level", range(10))
def test_a_stream_is_told_by_its_first_bytes(level: int) -> None:
    assert is_zlib(zlib.compress(DATA, level))
    assert not is_zlib(DATA)
    assert not is_zlib(b"x")


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 400_000), st.booleans()), max_size=8))
def test_pieces_and_skips_are_those_of_the_data(steps: list[tuple[int, bool]]) -> None:
    packed = zlib.compress(DATA[:300_000]) + zlib.compress(DATA[300_000:])
    file = decompressed(io.BytesIO(packed), packed[:12])
    place = 0
    for length, skipped in steps:
        if skipped:
            assert skip(file, length) == (place + length <= len(DATA))
        else:
            assert file.read(length) == DATA[place : place + length]
        place = min(place + length, len(DATA))


@pytest.mark.parametrize("level", [0, 1, 9])
def test_a_cut_or_damaged_stream_gives_what_comes_before(level: int) -> None:
    packed = zlib.compress(DATA, level)
    for damaged in (packed[: len(packed) // 2], packed[:-1], packed[:90_000] + b"\xff" * 40 + packed[90_040:]):
        file, got = decompressed(io.BytesIO(damaged), damaged[:12]), b""
        with pytest.raises(GZIP_DAMAGE):  # noqa: PT012
            while piece := file.read(1000):
                got += piece
        assert DATA.startswith(got[:80_000])
