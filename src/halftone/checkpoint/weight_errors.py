"""How far stored codes are from the weights that they were made of, as sums of squares.

Called by inspection with the source's weights: relative error = sqrt(error / weight). Sums are
float64 over float32 parts, each part scaled by a power of two so that no magnitude is lost.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from halftone.checkpoint.bits import e2m1_to, e4m3_to, inverse_binade, weights_at
from halftone.checkpoint.decoding import Codes, Scales, require, require_scales
from halftone.checkpoint.jit import kernel
from halftone.checkpoint.lanes import LANES, load, load_nibbles, splat, store, total

Weights = NDArray[np.uint16] | NDArray[np.float32]

_FLUSH = 4096  # weights summed in float32 before they are added to the float64 sum


def nvfp4_errors(
    weights: Weights,
    packed: Codes,
    scale: Codes,
    own_global_scale: float,
    serving_global_scale: float,
    *,
    multiplies: bool = False,
) -> tuple[float, float, float]:
    """(sum w², sum error² under the tensor's own global scale, under the one a server takes).

    Both are as stored: divisors, or with `multiplies` ModelOpt's factors.
    """
    rows, columns = weights.shape
    require(packed.shape == (rows, columns // 2) and columns % 16 == 0, "packed", packed.shape)
    require(scale.shape == (rows, columns // 16), "scale", scale.shape)
    sums = _nvfp4_errors(
        weights.reshape(-1),
        packed.reshape(-1),
        scale.reshape(-1),
        np.float32(own_global_scale),
        np.float32(serving_global_scale),
        multiplies,
    )
    return float(sums[0]), float(sums[1]), float(sums[2])


def fp8_block_errors(
    weights: Weights, codes: Codes, scales: Scales, block_rows: int, block_columns: int
) -> tuple[float, float]:
    """(sum w², sum error²) of FP8 codes with one scale per block."""
    require(codes.shape == weights.shape, "codes", codes.shape)
    require_scales(scales, codes.shape, (block_rows, block_columns))
    sums = _fp8_errors(
        weights.reshape(-1), codes, codes.reshape(-1), scales, block_rows, block_columns
    )
    return float(sums[0]), float(sums[1])


def fp8_channel_errors(weights: Weights, codes: Codes, scales: Scales) -> tuple[float, float]:
    """(sum w², sum error²) of FP8 codes with one scale per row."""
    return fp8_block_errors(weights, codes, scales.reshape(-1, 1), 1, codes.shape[1])


def fp8_tensor_errors(weights: Weights, codes: Codes, scale: float) -> tuple[float, float]:
    """(sum w², sum error²) of FP8 codes with one scale for all."""
    scales = np.full((1, 1), scale, np.float32)
    return fp8_block_errors(weights, codes, scales, codes.shape[0], codes.shape[1])


@kernel
def _nvfp4_errors(
    weights: Any, packed: Any, scale: Any, own: Any, serving: Any, multiplies: Any
) -> Any:
    # Weights times the divisor are of the order of 2688.
    unit = inverse_binade(own) if multiplies else np.float32(1.0) / inverse_binade(own)
    own_steps = np.zeros(LANES, np.float32)
    serving_steps = np.zeros(LANES, np.float32)
    spare = np.zeros(LANES, np.uint8)
    sums = np.zeros(3, np.float64)
    for first in range(0, scale.size, LANES):
        count = min(LANES, scale.size - first)
        for g in range(count):
            spare[g] = scale[first + g]
        steps = e4m3_to(load(spare, 0))
        own_step = steps * splat(own) if multiplies else steps / splat(own)
        serving_step = steps * splat(serving) if multiplies else steps / splat(serving)
        store(own_steps, 0, own_step * splat(unit))
        store(serving_steps, 0, serving_step * splat(unit))
        weight2 = own2 = serving2 = splat(0.0)
        for g in range(count):
            x = weights_at(weights, (first + g) * 16) * splat(unit)
            values = e2m1_to(load_nibbles(packed, (first + g) * 8))
            own_error = x - values * splat(own_steps[g])
            serving_error = x - values * splat(serving_steps[g])
            weight2 = weight2 + x * x
            own2 = own2 + own_error * own_error
            serving2 = serving2 + serving_error * serving_error
        sums[0] += total(weight2)
        sums[1] += total(own2)
        sums[2] += total(serving2)
    back = 1.0 / (np.float64(unit) * np.float64(unit))
    return sums[0] * back, sums[1] * back, sums[2] * back


@kernel
def _fp8_errors(
    weights: Any, codes: Any, flat: Any, scales: Any, block_rows: Any, block_columns: Any
) -> Any:
    rows, columns = codes.shape
    spare = np.zeros(LANES, np.uint8)
    spare_weights = np.zeros(LANES, weights.dtype)
    weight_sum = 0.0
    error_sum = 0.0
    for row in range(rows):
        for start in range(0, columns, block_columns):
            scale = scales[row // block_rows, start // block_columns]
            unit = inverse_binade(scale)
            step = splat(scale * unit)
            begin = row * columns + start
            end = row * columns + min(start + block_columns, columns)
            back = 1.0 / (np.float64(unit) * np.float64(unit))
            for part in range(begin, end, _FLUSH):
                stop = min(part + _FLUSH, end)
                whole = part + (stop - part) // LANES * LANES
                weight2 = error2 = splat(0.0)
                for i in range(part, whole, LANES):
                    x = weights_at(weights, i) * splat(unit)
                    error = x - e4m3_to(load(flat, i)) * step
                    weight2 = weight2 + x * x
                    error2 = error2 + error * error
                if whole < stop:
                    spare[:] = 0
                    spare_weights[:] = 0
                    for i in range(whole, stop):
                        spare[i - whole] = flat[i]
                        spare_weights[i - whole] = weights[i]
                    x = weights_at(spare_weights, 0) * splat(unit)
                    error = x - e4m3_to(load(spare, 0)) * step
                    weight2 = weight2 + x * x
                    error2 = error2 + error * error
                weight_sum += total(weight2) * back
                error_sum += total(error2) * back
    return weight_sum, error_sum
