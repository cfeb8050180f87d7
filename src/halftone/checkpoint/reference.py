"""Every number format and every quantization, once more in plain NumPy: slow, short, the oracle.

Tests hold the kernels and this file together; nothing else calls it. Codes are found by searching
a table of values, not by the bit tricks of the kernels, so that the two do not share a mistake.
Weights are float32, or uint16 holding BF16 bits; arithmetic on BF16 weights is done in float32 and
rounded to BF16 after each operation, as torch does.
"""

from collections.abc import Iterable
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Codes = NDArray[np.uint8]
Bf16 = NDArray[np.uint16]
Weights = Bf16 | Floats

E2M1_VALUES: Final = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)


def _e4m3_value(code: int) -> float:
    exponent, mantissa = code >> 3, code & 7
    if exponent == 0:
        return mantissa / 8 * 2.0**-6
    return (1 + mantissa / 8) * 2.0 ** (exponent - 7)


E4M3_VALUES: Final = np.array([_e4m3_value(code) for code in range(127)], np.float32)


def bf16_decode(patterns: Bf16) -> Floats:
    """The values of BF16 bit patterns."""
    return (patterns.astype(np.uint32) << np.uint32(16)).view(np.float32)


def bf16_encode(values: Floats) -> Bf16:
    """The nearest BF16, ties to even; every NaN becomes 0x7FC0 with its sign."""
    patterns = np.ascontiguousarray(values, np.float32).view(np.uint32)
    even = (patterns >> np.uint32(16)) & np.uint32(1)
    rounded = (patterns + np.uint32(0x7FFF) + even) >> np.uint32(16)
    quiet = (patterns >> np.uint32(16)) & np.uint32(0x8000) | np.uint32(0x7FC0)
    return np.where(np.isnan(values), quiet, rounded).astype(np.uint16)


def as_float32(weights: Weights) -> Floats:
    """Weights of either kind as float32."""
    if weights.dtype == np.uint16:
        return bf16_decode(weights.astype(np.uint16))
    return weights.astype(np.float32)


def e4m3_encode(values: Floats) -> Codes:
    """The nearest FP8 E4M3, ties to even, at most 448; NaN becomes 0x7F."""
    codes = _nearest(np.abs(values), E4M3_VALUES) | np.where(np.signbit(values), 0x80, 0)
    return np.where(np.isnan(values), 0x7F, codes).astype(np.uint8)


def e4m3_decode(codes: Codes) -> Floats:
    """The values of FP8 E4M3 codes; 0x7F and 0xFF are NaN."""
    values = np.append(E4M3_VALUES, np.float32(np.nan))[codes & 0x7F]
    return np.asarray(np.where(codes >= 0x80, -values, values), np.float32)


def e2m1_encode(values: Floats) -> Codes:
    """The nearest FP4 E2M1, ties to even, at most 6; the sign of a value that rounds to 0 stays."""
    codes = _nearest(np.abs(values), E2M1_VALUES) | np.where(np.signbit(values), 8, 0)
    return codes.astype(np.uint8)


def e2m1_decode(codes: Codes) -> Floats:
    """The values of 4-bit E2M1 codes."""
    values = E2M1_VALUES[codes & 7]
    return np.asarray(np.where(codes >= 8, -values, values), np.float32)


def nvfp4_global_scale(amax: float, *, bfloat16: bool = True) -> np.float32:
    """compressed-tensors' `generate_gparam`: (1 / amax) * 2688, never infinite, never NaN."""
    with np.errstate(over="ignore"):
        bounded = np.maximum(np.float32(amax), np.finfo(np.float32).tiny)
        inverse = _rounded(np.float32(1) / bounded, bfloat16)
        scale = _rounded(inverse * np.float32(2688), bfloat16)
    return np.float32(scale if np.isfinite(scale) else 1.0)


def nvfp4_min_max_codes(weights: Weights, global_scale: np.float32) -> Codes:
    """The block scales that follow from block maxima, `[rows, K/16]`."""
    maxima = np.abs(as_float32(weights)).reshape(weights.shape[0], -1, 16).max(axis=-1)
    sixths = _rounded(maxima / np.float32(6), weights.dtype == np.uint16)
    codes = e4m3_encode(global_scale * sixths)
    return np.where(codes == 0, np.uint8(0x20), codes)


def nvfp4_best_codes(weights: Weights, global_scale: np.float32, window: Iterable[int]) -> Codes:
    """Block scales of the least squared error, among MinMax's and those at `window` from it.

    Sums of sixteen squares are added in the kernels' order, since the choice hangs on the last bit
    now and then; MinMax's scale stays unless another is strictly better, then the smallest wins.
    """
    start = nvfp4_min_max_codes(weights, global_scale)
    best, least = start.copy(), _block_errors(weights, start, global_scale)
    least = least.copy()
    for offset in window:
        code = start.astype(np.int64) + offset
        legal = (code >= 1) & (code <= 126)
        trial = np.where(legal, code, start).astype(np.uint8)
        error = _block_errors(weights, trial, global_scale)
        better = (error < least) & legal
        best, least = np.where(better, trial, best), np.where(better, error, least)
    return best


def nvfp4_quantize(weights: Weights, codes: Codes, global_scale: np.float32) -> Codes:
    """Packed codes `[rows, K/2]` under block scales `codes`; the even column is the low half."""
    values = as_float32(weights).reshape(*codes.shape, 16)
    with np.errstate(over="ignore"):
        quotient = values / _steps(codes, global_scale)
    positive = np.where(quotient == 0, np.float32(0), quotient)  # the sign of a zero is dropped
    low = e2m1_encode(positive).reshape(weights.shape)
    return low[:, 0::2] | (low[:, 1::2] << np.uint8(4))


def nvfp4_dequantize(
    packed: Codes, codes: Codes, global_scale: np.float32, *, multiplies: bool = False
) -> Floats:
    """Code * (block scale / global scale), or with `multiplies` code * (block scale * factor)."""
    rows = packed.shape[0]
    halves = np.stack([packed & 15, packed >> 4], axis=-1).reshape(*codes.shape, 16)
    steps = _steps(codes, global_scale)
    if multiplies:
        steps = (e4m3_decode(codes) * np.float32(global_scale))[..., None]
    return (e2m1_decode(halves) * steps).reshape(rows, -1)


def fp8_scales(weights: Weights, block: tuple[int, int], power_of_two: bool = False) -> Bf16:
    """One BF16 scale per block: amax / 448, or the smallest power of two that clips nothing."""
    values = np.abs(as_float32(weights))
    tops, lefts = (np.arange(0, size, side) for size, side in zip(values.shape, block, strict=True))
    amax = np.maximum.reduceat(np.maximum.reduceat(values, tops, axis=0), lefts, axis=1)
    if power_of_two:
        exponents = np.arange(-126, 128)
        above = 448.0 * 2.0**exponents >= amax.astype(np.float64)[..., None]
        scales = (2.0 ** exponents[above.argmax(axis=-1)]).astype(np.float32)
        return bf16_encode(np.where(amax == 0, 2.0**-7, scales).astype(np.float32))
    patterns = bf16_encode(np.asarray(amax / np.float32(448), np.float32))
    return np.where(patterns == 0, np.uint16(0x3C00), patterns)


def fp8_quantize(weights: Weights, scales: Bf16, block: tuple[int, int]) -> Codes:
    """FP8 codes `[rows, K]`; a quotient of BF16 numbers is rounded to BF16 first."""
    with np.errstate(over="ignore"):
        quotient = as_float32(weights) / _spread(bf16_decode(scales), weights.shape, block)
    return e4m3_encode(_rounded(quotient, weights.dtype == np.uint16))


def fp8_dequantize(codes: Codes, scales: Floats, block: tuple[int, int]) -> Floats:
    """code * scale, one scale per block of `block` rows and columns."""
    return e4m3_decode(codes) * _spread(scales, codes.shape, block)


def _nearest(magnitudes: Floats, values: Floats) -> NDArray[np.int64]:
    """Index of the nearest of ascending `values`; a tie goes to the even index."""
    table = values.astype(np.float64)
    middles = (table[1:] + table[:-1]) / 2
    wide = magnitudes.astype(np.float64)
    below = np.searchsorted(middles, wide, side="left")
    above = np.searchsorted(middles, wide, side="right")
    return np.where(below % 2 == 0, below, above)


def _rounded(values: Floats, bfloat16: bool) -> Floats:
    return bf16_decode(bf16_encode(values)) if bfloat16 else values


def _steps(codes: Codes, global_scale: np.float32) -> Floats:
    return (e4m3_decode(codes) / np.float32(global_scale))[..., None]


def _block_errors(weights: Weights, codes: Codes, global_scale: np.float32) -> Floats:
    """Squared error of each block, in units in which the global scale is between 1 and 2."""
    unit = np.float32(2.0 ** np.floor(np.log2(np.float64(global_scale))))
    sizes = np.abs(as_float32(weights)).reshape(*codes.shape, 16) * unit
    steps = _steps(codes, global_scale) * unit
    with np.errstate(over="ignore"):
        error = sizes - E2M1_VALUES[_nearest(sizes / steps, E2M1_VALUES)] * steps
    squares = error * error
    while squares.shape[-1] > 1:  # lane i with i + 8, then i + 4, i + 2, i + 1
        half = squares.shape[-1] // 2
        squares = squares[..., :half] + squares[..., half:]
    return np.asarray(squares[..., 0], np.float32)


def _spread(scales: Floats, shape: tuple[int, ...], block: tuple[int, int]) -> Floats:
    """A scale for every weight."""
    wide = np.repeat(np.repeat(scales, block[0], axis=0), block[1], axis=1)
    return np.asarray(wide[: shape[0], : shape[1]], np.float32)
