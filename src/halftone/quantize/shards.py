"""Shards: written one after the other, each journaled once its bytes are safe.

Called by `engine`. A pool of threads quantizes (the kernels release the GIL); while one shard is
being hashed and flushed, the next is already being written.
"""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Protocol

from halftone.checkpoint.digests import file_sha256
from halftone.checkpoint.index import Checkpoint
from halftone.plan.layout import OutputShard
from halftone.quantize.encoding import Encoder
from halftone.quantize.tiles import TileReader
from halftone.quantize.workspace import Workspace, storage_errors
from halftone.quantize.writing import ShardWriter, UnitResult

# Of an entry in a depot: what the shard depends on beside the plan.
_ORIGIN: Final = "origin"


class Progress(Protocol):
    """Who wants to know how far the work is; called from any thread."""

    def advance(self, nbytes: int) -> None:
        """So many bytes of the source are done."""

    def skip(self, nbytes: int) -> None:
        """So many were done by an earlier run."""


class Unseen:
    """Nobody wants to know."""

    def advance(self, nbytes: int) -> None: ...

    def skip(self, nbytes: int) -> None: ...


class Depot(Protocol):
    """Where finished shards go when workers share no disk; all of them see the same one."""

    def entry(self, file: str) -> dict[str, Any] | None:
        """The journal entry of a shard that lies there whole, or None."""

    def keep(self, path: Path, entry: dict[str, Any]) -> None:
        """Take the shard at `path`, then its entry: what has an entry is there."""


def known_shards(
    shards: Sequence[OutputShard], workspace: Workspace, depot: Depot | None
) -> dict[str, dict[str, Any] | None]:
    """By file, the entries of shards that are finished; None for the others.

    Of what lies in a depot those count that were made from the same source as it is now.
    """
    if depot is None:
        return {shard.file: workspace.finished_shard(shard.file) for shard in shards}
    found = {shard.file: depot.entry(shard.file) for shard in shards}
    return {
        file: entry if entry is not None and _is_of(workspace, entry) else None
        for file, entry in found.items()
    }


def _is_of(workspace: Workspace, entry: dict[str, Any]) -> bool:
    return bool(entry.get(_ORIGIN) == workspace.origin_digest)


def write_shards(
    shards: Sequence[OutputShard],
    checkpoint: Checkpoint,
    workspace: Workspace,
    encoder: Encoder,
    workers: int,
    progress: Progress,
    beside: int,
    depot: Depot | None = None,
) -> list[dict[str, Any]]:
    """Journal entries of `shards` in order; finished ones are taken over.

    `beside` is how many bytes will be needed for other files. Raises what `quantize` raises.
    """
    known = known_shards(shards, workspace, depot)
    missing = [shard for shard in shards if known[shard.file] is None]
    sizes = [shard.size_bytes for shard in missing]
    # What went to the depot makes room: two are there at once, one written and one on its way.
    needed = sum(sizes) if depot is None else sum(sorted(sizes)[-2:])
    workspace.require_space(needed + beside, [shard.file for shard in missing])
    for shard in shards:
        if known[shard.file] is not None:
            progress.skip(sum(m.source_bytes for unit in shard.units for m in unit.members))
    remote = checkpoint.source.local_path(checkpoint.shards[0].file) is None
    reader = TileReader(checkpoint.source)
    pending: list[Future[dict[str, Any]]] = []
    with (
        ThreadPoolExecutor(workers, thread_name_prefix="tile") as pool,
        ThreadPoolExecutor(1, thread_name_prefix="finish") as finisher,
        ThreadPoolExecutor(1, thread_name_prefix="flush") as flusher,
    ):
        for shard in missing:
            path = workspace.partial_path(shard.file)
            with storage_errors(workspace.output), _opened(path) as descriptor:
                writer = ShardWriter(
                    shard, descriptor, reader, encoder, pool, flusher, progress.advance, remote
                )
                results = writer.write()
            pending.append(finisher.submit(_finish, workspace, shard, results, depot))
            # One is on its way while the next is written; a slow depot would fill the disk with
            # more. A shard that could not be finished stops the work.
            for future in pending[-2:-1]:
                future.result()
        for shard, future in zip(missing, pending, strict=True):
            known[shard.file] = future.result()
    return [entry for entry in known.values() if entry is not None]


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    """A descriptor of a new, empty file."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _finish(
    workspace: Workspace, shard: OutputShard, results: list[UnitResult], depot: Depot | None
) -> dict[str, Any]:
    """Flush, digest and name a shard; from here on it survives a kill."""
    path = workspace.partial_path(shard.file)
    with storage_errors(workspace.output):
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        digest = file_sha256(path)
    entry = {
        "file": shard.file,
        "sizeBytes": shard.size_bytes,
        "sha256": digest,
        "units": [[r.name, r.global_scale, *r.sums] for r in results],
    }
    workspace.finish_shard(shard.file, entry)
    if depot is not None:
        kept = {**entry, _ORIGIN: workspace.origin_digest}
        depot.keep(workspace.shard_path(shard.file), kept)
        workspace.shard_path(shard.file).unlink()
    return entry
