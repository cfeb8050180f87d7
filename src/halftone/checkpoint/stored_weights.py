"""Stored weights as kernels take them; those in FP8 as the BF16 bits that all else works from.

Called by the engine, and by the inspection, which must see the very numbers that the engine saw.
Which scale belongs to which weight, and how many weights share one, is for the caller to know.
"""

import numpy as np
from numpy.typing import NDArray

from halftone.checkpoint import decoding
from halftone.checkpoint.headers import TensorEntry
from halftone.checkpoint.scratch import Bytes, Scratch
from halftone.spec.dtypes import Dtype
from halftone.spec.files import FileSource


def as_float32(dtype: Dtype, data: Bytes) -> NDArray[np.float32]:
    """The numbers of a small tensor, flat."""
    match dtype:
        case Dtype.BF16:
            return (data.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
        case Dtype.F8_E8M0:
            return np.ldexp(np.float32(1), data.astype(np.int32) - 127).astype(np.float32)
        case Dtype.F16:
            return data.view(np.float16).astype(np.float32)
        case Dtype.F64:
            return data.view(np.float64).astype(np.float32)
        case _:
            return data.view(np.float32)


def as_weights(
    dtype: Dtype, data: Bytes, shape: tuple[int, ...], scratch: Scratch
) -> NDArray[np.uint16] | NDArray[np.float32]:
    """Full-precision bytes as kernels take them: BF16 bits, or float32 for F16 and F32.

    F16 is widened into a buffer of `scratch`; the others are views of `data`.
    """
    match dtype:
        case Dtype.BF16:
            return data.view(np.uint16).reshape(shape)
        case Dtype.F32:
            return data.view(np.float32).reshape(shape)
        case _:
            half = data.view(np.float16).reshape(shape)
            wide = scratch.take("wide", half.size * 4).view(np.float32).reshape(shape)
            np.copyto(wide, half)
            return wide


def read_scales(source: FileSource, entry: TensorEntry) -> NDArray[np.float32]:
    """A whole scale tensor in its shape; small (one value a tensor, channel or block)."""
    data = source.read_range(entry.file, entry.offset, entry.nbytes)
    values = as_float32(entry.dtype, np.frombuffer(data, np.uint8))
    return np.ascontiguousarray(values.reshape(entry.shape))


def dequantize_blocks(
    codes: Bytes,
    scales: NDArray[np.float32],
    start: int,
    block: tuple[int, int],
    out: NDArray[np.uint16],
) -> None:
    """Rows `[start, start + len(codes))` of a matrix with one scale a block.

    `start` is a multiple of the block's rows. `out` gets BF16 bits, rounded to nearest even.
    """
    decoding.decode_fp8_block_bf16(codes, scales[start // block[0] :], *block, out)


def dequantize_rows(
    codes: Bytes, scales: NDArray[np.float32], start: int, out: NDArray[np.uint16]
) -> None:
    """The same with one scale a row of the matrix, or a single one for all of it."""
    if scales.size == 1:
        decoding.decode_fp8_tensor_bf16(codes, float(scales.reshape(-1)[0]), out)
        return
    rows = scales.reshape(-1)[start : start + len(codes)]
    decoding.decode_fp8_channel_bf16(codes, np.ascontiguousarray(rows), out)
