"""Decoding, errors of stored codes, and the search for NaN, against the NumPy reference."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from halftone.checkpoint import decoding, reference, weight_errors
from halftone.quantize import kernels
from tests.builders.matrices import hard_matrices
from tests.builders.numbers import float32_to_bf16
from tests.builders.tiles import Tile, tiles, warm_kernels

_ALL_CODES = np.arange(256, dtype=np.uint32).astype(np.uint8).reshape(4, 64)


@pytest.fixture(scope="module", autouse=True)
def _compiled() -> None:
    warm_kernels()


def same(found: reference.Floats, expected: reference.Floats) -> bool:
    """Equal, a NaN being equal to a NaN."""
    return bool(np.array_equal(found, expected, equal_nan=True))


@given(
    packed=arrays(np.uint8, (3, 24)),
    scale=arrays(np.uint8, (3, 3)),
    global_scale=st.floats(2.0**-100, 2.0**100, width=32),
    multiplies=st.booleans(),
)
@settings(max_examples=60)
def test_nvfp4_is_decoded_as_in_the_reference(
    packed: reference.Codes, scale: reference.Codes, global_scale: float, multiplies: bool
) -> None:
    found = np.empty((3, 48), np.float32)
    decoding.decode_nvfp4(packed, scale, global_scale, found, multiplies=multiplies)
    shared = np.float32(global_scale)
    expected = reference.nvfp4_dequantize(packed, scale, shared, multiplies=multiplies)
    assert same(found, expected)
    narrow = np.empty((3, 48), np.uint16)
    decoding.decode_nvfp4(packed, scale, global_scale, narrow, multiplies=multiplies)
    assert same(reference.bf16_decode(narrow), reference.bf16_decode(float32_to_bf16(expected)))


@given(
    rows=st.integers(1, 9),
    columns=st.integers(1, 70),
    block=st.tuples(st.integers(1, 4), st.integers(1, 40)),
    data=st.data(),
)
@settings(max_examples=40)
def test_fp8_blocks_are_decoded_as_in_the_reference(
    rows: int, columns: int, block: tuple[int, int], data: st.DataObject
) -> None:
    codes = data.draw(arrays(np.uint8, (rows, columns)))
    shape = (-(-rows // block[0]) + 1, -(-columns // block[1]))  # one row of scales too many
    scales = np.exp2(data.draw(arrays(np.float32, shape, elements=st.floats(-99, 99, width=32))))
    found = np.empty((rows, columns), np.float32)
    decoding.decode_fp8_block(codes, scales, *block, found)
    expected = reference.fp8_dequantize(codes, scales, block)
    assert same(found, expected)
    narrow = np.empty((rows, columns), np.uint16)
    decoding.decode_fp8_block_bf16(codes, scales, *block, narrow)
    assert same(reference.bf16_decode(narrow), reference.bf16_decode(float32_to_bf16(expected)))


def test_channel_and_tensor_scales_are_blocks_of_a_row_and_of_all() -> None:
    scales = np.array([1, 2, 0.5, 4], np.float32)
    found = np.empty(_ALL_CODES.shape, np.float32)
    decoding.decode_fp8_channel(_ALL_CODES, scales, found)
    assert same(found, reference.e4m3_decode(_ALL_CODES) * scales[:, None])
    decoding.decode_fp8_tensor(_ALL_CODES, 0.25, found)
    assert same(found, reference.e4m3_decode(_ALL_CODES) * np.float32(0.25))
    narrow = np.empty(_ALL_CODES.shape, np.uint16)
    decoding.decode_fp8_channel_bf16(_ALL_CODES, scales, narrow)
    expected = reference.e4m3_decode(_ALL_CODES) * scales[:, None]
    assert same(reference.bf16_decode(narrow), expected)
    decoding.decode_fp8_tensor_bf16(_ALL_CODES, 0.25, narrow)
    assert same(reference.bf16_decode(narrow), reference.e4m3_decode(_ALL_CODES) / np.float32(4))


@pytest.mark.parametrize("nan", [0x7F, 0xFF])
@pytest.mark.parametrize("place", [0, 63, 64, 190, 199])
def test_an_e4m3_nan_is_found_wherever_it_lies(nan: int, place: int) -> None:
    codes = np.full(200, 0x7E, np.uint8)
    assert not decoding.has_nan_e4m3(codes)
    codes[place] = nan
    assert decoding.has_nan_e4m3(codes)


@pytest.mark.parametrize("place", [0, 63, 64, 190, 199])
def test_a_bf16_nan_is_found_and_an_infinity_is_none(place: int) -> None:
    values = np.full(200, 0x7F80, np.uint16)
    assert not decoding.has_nan_bf16(values)
    values[place] = 0xFF81
    assert decoding.has_nan_bf16(values)


def test_the_maximum_of_weights_tells_nan_from_infinity() -> None:
    values = np.ones((2, 100), np.float32)
    values[1, 99] = -np.inf
    assert decoding.amax(values) == np.inf
    assert decoding.amax(float32_to_bf16(values)) == np.inf
    values[0, 3] = np.nan
    assert np.isnan(decoding.amax(values))
    assert np.isnan(decoding.amax(float32_to_bf16(values)))


@pytest.mark.parametrize("name", ["gaussian", "outliers", "uneven", "holes", "small", "large"])
def test_nvfp4_errors_are_those_of_the_decoded_values(name: str) -> None:
    tile = float32_to_bf16(hard_matrices(16, 128)[name])
    own = kernels.nvfp4_global_scale(kernels.amax(tile))
    serving = np.float32(own * np.float32(0.8))
    packed, scale = np.empty((16, 64), np.uint8), np.empty((16, 8), np.uint8)
    sums = kernels.quantize_nvfp4(tile, own, kernels.MIN_MAX, packed, scale)
    weights = reference.as_float32(tile).astype(np.float64)
    expected = [float(np.square(weights).sum())] + [
        float(np.square(weights - reference.nvfp4_dequantize(packed, scale, divisor)).sum())
        for divisor in (own, serving)
    ]
    found = weight_errors.nvfp4_errors(tile, packed, scale, float(own), float(serving))
    assert found == pytest.approx(expected, rel=1e-5)
    assert found[:2] == pytest.approx(sums[:2], rel=1e-6)
    assert found[2] > found[1]
    factors = [float(np.float32(1) / divisor) for divisor in (own, serving)]
    again = weight_errors.nvfp4_errors(tile, packed, scale, *factors, multiplies=True)
    assert again == pytest.approx(found, rel=1e-5)


@given(tile=tiles(column_multiple=1))
@settings(max_examples=25)
def test_fp8_errors_are_those_that_the_kernel_reported(tile: Tile) -> None:
    codes = np.empty(tile.shape, np.uint8)
    scale = np.empty((tile.shape[0], 1), np.uint16)
    sums = kernels.quantize_fp8_channel(tile, codes, scale.reshape(-1))
    found = weight_errors.fp8_channel_errors(tile, codes, reference.bf16_decode(scale))
    assert found == pytest.approx(sums, rel=1e-5, abs=1e-10 * sums[0])


def test_a_single_scale_serves_the_whole_tensor() -> None:
    tile = np.arange(-60, 60, dtype=np.float32).reshape(4, 30)
    codes = reference.e4m3_encode(tile / np.float32(0.5))
    expected = np.square(tile - reference.e4m3_decode(codes) * np.float32(0.5)).sum()
    found = weight_errors.fp8_tensor_errors(tile, codes, 0.5)
    assert found == pytest.approx((float(np.square(tile).sum()), float(expected)))


def test_arrays_of_a_wrong_shape_are_refused() -> None:
    codes = np.zeros((4, 200), np.uint8)
    with pytest.raises(ValueError, match="`scales`"):
        decoding.decode_fp8_block(
            codes, np.ones((1, 1), np.float32), 128, 128, np.empty((4, 200), np.float32)
        )
    with pytest.raises(ValueError, match="`out`"):
        decoding.decode_fp8_tensor(codes, 1.0, np.empty((4, 199), np.float32))
    with pytest.raises(ValueError, match="`codes`"):
        weight_errors.fp8_tensor_errors(np.zeros((4, 199), np.float32), codes, 1.0)
