"""From stored codes back to weights, exactly as compressed-tensors and ModelOpt decompress them.

NVFP4: code * (block scale / global scale) in the former's layout and code * (block scale * global
scale) in the latter's, all operations in float32. FP8: code * scale in
float32. Where a result is stored as BF16 it is rounded once, to nearest even. (compressed-tensors
multiplies FP8 by a BF16 scale in BF16: the exact product fits float32, so the result is the same;
its `FP8BlockDequantizer` does what is done here.)

Called by the tile reader for FP8 sources and by inspection; arrays are C-contiguous and the caller
owns every buffer. Nothing here reads a file or knows a tensor's name.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from halftone.checkpoint.bits import e2m1_to, e4m3_to, store_as
from halftone.checkpoint.jit import kernel
from halftone.checkpoint.lanes import (
    LANES,
    largest,
    load,
    load_nibbles,
    max_bits,
    splat,
    splat_bits,
    store,
)

Codes = NDArray[np.uint8]
Scales = NDArray[np.float32]
Floats = NDArray[np.float32]
Bf16 = NDArray[np.uint16]


def decode_nvfp4(
    packed: Codes,
    scale: Codes,
    global_scale: float,
    out: NDArray[np.float32] | NDArray[np.uint16],
    *,
    multiplies: bool = False,
) -> None:
    """Dequantize `packed[rows, K/2]` with `scale[rows, K/16]` into `out[rows, K]`.

    `global_scale` is as stored: a divisor, or with `multiplies` ModelOpt's factor. `out` is
    float32, or uint16 for BF16 bits.
    """
    rows, columns = out.shape
    require(packed.shape == (rows, columns // 2) and columns % 16 == 0, "packed", packed.shape)
    require(scale.shape == (rows, columns // 16), "scale", scale.shape)
    shared = np.float32(global_scale)
    _decode_nvfp4(packed.reshape(-1), scale.reshape(-1), shared, multiplies, out.reshape(-1))


def decode_fp8_block(
    codes: Codes, scales: Scales, block_rows: int, block_columns: int, out: Floats
) -> None:
    """Dequantize `codes[rows, K]`, one scale per block; `scales` may have more rows than needed."""
    _decode_blocks(codes, scales, block_rows, block_columns, out)


def decode_fp8_block_bf16(
    codes: Codes, scales: Scales, block_rows: int, block_columns: int, out: Bf16
) -> None:
    """`decode_fp8_block`, rounded to BF16 bits."""
    _decode_blocks(codes, scales, block_rows, block_columns, out)


def decode_fp8_channel(codes: Codes, scales: Scales, out: Floats) -> None:
    """Dequantize `codes[rows, K]` with one scale per row."""
    _decode_blocks(codes, scales.reshape(-1, 1), 1, codes.shape[1], out)


def decode_fp8_channel_bf16(codes: Codes, scales: Scales, out: Bf16) -> None:
    """`decode_fp8_channel`, rounded to BF16 bits."""
    _decode_blocks(codes, scales.reshape(-1, 1), 1, codes.shape[1], out)


def decode_fp8_tensor(codes: Codes, scale: float, out: Floats) -> None:
    """Dequantize `codes[rows, K]` with one scale for all."""
    _decode_blocks(codes, _single(scale), codes.shape[0], codes.shape[1], out)


def decode_fp8_tensor_bf16(codes: Codes, scale: float, out: Bf16) -> None:
    """`decode_fp8_tensor`, rounded to BF16 bits."""
    _decode_blocks(codes, _single(scale), codes.shape[0], codes.shape[1], out)


def has_nan_e4m3(codes: Codes) -> bool:
    """Whether any byte is one of E4M3's two NaN (0x7F, 0xFF)."""
    return bool(_largest_magnitude(codes.reshape(-1), np.uint32(0x7F)) == 0x7F)


def has_nan_bf16(values: Bf16) -> bool:
    """Whether any BF16 bit pattern is a NaN (infinities are not)."""
    return bool(_largest_magnitude(values.reshape(-1), np.uint32(0x7FFF)) > 0x7F80)


def amax(weights: NDArray[np.uint16] | NDArray[np.float32]) -> float:
    """The largest magnitude; infinite if any weight is infinite and none NaN, NaN if any is NaN."""
    if weights.dtype == np.uint16:
        found = np.uint32(_largest_magnitude(weights.reshape(-1), np.uint32(0x7FFF))) << 16
    else:
        patterns = weights.reshape(-1).view(np.uint32)
        found = np.uint32(_largest_magnitude(patterns, np.uint32(0x7FFFFFFF)))
    return float(np.array(found, np.uint32).view(np.float32))


def require(condition: bool, name: str, shape: tuple[int, ...]) -> None:
    """Stop before a kernel would read or write beyond an array: kernels do not check."""
    if not condition:
        raise ValueError(f"`{name}` has a shape that does not fit the weights: {shape}")


def require_scales(scales: Scales, shape: tuple[int, ...], block: tuple[int, int]) -> None:
    """There must be a scale for every block, ragged ones at the edges included."""
    needed = (-(-shape[0] // block[0]), -(-shape[1] // block[1]))
    fits = scales.ndim == 2 and scales.shape[0] >= needed[0] and scales.shape[1] == needed[1]
    require(fits, "scales", scales.shape)


def _single(scale: float) -> Scales:
    return np.full((1, 1), scale, np.float32)


def _decode_blocks(
    codes: Codes,
    scales: Scales,
    block_rows: int,
    block_columns: int,
    out: NDArray[np.float32] | NDArray[np.uint16],
) -> None:
    require(codes.shape == out.shape, "out", out.shape)
    require_scales(scales, codes.shape, (block_rows, block_columns))
    _decode_fp8(codes, scales, block_rows, block_columns, codes.reshape(-1), out.reshape(-1))


@kernel
def _decode_nvfp4(packed: Any, scale: Any, global_scale: Any, multiplies: Any, out: Any) -> None:
    shared = splat(global_scale)
    steps = np.zeros(LANES, np.float32)
    spare = np.zeros(LANES, np.uint8)
    for first in range(0, scale.size, LANES):
        count = min(LANES, scale.size - first)
        for g in range(count):
            spare[g] = scale[first + g]
        blocks = e4m3_to(load(spare, 0))
        store(steps, 0, blocks * shared if multiplies else blocks / shared)
        for g in range(count):
            values = e2m1_to(load_nibbles(packed, (first + g) * 8))
            store_as(out, (first + g) * 16, values * splat(steps[g]))


@kernel
def _decode_fp8(
    codes: Any, scales: Any, block_rows: Any, block_columns: Any, flat: Any, out: Any
) -> None:
    rows, columns = codes.shape
    spare = np.zeros(LANES, np.uint8)
    spare_out = np.empty(LANES, out.dtype)
    for row in range(rows):
        for start in range(0, columns, block_columns):
            step = splat(scales[row // block_rows, start // block_columns])
            begin = row * columns + start
            end = row * columns + min(start + block_columns, columns)
            whole = begin + (end - begin) // LANES * LANES
            for i in range(begin, whole, LANES):
                store_as(out, i, e4m3_to(load(flat, i)) * step)
            for i in range(whole, end):
                spare[i - whole] = flat[i]
            if whole < end:
                store_as(spare_out, 0, e4m3_to(load(spare, 0)) * step)
                for i in range(whole, end):
                    out[i] = spare_out[i - whole]


@kernel
def _largest_magnitude(patterns: Any, mask: Any) -> Any:
    """The largest of `pattern & mask`: unsigned integers, of any width up to 32 bits."""
    kept = splat_bits(mask)
    best0 = best1 = best2 = best3 = splat_bits(0)
    unrolled = patterns.size // (4 * LANES) * (4 * LANES)
    for i in range(0, unrolled, 4 * LANES):
        best0 = max_bits(best0, load(patterns, i) & kept)
        best1 = max_bits(best1, load(patterns, i + LANES) & kept)
        best2 = max_bits(best2, load(patterns, i + 2 * LANES) & kept)
        best3 = max_bits(best3, load(patterns, i + 3 * LANES) & kept)
    best = largest(max_bits(max_bits(best0, best1), max_bits(best2, best3)))
    for i in range(unrolled, patterns.size):
        best = max(best, np.uint32(patterns[i] & mask))
    return best
