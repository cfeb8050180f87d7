"""The FP8 kernels against the NumPy reference: rows, blocks with ragged edges, whole groups."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halftone.checkpoint import reference
from halftone.quantize import kernels
from tests.builders.matrices import every_bf16, hard_matrices
from tests.builders.numbers import bf16_to_float32, float32_to_bf16
from tests.builders.tiles import Tile, tiles, warm_kernels

_BLOCK = (128, 128)


@pytest.fixture(scope="module", autouse=True)
def _compiled() -> None:
    warm_kernels()


def by_channel(tile: Tile) -> tuple[reference.Codes, reference.Bf16, tuple[float, float]]:
    """(codes, scales `[rows, 1]`, sums)."""
    codes = np.full(tile.shape, 0xAA, np.uint8)
    scale = np.full((tile.shape[0], 1), 0xAAAA, np.uint16)
    return codes, scale, kernels.quantize_fp8_channel(tile, codes, scale.reshape(-1))


def by_block(
    tile: Tile, power_of_two: bool
) -> tuple[reference.Codes, reference.Bf16, tuple[float, float]]:
    """(codes, scales `[ceil(rows/128), ceil(K/128)]`, sums)."""
    codes = np.full(tile.shape, 0xAA, np.uint8)
    scale = np.full(tuple(-(-size // 128) for size in tile.shape), 0xAAAA, np.uint16)
    return codes, scale, kernels.quantize_fp8_block(tile, codes, scale, power_of_two)


def by_tensor(tile: Tile) -> tuple[reference.Codes, reference.Bf16, tuple[float, float]]:
    """(codes, scale `[1, 1]`, sums)."""
    codes = np.full(tile.shape, 0xAA, np.uint8)
    scale = kernels.fp8_scale(kernels.amax(tile))
    sums = kernels.quantize_fp8_tensor(tile, scale, codes)
    return codes, float32_to_bf16(np.array([[scale]], np.float32)), sums


def check(
    tile: Tile,
    block: tuple[int, int],
    found: tuple[reference.Codes, reference.Bf16, tuple[float, float]],
    power_of_two: bool = False,
) -> None:
    """Equal bytes, and sums that are right to float32's precision."""
    codes, scale, sums = found
    assert np.array_equal(scale, reference.fp8_scales(tile, block, power_of_two))
    assert np.array_equal(codes, reference.fp8_quantize(tile, scale, block))
    if kernels.amax(tile) < 1e-33:  # a server's products are then subnormal, and rounded as such
        return
    weights = reference.as_float32(tile).astype(np.float64)
    with np.errstate(over="ignore"):
        stored = reference.fp8_dequantize(codes, bf16_to_float32(scale), block)
    wanted = [float(np.square(weights).sum()), float(np.square(weights - stored).sum())]
    if np.isfinite(wanted).all():
        assert sums == pytest.approx(wanted, rel=1e-5, abs=1e-10 * wanted[0])


@given(tile=tiles(column_multiple=1))
@settings(max_examples=40)
def test_channel_bytes_are_the_references(tile: Tile) -> None:
    check(tile, (1, tile.shape[1]), by_channel(tile))


@given(tile=tiles(column_multiple=1))
@settings(max_examples=40)
def test_tensor_bytes_are_the_references(tile: Tile) -> None:
    check(tile, (tile.shape[0], tile.shape[1]), by_tensor(tile))


def test_a_long_tensor_is_summed_in_parts() -> None:
    tile = float32_to_bf16(hard_matrices(304, 400)["outliers"][:, :399])
    check(tile, (tile.shape[0], tile.shape[1]), by_tensor(tile))


@pytest.mark.parametrize(("amax", "scale"), [(0.0, 2.0**-7), (1e-45, 2.0**-7), (448.0, 1.0)])
def test_a_scale_is_never_zero(amax: float, scale: float) -> None:
    assert kernels.fp8_scale(amax) == scale


@given(tile=tiles(column_multiple=1), power_of_two=st.booleans())
@settings(max_examples=40)
def test_block_bytes_are_the_references(tile: Tile, power_of_two: bool) -> None:
    check(tile, _BLOCK, by_block(tile, power_of_two), power_of_two)


@pytest.mark.parametrize("power_of_two", [True, False])
@pytest.mark.parametrize("shape", [(128, 128), (129, 127), (1, 1), (300, 400), (5, 257)])
def test_ragged_blocks_are_the_references(shape: tuple[int, int], power_of_two: bool) -> None:
    tile = float32_to_bf16(hard_matrices(304, 400)["uneven"][: shape[0], : shape[1]])
    check(tile, _BLOCK, by_block(tile, power_of_two), power_of_two)


def test_every_bf16_number_is_quantized_as_in_the_reference() -> None:
    tile = float32_to_bf16(every_bf16())
    check(tile, (1, tile.shape[1]), by_channel(tile))
    check(tile, _BLOCK, by_block(tile, power_of_two=False))


@pytest.mark.parametrize("name", hard_matrices(16, 16))
def test_hard_float32_matrices_are_quantized_as_in_the_reference(name: str) -> None:
    tile = hard_matrices()[name] * np.float32(0.7)
    check(tile, (1, tile.shape[1]), by_channel(tile))
    check(tile, _BLOCK, by_block(tile, power_of_two=True), power_of_two=True)


@pytest.mark.parametrize("name", hard_matrices(16, 16))
def test_a_power_of_two_scale_is_one_and_clips_nothing(name: str) -> None:
    tile = float32_to_bf16(hard_matrices()[name])
    scale = bf16_to_float32(by_block(tile, power_of_two=True)[1])
    assert np.array_equal(np.exp2(np.round(np.log2(scale))), scale)
    maxima = bf16_to_float32(reference.fp8_scales(tile, _BLOCK)) * np.float32(448)
    assert (scale * np.float32(448) * np.float32(1.01) >= maxima).all()


def test_the_error_of_gaussian_weights_is_what_the_format_allows() -> None:
    draw = np.random.default_rng(5).standard_normal((256, 2048)).astype(np.float32)
    tile = float32_to_bf16(draw * np.float32(0.02))
    for sums in (by_channel(tile)[2], by_block(tile, True)[2], by_block(tile, False)[2]):
        assert 0.0255 <= (sums[1] / sums[0]) ** 0.5 <= 0.0270


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["BF16", "F32"])
@pytest.mark.parametrize("column", [5, 49])
def test_a_weight_that_is_not_finite_shows_in_the_sum(
    wrong: float, dtype: str, column: int
) -> None:
    values = np.ones((4, 50), np.float32)
    values[2, column] = wrong
    tile = float32_to_bf16(values) if dtype == "BF16" else values
    assert not np.isfinite(by_channel(tile)[2][0])
    assert not np.isfinite(by_block(tile, power_of_two=True)[2][0])


def test_arrays_of_a_wrong_shape_are_refused() -> None:
    tile = np.zeros((130, 40), np.uint16)
    codes = np.zeros((130, 40), np.uint8)
    with pytest.raises(ValueError, match="`scale`"):
        kernels.quantize_fp8_block(tile, codes, np.zeros((1, 1), np.uint16), True)
    with pytest.raises(ValueError, match="`scale`"):
        kernels.quantize_fp8_channel(tile, codes, np.zeros(129, np.uint16))
    with pytest.raises(ValueError, match="`out`"):
        kernels.quantize_fp8_channel(tile, codes[:, :39].copy(), np.zeros(130, np.uint16))
