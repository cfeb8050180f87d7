"""FP8 (E4M3): a scale per row, or per block of 128 rows and 128 columns, stored as BF16.

The arithmetic is llm-compressor's as it runs for BF16 weights: scale = amax / 448 rounded to BF16,
or 2^-7 where that is zero; weight / scale is rounded to BF16 and only then to FP8. float32 tiles
(F32 and F16 sources) divide in float32 and still store a BF16 scale, where the library would
store the source's precision: servers read either, and one layout is planned.
"""

from typing import Any

import numpy as np

from halftone.checkpoint.bits import (
    as_source,
    bf16_from,
    inverse_binade,
    magnitude,
    nearest_e4m3,
    weights_at,
)
from halftone.checkpoint.jit import inline, kernel
from halftone.checkpoint.lanes import (
    LANES,
    bits,
    float_of,
    largest,
    max_bits,
    splat,
    splat_bits,
    store,
    total,
)

_SIDE = 128
_FLUSH = 4096  # weights summed in float32 before they are added to the float64 sum
_INFINITY = 0x7F800000
_ZERO_SCALE = 0x3C00  # 2^-7 in BF16: what the library stores where a scale is zero


@kernel
def quantize_rows(weights: Any, flat: Any, out: Any, scales: Any) -> Any:
    """(sum w², sum error²) over `weights[rows, K]`, given flat as well; one scale per row."""
    rows, columns = weights.shape
    spare = np.zeros(LANES, flat.dtype)
    sums = np.zeros(2, np.float64)
    for row in range(rows):
        begin = row * columns
        maximum = _maximum(flat, begin, begin + columns, spare)
        if maximum >= np.uint32(_INFINITY):
            return np.nan, np.nan
        scales[row] = _scale_pattern(float_of(maximum))
        scale = float_of(np.uint32(scales[row]) << np.uint32(16))
        unit = inverse_binade(scale)
        for part in range(begin, begin + columns, _FLUSH):
            stop = min(part + _FLUSH, begin + columns)
            _quantize_span(flat, part, stop, scale, unit, out, spare, sums)
    return sums[0], sums[1]


@kernel
def quantize_blocks(weights: Any, flat: Any, out: Any, scales: Any, power_of_two: Any) -> Any:
    """(sum w², sum error²) over `weights[rows, K]`, given flat as well; one scale per block."""
    rows, columns = weights.shape
    spare = np.zeros(LANES, flat.dtype)
    sums = np.zeros(2, np.float64)
    for top in range(0, rows, _SIDE):
        bottom = min(top + _SIDE, rows)
        for left in range(0, columns, _SIDE):
            width = min(_SIDE, columns - left)
            maximum = np.uint32(0)
            for row in range(top, bottom):
                begin = row * columns + left
                maximum = max(maximum, _maximum(flat, begin, begin + width, spare))
            if maximum >= np.uint32(_INFINITY):
                return np.nan, np.nan
            if power_of_two:
                pattern = _power_of_two_pattern(maximum)
            else:
                pattern = _scale_pattern(float_of(maximum))
            scales[top // _SIDE, left // _SIDE] = pattern
            scale = float_of(np.uint32(pattern) << np.uint32(16))
            unit = inverse_binade(scale)
            for row in range(top, bottom):
                begin = row * columns + left
                _quantize_span(flat, begin, begin + width, scale, unit, out, spare, sums)
    return sums[0], sums[1]


@inline
def _scale_pattern(maximum: Any) -> Any:
    """The BF16 bits of maximum / 448."""
    pattern = largest(bf16_from(splat(maximum / np.float32(448.0))))
    return np.uint16(pattern) if pattern > np.uint32(0) else np.uint16(_ZERO_SCALE)


@inline
def _power_of_two_pattern(maximum: Any) -> Any:
    """The BF16 bits of the smallest power of two, 2^-126 at least, not below maximum / 448.

    448 is 1.75 * 2^8: the exponent goes up by one where the maximum's significand is above 1.75.
    """
    if maximum == np.uint32(0):
        return np.uint16(_ZERO_SCALE)
    exponent = np.int64(maximum >> np.uint32(23)) - 8
    if (maximum & np.uint32(0x7FFFFF)) > np.uint32(0x600000):
        exponent += 1
    return np.uint16(max(exponent, 1) << 7)


@inline
def _maximum(flat: Any, begin: Any, end: Any, spare: Any) -> Any:
    """The bits of the largest magnitude in `flat[begin:end]`."""
    whole = begin + (end - begin) // LANES * LANES
    best = splat_bits(0)
    for i in range(begin, whole, LANES):
        best = max_bits(best, bits(magnitude(weights_at(flat, i))))
    if whole < end:
        _fill_spare(flat, whole, end, spare)
        best = max_bits(best, bits(magnitude(weights_at(spare, 0))))
    return largest(best)


@inline
def _quantize_span(
    flat: Any, begin: Any, end: Any, scale: Any, unit: Any, out: Any, spare: Any, sums: Any
) -> None:
    """Quantize `flat[begin:end]` with one scale; add its squares and errors to `sums`."""
    divisor, factor, step = splat(scale), splat(unit), splat(scale * unit)
    whole = begin + (end - begin) // LANES * LANES
    weight2 = error2 = splat(0.0)
    for i in range(begin, whole, LANES):
        codes, size, error = _encode(flat, i, divisor, factor, step)
        store(out, i, codes)
        weight2 = weight2 + size * size
        error2 = error2 + error * error
    if whole < end:
        _fill_spare(flat, whole, end, spare)
        codes, size, error = _encode(spare, 0, divisor, factor, step)
        weight2 = weight2 + size * size
        error2 = error2 + error * error
        last = np.empty(LANES, np.uint8)
        store(last, 0, codes)
        for i in range(whole, end):
            out[i] = last[i - whole]
    back = 1.0 / (np.float64(unit) * np.float64(unit))
    sums[0] += total(weight2) * back
    sums[1] += total(error2) * back


@inline
def _encode(flat: Any, index: Any, divisor: Any, factor: Any, step: Any) -> Any:
    """(codes, scaled magnitudes, scaled errors) of sixteen weights."""
    x = weights_at(flat, index)
    size = magnitude(x)
    values, low = nearest_e4m3(as_source(flat, size / divisor))
    sign = (bits(x) >> splat_bits(24)) & splat_bits(0x80)
    scaled = size * factor
    return low | sign, scaled, scaled - values * step


@inline
def _fill_spare(flat: Any, begin: Any, end: Any, spare: Any) -> None:
    """The last weights of a row whose length is no multiple of sixteen, and zeros."""
    spare[:] = 0
    for i in range(begin, end):
        spare[i - begin] = flat[i]
