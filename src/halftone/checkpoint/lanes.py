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

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils
from numba.core.typing.templates import ConcreteTemplate, infer_global, signature
from numba.extending import intrinsic as _numba_intrinsic
from numba.extending import lower_builtin, models, register_model

LANES: Final = 16

Operation = Callable[..., Any]  # callable in kernels only; arguments and result as documented

_FLOATS = ir.VectorType(ir.FloatType(), LANES)
_INTS = ir.VectorType(ir.IntType(32), LANES)


class _LanesType(types.Type):  # type: ignore[misc]
    """What numba calls sixteen lanes; `vector` is what LLVM calls them."""

    def __init__(self, name: str, vector: ir.VectorType) -> None:
        super().__init__(name=name)
        self.vector = vector


@register_model(_LanesType)
class _LanesModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, lanes: _LanesType) -> None:
        super().__init__(manager, lanes, lanes.vector)


F32: Final = _LanesType("F32x16", _FLOATS)
I32: Final = _LanesType("I32x16", _INTS)


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

    def lower(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return getattr(builder, instruction)(args[0], args[1])

    lower_builtin(symbol, lanes, lanes)(lower)


for _symbol, _instruction in _FLOAT_OPERATORS.items():
    _register(_symbol, F32, _instruction)
for _symbol, _instruction in _INT_OPERATORS.items():
    _register(_symbol, I32, _instruction)


# Operations with a name. An operation is typed by numba when a kernel is compiled, and then emits
# LLVM instructions; `_of_one` and `_of_two` are those that need nothing but their operands.


def _operation(typed: Callable[..., Any]) -> Operation:
    """numba's `intrinsic`, whose own type is unknown."""
    made: Operation = _numba_intrinsic(typed)
    return made


def _of_one(result: Any, operand: Any, emit: Callable[[Any, Any], Any]) -> Operation:
    def typed(_typing: Any, one: Any) -> Any:
        def build(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
            return emit(builder, args[0])

        return (result(one), build) if one == operand else None

    return _operation(typed)


def _of_two(lanes: Any, emit: Callable[[Any, Any, Any], Any]) -> Operation:
    def typed(_typing: Any, one: Any, other: Any) -> Any:
        def build(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
            return emit(builder, args[0], args[1])

        return (lanes(one, other), build) if one == lanes and other == lanes else None

    return _operation(typed)


# Making lanes from a scalar, and scalars from lanes.


def _splat(scalar: Any, lanes: Any) -> Operation:
    def typed(_typing: Any, value: Any) -> Any:
        def build(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
            cast = context.cast(builder, args[0], value, scalar)
            nothing = ir.Constant(lanes.vector, ir.Undefined)
            one = builder.insert_element(nothing, cast, ir.IntType(32)(0))
            mask = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
            return builder.shuffle_vector(one, nothing, mask)

        return lanes(value), build

    return _operation(typed)


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


def _larger(builder: Any, one: Any, other: Any) -> Any:
    return builder.select(builder.icmp_unsigned(">", one, other), one, other)


# splat(x): a float32 in all lanes.
splat: Final = _splat(types.float32, F32)

# splat_bits(n): the low 32 bits of an integer in all lanes.
splat_bits: Final = _splat(types.int32, I32)

# total(floats): the sum of the lanes, pairwise, as float32.
total: Final = _of_one(types.float32, F32, lambda b, lanes: _folded(b, lanes, b.fadd))

# largest(bits): the largest lane, as unsigned integers go.
largest: Final = _of_one(
    types.uint32,
    I32,
    lambda b, lanes: _folded(b, lanes, lambda one, other: _larger(b, one, other)),
)


# Choosing between lanes.

# max_bits(a, b): the larger of each pair of lanes, as unsigned integers go.
max_bits: Final = _of_two(I32, _larger)

# at_most(a, b): `a` where it is below `b`, else `b`; a NaN in `a` gives `b`.
at_most: Final = _of_two(
    F32, lambda b, one, other: b.select(b.fcmp_ordered("<", one, other), one, other)
)


@_operation
def where_below(_typing: Any, one: Any, other: Any, then: Any, otherwise: Any) -> Any:
    """`then` in the lanes where `one < other` as unsigned integers, `otherwise` in the rest."""

    def build(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return builder.select(builder.icmp_unsigned("<", args[0], args[1]), args[2], args[3])

    return then(one, other, then, otherwise), build


# The same bits under another name.

# bits(floats): the bit patterns of float32 lanes.
bits: Final = _of_one(I32, F32, lambda b, lanes: b.bitcast(lanes, _INTS))

# floats(bits): the float32 lanes that bit patterns stand for.
floats: Final = _of_one(F32, I32, lambda b, lanes: b.bitcast(lanes, _FLOATS))


@_operation
def float_of(_typing: Any, value: Any) -> Any:
    """The float32 that a 32-bit pattern stands for (a scalar)."""

    def build(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        pattern = context.cast(builder, args[0], value, types.uint32)
        return builder.bitcast(pattern, ir.FloatType())

    return types.float32(value), build


# Memory.

_BYTES: Final = ir.VectorType(ir.IntType(8), LANES // 2)
_PAIRS: Final = ir.VectorType(ir.IntType(64), LANES // 2)  # two lanes of a register as one


def _pointer(context: Any, builder: Any, signature: Any, args: Any, vector: ir.VectorType) -> Any:
    """Where `vector` lies: the first two arguments of an operation are an array and an index."""
    array, index = signature.args[:2]
    start = context.cast(builder, args[1], index, types.intp)
    base = context.make_array(array)(context, builder, args[0]).data
    return builder.bitcast(cgutils.gep(builder, base, start), vector.as_pointer())


def _elements(array: Any) -> ir.VectorType:
    """Sixteen elements of an array, as LLVM calls them."""
    if array.dtype == types.float32:
        return _FLOATS
    return ir.VectorType(ir.IntType(array.dtype.bitwidth), LANES)


@_operation
def load(_typing: Any, array: Any, index: Any) -> Any:
    """Sixteen elements from `array[index]` on: float32 as they are, integers as unsigned."""
    width = array.dtype.bitwidth

    def build(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        where = _pointer(context, builder, sig, args, _elements(array))
        lanes = builder.load(where, align=width // 8)
        return lanes if width == 32 else builder.zext(lanes, _INTS)

    return (F32 if array.dtype == types.float32 else I32)(array, index), build


@_operation
def store(_typing: Any, array: Any, index: Any, lanes: Any) -> Any:
    """Write sixteen elements from `array[index]` on, integers cut to the array's width."""
    width = array.dtype.bitwidth

    def build(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        where = _pointer(context, builder, sig, args, _elements(array))
        cut = args[2] if width == 32 else builder.trunc(args[2], _elements(array))
        builder.store(cut, where, align=width // 8)
        return context.get_dummy_value()

    return types.void(array, index, lanes), build


@_operation
def store_nibbles(_typing: Any, array: Any, index: Any, codes: Any) -> Any:
    """Write sixteen 4-bit codes to eight bytes from `array[index]` on, the even lane low."""

    def build(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        where = _pointer(context, builder, sig, args, _BYTES)
        pairs = builder.bitcast(args[2], _PAIRS)
        high = builder.lshr(pairs, ir.Constant(_PAIRS, [28] * (LANES // 2)))
        builder.store(builder.trunc(builder.or_(pairs, high), _BYTES), where, align=1)
        return context.get_dummy_value()

    return types.void(array, index, codes), build


@_operation
def load_nibbles(_typing: Any, array: Any, index: Any) -> Any:
    """Sixteen 4-bit codes from the eight bytes at `array[index]`, the low half first."""

    def build(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        where = _pointer(context, builder, sig, args, _BYTES)
        pairs = builder.zext(builder.load(where, align=1), _PAIRS)
        high = builder.shl(pairs, ir.Constant(_PAIRS, [28] * (LANES // 2)))
        mask = ir.Constant(_PAIRS, [0x0000000F0000000F] * (LANES // 2))
        return builder.bitcast(builder.and_(builder.or_(pairs, high), mask), _INTS)

    return I32(array, index), build
