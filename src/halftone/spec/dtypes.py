"""The dtypes that a safetensors header can name, and their widths.

Source: the `Dtype` enumeration of the safetensors format. Sub-byte dtypes are listed so that they
are recognised (and refused as a source), not because we compute with them.
"""

from enum import StrEnum
from functools import lru_cache
from math import prod


class Dtype(StrEnum):
    """A safetensors dtype, spelled as in the header."""

    BOOL = "BOOL"
    F4 = "F4"
    F6_E2M3 = "F6_E2M3"
    F6_E3M2 = "F6_E3M2"
    U8 = "U8"
    I8 = "I8"
    F8_E5M2 = "F8_E5M2"
    F8_E4M3 = "F8_E4M3"
    F8_E8M0 = "F8_E8M0"
    I16 = "I16"
    U16 = "U16"
    F16 = "F16"
    BF16 = "BF16"
    I32 = "I32"
    U32 = "U32"
    F32 = "F32"
    C64 = "C64"
    F64 = "F64"
    I64 = "I64"
    U64 = "U64"

    @property
    def bits(self) -> int:
        """Width of one element in bits."""
        return _BITS[self]

    def nbytes(self, shape: tuple[int, ...]) -> int:
        """Bytes of a dense tensor of `shape` (rounded up for sub-byte dtypes)."""
        return _nbytes(self, shape)


@lru_cache(maxsize=4096)  # a checkpoint has 90,000 tensors, but few shapes
def _nbytes(dtype: Dtype, shape: tuple[int, ...]) -> int:
    return (prod(shape) * dtype.bits + 7) // 8


_BITS: dict[Dtype, int] = {
    Dtype.F4: 4,
    Dtype.F6_E2M3: 6,
    Dtype.F6_E3M2: 6,
    **dict.fromkeys(
        (Dtype.BOOL, Dtype.U8, Dtype.I8, Dtype.F8_E5M2, Dtype.F8_E4M3, Dtype.F8_E8M0), 8
    ),
    **dict.fromkeys((Dtype.I16, Dtype.U16, Dtype.F16, Dtype.BF16), 16),
    **dict.fromkeys((Dtype.I32, Dtype.U32, Dtype.F32), 32),
    **dict.fromkeys((Dtype.C64, Dtype.F64, Dtype.I64, Dtype.U64), 64),
}

# What a full-precision weight may be stored in.
FULL_PRECISION: frozenset[Dtype] = frozenset({Dtype.BF16, Dtype.F16, Dtype.F32})
FLOATING: frozenset[Dtype] = FULL_PRECISION | {Dtype.F64}
