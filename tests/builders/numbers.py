"""BF16 and FP8 (E4M3) encodings in plain NumPy, as a second implementation.

Called by the other builders and by tests that read what was written. Rounding is to nearest,
ties to even. It must not import the package under test, nor `ml_dtypes` (a test compares both).
"""

from functools import cache

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

E4M3_MAX = 448.0


def float32_to_bf16(values: Floats) -> npt.NDArray[np.uint16]:
    """BF16 bit patterns of `values`."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    quiet = (bits >> np.uint32(16)) | np.uint32(0x40)
    return np.where(np.isnan(values), quiet, rounded).astype(np.uint16)


def bf16_to_float32(bits: npt.NDArray[np.uint16]) -> Floats:
    """The values of BF16 bit patterns (exact)."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def float32_to_e4m3(values: Floats) -> npt.NDArray[np.uint8]:
    """FP8 E4M3 codes of `values`, saturating at ±448; NaN becomes 0x7F."""
    table = _e4m3_table()[:127].astype(np.float64)
    magnitude = np.abs(values.astype(np.float64))
    middles = (table[1:] + table[:-1]) / 2
    below = np.searchsorted(middles, magnitude, side="left")
    above = np.searchsorted(middles, magnitude, side="right")
    codes = np.where(below % 2 == 0, below, above)
    signed = np.where(np.signbit(values), codes | 0x80, codes)
    return np.where(np.isnan(values), 0x7F, signed).astype(np.uint8)


def e4m3_to_float32(codes: npt.NDArray[np.uint8]) -> Floats:
    """The values of FP8 E4M3 codes (exact)."""
    return _e4m3_table()[codes]


@cache
def _e4m3_table() -> Floats:
    """All 256 values: sign, 4 exponent bits (bias 7), 3 mantissa bits; 0x7F and 0xFF are NaN."""
    code = np.arange(256)
    exponent, mantissa = (code >> 3) & 15, code & 7
    subnormal = mantissa / 8 * 2.0**-6
    normal = (1 + mantissa / 8) * 2.0 ** (exponent - 7)
    values = np.where(exponent == 0, subnormal, normal)
    values[(code & 0x7F) == 0x7F] = np.nan
    return np.where(code >= 128, -values, values).astype(np.float32)
