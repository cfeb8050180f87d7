"""The weight formats: what each stores for one `[N, K]` matrix, and what it needs.

A format is a row of `FORMATS`. Planning sizes, laying out files, writing tensors and reading
anyone's checkpoint all go through `stored_tensors`, so they cannot disagree.
Layouts are those of compressed-tensors (`nvfp4-pack-quantized`, `float-quantized`) and of ModelOpt
(`hf_quant_config.json`); vLLM loads both. They differ in names, in the dtypes of scales, and in
that compressed-tensors stores NVFP4's global scales as divisors and ModelOpt as multipliers.
"""

from collections.abc import Callable, Mapping
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
    FP8 = "FP8"  # one scale for all weights, and one, measured before, for all activations
    FP8_DYNAMIC = "FP8_DYNAMIC"  # per-channel weights, activations scaled per token at run time
    FP8_BLOCK = "FP8_BLOCK"  # 128x128 blocks, activations scaled per group at run time
    FP8_BLOCK_A16 = "FP8_BLOCK_A16"  # 128x128 blocks, 16-bit activations


class CheckpointFormat(StrEnum):
    """Which library's layout the checkpoint has on disk."""

    CompressedTensors = "CompressedTensors"
    ModelOpt = "ModelOpt"


class Part(StrEnum):
    """What a stored tensor is to its matrix, whatever it is called."""

    Codes = "Codes"  # the weights themselves, in 4 or 8 bits
    Scale = "Scale"  # of groups, channels, blocks or, for FP8, of the whole matrix
    GlobalScale = "GlobalScale"  # NVFP4's scale of the whole fused group
    InputScale = "InputScale"  # of activations, from calibration


@dataclass(frozen=True)
class StoredTensor:
    """One tensor that a format writes for a matrix; `suffix` replaces `.weight`."""

    part: Part
    suffix: str
    dtype: Dtype
    shape: Callable[[int, int], tuple[int, ...]]


@dataclass(frozen=True)
class FormatTraits:
    """What the rest of the program needs to know of a format.

    `layouts` lists what is stored, codes first; a layout that cannot express the format is absent.
    `k_multiple` must divide the last dimension; `shares_global_scale` says that members of a fused
    group must have one per-tensor scale; `needs_calibration` that activations must be measured.
    """

    layouts: Mapping[CheckpointFormat, tuple[StoredTensor, ...]]
    k_multiple: int
    shares_global_scale: bool
    needs_calibration: bool


def _blocks(size: int) -> int:
    return -(-size // FP8_BLOCK_SIDE)


_CT: Final = CheckpointFormat.CompressedTensors
_MODELOPT: Final = CheckpointFormat.ModelOpt

_CODES4 = StoredTensor(Part.Codes, "weight_packed", Dtype.U8, lambda n, k: (n, k // 2))
_CODES4_MODELOPT = StoredTensor(Part.Codes, "weight", Dtype.U8, lambda n, k: (n, k // 2))
_GROUP_SCALE = StoredTensor(
    Part.Scale, "weight_scale", Dtype.F8_E4M3, lambda n, k: (n, k // NVFP4_GROUP)
)
_DIVISOR = StoredTensor(Part.GlobalScale, "weight_global_scale", Dtype.F32, lambda n, k: (1,))
_MULTIPLIER = StoredTensor(Part.GlobalScale, "weight_scale_2", Dtype.F32, lambda n, k: ())
_INPUT_DIVISOR = StoredTensor(Part.InputScale, "input_global_scale", Dtype.F32, lambda n, k: (1,))
_INPUT_MULTIPLIER = StoredTensor(Part.InputScale, "input_scale", Dtype.F32, lambda n, k: ())
_INPUT_SCALE = StoredTensor(Part.InputScale, "input_scale", Dtype.BF16, lambda n, k: (1,))
_CODES8 = StoredTensor(Part.Codes, "weight", Dtype.F8_E4M3, lambda n, k: (n, k))
_TENSOR_SCALE = StoredTensor(Part.Scale, "weight_scale", Dtype.BF16, lambda n, k: (1,))
_TENSOR_SCALE_MODELOPT = StoredTensor(Part.Scale, "weight_scale", Dtype.F32, lambda n, k: ())
_CHANNEL_SCALE = StoredTensor(Part.Scale, "weight_scale", Dtype.BF16, lambda n, k: (n, 1))
_CHANNEL_SCALE_MODELOPT = StoredTensor(Part.Scale, "weight_scale", Dtype.F32, lambda n, k: (n,))
_BLOCK_SCALE = StoredTensor(
    Part.Scale, "weight_scale", Dtype.BF16, lambda n, k: (_blocks(n), _blocks(k))
)
_BLOCK_SCALE_MODELOPT = StoredTensor(
    Part.Scale, "weight_scale", Dtype.F32, lambda n, k: (_blocks(n), 1, _blocks(k), 1)
)

FORMATS: Final[dict[Format, FormatTraits]] = {
    Format.NVFP4A16: FormatTraits(
        {
            _CT: (_CODES4, _GROUP_SCALE, _DIVISOR),
            _MODELOPT: (_CODES4_MODELOPT, _GROUP_SCALE, _MULTIPLIER),
        },
        k_multiple=NVFP4_GROUP,
        shares_global_scale=True,
        needs_calibration=False,
    ),
    Format.NVFP4: FormatTraits(
        {
            _CT: (_CODES4, _GROUP_SCALE, _DIVISOR, _INPUT_DIVISOR),
            _MODELOPT: (_CODES4_MODELOPT, _GROUP_SCALE, _MULTIPLIER, _INPUT_MULTIPLIER),
        },
        k_multiple=NVFP4_GROUP,
        shares_global_scale=True,
        needs_calibration=True,
    ),
    Format.FP8: FormatTraits(
        {
            _CT: (_CODES8, _TENSOR_SCALE, _INPUT_SCALE),
            _MODELOPT: (_CODES8, _TENSOR_SCALE_MODELOPT, _INPUT_MULTIPLIER),
        },
        k_multiple=1,
        shares_global_scale=True,
        needs_calibration=True,
    ),
    Format.FP8_DYNAMIC: FormatTraits(
        {_CT: (_CODES8, _CHANNEL_SCALE), _MODELOPT: (_CODES8, _CHANNEL_SCALE_MODELOPT)},
        k_multiple=1,
        shares_global_scale=False,
        needs_calibration=False,
    ),
    Format.FP8_BLOCK: FormatTraits(
        {_CT: (_CODES8, _BLOCK_SCALE), _MODELOPT: (_CODES8, _BLOCK_SCALE_MODELOPT)},
        k_multiple=1,
        shares_global_scale=False,
        needs_calibration=False,
    ),
    # ModelOpt has no name for blocks without activation quantization: vLLM runs its FP8_PB_WO
    # with activations in 8 bits.
    Format.FP8_BLOCK_A16: FormatTraits(
        {_CT: (_CODES8, _BLOCK_SCALE)},
        k_multiple=1,
        shares_global_scale=False,
        needs_calibration=False,
    ),
}


def stored_tensors(fmt: Format, layout: CheckpointFormat) -> tuple[StoredTensor, ...]:
    """What `fmt` stores for a matrix in `layout`, codes first.

    Raises KeyError for a layout that cannot express the format; planning refuses it before.
    """
    return FORMATS[fmt].layouts[layout]


@lru_cache(maxsize=1024)
def stored_bytes(fmt: Format, layout: CheckpointFormat, rows: int, columns: int) -> int:
    """Bytes that `fmt` stores for one `[rows, columns]` matrix in `layout`."""
    return sum(t.dtype.nbytes(t.shape(rows, columns)) for t in stored_tensors(fmt, layout))
