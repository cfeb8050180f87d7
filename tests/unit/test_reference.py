"""The NumPy reference against other implementations of the same formats.

ml_dtypes rounds BF16, E4M3 and E2M1; the builders have their own BF16 and E4M3. What the formats'
definitions say in numbers is said here in numbers.
"""

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from halftone.checkpoint import reference
from tests.builders.matrices import every_bf16, hard_matrices
from tests.builders.numbers import float32_to_bf16

Floats = NDArray[np.float32]


@pytest.fixture(scope="module")
def values() -> Floats:
    """Many float32 values of all magnitudes: every BF16, the points between, and what is near."""
    near = every_bf16().reshape(-1)
    halfway = near * np.float32(1 + 2**-8)
    draw = np.random.default_rng(0).standard_normal(20000).astype(np.float32)
    grid = np.arange(0, 500, 1 / 64, dtype=np.float32)
    finite = np.concatenate([near, halfway, draw, draw * 100, grid, -grid])
    return np.asarray(finite[np.isfinite(finite)], np.float32)


def test_bf16_is_rounded_as_ml_dtypes_rounds_it(values: Floats) -> None:
    expected = values.astype(ml_dtypes.bfloat16).view(np.uint16)
    assert np.array_equal(reference.bf16_encode(values), expected)


def test_bf16_nan_stays_nan() -> None:
    nan = np.array([np.nan, -np.nan], np.float32)
    assert np.isnan(reference.bf16_decode(reference.bf16_encode(nan))).all()


def test_every_bf16_survives_decoding_and_encoding() -> None:
    patterns = np.arange(65536, dtype=np.uint32).astype(np.uint16)
    patterns = patterns[(patterns & 0x7FFF) <= 0x7F80]
    assert np.array_equal(reference.bf16_encode(reference.bf16_decode(patterns)), patterns)


def test_e4m3_is_rounded_as_ml_dtypes_rounds_it(values: Floats) -> None:
    inside = values[np.abs(values) <= 448]
    expected = inside.astype(ml_dtypes.float8_e4m3fn).view(np.uint8)
    assert np.array_equal(reference.e4m3_encode(inside), expected)


def test_e4m3_saturates_and_keeps_nan() -> None:
    found = reference.e4m3_encode(np.array([1e9, -1e9, np.inf, np.nan], np.float32))
    assert found.tolist() == [0x7E, 0xFE, 0x7E, 0x7F]


def test_e4m3_codes_mean_what_ml_dtypes_says() -> None:
    codes = np.arange(256, dtype=np.uint32).astype(np.uint8)
    expected = codes.view(ml_dtypes.float8_e4m3fn).astype(np.float32)
    assert np.array_equal(reference.e4m3_decode(codes), expected, equal_nan=True)


def test_e2m1_is_rounded_as_ml_dtypes_rounds_it(values: Floats) -> None:
    expected = values.astype(ml_dtypes.float4_e2m1fn)
    assert np.array_equal(
        reference.e2m1_decode(reference.e2m1_encode(values)), expected.astype(np.float32)
    )


def test_e2m1_ties_go_to_the_even_code() -> None:
    ties = np.array([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0], np.float32)
    assert reference.e2m1_encode(ties).tolist() == [0, 2, 2, 4, 4, 6, 6]


@pytest.mark.parametrize(
    ("amax", "bfloat16", "expected"),
    [
        (1.0, True, 2688.0),
        (0.09130859375, True, 29440.0),  # 2688 / amax is 29438.6; BF16 has no such number
        (0.09130859375, False, 29438.630859375),
        (0.0, True, 1.0),  # no finite quotient: nothing is scaled
        (0.0, False, 1.0),
        (7.5e-36, True, 1.0),
        (float("nan"), True, 1.0),
    ],
)
def test_the_global_scale_is_finite_and_as_the_library_has_it(
    amax: float, bfloat16: bool, expected: float
) -> None:
    assert reference.nvfp4_global_scale(amax, bfloat16=bfloat16) == np.float32(expected)


def test_a_block_of_code_values_is_stored_without_error() -> None:
    values = np.array([[0, 0.5, 1, 1.5, 2, 3, 4, 6, -6, -4, -3, -2, -1.5, -1, -0.5, 0]], np.float32)
    scale = reference.nvfp4_global_scale(6.0, bfloat16=False)
    codes = reference.nvfp4_min_max_codes(values, scale)
    packed = reference.nvfp4_quantize(values, codes, scale)
    assert codes.tolist() == [[0x7E]]
    assert packed.tolist() == [[0x10, 0x32, 0x54, 0x76, 0xEF, 0xCD, 0xAB, 0x09]]
    assert np.allclose(reference.nvfp4_dequantize(packed, codes, scale), values, rtol=1e-6)


def test_a_zero_block_is_stored_with_the_scale_that_the_library_puts_there() -> None:
    zeros = np.zeros((1, 16), np.float32)
    assert reference.nvfp4_min_max_codes(zeros, np.float32(1)).tolist() == [[0x20]]


def test_trying_more_scales_never_makes_the_error_greater() -> None:
    for name, values in hard_matrices(16, 64).items():
        weights = float32_to_bf16(values)
        scale = reference.nvfp4_global_scale(float(np.abs(values).max()))
        errors = []
        for window in (range(0), range(-3, 8), range(-126, 127)):
            codes = reference.nvfp4_best_codes(weights, scale, window)
            found = reference.nvfp4_dequantize(
                reference.nvfp4_quantize(weights, codes, scale), codes, scale
            )
            exact = reference.as_float32(weights).astype(np.float64)
            errors.append(float(np.square(exact - found).sum()))
        assert errors[2] <= errors[1] * (1 + 1e-6), name
        assert errors[1] <= errors[0] * (1 + 1e-6), name


@pytest.mark.parametrize(
    ("amax", "expected"), [(448.0, 1.0), (449.0, 2.0), (447.0, 1.0), (224.0, 0.5), (0.0, 2.0**-7)]
)
def test_a_power_of_two_scale_is_the_smallest_that_clips_nothing(
    amax: float, expected: float
) -> None:
    scales = reference.fp8_scales(np.full((1, 8), amax, np.float32), (128, 128), power_of_two=True)
    assert reference.bf16_decode(scales).tolist() == [[expected]]


def test_ragged_blocks_have_scales_of_their_own() -> None:
    weights = np.ones((130, 140), np.float32)
    weights[128:], weights[:, 128:] = 2, 4
    scales = reference.bf16_decode(reference.fp8_scales(weights, (128, 128), power_of_two=True))
    assert scales.tolist() == [[2.0**-8, 2.0**-6], [2.0**-7, 2.0**-6]]
    codes = reference.fp8_quantize(weights, reference.bf16_encode(scales), (128, 128))
    assert np.array_equal(reference.fp8_dequantize(codes, scales, (128, 128)), weights)
