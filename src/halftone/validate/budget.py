"""How much of a remote checkpoint may be read: many small reads in few requests.

A scale of four bytes is worth a request only if nothing else lies near it. Extents that lie close
together become one range; where the budget does not allow all, the most telling part is chosen.
Called by the checks that read data; it reads nothing but through `read_ranges`.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from halftone.spec.files import FileSource

# Reading this much too much takes less time than another request does.
COMFORTABLE_GAP: Final = 65_536
_REMOTE_READERS: Final = 8


@dataclass(frozen=True)
class Budget:
    """Upper limits for a whole inspection of a remote checkpoint: bytes and requests.

    The defaults read everything that matters of a 35-billion-parameter mixture of experts.
    """

    nbytes: int = 25_000_000
    requests: int = 200

    def left(self, source: FileSource) -> "Budget":
        """What remains after the traffic that `source` has had."""
        used = source.traffic
        return Budget(max(0, self.nbytes - used.bytes), max(0, self.requests - used.requests))


class Span(NamedTuple):
    """Some bytes of a file, known by a name."""

    name: str
    file: str
    offset: int
    nbytes: int


class Range(NamedTuple):
    """One request, and the extents inside of it."""

    file: str
    offset: int
    nbytes: int
    extents: tuple[Span, ...]


def fit(extents: Sequence[Span], budget: Budget | None) -> list[Range] | None:
    """Ranges that cover `extents` within `budget` (None: no limit), or None if none do.

    Of all ways to stay within the requests this is one that reads the fewest bytes; gaps up to
    `COMFORTABLE_GAP` are read over too where the bytes allow it.
    """
    if not extents:
        return []
    ordered = sorted(extents, key=lambda e: (e.file, e.offset))
    gaps = _gaps(ordered)
    if budget is None:
        return _ranges(ordered, gaps <= COMFORTABLE_GAP)
    needed = sum(extent.nbytes for extent in ordered)
    least = 0.0
    if len(ordered) > budget.requests:
        if budget.requests == 0:
            return None
        merges = len(ordered) - budget.requests
        least = float(np.partition(gaps, merges - 1)[merges - 1])
    for limit in (max(least, COMFORTABLE_GAP), least):
        joined = gaps <= limit
        if np.isfinite(limit) and needed + float(gaps[joined].sum()) <= budget.nbytes:
            return _ranges(ordered, joined)
    return None


def largest_fit(parts: Sequence[Sequence[Span]], budget: Budget) -> tuple[int, list[Range]]:
    """How many of `parts`, taken in order, fit into `budget`, and the ranges that cover them."""
    low, best = 0, list[Range]()
    high = len(parts)
    while low < high:
        middle = (low + high + 1) // 2
        ranges = fit([extent for part in parts[:middle] for extent in part], budget)
        if ranges is None:
            high = middle - 1
        else:
            low, best = middle, ranges
    return low, best


def read_ranges(source: FileSource, ranges: Sequence[Range]) -> Iterator[tuple[str, bytes]]:
    """The bytes of every extent; ranges of a remote source are read side by side."""
    if not ranges:
        return
    remote = source.local_path(ranges[0].file) is None
    with ThreadPoolExecutor(_REMOTE_READERS if remote else 1, "ranges") as pool:
        reads = pool.map(lambda r: source.read_range(r.file, r.offset, r.nbytes), ranges)
        for wanted, data in zip(ranges, reads, strict=True):
            for extent in wanted.extents:
                begin = extent.offset - wanted.offset
                yield extent.name, data[begin : begin + extent.nbytes]


def _gaps(ordered: Sequence[Span]) -> NDArray[np.float64]:
    """Bytes between neighbours; infinite where they lie in different files."""
    return np.array(
        [
            float(max(0, after.offset - before.offset - before.nbytes))
            if after.file == before.file
            else np.inf
            for before, after in pairwise(ordered)
        ]
    )


def _ranges(ordered: Sequence[Span], joined: NDArray[np.bool_]) -> list[Range]:
    starts = [0, *(int(i) + 1 for i in np.flatnonzero(~joined)), len(ordered)]
    ranges = []
    for begin, end in pairwise(starts):
        part = tuple(ordered[begin:end])
        stop = max(extent.offset + extent.nbytes for extent in part)
        ranges.append(Range(part[0].file, part[0].offset, stop - part[0].offset, part))
    return ranges
