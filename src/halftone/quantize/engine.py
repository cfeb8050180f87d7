"""Carry out a plan: stream the source once through the kernels into a finished checkpoint.

    planned = plan_checkpoint(checkpoint, recipe)
    document = quantize(planned, checkpoint, Path("out"), workers=2)

Shards are made one after the other by a pool of threads (the kernels release the GIL); while one is
being hashed and flushed, the next is already being written. Kill it at any moment and call it
again: shards whose bytes still have their digest are kept.
"""

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from halftone import __version__
from halftone.checkpoint.digests import file_sha256
from halftone.checkpoint.headers import read_header
from halftone.checkpoint.index import Checkpoint
from halftone.plan.layout import OutputShard
from halftone.plan.planning import Planned
from halftone.quantize.companions import carry_over, write_json
from halftone.quantize.configuration import configuration_files
from halftone.quantize.encoding import Encoder
from halftone.quantize.measured_scales import MeasuredScales
from halftone.quantize.results import checkpoint_document
from halftone.quantize.statistics import Statistics
from halftone.quantize.tiles import TileReader
from halftone.quantize.workspace import (
    Workspace,
    discard_leftovers,
    finished,
    storage_errors,
)
from halftone.quantize.writing import ShardWriter, UnitResult
from halftone.spec.documents import CheckpointDocument, Method
from halftone.spec.errors import RefusedInput
from halftone.spec.files import FileEntry
from halftone.spec.names import CHECKPOINT_FILE, INDEX_FILE, Reason


class Progress(Protocol):
    """Who wants to know how far the work is; called from any thread."""

    def advance(self, nbytes: int) -> None:
        """So many bytes of the source are done."""

    def skip(self, nbytes: int) -> None:
        """So many were done by an earlier run."""


class _Unseen:
    def advance(self, nbytes: int) -> None: ...

    def skip(self, nbytes: int) -> None: ...


def quantize(
    planned: Planned,
    checkpoint: Checkpoint,
    output: Path,
    *,
    statistics: Statistics | None = None,
    workers: int = 2,
    document_path: Path | None = None,
    progress: Progress | None = None,
) -> CheckpointDocument:
    """Write the checkpoint that `planned` describes to `output`; return its document.

    A calibrated plan takes its `statistics`, a data-free one none. `progress` is told of bytes of
    source that are done. The document goes to `document_path`, by default `checkpoint.json` in
    `output`. Raises RefusedInput for input that cannot be carried out, EnvironmentFault for a full
    disk and the like; nothing that looks like a checkpoint is left behind by either.
    """
    require_carried_out(planned, statistics)
    document_path = document_path or output / CHECKPOINT_FILE
    document_path = Path(os.path.realpath(document_path.parent)) / document_path.name
    measured_digest = None if statistics is None else statistics.document.digest
    done = finished(output, planned.plan.digest, measured_digest, document_path)
    if done is not None:
        discard_leftovers(output)
        return done
    _refuse_unreadable(planned, checkpoint)
    origin = _origin(checkpoint) | {"statisticsDigest": measured_digest}
    encoder = encoder_of(planned, statistics)
    with Workspace(output, planned.plan, origin) as workspace:
        entries = _write_shards(
            planned, checkpoint, workspace, encoder, workers, progress or _Unseen()
        )
        _refuse_changed(checkpoint)
        _write_companions(planned, checkpoint, workspace)
        document = checkpoint_document(
            planned, workspace.staged, entries, __version__, measured_digest
        )
        workspace.publish(document, document_path)
    return document


def require_carried_out(planned: Planned, statistics: Statistics | None) -> None:
    """Raise the plan's refusal, or say what it needs beside the source, or does not need."""
    refusal = planned.plan.refusal
    if refusal is not None:
        raise RefusedInput(refusal.reason, refusal.subject, refusal.message)
    calibrated = planned.plan.method is Method.Calibrated
    if calibrated and statistics is None:
        name = planned.plan.recipe.name if planned.plan.recipe else "of the plan"
        raise RefusedInput(
            Reason.CalibrationRequired,
            "quantization.precision",
            f"The recipe '{name}' needs calibration statistics (of quantized activations or of the "
            "KV cache); run `halftone calibrate` and give what it wrote with `--statistics`, or "
            "choose a data-free recipe such as 'nvfp4a16' or 'fp8-dynamic'.",
        )
    if statistics is not None and not calibrated:
        raise RefusedInput(
            Reason.StatisticsDiffer,
            "statistics",
            "The plan is data-free: nothing in it is measured, so these statistics are of another "
            "plan; leave `--statistics` out.",
        )
    if statistics is not None and statistics.document.planDigest != planned.plan.digest:
        raise RefusedInput(
            Reason.StatisticsDiffer,
            "statistics",
            f"The statistics are of the plan {statistics.document.planDigest[:12]}, this one is "
            f"{planned.plan.digest[:12]}; run `halftone calibrate` on this plan.",
        )


def encoder_of(planned: Planned, statistics: Statistics | None) -> Encoder:
    """What encodes the tiles of `planned`, which `require_carried_out` let through."""
    if planned.plan.recipe is None:
        raise AssertionError("an accepted plan has a recipe. This is a bug. Please report.")
    measured = None if statistics is None else MeasuredScales.of(planned, statistics)
    return Encoder(planned.plan.recipe, measured)


def _write_shards(
    planned: Planned,
    checkpoint: Checkpoint,
    workspace: Workspace,
    encoder: Encoder,
    workers: int,
    progress: Progress,
) -> list[dict[str, Any]]:
    """Journal entries of all shards in order; finished ones are taken over."""
    known = {s.file: workspace.finished_shard(s.file) for s in planned.shards}
    missing = [shard for shard in planned.shards if known[shard.file] is None]
    workspace.require_space(
        sum(shard.size_bytes for shard in missing) + _carried_bytes(planned, checkpoint)
    )
    for shard in planned.shards:
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
            pending.append(finisher.submit(_finish, workspace, shard, results))
            for future in filter(Future.done, pending):
                future.result()  # a shard that could not be finished stops the work
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


def _finish(workspace: Workspace, shard: OutputShard, results: list[UnitResult]) -> dict[str, Any]:
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
    return entry


def _origin(checkpoint: Checkpoint) -> dict[str, Any]:
    """Our version, and when each local shard was last written.

    Two fine-tunes of one model have equal headers: without this, a source that was replaced between
    two runs would leave a mixture of both.
    """
    found: dict[str, Any] = {"halftoneVersion": __version__}
    for shard in checkpoint.shards:
        path = checkpoint.source.local_path(shard.file)
        if path is not None:
            found[shard.file] = path.stat().st_mtime_ns
    return found


def _carried(planned: Planned) -> tuple[str, ...]:
    return planned.plan.output.carried if planned.plan.output else ()


def _carried_bytes(planned: Planned, checkpoint: Checkpoint) -> int:
    sizes = {entry.path: entry.size_bytes for entry in checkpoint.other_files}
    return sum(sizes[name] for name in _carried(planned))


def _refuse_unreadable(planned: Planned, checkpoint: Checkpoint) -> None:
    """Files that are carried over come last; what a store refuses to read is refused first."""
    for name in _carried(planned):
        checkpoint.source.local_path(name)


def _refuse_changed(checkpoint: Checkpoint) -> None:
    """The source must still have the headers that were planned with."""
    for shard in checkpoint.shards:
        now = read_header(checkpoint.source, FileEntry(shard.file, shard.size_bytes))
        if now.sha256 != shard.sha256:
            raise RefusedInput(
                Reason.SourceChanged,
                shard.file,
                f"'{shard.file}' of the source changed while it was being read; run the same "
                "command again on a source that stays as it is.",
            )


def _write_companions(planned: Planned, checkpoint: Checkpoint, workspace: Workspace) -> None:
    """The configuration, the index and every carried file."""
    plan = planned.plan
    if plan.output is None:
        raise AssertionError("an accepted plan is complete. This is a bug. Please report.")
    workspace.drop_all_but({shard.file for shard in planned.shards})
    with storage_errors(workspace.output):
        for name, content in configuration_files(planned, checkpoint.config).items():
            write_json(workspace.staged / name, content)
        if len(planned.shards) > 1:
            write_json(workspace.staged / INDEX_FILE, index_of(planned.shards))
        carry_over(checkpoint.source, plan.output.carried, workspace.staged)


def index_of(shards: Iterable[OutputShard]) -> dict[str, Any]:
    """`model.safetensors.index.json` for `shards`."""
    rows = [row for shard in shards for row in shard.rows]
    return {
        "metadata": {"total_size": sum(row.end - row.begin for row in rows)},
        "weight_map": {row.name: row.file for row in sorted(rows, key=lambda r: r.name)},
    }
