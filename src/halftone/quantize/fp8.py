"""FP8 (E4M3): a scale per row, per block of 128 rows and columns, or per group, stored as BF16.

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
    load,
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
    last = np.zeros(LANES, np.uint8)
    weight_sum = 0.0
    error_sum = 0.0
    for row in range(rows):
        begin = row * columns
        maximum = _maximum(flat, begin, begin + columns, spare)
        if maximum >= np.uint32(_INFINITY):
            return np.nan, np.nan
        scales[row] = _scale_pattern(float_of(maximum))
        scale = float_of(np.uint32(scales[row]) << np.uint32(16))
        unit = inverse_binade(scale)
        back = 1.0 / (np.float64(unit) * np.float64(unit))
        for part in range(begin, begin + columns, _FLUSH):
            stop = min(part + _FLUSH, begin + columns)
            sums = splat(0.0), splat(0.0)
            weight2, error2 = _quantize_span(flat, part, stop, scale, unit, out, spare, last, sums)
            weight_sum += total(weight2) * back
            error_sum += total(error2) * back
    return weight_sum, error_sum


@kernel
def quantize_whole(flat: Any, scale: Any, out: Any) -> Any:
    """(sum w², sum error²) over `flat`, quantized with the one `scale` of its fused group."""
    spare = np.zeros(LANES, flat.dtype)
    last = np.zeros(LANES, np.uint8)
    unit = inverse_binade(scale)
    back = 1.0 / (np.float64(unit) * np.float64(unit))
    weight_sum = 0.0
    error_sum = 0.0
    for part in range(0, flat.size, _FLUSH):
        stop = min(part + _FLUSH, flat.size)
        sums = splat(0.0), splat(0.0)
        weight2, error2 = _quantize_span(flat, part, stop, scale, unit, out, spare, last, sums)
        weight_sum += total(weight2) * back
        error_sum += total(error2) * back
    return weight_sum, error_sum


@kernel
def quantize_blocks(weights: Any, flat: Any, out: Any, scales: Any, power_of_two: Any) -> Any:
    """(sum w², sum error²) over `weights[rows, K]`, given flat as well; one scale per block.

    Bands of 128 rows are walked row by row, for maxima and again to quantize: memory is then read
    in order, and the second walk finds it in the cache.
    """
    rows, columns = weights.shape
    blocks = scales.shape[1]
    maxima = np.zeros(blocks, np.uint32)
    sums = np.zeros(2 * blocks * LANES, np.float32)
    spare = np.zeros(LANES, flat.dtype)
    last = np.zeros(LANES, np.uint8)
    weight_sum = 0.0
    error_sum = 0.0
    for top in range(0, rows, _SIDE):
        bottom = min(top + _SIDE, rows)
        _band_maxima(flat, top, bottom, columns, maxima, spare)
        for block in range(blocks):
            if maxima[block] >= np.uint32(_INFINITY):
                return np.nan, np.nan
            if power_of_two:
                scales[top // _SIDE, block] = _power_of_two_pattern(maxima[block])
            else:
                scales[top // _SIDE, block] = _scale_pattern(float_of(maxima[block]))
        sums[:] = 0.0
        for row in range(top, bottom):
            for block in range(blocks):
                begin = row * columns + block * _SIDE
                end = min(begin + _SIDE, (row + 1) * columns)
                scale = float_of(np.uint32(scales[top // _SIDE, block]) << np.uint32(16))
                unit = inverse_binade(scale)
                place = 2 * block * LANES
                part = load(sums, place), load(sums, place + LANES)
                part = _quantize_span(flat, begin, end, scale, unit, out, spare, last, part)
                store(sums, place, part[0])
                store(sums, place + LANES, part[1])
        for block in range(blocks):
            scale = float_of(np.uint32(scales[top // _SIDE, block]) << np.uint32(16))
            unit = np.float64(inverse_binade(scale))
            place = 2 * block * LANES
            weight_sum += total(load(sums, place)) / unit / unit
            error_sum += total(load(sums, place + LANES)) / unit / unit
    return weight_sum, error_sum


@inline
def _band_maxima(flat: Any, top: Any, bottom: Any, columns: Any, maxima: Any, spare: Any) -> None:
    """The bits of the largest magnitude in each block of a band of rows."""
    maxima[:] = 0
    for row in range(top, bottom):
        for block in range(maxima.size):
            begin = row * columns + block * _SIDE
            end = min(begin + _SIDE, (row + 1) * columns)
            maxima[block] = max(maxima[block], _maximum(flat, begin, end, spare))


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
    return np.uint16(exponent << 7) if exponent > 0 else np.uint16(1 << 7)


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
    flat: Any,
    begin: Any,
    end: Any,
    scale: Any,
    unit: Any,
    out: Any,
    spare: Any,
    last: Any,
    sums: Any,
) -> Any:
    """Quantize `flat[begin:end]` with one scale; returns `sums` of squares with its own added."""
    divisor, factor, step = splat(scale), splat(unit), splat(scale * unit)
    whole = begin + (end - begin) // LANES * LANES
    weight2, error2 = sums
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
        store(last, 0, codes)
        for i in range(whole, end):
            out[i] = last[i - whole]
    return weight2, error2


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
