"""NVFP4: sixteen weights share an FP8 scale, a fused group of tensors shares a float32 scale.

The arithmetic is llm-compressor's as it runs for BF16 weights, quirks included, because the bytes
must be equal: the block maximum over 6 is rounded to BF16 before it meets the global scale; a
block scale that rounds to zero is stored as 0.125, which makes the whole block zero; a weight is
divided by (block scale / global scale), not multiplied by its inverse. float32 tiles go through
the same steps in float32, as the library does for F32 sources. F16 sources come as float32: the
library computes them in F16, where the global scale of any tensor with a maximum below 0.041
overflows and is replaced by 1, and we do not follow it there.
"""

from typing import Any

import numpy as np

from halftone.checkpoint.bits import (
    as_source,
    e4m3_to,
    inverse_binade,
    magnitude,
    nearest_e2m1,
    nearest_e4m3,
    weights_at,
)
from halftone.checkpoint.jit import inline, kernel
from halftone.checkpoint.lanes import (
    LANES,
    bits,
    float_of,
    floats,
    largest,
    load,
    splat,
    splat_bits,
    store,
    store_nibbles,
    total,
    where_below,
)
from halftone.quantize.searches import (
    EXHAUSTIVE,
    MEAN_SQUARED_ERROR,
    MIN_MAX,
    block_error,
    exhaustive,
    mean_squared_error,
)

_ZERO_SCALE_CODE = 0x20  # 0.125, what the library stores where a block scale rounds to zero


@kernel
def quantize_groups(weights: Any, global_scale: Any, search: Any, packed: Any, scale: Any) -> Any:
    """(sum w², sum error², sum error² of MinMax) over flat arrays; sixteen groups at a time.

    What is squared is first multiplied by a power of two near the global scale, which changes no
    rounding: squares of weights as small as 1e-30 then add up in float32.
    """
    unit = np.float32(1.0) / inverse_binade(global_scale)
    divisors = _all_steps(global_scale)
    steps = divisors * unit
    maxima = np.zeros(LANES, np.uint32)
    codes = np.zeros(LANES, np.uint32)
    sums = np.zeros(3, np.float64)
    for first in range(0, scale.size, LANES):
        count = min(LANES, scale.size - first)
        for g in range(count):
            maxima[g] = largest(bits(magnitude(weights_at(weights, (first + g) * 16))))
        store(codes, 0, _min_max_codes(weights, floats(load(maxima, 0)), global_scale))
        if search != MIN_MAX:
            sums[2] += _search(weights, first, count, search, unit, steps, maxima, codes)
        weight2 = error2 = splat(0.0)
        for g in range(count):
            x = weights_at(weights, (first + g) * 16)
            quotient = magnitude(x) / splat(divisors[codes[g]])
            values, low = nearest_e2m1(quotient)
            size = magnitude(x) * splat(unit)
            error = size - values * splat(steps[codes[g]])
            weight2 = weight2 + size * size
            error2 = error2 + error * error
            # The library multiplies by the quotient's sign, and that of -0.0 is 0.
            negative = where_below(splat_bits(0), bits(quotient), bits(x), splat_bits(0))
            sign = (negative >> splat_bits(28)) & splat_bits(8)
            store_nibbles(packed, (first + g) * 8, low | sign)
            scale[first + g] = codes[g]
        sums[0] += total(weight2)
        sums[1] += total(error2)
    back = 1.0 / (np.float64(unit) * np.float64(unit))
    if search == MIN_MAX:
        sums[2] = sums[1]
    return sums[0] * back, sums[1] * back, sums[2] * back


@inline
def _all_steps(global_scale: Any) -> Any:
    """What a code of 1.0 is worth under each of the 128 block scales."""
    codes = np.arange(128).astype(np.uint8)
    steps = np.zeros(128, np.float32)
    for first in range(0, 128, LANES):
        store(steps, first, e4m3_to(load(codes, first)) / splat(global_scale))
    return steps


@inline
def _min_max_codes(weights: Any, maxima: Any, global_scale: Any) -> Any:
    sixths = as_source(weights, maxima / splat(6.0))
    _, codes = nearest_e4m3(splat(global_scale) * sixths)
    return where_below(splat_bits(0), codes, codes, splat_bits(_ZERO_SCALE_CODE))


@inline
def _search(
    weights: Any,
    first: Any,
    count: Any,
    search: Any,
    unit: Any,
    steps: Any,
    maxima: Any,
    codes: Any,
) -> Any:
    """Replace MinMax's codes by better ones; returns the sum of errors squared that MinMax made."""
    min_max_sum = 0.0
    for g in range(count):
        sizes = magnitude(weights_at(weights, (first + g) * 16) * splat(unit))
        code = np.int64(codes[g])
        error = block_error(sizes, steps[code])
        min_max_sum += error
        if search == MEAN_SQUARED_ERROR:
            codes[g], _ = mean_squared_error(sizes, steps, code, error)
        elif search == EXHAUSTIVE:
            codes[g], _ = exhaustive(sizes, steps, float_of(maxima[g]) * unit, code, error)
    return min_max_sum
