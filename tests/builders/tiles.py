"""Tiles of weights as kernels take them, for Hypothesis, and kernels that are compiled beforehand.

Called by the unit tests of kernels and decoding.
"""

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from .matrices import hard_matrices
from .numbers import bf16_to_float32, float32_to_bf16

Tile = npt.NDArray[np.uint16] | npt.NDArray[np.float32]

_FINITE = st.integers(0, 0x7F7F) | st.integers(0x8000, 0xFF7F)


@st.composite
def tiles(draw: st.DrawFn, column_multiple: int = 16, most_rows: int = 12) -> Any:
    """Finite tiles: any BF16 bit patterns, or rows cut from the hard matrices; BF16 or float32."""
    rows = draw(st.integers(1, most_rows))
    columns = column_multiple * draw(st.integers(1, 320 // max(column_multiple, 16)))
    if draw(st.booleans()):
        tile = draw(arrays(np.uint16, (rows, columns), elements=_FINITE, fill=_FINITE))
    else:
        name = draw(st.sampled_from(sorted(hard_matrices(16, 16))))
        seed = draw(st.integers(0, 99))
        tile = float32_to_bf16(hard_matrices(16, 336, seed)[name][-rows:, :columns])
    if draw(st.booleans()):
        return np.ascontiguousarray(tile)
    wide = bf16_to_float32(tile)
    return np.ascontiguousarray(wide * np.float32(draw(st.sampled_from([1, 0.7, 1 / 3]))))


@cache
def warm_kernels() -> None:
    """Compile, or load from the cache, every kernel for every kind of tile."""
    from halftone.checkpoint import decoding, weight_errors
    from halftone.quantize import kernels

    for dtype in (np.uint16, np.float32):
        tile = np.zeros((2, 16), dtype)
        packed, scale, codes = (np.zeros((2, n), np.uint8) for n in (8, 1, 16))
        scales = np.zeros((2, 1), np.uint16)
        ones = np.ones((2, 1), np.float32)
        kernels.amax(tile)
        kernels.quantize_nvfp4(tile, 1.0, kernels.MIN_MAX, packed, scale)
        kernels.quantize_fp8_channel(tile, codes, scales[:, 0])
        kernels.quantize_fp8_tensor(tile, 1.0, codes)
        kernels.quantize_fp8_block(tile, codes, scales[:1], True)
        decoding.decode_nvfp4(packed, scale, 1.0, tile)
        weight_errors.nvfp4_errors(tile, packed, scale, 1.0, 1.0)
        weight_errors.fp8_channel_errors(tile, codes, ones)
    decoding.decode_fp8_channel(codes, ones, np.zeros((2, 16), np.float32))
    decoding.decode_fp8_channel_bf16(codes, ones, np.zeros((2, 16), np.uint16))
    decoding.has_nan_e4m3(codes)
    decoding.has_nan_bf16(scales)
