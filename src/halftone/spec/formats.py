"""The weight formats: what each stores for one `[N, K]` matrix, and what it needs.

A format is a row of `FORMATS`. Planning sizes, laying out files, writing tensors and reading
anyone's checkpoint all go through `stored_tensors`, so they cannot disagree.
Layouts are those of compressed-tensors (`nvfp4-pack-quantized`, `float-quantized`), which vLLM
loads.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Final

from halftone.spec.dtypes import Dtype

NVFP4_GROUP: Final = 16  # weights that share one FP8 scale
FP8_BLOCK_SIDE: Final = 128  # rows and columns that share one scale


class Format(StrEnum):
    """A weight format, named as compressed-tensors' presets name it."""

    NVFP4A16 = "NVFP4A16"  # 4-bit weights, 16-bit activations
    NVFP4 = "NVFP4"  # 4-bit weights and activations
    FP8_DYNAMIC = "FP8_DYNAMIC"  # per-channel weights, activations scaled per token at run time
    FP8_BLOCK = "FP8_BLOCK"  # 128x128 blocks, activations scaled per group at run time
    FP8_BLOCK_A16 = "FP8_BLOCK_A16"  # 128x128 blocks, 16-bit activations


@dataclass(frozen=True)
class StoredTensor:
    """One tensor that a format writes for a matrix; `suffix` replaces `.weight`."""

    suffix: str
    dtype: Dtype
    shape: Callable[[int, int], tuple[int, ...]]


@dataclass(frozen=True)
class FormatTraits:
    """What the rest of the program needs to know of a format.

    `k_multiple` must divide the last dimension; `shares_global_scale` says that members of a fused
    group must have one per-tensor scale; `needs_calibration` that activations must be measured.
    """

    stored: tuple[StoredTensor, ...]
    k_multiple: int
    shares_global_scale: bool
    needs_calibration: bool


def _blocks(size: int) -> int:
    return -(-size // FP8_BLOCK_SIDE)


_PACKED = StoredTensor("weight_packed", Dtype.U8, lambda n, k: (n, k // 2))
_GROUP_SCALE = StoredTensor("weight_scale", Dtype.F8_E4M3, lambda n, k: (n, k // NVFP4_GROUP))
_GLOBAL_SCALE = StoredTensor("weight_global_scale", Dtype.F32, lambda n, k: (1,))
_INPUT_GLOBAL_SCALE = StoredTensor("input_global_scale", Dtype.F32, lambda n, k: (1,))
_FP8_WEIGHT = StoredTensor("weight", Dtype.F8_E4M3, lambda n, k: (n, k))
_CHANNEL_SCALE = StoredTensor("weight_scale", Dtype.BF16, lambda n, k: (n, 1))
_BLOCK_SCALE = StoredTensor("weight_scale", Dtype.BF16, lambda n, k: (_blocks(n), _blocks(k)))

FORMATS: Final[dict[Format, FormatTraits]] = {
    Format.NVFP4A16: FormatTraits((_PACKED, _GROUP_SCALE, _GLOBAL_SCALE), NVFP4_GROUP, True, False),
    Format.NVFP4: FormatTraits(
        (_PACKED, _GROUP_SCALE, _GLOBAL_SCALE, _INPUT_GLOBAL_SCALE), NVFP4_GROUP, True, True
    ),
    Format.FP8_DYNAMIC: FormatTraits((_FP8_WEIGHT, _CHANNEL_SCALE), 1, False, False),
    Format.FP8_BLOCK: FormatTraits((_FP8_WEIGHT, _BLOCK_SCALE), 1, False, False),
    Format.FP8_BLOCK_A16: FormatTraits((_FP8_WEIGHT, _BLOCK_SCALE), 1, False, False),
}


@lru_cache(maxsize=1024)
def stored_bytes(fmt: Format, rows: int, columns: int) -> int:
    """Bytes that `fmt` stores for one `[rows, columns]` matrix."""
    return sum(t.dtype.nbytes(t.shape(rows, columns)) for t in FORMATS[fmt].stored)
