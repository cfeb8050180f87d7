"""Tensors of a shard read in few, large requests.

A mixture of experts has tens of thousands of tensors of a few bytes each; asking for them one by
one would cost a remote store a request each. Called by `settling` and `shards`.
"""

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import numpy as np

from halftone.checkpoint.headers import TensorEntry
from halftone.checkpoint.scratch import Bytes
from halftone.spec.files import FileSource

SPAN_BYTES: Final = 32 * 2**20
# Bytes between two tensors that cost less than a request of their own.
GAP_BYTES: Final = 2**20


class Piece(NamedTuple):
    """Bytes of `entry` from its `begin`-th on; `data` is valid until the next piece."""

    entry: TensorEntry
    begin: int
    data: Bytes

    @property
    def is_part(self) -> bool:
        """Whether the tensor has more bytes than these."""
        return self.data.nbytes != self.entry.nbytes


def spans_of(
    source: FileSource,
    entries: Sequence[TensorEntry],
    span_bytes: int = SPAN_BYTES,
    gap_bytes: int = GAP_BYTES,
) -> Iterator[Piece]:
    """`entries`, tensors of one shard sorted by offset; only those above a span are cut."""
    buffer = np.empty(span_bytes, np.uint8)
    run: list[TensorEntry] = []
    for entry in entries:
        if run and not _belongs(entry, run, span_bytes, gap_bytes):
            yield from _whole(source, run, buffer)
            run = []
        if entry.nbytes > span_bytes:
            yield from _cut(source, entry, buffer)
        else:
            run.append(entry)
    if run:
        yield from _whole(source, run, buffer)


def _belongs(
    entry: TensorEntry, run: Sequence[TensorEntry], span_bytes: int, gap_bytes: int
) -> bool:
    """Whether one request for `run` may fetch `entry` too."""
    gap = entry.offset - (run[-1].offset + run[-1].nbytes)
    return gap <= gap_bytes and entry.offset + entry.nbytes - run[0].offset <= span_bytes


def _whole(source: FileSource, run: Sequence[TensorEntry], buffer: Bytes) -> Iterator[Piece]:
    first, last = run[0], run[-1]
    data = buffer[: last.offset + last.nbytes - first.offset]
    if data.size:
        source.read_into(first.file, first.offset, data.data)
    for entry in run:
        begin = entry.offset - first.offset
        yield Piece(entry, 0, data[begin : begin + entry.nbytes])


def _cut(source: FileSource, entry: TensorEntry, buffer: Bytes) -> Iterator[Piece]:
    for begin in range(0, entry.nbytes, buffer.nbytes):
        data = buffer[: min(buffer.nbytes, entry.nbytes - begin)]
        source.read_into(entry.file, entry.offset + begin, data.data)
        yield Piece(entry, begin, data)
