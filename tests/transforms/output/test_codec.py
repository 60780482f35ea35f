"""A map reads back from its bytes within the bound of its type."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from transforms.output import MAP_DTYPES, decode_map, encode_maps, round_keeping_sums

LARGEST = float(np.finfo(np.float32).max)


def decoded(maps: np.ndarray, map_dtype: str) -> np.ndarray:
    """The maps [N, H, W] after encoding and decoding."""
    encoded = encode_maps(maps, map_dtype)
    rows = [
        {
            "map": data,
            "map_dtype": map_dtype,
            "map_scale": scale,
            "map_offset": offset,
            "map_height": maps.shape[1],
            "map_width": maps.shape[2],
        }
        for data, scale, offset in zip(encoded.data, encoded.scale, encoded.offset, strict=True)
    ]
    found = [decode_map(row) for row in rows]
    assert all(each is not None and each.dtype == np.float32 for each in found)
    return np.stack([each for each in found if each is not None])


def bound(maps: np.ndarray, map_dtype: str) -> np.ndarray:
    """How far each value [N, H, W] may be off: what `encode_maps` promises, and a rounding to float32."""
    exact = maps.astype(np.float64)
    rounding = np.abs(exact) * 2.0**-24 + 2.0**-150
    if map_dtype == "float32":
        return np.zeros_like(exact)
    if map_dtype == "float16":
        largest = np.abs(exact).max(axis=(1, 2), keepdims=True)
        return np.maximum(np.abs(exact) * 2.0**-11, largest * 2.0**-25) * (1 + 1e-6) + rounding
    step = (exact.max(axis=(1, 2), keepdims=True) - exact.min(axis=(1, 2), keepdims=True)) / 255
    return step / 2 * (1 + 1e-6) + rounding


SPECIAL = {
    "zero": np.zeros((1, 3, 4), np.float32),
    "constant": np.full((1, 3, 4), 0.1, np.float32),
    "negative": np.full((1, 3, 4), -7.3, np.float32),
    "signed": np.linspace(-3, 5, 12, dtype=np.float32).reshape(1, 3, 4),
    "huge": np.linspace(0, LARGEST, 12).astype(np.float32).reshape(1, 3, 4),
    "hugely signed": np.linspace(-LARGEST, LARGEST, 12).astype(np.float32).reshape(1, 3, 4),
    "beyond float16": np.linspace(0, 1e6, 12, dtype=np.float32).reshape(1, 3, 4),
    "tiny": np.linspace(0, 1e-44, 12).astype(np.float32).reshape(1, 3, 4),
    "one pixel": np.eye(4, dtype=np.float32)[None] * np.eye(4, dtype=np.float32)[0],
}


@pytest.mark.parametrize("map_dtype", MAP_DTYPES)
@pytest.mark.parametrize("name", SPECIAL)
def test_any_map_reads_back_within_the_bound(name: str, map_dtype: str) -> None:
    maps = SPECIAL[name]
    found = decoded(maps, map_dtype)
    assert np.isfinite(found).all()
    assert (np.abs(found.astype(np.float64) - maps) <= bound(maps, map_dtype)).all()
    if name in ("zero", "constant", "negative"):
        np.testing.assert_array_equal(found, maps)


@settings(deadline=None)
@given(
    maps=arrays.arrays(
        np.float32,
        st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 5)),
        elements=st.floats(-LARGEST, LARGEST, width=32),
    ),
    map_dtype=st.sampled_from(list(MAP_DTYPES)),
)
@example(maps=np.float32([[[LARGEST, -LARGEST, 1e-45]]]), map_dtype="uint8")
def test_no_value_is_off_by_more_than_its_type_allows(maps: np.ndarray, map_dtype: str) -> None:
    found = decoded(maps, map_dtype)
    assert (np.abs(found.astype(np.float64) - maps) <= bound(maps, map_dtype)).all()


@pytest.mark.parametrize("map_dtype", MAP_DTYPES)
def test_each_map_of_a_batch_has_its_own_scale(map_dtype: str) -> None:
    maps = np.float32([[[0, 1], [2, 3]], [[0, 1e-9], [2e-9, 3e-9]], [[-1e9, 0], [0, 1e9]]])
    together = decoded(maps, map_dtype)
    np.testing.assert_array_equal(together, np.concatenate([decoded(each[None], map_dtype) for each in maps]))
    assert (np.abs(together - maps) <= bound(maps, map_dtype)).all()


@pytest.mark.parametrize("map_dtype", [*MAP_DTYPES, "none"])
def test_no_maps_are_none_encoded(map_dtype: str) -> None:
    assert encode_maps(np.zeros((0, 3, 4), np.float32), map_dtype).data == []


def test_maps_that_are_not_stored_are_none() -> None:
    encoded = encode_maps(SPECIAL["signed"], "none")
    assert encoded.data == [None]
    assert decode_map({"map": None}) is None


@pytest.mark.parametrize(("map_dtype", "size"), [("float32", 4), ("float16", 2), ("uint8", 1)])
def test_bytes_are_row_major_and_little_endian(map_dtype: str, size: int) -> None:
    maps = np.arange(12, dtype=np.float32).reshape(1, 3, 4).transpose(0, 2, 1)  # not contiguous
    encoded = encode_maps(maps, map_dtype)
    (data,) = encoded.data
    assert data is not None
    assert len(data) == 12 * size
    stored = np.frombuffer(data, {4: "<f4", 2: "<f2", 1: "u1"}[size]).reshape(4, 3)
    np.testing.assert_allclose(stored * encoded.scale[0] + encoded.offset[0], maps[0], atol=0.025)


@given(
    terms=arrays.arrays(
        np.float32,
        st.tuples(st.integers(0, 3), st.integers(1, 40)),
        elements=st.floats(-60_000, 60_000, width=32).filter(lambda term: term == 0 or abs(term) > 1e-4),
    )
)
def test_rounded_terms_stay_near_and_keep_their_sum(terms: np.ndarray) -> None:
    rounded = round_keeping_sums(terms)
    assert rounded.dtype == np.float32
    assert (np.frexp(rounded)[0] * 2**11 % 1 == 0).all(), "11 significant bits"
    exact = terms.astype(np.float64)
    # An own rounding is half a unit in the last place; the carried error is at most half a unit of a larger term.
    largest = np.abs(exact).max(axis=1, initial=0)
    assert (np.abs(rounded - exact) <= (np.abs(exact) + largest[:, None]) * 2.0**-10 + 2.0**-24).all()
    smallest = np.abs(exact).min(axis=1, initial=np.inf)
    difference = np.abs(rounded.sum(axis=1, dtype=np.float64) - exact.sum(axis=1))
    assert (difference <= (smallest + largest * 2.0**-10) * 2.0**-10 + 2.0**-24).all()


def test_a_thousand_terms_keep_their_sum_a_hundred_times_as_well_as_by_rounding_each() -> None:
    terms = np.random.default_rng(0).gamma(0.3, size=(50, 1000)).astype(np.float32)
    exact = terms.sum(axis=1, dtype=np.float64)
    error = np.abs(round_keeping_sums(terms).sum(axis=1, dtype=np.float64) - exact)
    plain = np.abs(terms.astype(np.float16).sum(axis=1, dtype=np.float64) - exact)
    assert error.max() < 1e-6 * exact.min()
    assert np.median(error) * 100 < np.median(plain)


def test_rounded_terms_may_be_as_large_as_float32_allows() -> None:
    terms = np.asarray([[3e38, -2e38, 1.0, 0.0]], np.float32)
    np.testing.assert_allclose(round_keeping_sums(terms), terms, rtol=2.0**-10, atol=2e38 * 2.0**-11)
