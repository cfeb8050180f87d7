"""The quantizing kernels as the engine calls them: checked arrays in, sums of squares out.

A tile of weights is `uint16[rows, K]` (BF16 bits) or `float32[rows, K]`; all arrays are
C-contiguous. Every kernel releases the GIL, and runs on the thread that calls it.
A NaN or an infinity among the weights makes a sum that is not finite; naming the tensor is the
caller's part. BF16 tiles give llm-compressor's bytes; `docs` of each kernel module say where the
library's arithmetic is unusual and where ours departs from it.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from halftone.checkpoint.decoding import amax, require
from halftone.quantize.fp8 import quantize_blocks, quantize_rows, quantize_whole
from halftone.quantize.nvfp4 import quantize_groups
from halftone.quantize.searches import EXHAUSTIVE, MEAN_SQUARED_ERROR, MIN_MAX

Weights = NDArray[np.uint16] | NDArray[np.float32]

_BF16_TINY: Final = np.float32(2.0**-126)  # smallest normal number, of BF16 and of float32
_FP8_LARGEST: Final = np.float32(448.0)
_FP8_ZERO_SCALE: Final = np.float32(2.0**-7)  # what the library stores where a scale is zero
_NVFP4_RANGE: Final = np.float32(448.0 * 6.0)  # the largest block scale times the largest code


def nvfp4_global_scale(maximum: float, *, bfloat16: bool = True) -> np.float32:
    """The divisor that NVFP4 stores beside a fused group whose largest magnitude is `maximum`.

    compressed-tensors' `generate_gparam`: nominally 2688 / maximum, computed as
    (1 / maximum) * 2688 and, when every member is BF16, rounded to BF16 after both steps, which
    puts it up to 0.8 % off. A maximum of zero, or too small for a finite result, gives 1.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        bounded = np.maximum(np.float32(maximum), _BF16_TINY)
        inverse = _as_bf16(np.float32(1.0) / bounded) if bfloat16 else np.float32(1.0) / bounded
        scale = inverse * _NVFP4_RANGE
        scale = _as_bf16(scale) if bfloat16 else scale
    return scale if np.isfinite(scale) else np.float32(1.0)


def fp8_scale(maximum: float) -> np.float32:
    """The scale of everything in FP8 whose largest magnitude is `maximum`: a BF16 number.

    compressed-tensors' `calculate_qparams` for one scale a tensor, in BF16: maximum / 448, and 2^-7
    where that is zero. Of weights, of what enters a module, of keys and values.
    """
    scale = _as_bf16(np.float32(maximum) / _FP8_LARGEST)
    return scale if scale > 0 else _FP8_ZERO_SCALE


def quantize_nvfp4(
    weights: Weights,
    global_scale: float | np.float32,
    search: int,
    packed: NDArray[np.uint8],
    scale: NDArray[np.uint8],
) -> tuple[float, float, float]:
    """Quantize to `packed[rows, K/2]` and `scale[rows, K/16]`, block scales chosen by `search`.

    Returns (sum w², sum error², sum error² that `MIN_MAX` would have made). The error is measured
    against what a server computes: code * block scale / global scale.
    """
    rows, columns = weights.shape
    require(packed.shape == (rows, columns // 2) and columns % 16 == 0, "packed", packed.shape)
    require(scale.shape == (rows, columns // 16), "scale", scale.shape)
    sums = quantize_groups(
        weights.reshape(-1),
        np.float32(global_scale),
        search,
        packed.reshape(-1),
        scale.reshape(-1),
    )
    return float(sums[0]), float(sums[1]), float(sums[2])


def quantize_fp8_tensor(
    weights: Weights, scale: float | np.float32, out: NDArray[np.uint8]
) -> tuple[float, float]:
    """Quantize to `out[rows, K]` with the one `scale` of the fused group, by `fp8_scale`.

    Returns (sum w², sum error²).
    """
    require(out.shape == weights.shape, "out", out.shape)
    sums = quantize_whole(weights.reshape(-1), np.float32(scale), out.reshape(-1))
    return float(sums[0]), float(sums[1])


def quantize_fp8_channel(
    weights: Weights, out: NDArray[np.uint8], scale: NDArray[np.uint16]
) -> tuple[float, float]:
    """Quantize to `out[rows, K]` with one BF16 scale per row; returns (sum w², sum error²)."""
    require(out.shape == weights.shape, "out", out.shape)
    require(scale.shape == weights.shape[:1], "scale", scale.shape)
    sums = quantize_rows(weights, weights.reshape(-1), out.reshape(-1), scale)
    return float(sums[0]), float(sums[1])


def quantize_fp8_block(
    weights: Weights, out: NDArray[np.uint8], scale: NDArray[np.uint16], power_of_two: bool
) -> tuple[float, float]:
    """Quantize to `out[rows, K]` with one BF16 scale per 128x128 block, ragged at the edges.

    `power_of_two` takes the smallest power of two that clips nothing instead of amax / 448: a
    server that rounds scales to powers of two at load then changes nothing.
    Returns (sum w², sum error²).
    """
    rows, columns = weights.shape
    require(out.shape == weights.shape, "out", out.shape)
    require(scale.shape == (-(-rows // 128), -(-columns // 128)), "scale", scale.shape)
    sums = quantize_blocks(weights, weights.reshape(-1), out.reshape(-1), scale, power_of_two)
    return float(sums[0]), float(sums[1])


def _as_bf16(value: np.float32) -> np.float32:
    """`value`, rounded to the nearest BF16; infinities stay."""
    pattern = int(np.asarray(value, np.float32).view(np.uint32))
    rounded = (pattern + 0x7FFF + ((pattern >> 16) & 1)) & 0xFFFF0000
    return np.float32(np.asarray(rounded, np.uint32).view(np.float32))


__all__ = [
    "EXHAUSTIVE",
    "MEAN_SQUARED_ERROR",
    "MIN_MAX",
    "Weights",
    "amax",
    "fp8_scale",
    "nvfp4_global_scale",
    "quantize_fp8_block",
    "quantize_fp8_channel",
    "quantize_fp8_tensor",
    "quantize_nvfp4",
]
