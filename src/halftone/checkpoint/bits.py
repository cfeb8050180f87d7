"""Number formats in lanes: bfloat16, E4M3 and E2M1, rounded to nearest, ties to even.

Parts of kernels, never called from Python; `reference.py` says the same in plain NumPy.
The roundings add a power of two so large that the sum's last place is the format's step: the
float32 addition then does the rounding itself, and the sum's low bits are the mantissa.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import types
from numba.extending import overload

from halftone.checkpoint.jit import inline
from halftone.checkpoint.lanes import (
    at_most,
    bits,
    float_of,
    floats,
    largest,
    load,
    max_bits,
    splat,
    splat_bits,
    store,
    where_below,
)

_MAGNITUDE = 0x7FFFFFFF
_EXPONENT = 0x7F800000
_ONE = 0x3F800000  # the bits of 1.0
_ONLY_INSIDE = "only kernels can call this"


@inline
def bf16_from(lanes: Any) -> Any:
    """The low 16 bits of the nearest bfloat16; a NaN is not looked after."""
    pattern = bits(lanes)
    even = (pattern >> splat_bits(16)) & splat_bits(1)
    return (pattern + splat_bits(0x7FFF) + even) >> splat_bits(16)


@inline
def bf16_to(pattern: Any) -> Any:
    """The floats that 16-bit patterns stand for."""
    return floats(pattern << splat_bits(16))


@inline
def magnitude(lanes: Any) -> Any:
    """The absolute value of each lane."""
    return floats(bits(lanes) & splat_bits(_MAGNITUDE))


def _by_precision(
    stub: Callable[..., Any], for_bf16: Callable[..., Any], for_float32: Callable[..., Any]
) -> None:
    """Let `stub(array, …)` mean one function where `array` is uint16, and another elsewhere."""

    def choose(array: Any, *_: Any) -> Any:
        return for_bf16 if array.dtype == types.uint16 else for_float32

    overload(stub, jit_options={"forceinline": True}, strict=False)(choose)


def weights_at(array: Any, index: Any) -> Any:
    """Sixteen weights from a flat tile: uint16 holds bfloat16 bits, float32 is itself."""
    raise NotImplementedError(_ONLY_INSIDE)


def as_source(array: Any, lanes: Any) -> Any:
    """Lanes rounded to the precision of the tile `array` that they come from.

    torch computes with bfloat16 operands in float32 and rounds each result to bfloat16.
    """
    raise NotImplementedError(_ONLY_INSIDE)


def store_as(array: Any, index: Any, lanes: Any) -> None:
    """Write sixteen floats: as they are, or rounded to BF16 bits where the array is uint16."""
    raise NotImplementedError(_ONLY_INSIDE)


_by_precision(
    weights_at,
    lambda array, index: bf16_to(load(array, index)),
    lambda array, index: load(array, index),
)
_by_precision(
    as_source,
    lambda array, lanes: bf16_to(bf16_from(lanes)),
    lambda array, lanes: lanes,
)
_by_precision(
    store_as,
    lambda array, index, lanes: store(array, index, bf16_from(lanes)),
    lambda array, index, lanes: store(array, index, lanes),
)


@inline
def nearest_e2m1(positive: Any) -> Any:
    """(values, 3-bit codes) nearest to numbers >= 0; above 6 is 6."""
    bounded = at_most(positive, splat(6.0))
    binade = max_bits(bits(bounded) & splat_bits(_EXPONENT), splat_bits(_ONE))
    step_maker = floats(binade + splat_bits(22 << 23))  # its last place is half the binade
    rounded = bounded + step_maker
    codes = bits(rounded) + (binade >> splat_bits(22)) - splat_bits(254)
    return rounded - step_maker, codes & splat_bits(7)


@inline
def nearest_e4m3(positive: Any) -> Any:
    """(values, 7-bit codes) nearest to numbers >= 0; above 448 is 448."""
    bounded = at_most(positive, splat(448.0))
    binade = max_bits(bits(bounded) & splat_bits(_EXPONENT), splat_bits(121 << 23))
    step_maker = floats(binade + splat_bits(20 << 23))  # its last place is an eighth of the binade
    rounded = bounded + step_maker
    codes = bits(rounded) + (binade >> splat_bits(20)) - splat_bits(121 << 3)
    return rounded - step_maker, codes & splat_bits(0x7F)


@inline
def e2m1_magnitudes(codes: Any) -> Any:
    """What codes stand for, their sign left aside."""
    low = codes & splat_bits(7)
    # Codes 0 and 1 have no leading one: they are made with one, which is then taken off.
    offset = where_below(low, splat_bits(2), splat_bits(_ONE), splat_bits(126 << 23))
    excess = where_below(low, splat_bits(2), splat(1.0), splat(0.0))
    return floats((low << splat_bits(22)) + offset) - excess


@inline
def e2m1_to(codes: Any) -> Any:
    """The floats that 4-bit codes stand for."""
    sign = (codes & splat_bits(8)) << splat_bits(28)
    return floats(bits(e2m1_magnitudes(codes)) | sign)


@inline
def e4m3_to(codes: Any) -> Any:
    """The floats that bytes stand for; 0x7F and 0xFF are NaN."""
    low = codes & splat_bits(0x7F)
    offset = where_below(low, splat_bits(8), splat_bits(121 << 23), splat_bits(120 << 23))
    excess = where_below(low, splat_bits(8), splat(0.015625), splat(0.0))
    values = bits(floats((low << splat_bits(20)) + offset) - excess)
    checked = where_below(low, splat_bits(0x7F), values, splat_bits(0x7FC00000))
    return floats(checked | ((codes & splat_bits(0x80)) << splat_bits(24)))


@inline
def inverse_binade(scale: Any) -> Any:
    """A power of two that brings a float32 scale near 1: sums of squares then keep their range."""
    exponent = largest(bits(splat(scale)) & splat_bits(_EXPONENT))
    return float_of(np.uint32(254 << 23) - min(exponent, np.uint32(253 << 23)))
