"""The NVFP4 kernel and its searches against the NumPy reference and against known errors."""

import numpy as np
import pytest
from hypothesis import given, settings

from halftone.checkpoint import reference
from halftone.quantize import kernels
from halftone.quantize.searches import _ABOVE, _BELOW
from tests.builders.matrices import every_bf16, hard_matrices
from tests.builders.numbers import float32_to_bf16
from tests.builders.tiles import Tile, tiles, warm_kernels

# Compiling is no part of a test's time.

_WINDOWS = {
    kernels.MIN_MAX: range(0),
    kernels.MEAN_SQUARED_ERROR: range(-_BELOW, _ABOVE + 1),
    kernels.EXHAUSTIVE: range(-126, 127),
}


@pytest.fixture(scope="module", autouse=True)
def _compiled() -> None:
    warm_kernels()


def quantized(
    tile: Tile, search: int, global_scale: np.float32
) -> tuple[reference.Codes, reference.Codes, tuple[float, float, float]]:
    """(packed, block scales, sums)."""
    rows, columns = tile.shape
    packed = np.full((rows, columns // 2), 0xAA, np.uint8)
    scale = np.full((rows, columns // 16), 0xAA, np.uint8)
    return packed, scale, kernels.quantize_nvfp4(tile, global_scale, search, packed, scale)


def global_scale_of(tile: Tile) -> np.float32:
    """The scale of a tensor that consists of this tile."""
    return kernels.nvfp4_global_scale(kernels.amax(tile), bfloat16=tile.dtype == np.uint16)


def exact_sums(tile: Tile, packed: reference.Codes, scale: reference.Codes) -> list[float]:
    """(sum w², sum error²) in float64."""
    weights = reference.as_float32(tile).astype(np.float64)
    with np.errstate(over="ignore"):
        stored = reference.nvfp4_dequantize(packed, scale, global_scale_of(tile))
    return [float(np.square(weights).sum()), float(np.square(weights - stored).sum())]


def check_against_reference(tile: Tile, search: int) -> None:
    """Equal bytes, and sums that are right to float32's precision."""
    scale = global_scale_of(tile)
    packed, codes, sums = quantized(tile, search, scale)
    expected = reference.nvfp4_best_codes(tile, scale, _WINDOWS[search])
    assert np.array_equal(codes, expected)
    assert np.array_equal(packed, reference.nvfp4_quantize(tile, expected, scale))
    if kernels.amax(tile) < 1e-34:  # squares below float32's range are taken for zero
        return
    wanted = exact_sums(tile, packed, codes)
    if np.isfinite(wanted).all():
        assert sums[:2] == pytest.approx(wanted, rel=1e-5, abs=1e-10 * wanted[0])
    assert sums[1] <= sums[2] * (1 + 1e-6)


@pytest.mark.parametrize("search", _WINDOWS)
@given(tile=tiles())
@settings(max_examples=15)
def test_bytes_are_the_references(search: int, tile: Tile) -> None:
    check_against_reference(tile, search)


@pytest.mark.parametrize("search", _WINDOWS)
def test_every_bf16_number_is_quantized_as_in_the_reference(search: int) -> None:
    rows = float32_to_bf16(every_bf16())
    tile = rows if search == kernels.MIN_MAX else np.ascontiguousarray(rows[::12])
    check_against_reference(tile, search)


@pytest.mark.parametrize("name", hard_matrices(16, 16))
def test_exhaustive_search_finds_what_trying_all_126_scales_finds(name: str) -> None:
    check_against_reference(float32_to_bf16(hard_matrices(16, 128)[name]), kernels.EXHAUSTIVE)


@pytest.mark.parametrize("name", hard_matrices(16, 16))
def test_a_global_scale_of_a_larger_group_is_served_too(name: str) -> None:
    tile = float32_to_bf16(hard_matrices(16, 64)[name])
    scale = np.float32(global_scale_of(tile) / np.float32(64))
    for search, window in _WINDOWS.items():
        packed, codes, _ = quantized(tile, search, scale)
        expected = reference.nvfp4_best_codes(tile, scale, window)
        assert np.array_equal(codes, expected)
        assert np.array_equal(packed, reference.nvfp4_quantize(tile, expected, scale))


@pytest.mark.parametrize(
    ("search", "lowest", "highest"),
    [
        (kernels.MIN_MAX, 0.093, 0.097),
        (kernels.MEAN_SQUARED_ERROR, 0.07, 0.089),
        (kernels.EXHAUSTIVE, 0.07, 0.082),
    ],
)
def test_the_error_of_gaussian_weights_is_what_the_format_allows(
    search: int, lowest: float, highest: float
) -> None:
    draw = np.random.default_rng(5).standard_normal((256, 2048)).astype(np.float32)
    tile = float32_to_bf16(draw * np.float32(0.02))
    sums = quantized(tile, search, global_scale_of(tile))[2]
    assert lowest <= (sums[1] / sums[0]) ** 0.5 <= highest
    assert 0.093 <= (sums[2] / sums[0]) ** 0.5 <= 0.097


def test_the_cut_into_tiles_changes_nothing() -> None:
    whole = float32_to_bf16(hard_matrices()["uneven"])
    scale = global_scale_of(whole)
    packed, codes, sums = quantized(whole, kernels.EXHAUSTIVE, scale)
    parts = [
        quantized(np.ascontiguousarray(part), kernels.EXHAUSTIVE, scale)
        for part in np.array_split(whole, 7)
    ]
    assert np.array_equal(packed, np.concatenate([part[0] for part in parts]))
    assert np.array_equal(codes, np.concatenate([part[1] for part in parts]))
    assert sums == pytest.approx(tuple(sum(p[2][i] for p in parts) for i in range(3)), rel=1e-6)


def test_an_all_zero_tensor_is_stored_as_zeros() -> None:
    packed, codes, sums = quantized(np.zeros((3, 32), np.uint16), kernels.EXHAUSTIVE, np.float32(1))
    assert not packed.any()
    assert (codes == 0x20).all()
    assert sums == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("search", _WINDOWS)
@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["BF16", "F32"])
def test_a_weight_that_is_not_finite_shows_in_the_sum(
    search: int, wrong: float, dtype: str
) -> None:
    values = np.ones((4, 48), np.float32)
    values[2, 37] = wrong
    tile = float32_to_bf16(values) if dtype == "BF16" else values
    assert not np.isfinite(kernels.amax(tile))
    assert not np.isfinite(quantized(tile, search, np.float32(2688))[2][0])


@given(tile=tiles())
@settings(max_examples=25)
def test_the_maximum_is_numpys(tile: Tile) -> None:
    assert kernels.amax(tile) == float(np.abs(reference.as_float32(tile)).max())


def test_the_global_scale_is_the_references_for_every_bf16_maximum() -> None:
    for maximum in np.abs(every_bf16()).reshape(-1)[::17].tolist():
        for bfloat16 in (True, False):
            ours = kernels.nvfp4_global_scale(maximum, bfloat16=bfloat16)
            assert ours == reference.nvfp4_global_scale(maximum, bfloat16=bfloat16)
            assert np.isfinite(ours)


def test_arrays_of_a_wrong_shape_are_refused() -> None:
    tile = np.zeros((2, 32), np.uint16)
    with pytest.raises(ValueError, match="`packed`"):
        kernels.quantize_nvfp4(
            tile, 1.0, 0, np.zeros((2, 15), np.uint8), np.zeros((2, 2), np.uint8)
        )
    with pytest.raises(ValueError, match="`scale`"):
        kernels.quantize_nvfp4(
            tile, 1.0, 0, np.zeros((2, 16), np.uint8), np.zeros((2, 1), np.uint8)
        )
