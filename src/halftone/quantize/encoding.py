"""A tile of weights to stored bytes: the kernels' codes and scales as the layout has them.

Called by `halftone.quantize.writing`, from several threads at once. compressed-tensors and ModelOpt
store the same codes and block scales. They differ in names, in the dtype of FP8's scales, whose
numbers are BF16 in both, and in that ModelOpt stores the reciprocals of NVFP4's divisors: what a
server that reads the former computes at load.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from halftone.checkpoint.scratch import Bytes, Scratch
from halftone.plan.tensors import LogicalTensor
from halftone.quantize import kernels
from halftone.quantize.kernels import Weights
from halftone.quantize.measured_scales import MeasuredScales
from halftone.quantize.tiles import Tile
from halftone.spec.dtypes import Dtype
from halftone.spec.formats import (
    FP8_BLOCK_SIDE,
    NVFP4_GROUP,
    CheckpointFormat,
    Format,
    Part,
    StoredTensor,
    stored_tensors,
)
from halftone.spec.job import BlockScale, Recipe, ScaleSearch

SEARCHES: Final = {
    ScaleSearch.MinMax: kernels.MIN_MAX,
    ScaleSearch.MeanSquaredError: kernels.MEAN_SQUARED_ERROR,
    ScaleSearch.Exhaustive: kernels.EXHAUSTIVE,
}
_NVFP4: Final = frozenset({Format.NVFP4, Format.NVFP4A16})


class Sums(NamedTuple):
    """Sums of squares over weights, over their errors, and over the errors of MinMax."""

    weight: float = 0.0
    error: float = 0.0
    min_max_error: float = 0.0

    def __add__(self, other: object) -> "Sums":
        if not isinstance(other, Sums):
            return NotImplemented
        return Sums(*(a + b for a, b in zip(self, other, strict=True)))


class Piece(NamedTuple):
    """Bytes for the stored tensor `name`, from `offset` on; valid until the next tile."""

    name: str
    offset: int
    data: NDArray[Any]


class Encoder:
    """Encodes tiles for one recipe into its `layout`; buffers are kept for each thread."""

    def __init__(self, recipe: Recipe, measured: MeasuredScales | None) -> None:
        self.layout = recipe.checkpointFormat
        self._search = SEARCHES[recipe.scaleSearch]
        self._power_of_two = recipe.blockScale is BlockScale.PowerOfTwo
        self._measured = measured
        self._scratch = Scratch()

    def shared_scale(self, amax: float, members: tuple[LogicalTensor, ...]) -> np.float32:
        """The scale of a fused group whose weights reach `amax`, as the kernels take it."""
        if members[0].format is Format.FP8:
            return kernels.fp8_scale(amax)
        bfloat16 = all(member.dtype is Dtype.BF16 for member in members)
        return kernels.nvfp4_global_scale(amax, bfloat16=bfloat16)

    def stored_shared(self, tensor: LogicalTensor, scale: np.float32) -> np.float32:
        """A shared scale of weights or activations as the layout stores it."""
        multiplies = self.layout is CheckpointFormat.ModelOpt and tensor.format in _NVFP4
        return np.float32(1.0) / scale if multiplies else scale

    def shared(
        self, tile: Tile, weights: Weights, scale: np.float32
    ) -> tuple[tuple[Piece, ...], Sums]:
        """A tile in a format whose fused groups share a scale, which is `scale`.

        A matrix's first tile brings what there is once: the shared scale and that of activations.
        """
        tensor, (rows, columns) = tile.tensor, weights.shape
        once: list[Piece] = []
        if tensor.format is Format.FP8:
            codes = self._take("codes", rows, columns)
            sums = Sums(*_twice(kernels.quantize_fp8_tensor(weights, scale, codes)))
            pieces = [self._piece(tensor, Part.Codes, tile.start * columns, codes)]
            shared_part = Part.Scale
        else:
            codes = self._take("codes", rows, columns // 2)
            groups = self._take("scale", rows, columns // NVFP4_GROUP)
            found = kernels.quantize_nvfp4(weights, float(scale), self._search, codes, groups)
            sums = Sums(*found)
            pieces = [
                self._piece(tensor, Part.Codes, tile.start * (columns // 2), codes),
                self._piece(tensor, Part.Scale, tile.start * (columns // NVFP4_GROUP), groups),
            ]
            shared_part = Part.GlobalScale
        if tile.start == 0:
            once.append(self._single(tensor, shared_part, scale))
            if Part.InputScale in _parts(tensor.format, self.layout):
                once.append(self._single(tensor, Part.InputScale, self._input_scale(tensor)))
        return (*pieces, *once), sums

    def separate(self, tile: Tile, weights: Weights) -> tuple[tuple[Piece, ...], Sums]:
        """A tile in a format in which each row or block has a scale of its own."""
        tensor, (rows, columns) = tile.tensor, weights.shape
        codes = self._take("codes", rows, columns)
        if tensor.format is Format.FP8_DYNAMIC:
            scales = np.empty(rows, np.uint16)
            sums = kernels.quantize_fp8_channel(weights, codes, scales)
            first = tile.start
        else:
            blocks = (-(-rows // FP8_BLOCK_SIDE), -(-columns // FP8_BLOCK_SIDE))
            scales = np.empty(blocks, np.uint16)
            sums = kernels.quantize_fp8_block(weights, codes, scales, self._power_of_two)
            first = tile.start // FP8_BLOCK_SIDE * blocks[1]
        pieces = (
            self._piece(tensor, Part.Codes, tile.start * columns, codes),
            self._piece(tensor, Part.Scale, first, bf16_as_float32(scales)),
        )
        return pieces, Sums(*_twice(sums))

    def cache_scale(self, name: str) -> Piece:
        """A scale of the KV cache, by the name of its tensor."""
        value, dtype = self._require_measured().cache_scale(name)
        return Piece(name, 0, _as_stored(np.array([value], np.float32), dtype))

    def _input_scale(self, tensor: LogicalTensor) -> np.float32:
        return self._require_measured().input_scale(tensor)

    def _require_measured(self) -> MeasuredScales:
        if self._measured is None:
            raise AssertionError("a calibrated plan has statistics. This is a bug. Please report.")
        return self._measured

    def _single(self, tensor: LogicalTensor, part: Part, scale: np.float32) -> Piece:
        stored = self.stored_shared(tensor, scale)
        return self._piece(tensor, part, 0, np.array([stored], np.float32))

    def _piece(self, tensor: LogicalTensor, part: Part, first: int, values: NDArray[Any]) -> Piece:
        """`values` from element `first` on of what stores `part`; float32 is stored as it says."""
        stored = _parts(tensor.format, self.layout)[part]
        data = _as_stored(values, stored.dtype) if values.dtype == np.float32 else values
        name = tensor.name.removesuffix("weight") + stored.suffix
        return Piece(name, stored.dtype.nbytes((first,)), data)

    def _take(self, purpose: str, rows: int, columns: int) -> Bytes:
        return self._scratch.take(purpose, rows * columns).reshape(rows, columns)


@lru_cache(maxsize=32)
def _parts(fmt: Format | None, layout: CheckpointFormat) -> Mapping[Part, StoredTensor]:
    if fmt is None:
        raise AssertionError("only formats have parts. This is a bug. Please report.")
    return {stored.part: stored for stored in stored_tensors(fmt, layout)}


def _twice(sums: tuple[float, float]) -> tuple[float, float, float]:
    """Without a search, the error is MinMax's."""
    return sums[0], sums[1], sums[1]


def bf16_as_float32(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """BF16 bits as the numbers that they are, in their shape."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def _as_stored(values: NDArray[np.float32], dtype: Dtype) -> NDArray[Any]:
    """Numbers as F32, or, those that are BF16 numbers already, as BF16 bits."""
    if dtype is Dtype.BF16:
        return (values.view(np.uint32) >> np.uint32(16)).astype(np.uint16)
    return values
