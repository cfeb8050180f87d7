"""Tiles of weights, read into reused buffers as the kernels want them.

A tile is some consecutive rows of one matrix: `uint16[rows, K]` holding BF16 bits, or
`float32[rows, K]` for F16 and F32 sources. FP8 sources are dequantized to BF16 on the way in.
Nothing here keeps more than one tile a thread, except the spool of a remote source, which keeps
what pass one fetched so that pass two need not fetch it again.
"""

import threading
from collections.abc import Iterator
from math import isfinite
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from halftone.checkpoint.scratch import Bytes, Scratch
from halftone.checkpoint.stored_weights import (
    as_weights,
    dequantize_blocks,
    dequantize_rows,
    read_scales,
)
from halftone.plan.resources import TILE_BYTES
from halftone.plan.tensors import LogicalTensor, ScaleKind, SourceScale
from halftone.spec.errors import RefusedInput
from halftone.spec.files import FileSource
from halftone.spec.formats import FP8_BLOCK_SIDE, Format
from halftone.spec.names import Reason

Weights = NDArray[np.uint16] | NDArray[np.float32]

_BLOCK_FORMATS = {Format.FP8_BLOCK, Format.FP8_BLOCK_A16}


class Tile(NamedTuple):
    """`rows` rows of `tensor` from row `start` on."""

    tensor: LogicalTensor
    start: int
    rows: int

    @property
    def row_bytes(self) -> int:
        """Bytes of one row in the source."""
        return self.tensor.source_bytes // self.tensor.shape[0]

    @property
    def source_bytes(self) -> int:
        """Bytes of the tile in the source."""
        return self.rows * self.row_bytes


def tiles_of(tensor: LogicalTensor, tile_bytes: int = TILE_BYTES) -> Iterator[Tile]:
    """The tiles of a matrix, of at most `tile_bytes` as BF16 and at least one row.

    Starts are multiples of 128 where a format or the source scales blocks of rows together.
    The partition does not depend on the number of workers, so sums are reproducible.
    """
    total, columns = tensor.shape
    step = max(1, tile_bytes // (2 * columns))
    side = _row_multiple(tensor)
    step = max(side, step // side * side)
    for start in range(0, total, step):
        yield Tile(tensor, start, min(step, total - start))


def _row_multiple(tensor: LogicalTensor) -> int:
    side = FP8_BLOCK_SIDE if tensor.format in _BLOCK_FORMATS else 1
    if tensor.scale is not None and tensor.scale.kind is ScaleKind.Block:
        side = side * tensor.scale.block[0] // np.gcd(side, tensor.scale.block[0])
    return int(side)


def require_finite(value: float, tensor: LogicalTensor) -> float:
    """`value`, made of all weights that were looked at; RefusedInput(NonFiniteWeight) names them.

    A NaN or an infinity among them makes any maximum or sum one too.
    """
    if not isfinite(value):
        raise RefusedInput(
            Reason.NonFiniteWeight,
            tensor.name,
            f"`{tensor.name}` holds NaN or infinite weights; repair the source, or ask its "
            "publisher for one that trained to the end.",
        )
    return value


class TileReader:
    """Reads tiles of one source; safe to use from several threads."""

    def __init__(self, source: FileSource) -> None:
        self._source = source
        self._scratch = Scratch()
        self._scales: dict[str, NDArray[np.float32]] = {}
        self._spool: dict[Tile, Bytes] = {}
        self._guard = threading.Lock()

    def read(self, tile: Tile, spool: bool = False) -> Weights:
        """The weights of `tile`; valid until this thread reads the next one.

        With `spool`, the bytes are kept for `read_again`.
        """
        raw = self._fetch(tile, spool)
        return self._as_weights(tile, raw)

    def read_again(self, tile: Tile) -> Weights:
        """The second pass: from the spool where pass one left it there, else from the source."""
        with self._guard:
            raw = self._spool.pop(tile, None)
        return self._as_weights(tile, self._fetch(tile, False) if raw is None else raw)

    def read_bytes(self, tensor: LogicalTensor, begin: int, buffer: Bytes) -> None:
        """Fill `buffer` with the stored bytes of `tensor` from `begin` on."""
        self._source.read_into(tensor.file, tensor.offset + begin, buffer.data)

    def forget(self, tensors: tuple[LogicalTensor, ...]) -> None:
        """Give back what was kept for `tensors`."""
        with self._guard:
            for tensor in tensors:
                self._scales.pop(tensor.name, None)

    def _fetch(self, tile: Tile, spool: bool) -> Bytes:
        tensor = tile.tensor
        nbytes = tile.source_bytes
        raw = np.empty(nbytes, np.uint8) if spool else self._scratch.take("raw", nbytes)
        offset = tensor.offset + tile.start * tile.row_bytes
        self._source.read_into(tensor.file, offset, raw.data)
        if spool:
            with self._guard:
                self._spool[tile] = raw
        return raw

    def _as_weights(self, tile: Tile, raw: Bytes) -> Weights:
        shape = (tile.rows, tile.tensor.shape[1])
        if tile.tensor.scale is not None:
            return self._dequantized(tile, raw.reshape(shape), tile.tensor.scale)
        return as_weights(tile.tensor.dtype, raw, shape, self._scratch)

    def _dequantized(self, tile: Tile, codes: Bytes, scale: SourceScale) -> NDArray[np.uint16]:
        """The FP8 codes of a tile as BF16 bits, rounded to nearest even."""
        out = self._scratch.take("bf16", codes.size * 2).view(np.uint16).reshape(codes.shape)
        values = self._scale_values(tile.tensor, scale)
        if scale.kind is ScaleKind.Block:
            dequantize_blocks(codes, values, tile.start, scale.block, out)
        else:
            dequantize_rows(codes, values, tile.start, out)
        return out

    def _scale_values(self, tensor: LogicalTensor, scale: SourceScale) -> NDArray[np.float32]:
        """The whole scale tensor as float32, read once."""
        with self._guard:
            known = self._scales.get(tensor.name)
        if known is not None:
            return known
        values = read_scales(self._source, scale.entry)
        with self._guard:
            self._scales[tensor.name] = values
        return values
