"""One shard, from its units to its bytes: read tiles, call kernels, write at planned offsets.

Units go through in batches. Inside a batch, first every large group's maximum is measured (pass
one), then everything is quantized and written (pass two); small groups are read once for both.
A batch keeps all threads busy over experts of a few megabytes and over matrices of hundreds alike.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, wait
from functools import partial
from typing import Final, NamedTuple, TypeVar

import numpy as np

from halftone.checkpoint import decoding
from halftone.checkpoint.scratch import Scratch
from halftone.plan.layout import OutputShard, Unit
from halftone.plan.resources import SPOOL_BYTES, TILE_BYTES
from halftone.plan.tensors import LogicalTensor
from halftone.quantize import kernels
from halftone.quantize.encoding import Encoder, Piece, Sums
from halftone.quantize.tiles import Tile, TileReader, require_finite, tiles_of
from halftone.spec.dtypes import Dtype
from halftone.spec.formats import FORMATS

Item = TypeVar("Item")
Answer = TypeVar("Answer")

_BATCH_BYTES: Final = 256 * 2**20


class UnitResult(NamedTuple):
    """What writing a quantized unit gave.

    `global_scale` is the scale that its members share, as it is stored; None where rows or blocks
    have scales of their own.
    """

    name: str
    global_scale: float | None
    sums: Sums


Task = Callable[[], UnitResult]


class ShardWriter:
    """Writes the units of one shard into an open file."""

    def __init__(
        self,
        shard: OutputShard,
        descriptor: int,
        reader: TileReader,
        encoder: Encoder,
        executor: Executor,
        flusher: Executor,
        advance: Callable[[int], None],
        remote: bool,
    ) -> None:
        self._shard = shard
        self._descriptor = descriptor
        self._reader = reader
        self._encoder = encoder
        self._executor = executor
        self._flusher = flusher
        self._advance = advance
        self._remote = remote
        self._offsets = shard.offsets()
        self._scratch = Scratch()

    def write(self) -> list[UnitResult]:
        """Write header and every unit; returns the results of quantized units in shard order."""
        os.ftruncate(self._descriptor, self._shard.size_bytes)
        self._write_at(0, memoryview(self._shard.header))
        results: list[UnitResult] = []
        flushed: Future[None] = self._flusher.submit(os.fdatasync, self._descriptor)
        try:
            for batch in _batches(self._shard.units):
                results += self._write_batch(batch)
                # Left alone, the kernel keeps everything in memory until the final fsync, and the
                # disk idles while the processors work.
                if flushed.done():
                    flushed.result()  # a failed flush is told once, and to this descriptor alone
                    flushed = self._flusher.submit(os.fdatasync, self._descriptor)
        finally:
            wait([flushed])
        flushed.result()
        return results

    def _write_batch(self, batch: list[Unit]) -> list[UnitResult]:
        spool = self._remote and sum(map(_source_bytes, batch)) <= SPOOL_BYTES
        large = {u.name: u for u in batch if _needs_two_passes(u)}
        tiles = [t for unit in large.values() for m in unit.members for t in tiles_of(m)]
        measured = self._all(lambda t: self._measure(t, spool), tiles)
        scales = self._shared_scales(large.values(), tiles, measured)
        tasks = [task for unit in batch for task in self._tasks(unit, scales)]
        done = self._all(lambda task: task(), tasks)
        for unit in batch:
            self._reader.forget(unit.members)
        return _combine(batch, done)

    def _all(self, work: Callable[[Item], Answer], items: Sequence[Item]) -> list[Answer]:
        """`work` on every item, answers in order. Nothing runs any more when this is left.

        Otherwise, after one thread failed, another would still write to a descriptor that is
        closed by then, and whose number may already stand for another file.
        """
        futures = [self._executor.submit(work, item) for item in items]
        try:
            return [future.result() for future in futures]
        finally:
            for future in futures:
                future.cancel()
            wait(futures)

    def _shared_scales(
        self, units: Iterable[Unit], tiles: list[Tile], measured: list[float]
    ) -> dict[str, np.float32]:
        """One scale for each group, from the maxima of the tiles of all members."""
        amax: dict[str, float] = {}
        for tile, value in zip(tiles, measured, strict=True):
            amax[tile.tensor.name] = max(value, amax.get(tile.tensor.name, 0.0))
        return {
            unit.name: self._encoder.shared_scale(
                max(amax[m.name] for m in unit.members), unit.members
            )
            for unit in units
        }

    def _measure(self, tile: Tile, spool: bool) -> float:
        return require_finite(kernels.amax(self._reader.read(tile, spool)), tile.tensor)

    def _tasks(self, unit: Unit, scales: Mapping[str, np.float32]) -> Iterator[Task]:
        if not unit.members:
            yield partial(self._fill_in, unit.name)
            return
        if unit.format is None:
            for member in unit.members:
                for begin in range(0, member.kept_bytes, TILE_BYTES):
                    yield partial(self._keep, unit.name, member, begin)
            return
        shares_scale = FORMATS[unit.format].shares_global_scale
        if shares_scale and unit.name not in scales:
            yield partial(self._quantize_small, unit)
            return
        for member in unit.members:
            for tile in tiles_of(member):
                if shares_scale:
                    yield partial(self._quantize_again, unit.name, tile, scales[unit.name])
                else:
                    yield partial(self._quantize, unit.name, tile)

    def _quantize_small(self, unit: Unit) -> UnitResult:
        """Both passes over a group that fits one tile."""
        tiles = [tile for member in unit.members for tile in tiles_of(member)]
        amax = max(self._measure(tile, spool=True) for tile in tiles)
        scale = self._encoder.shared_scale(amax, unit.members)
        results = [self._quantize_again(unit.name, tile, scale) for tile in tiles]
        return results[0]._replace(sums=sum((r.sums for r in results), Sums()))

    def _quantize_again(self, unit: str, tile: Tile, scale: np.float32) -> UnitResult:
        pieces, sums = self._encoder.shared(tile, self._reader.read_again(tile), scale)
        stored = self._encoder.stored_shared(tile.tensor, scale)
        return self._written(tile, pieces, UnitResult(unit, float(stored), sums))

    def _quantize(self, unit: str, tile: Tile) -> UnitResult:
        pieces, sums = self._encoder.separate(tile, self._reader.read(tile))
        require_finite(sums.weight + sums.error, tile.tensor)
        return self._written(tile, pieces, UnitResult(unit, None, sums))

    def _written(self, tile: Tile, pieces: Iterable[Piece], result: UnitResult) -> UnitResult:
        for piece in pieces:
            self._put(*piece)
        self._advance(tile.source_bytes)
        return result

    def _fill_in(self, name: str) -> UnitResult:
        """A scale of the KV cache, which no weight gives."""
        self._put(*self._encoder.cache_scale(name))
        return UnitResult(name, None, Sums())

    def _keep(self, unit: str, tensor: LogicalTensor, begin: int) -> UnitResult:
        """Copy a piece of a kept tensor; NaN is refused, infinities are the model's business."""
        if tensor.scale is not None:
            if begin == 0:
                self._keep_dequantized(tensor)
            return UnitResult(unit, None, Sums())
        nbytes = min(TILE_BYTES, tensor.source_bytes - begin)
        raw = self._scratch.take("packed", nbytes)
        self._reader.read_bytes(tensor, begin, raw)
        if _has_nan(raw, tensor.dtype):
            require_finite(float("nan"), tensor)
        self._put(tensor.name, begin, raw)
        self._advance(nbytes)
        return UnitResult(unit, None, Sums())

    def _keep_dequantized(self, tensor: LogicalTensor) -> None:
        for tile in tiles_of(tensor):
            weights = self._reader.read(tile)
            require_finite(kernels.amax(weights), tensor)
            self._put(tensor.name, tile.start * weights.shape[1] * 2, weights)
            self._advance(tile.source_bytes)

    def _put(self, name: str, offset: int, array: np.ndarray[tuple[int, ...], np.dtype]) -> None:
        view = np.ascontiguousarray(array).data.cast("B")
        self._write_at(self._offsets[name] + offset, view)

    def _write_at(self, position: int, view: memoryview) -> None:
        while view:
            written = os.pwrite(self._descriptor, view, position)
            view, position = view[written:], position + written


def _has_nan(raw: np.ndarray[tuple[int, ...], np.dtype[np.uint8]], dtype: Dtype) -> bool:
    match dtype:
        case Dtype.BF16:
            return decoding.has_nan_bf16(raw.view(np.uint16))
        case Dtype.F16:
            return bool(np.isnan(raw.view(np.float16)).any())
        case Dtype.F32:
            return bool(np.isnan(raw.view(np.float32)).any())
        case Dtype.F64:
            return bool(np.isnan(raw.view(np.float64)).any())
        case _:
            return False


def _source_bytes(unit: Unit) -> int:
    return sum(member.source_bytes for member in unit.members)


def _needs_two_passes(unit: Unit) -> bool:
    shared = unit.format is not None and FORMATS[unit.format].shares_global_scale
    return shared and _source_bytes(unit) > TILE_BYTES


def _batches(units: Iterable[Unit]) -> Iterator[list[Unit]]:
    batch: list[Unit] = []
    size = 0
    for unit in units:
        nbytes = _source_bytes(unit)
        if batch and size + nbytes > _BATCH_BYTES:
            yield batch
            batch, size = [], 0
        batch.append(unit)
        size += nbytes
    if batch:
        yield batch


def _combine(batch: list[Unit], done: list[UnitResult]) -> list[UnitResult]:
    """Sum tiles in their own order, whatever order they finished in."""
    results: dict[str, UnitResult] = {}
    for part in done:
        known = results.get(part.name)
        sums = part.sums if known is None else known.sums + part.sums
        results[part.name] = part._replace(sums=sums)
    return [results[unit.name] for unit in batch if unit.format is not None]
