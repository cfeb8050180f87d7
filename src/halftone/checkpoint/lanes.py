"""Sixteen numbers at a time: the vector types that the kernels are written in.

`F32` is sixteen float32 and `I32` sixteen int32, with `+ - * / & | ^ << >>` lane by lane. LLVM maps
them to whatever the processor has (one AVX-512 register, two of AVX2, four of NEON). Loops left
to an auto-vectorizer gave neither a stable speed nor an order of summation that is the same on
every machine; these give both, since each operation is IEEE and is done in the order written.

Used by kernels only (`checkpoint/*`, `quantize/*`). Nothing here knows of a format.
Addresses are in elements of a one-dimensional C-contiguous array and are not checked.
"""

import operator
from collections.abc import Callable
from typing import Any, Final

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.typing.templates import ConcreteTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, models, register_model

LANES: Final = 16

_FLOATS = ir.VectorType(ir.FloatType(), LANES)
_INTS = ir.VectorType(ir.IntType(32), LANES)


class _F32Type(types.Type):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__(name="F32x16")


class _I32Type(types.Type):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__(name="I32x16")


F32: Final = _F32Type()
I32: Final = _I32Type()


@register_model(_F32Type)
class _F32Model(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, dmm: Any, fe_type: Any) -> None:
        super().__init__(dmm, fe_type, _FLOATS)


@register_model(_I32Type)
class _I32Model(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, dmm: Any, fe_type: Any) -> None:
        super().__init__(dmm, fe_type, _INTS)


# `a + b` and its kin, lane by lane.

_FLOAT_OPERATORS: Final = {
    operator.add: "fadd",
    operator.sub: "fsub",
    operator.mul: "fmul",
    operator.truediv: "fdiv",
}
_INT_OPERATORS: Final = {
    operator.add: "add",
    operator.sub: "sub",
    operator.mul: "mul",
    operator.and_: "and_",
    operator.or_: "or_",
    operator.xor: "xor",
    operator.lshift: "shl",
    operator.rshift: "lshr",  # logical: these integers are bit patterns
}


def _register(symbol: Callable[..., Any], lanes: Any, instruction: str) -> None:
    class Template(ConcreteTemplate):  # type: ignore[misc]
        cases = [signature(lanes, lanes, lanes)]  # noqa: RUF012

    infer_global(symbol)(Template)

    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return getattr(builder, instruction)(args[0], args[1])

    lower_builtin(symbol, lanes, lanes)(lower)


for _symbol, _instruction in _FLOAT_OPERATORS.items():
    _register(_symbol, F32, _instruction)
for _symbol, _instruction in _INT_OPERATORS.items():
    _register(_symbol, I32, _instruction)


# Making lanes from a scalar, and scalars from lanes.


def _splatted(builder: Any, scalar: Any, vector: ir.VectorType) -> Any:
    one = builder.insert_element(ir.Constant(vector, ir.Undefined), scalar, ir.IntType(32)(0))
    mask = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
    return builder.shuffle_vector(one, ir.Constant(vector, ir.Undefined), mask)


@intrinsic  # type: ignore[misc]
def splat(_: Any, value: Any) -> Any:
    """A float32 in all lanes."""

    def build(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _splatted(builder, context.cast(builder, args[0], value, types.float32), _FLOATS)

    return F32(value), build


@intrinsic  # type: ignore[misc]
def splat_bits(_: Any, value: Any) -> Any:
    """The low 32 bits of an integer in all lanes."""

    def build(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _splatted(builder, context.cast(builder, args[0], value, types.int32), _INTS)

    return I32(value), build


def _folded(builder: Any, lanes: Any, combine: Callable[[Any, Any], Any]) -> Any:
    """Combine lane i with i+8, then i+4, i+2, i+1: one order, everywhere.

    Vectors are halved rather than shuffled in place: LLVM 20 turns a repeated in-place shuffle
    (`<2, 3, 2, 3, …>`) into a broadcast of the wrong half on AVX2 and AVX-512.
    """
    width = LANES
    while width > 1:
        width //= 2
        masks = ir.VectorType(ir.IntType(32), width)
        low = ir.Constant(masks, list(range(width)))
        high = ir.Constant(masks, list(range(width, 2 * width)))
        lanes = combine(
            builder.shuffle_vector(lanes, lanes, low), builder.shuffle_vector(lanes, lanes, high)
        )
    return builder.extract_element(lanes, ir.IntType(32)(0))


@intrinsic  # type: ignore[misc]
def total(_: Any, lanes: Any) -> Any:
    """The sum of the lanes, pairwise, as float32."""

    def build(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _folded(builder, args[0], builder.fadd)

    return types.float32(F32), build


def _larger(builder: Any, a: Any, b: Any) -> Any:
    return builder.select(builder.icmp_unsigned(">", a, b), a, b)


@intrinsic  # type: ignore[misc]
def largest(_: Any, lanes: Any) -> Any:
    """The largest lane, as unsigned integers go."""

    def build(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _folded(builder, args[0], lambda a, b: _larger(builder, a, b))

    return types.uint32(I32), build


# Choosing between lanes.


@intrinsic  # type: ignore[misc]
def max_bits(_: Any, a: Any, b: Any) -> Any:
    """The larger of each pair of lanes, as unsigned integers go."""

    def build(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _larger(builder, args[0], args[1])

    return I32(I32, I32), build


@intrinsic  # type: ignore[misc]
def at_most(_: Any, a: Any, b: Any) -> Any:
    """`a` where it is below `b`, else `b`; a NaN in `a` gives `b`."""

    def build(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.select(builder.fcmp_ordered("<", args[0], args[1]), args[0], args[1])

    return F32(F32, F32), build


@intrinsic  # type: ignore[misc]
def at_least(_: Any, a: Any, b: Any) -> Any:
    """`a` where it is above `b`, else `b`; a NaN in `a` gives `b`."""

    def build(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.select(builder.fcmp_ordered(">", args[0], args[1]), args[0], args[1])

    return F32(F32, F32), build


@intrinsic  # type: ignore[misc]
def where_below(_: Any, a: Any, b: Any, then: Any, otherwise: Any) -> Any:
    """`then` in the lanes where `a < b` as unsigned integers, `otherwise` in the rest."""

    def build(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.select(builder.icmp_unsigned("<", args[0], args[1]), args[2], args[3])

    return then(I32, I32, then, then), build


# The same bits under another name.


@intrinsic  # type: ignore[misc]
def bits(_: Any, lanes: Any) -> Any:
    """The bit patterns of float32 lanes."""

    def build(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.bitcast(args[0], _INTS)

    return I32(F32), build


@intrinsic  # type: ignore[misc]
def floats(_: Any, lanes: Any) -> Any:
    """The float32 lanes that bit patterns stand for."""

    def build(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.bitcast(args[0], _FLOATS)

    return F32(I32), build


@intrinsic  # type: ignore[misc]
def float_of(_: Any, value: Any) -> Any:
    """The float32 that a 32-bit pattern stands for (a scalar)."""

    def build(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        pattern = context.cast(builder, args[0], value, types.uint32)
        return builder.bitcast(pattern, ir.FloatType())

    return types.float32(value), build


# Memory.


def _address(context: Any, builder: Any, array: Any, arrays: Any, index: Any) -> Any:
    pointer = context.make_array(arrays)(context, builder, array).data
    return cgutils.gep(builder, pointer, index)


def _vector(arrays: Any) -> ir.VectorType:
    if arrays.dtype == types.float32:
        return _FLOATS
    return ir.VectorType(ir.IntType(arrays.dtype.bitwidth), LANES)


@intrinsic  # type: ignore[misc]
def load(_: Any, array: Any, index: Any) -> Any:
    """Sixteen elements from `array[index]` on: float32 as they are, integers as unsigned."""
    result = F32 if array.dtype == types.float32 else I32
    align = array.dtype.bitwidth // 8

    def build(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        start = context.cast(builder, args[1], index, types.intp)
        pointer = _address(context, builder, args[0], array, start)
        where = builder.bitcast(pointer, _vector(array).as_pointer())
        lanes = builder.load(where, align=align)
        if result is F32 or array.dtype.bitwidth == 32:
            return lanes
        return builder.zext(lanes, _INTS)

    return result(array, index), build


@intrinsic  # type: ignore[misc]
def store(_: Any, array: Any, index: Any, lanes: Any) -> Any:
    """Write sixteen elements from `array[index]` on, integers cut to the array's width."""
    align = array.dtype.bitwidth // 8

    def build(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        start = context.cast(builder, args[1], index, types.intp)
        pointer = _address(context, builder, args[0], array, start)
        where = builder.bitcast(pointer, _vector(array).as_pointer())
        value = args[2]
        if lanes is I32 and array.dtype.bitwidth < 32:
            value = builder.trunc(value, _vector(array))
        builder.store(value, where, align=align)
        return context.get_dummy_value()

    return types.void(array, index, lanes), build


@intrinsic  # type: ignore[misc]
def store_nibbles(_: Any, array: Any, index: Any, codes: Any) -> Any:
    """Write sixteen 4-bit codes to eight bytes from `array[index]` on, the even lane low."""

    def build(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        start = context.cast(builder, args[1], index, types.intp)
        pointer = _address(context, builder, args[0], array, start)
        pairs_type = ir.VectorType(ir.IntType(64), LANES // 2)
        bytes_type = ir.VectorType(ir.IntType(8), LANES // 2)
        pairs = builder.bitcast(args[2], pairs_type)
        shift = ir.Constant(pairs_type, [28] * (LANES // 2))
        joined = builder.trunc(builder.or_(pairs, builder.lshr(pairs, shift)), bytes_type)
        builder.store(joined, builder.bitcast(pointer, bytes_type.as_pointer()), align=1)
        return context.get_dummy_value()

    return types.void(array, index, codes), build


@intrinsic  # type: ignore[misc]
def load_nibbles(_: Any, array: Any, index: Any) -> Any:
    """Sixteen 4-bit codes from the eight bytes at `array[index]`, the low half first."""

    def build(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        start = context.cast(builder, args[1], index, types.intp)
        pointer = _address(context, builder, args[0], array, start)
        pairs_type = ir.VectorType(ir.IntType(64), LANES // 2)
        bytes_type = ir.VectorType(ir.IntType(8), LANES // 2)
        loaded = builder.load(builder.bitcast(pointer, bytes_type.as_pointer()), align=1)
        pairs = builder.zext(loaded, pairs_type)
        shift = ir.Constant(pairs_type, [28] * (LANES // 2))
        mask = ir.Constant(pairs_type, [0x0000000F0000000F] * (LANES // 2))
        spread = builder.and_(builder.or_(pairs, builder.shl(pairs, shift)), mask)
        return builder.bitcast(spread, _INTS)

    return I32(array, index), build


