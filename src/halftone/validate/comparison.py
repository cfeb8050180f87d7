"""One stored weight beside its original: tiles of both, read and compared.

Called by `halftone.validate.weight_error`, which says what is compared and what it means.
"""

from collections.abc import Iterator
from threading import Lock
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from halftone.checkpoint import weight_errors
from halftone.checkpoint.headers import TensorEntry
from halftone.checkpoint.scratch import Scratch
from halftone.checkpoint.serving_rules import WeightLayout
from halftone.checkpoint.stored_weights import as_float32
from halftone.spec.dtypes import Dtype
from halftone.spec.files import FileSource
from halftone.spec.formats import FP8_BLOCK_SIDE
from halftone.validate.inventory import Module
from halftone.validate.originals import Original, Originals, Weights
from halftone.validate.scales import Scales, Unit
from halftone.validate.streaming import TILE_BYTES

# What a sample reads of one matrix: enough rows for two digits of its error.
_SAMPLE_BYTES: Final = 65_536


class Pair(NamedTuple):
    """A stored weight and what it was made of. `unit` is None for a kept tensor."""

    module: Module
    entry: TensorEntry
    original: Original
    unit: Unit | None
    served: float | None

    @property
    def layout(self) -> WeightLayout | None:
        """The layout of a quantized weight; a kept tensor beside one has none."""
        return None if self.unit is None else self.module.layout

    @property
    def rows(self) -> int:
        """Rows of the weight."""
        return self.original.shape[0]


class Tile(NamedTuple):
    """Rows of a pair, from `start` on."""

    pair: Pair
    start: int
    rows: int


def tiles_of(pair: Pair) -> Iterator[Tile]:
    """All rows, in tiles that begin where blocks begin."""
    step = _step(pair, TILE_BYTES)
    for start in range(0, pair.rows, step):
        yield Tile(pair, start, min(step, pair.rows - start))


def sample_tile(pair: Pair) -> Tile:
    """The first rows: a random sample of them would cost more requests and say no more."""
    return Tile(pair, 0, min(pair.rows, _step(pair, _SAMPLE_BYTES)))


def stored_bytes(tile: Tile) -> int:
    """Bytes that are read of the checkpoint for `tile`."""
    pair, scale = tile.pair, tile.pair.module.scale
    codes = pair.entry.nbytes // pair.rows * tile.rows
    if scale is None:
        return codes
    if pair.layout is WeightLayout.Nvfp4:
        return codes + scale.nbytes // pair.rows * tile.rows
    return codes + scale.nbytes


def _step(pair: Pair, nbytes: int) -> int:
    """Rows of at most `nbytes` of the source, a multiple of what shares a scale."""
    side = FP8_BLOCK_SIDE if pair.layout is WeightLayout.Fp8Block else 1
    if pair.original.scale is not None:
        side = int(np.lcm(side, pair.original.scale.block[0]))
    rows = max(1, nbytes // max(1, pair.original.row_bytes))
    return max(side, rows // side * side)


class Comparison:
    """Reads and compares tiles; safe for several threads."""

    def __init__(self, source: FileSource, originals: Originals, scales: Scales) -> None:
        self._source = source
        self._originals = originals
        self._scales = scales
        self._scratch = Scratch()
        self._guard = Lock()
        self._scale_values: dict[str, NDArray[np.float32]] = {}

    def tile(self, tile: Tile) -> tuple[float, float, float]:
        """(sum w², sum error² alone, sum error² as served) of one tile."""
        weights = self._originals.rows(tile.pair.original, tile.start, tile.rows)
        match tile.pair.layout:
            case None:
                return self._kept(tile, weights)
            case WeightLayout.Nvfp4:
                return self._nvfp4(tile, weights)
            case _:
                return self._fp8(tile, weights)

    def _nvfp4(self, tile: Tile, weights: Weights) -> tuple[float, float, float]:
        module, served = tile.pair.module, tile.pair.served
        own = self._scales.of(module.global_scale)
        scale = module.scale
        if scale is None or own is None or served is None:
            raise AssertionError("a pair can be decoded. This is a bug. Please report.")
        packed = self._read("codes", tile.pair.entry, tile)
        blocks = self._read("scales", scale, tile)
        return weight_errors.nvfp4_errors(
            weights, packed, blocks, own, served, multiplies=not module.is_divisor
        )

    def _fp8(self, tile: Tile, weights: Weights) -> tuple[float, float, float]:
        module, scale = tile.pair.module, tile.pair.module.scale
        if scale is None:
            raise AssertionError("a pair can be decoded. This is a bug. Please report.")
        codes, values = self._read("codes", tile.pair.entry, tile), self._all_scales(scale)
        if module.layout is WeightLayout.Fp8Block:
            blocks = values.reshape(-(-tile.pair.rows // FP8_BLOCK_SIDE), -1)
            found = weight_errors.fp8_block_errors(
                weights,
                codes,
                blocks[tile.start // FP8_BLOCK_SIDE :],
                FP8_BLOCK_SIDE,
                FP8_BLOCK_SIDE,
            )
        elif module.layout is WeightLayout.Fp8Channel:
            rows = np.ascontiguousarray(values.reshape(-1)[tile.start : tile.start + tile.rows])
            found = weight_errors.fp8_channel_errors(weights, codes, rows)
        else:
            found = weight_errors.fp8_tensor_errors(weights, codes, float(values.reshape(-1)[0]))
        return found[0], found[1], found[1]

    def _kept(self, tile: Tile, weights: Weights) -> tuple[float, float, float]:
        """A kept tensor is a copy, or was rounded once."""
        entry, original = tile.pair.entry, tile.pair.original
        stored = self._read("codes", entry, tile).reshape(-1)
        expected = as_float32(_dtype_of(weights), weights.reshape(-1).view(np.uint8))
        weight = _sum_of_squares(expected)
        copied = entry.dtype is original.dtype and original.scale is None
        if copied and np.array_equal(stored, weights.reshape(-1).view(np.uint8)):
            return weight, 0.0, 0.0
        with np.errstate(invalid="ignore"):  # infinities that are not kept make a NaN, and a defect
            difference = as_float32(entry.dtype, stored).astype(np.float64) - expected
        error = _sum_of_squares(difference)
        return weight, error, error

    def _read(self, purpose: str, entry: TensorEntry, tile: Tile) -> NDArray[np.uint8]:
        """The tile's rows of a stored tensor, as bytes `[rows, bytes per row]`."""
        row = entry.nbytes // tile.pair.rows
        buffer = self._scratch.take(purpose, tile.rows * row)
        self._source.read_into(entry.file, entry.offset + tile.start * row, buffer.data)
        return buffer.reshape(tile.rows, row)

    def _all_scales(self, entry: TensorEntry) -> NDArray[np.float32]:
        with self._guard:
            known = self._scale_values.get(entry.name)
        if known is None:
            data = self._source.read_range(entry.file, entry.offset, entry.nbytes)
            known = as_float32(entry.dtype, np.frombuffer(data, np.uint8))
            with self._guard:
                self._scale_values[entry.name] = known
        return known


def _sum_of_squares(values: NDArray[np.floating[Any]]) -> float:
    """In float64, without a copy in it: the square of a weight may be beyond float32."""
    return float(np.einsum("i,i->", values, values, dtype=np.float64))


def _dtype_of(weights: Weights) -> Dtype:
    return Dtype.BF16 if weights.dtype == np.uint16 else Dtype.F32
