"""The search for NaN and infinity in weights and scales.

Neighbouring tensors of one dtype are searched as one run, and taken apart only where something is
found. Codes of four bits have no NaN and are not read. Called by `halftone.validate.inspection`.
"""

from collections.abc import Iterable, Sequence
from threading import Lock
from typing import Final, NamedTuple

import numpy as np

from halftone.checkpoint import decoding
from halftone.checkpoint.headers import TensorEntry
from halftone.checkpoint.scratch import Bytes, Scratch
from halftone.spec.dtypes import Dtype
from halftone.spec.files import FileSource
from halftone.spec.names import DefectKind
from halftone.validate.budget import Budget, Range, Span, fit, read_ranges
from halftone.validate.findings import Coverage, Defect, Extent
from halftone.validate.streaming import TILE_BYTES, for_all

# Names of scales end so, whoever wrote them.
_SCALES: Final = ("scale", "scale_inv", "scale_2")
_NUMPY: Final = {Dtype.F16: np.float16, Dtype.F32: np.float32, Dtype.F64: np.float64}
_SEARCHED: Final = {Dtype.BF16, Dtype.F16, Dtype.F32, Dtype.F64, Dtype.F8_E4M3}


class _Run(NamedTuple):
    """Bytes of one dtype, without a gap; the tensors that lie in them, at least in part."""

    dtype: Dtype
    file: str
    offset: int
    nbytes: int
    tensors: tuple[TensorEntry, ...]


def search_values(
    source: FileSource, tensors: Iterable[TensorEntry], budget: Budget | None
) -> tuple[list[Defect], Coverage]:
    """A defect for every tensor that holds a NaN, and for every scale that is infinite.

    With a budget nothing is read unless everything fits in it: a few searched weights of a large
    checkpoint would say nothing of the rest.
    """
    wanted = [entry for entry in tensors if entry.dtype in _SEARCHED and entry.nbytes]
    total = sum(entry.nbytes for entry in wanted)
    if budget is not None:
        ranges = fit([Span(e.name, e.file, e.offset, e.nbytes) for e in wanted], budget)
        if ranges is None:
            return [], Coverage(extent=Extent.NotRead, read=0, total=total)
        bad = _search_ranges(source, wanted, ranges)
    else:
        bad = _search_runs(source, _runs(wanted))
    defects = [
        Defect(
            kind=DefectKind.NotFinite,
            tensor=entry.name,
            message=f"`{entry.name}` ({entry.dtype}) holds NaN or infinite numbers.",
        )
        for entry in wanted
        if entry.name in bad
    ]
    return defects, Coverage(extent=Extent.Complete, read=total, total=total)


def _search_runs(source: FileSource, runs: Sequence[_Run]) -> set[str]:
    """Names of tensors with a NaN, read in tiles by several threads."""
    bad: set[str] = set()
    guard, scratch = Lock(), Scratch()

    def search(run: _Run) -> None:
        buffer = scratch.take("run", run.nbytes)
        source.read_into(run.file, run.offset, buffer.data)
        if is_finite(run.dtype, buffer):
            return
        with guard:
            bad.update(_culprits(run, buffer))

    for_all(runs, search)
    return bad


def _search_ranges(
    source: FileSource, tensors: Sequence[TensorEntry], ranges: Sequence[Range]
) -> set[str]:
    """The same for a remote checkpoint that is small enough to be fetched."""
    entries = {entry.name: entry for entry in tensors}
    return {
        name
        for name, data in read_ranges(source, ranges)
        if not _is_sound(entries[name], np.frombuffer(data, np.uint8))
    }


def is_finite(dtype: Dtype, data: Bytes) -> bool:
    """Whether all numbers of `dtype` in `data` are finite."""
    match dtype:
        case Dtype.F8_E4M3:
            return not decoding.has_nan_e4m3(data)
        case Dtype.BF16:
            return bool(np.isfinite(decoding.amax(data.view(np.uint16))))
        case Dtype.F32:
            return bool(np.isfinite(decoding.amax(data.view(np.float32))))
        case Dtype.F16:
            return bool(np.isfinite(data.view(np.float16)).all())
        case _:
            return bool(np.isfinite(data.view(np.float64)).all())


def _culprits(run: _Run, buffer: Bytes) -> list[str]:
    names = []
    for entry in run.tensors:
        begin = max(entry.offset, run.offset) - run.offset
        end = min(entry.offset + entry.nbytes, run.offset + run.nbytes) - run.offset
        if not _is_sound(entry, buffer[begin:end].copy()):
            names.append(entry.name)
    return names


def _is_sound(entry: TensorEntry, data: Bytes) -> bool:
    """No NaN anywhere, and in scales no infinity either.

    Models keep infinities on purpose in small buffers, such as an audio tower's clipping limits.
    """
    if is_finite(entry.dtype, data):
        return True
    if entry.name.endswith(_SCALES) or entry.dtype is Dtype.F8_E4M3:
        return False
    return not has_nan(entry.dtype, data)


def has_nan(dtype: Dtype, data: Bytes) -> bool:
    """Whether a number of `dtype` (BF16, F16, F32 or F64) in `data` is a NaN."""
    if dtype is Dtype.BF16:
        return decoding.has_nan_bf16(data.view(np.uint16))
    return bool(np.isnan(data.view(_NUMPY[dtype])).any())


def _runs(tensors: Sequence[TensorEntry]) -> list[_Run]:
    """Tiles of at most `TILE_BYTES`: several small tensors each, or a part of a large one."""
    runs: list[_Run] = []
    for together in _neighbours(tensors):
        first, nbytes = together[0], sum(entry.nbytes for entry in together)
        for begin in range(0, nbytes, TILE_BYTES):
            length = min(TILE_BYTES, nbytes - begin)
            runs.append(
                _Run(first.dtype, first.file, first.offset + begin, length, tuple(together))
            )
    return runs


def _neighbours(tensors: Sequence[TensorEntry]) -> list[list[TensorEntry]]:
    """Tensors of one dtype without a gap, together no larger than a tile; large ones alone."""
    runs: list[list[TensorEntry]] = []
    filled = 0
    for entry in sorted(tensors, key=lambda e: (e.file, e.offset)):
        last = runs[-1][-1] if runs else None
        if (
            last is not None
            and (last.file, last.dtype) == (entry.file, entry.dtype)
            and last.offset + last.nbytes == entry.offset
            and filled + entry.nbytes <= TILE_BYTES
        ):
            runs[-1].append(entry)
            filled += entry.nbytes
        else:
            runs.append([entry])
            filled = entry.nbytes
    return runs
