"""Carry out a plan: stream the source once through the kernels into a finished checkpoint.

    planned = plan_checkpoint(checkpoint, recipe)
    document = quantize(planned, checkpoint, Path("out"), workers=2)

Kill it at any moment and call it again: shards whose bytes still have their digest are kept.
Several processes may share the work: each calls `quantize_part` with a part of its own, then one of
them, or another, `assemble`. Where they share no disk, a `Depot` takes the finished shards.
"""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from halftone import __version__
from halftone.checkpoint.headers import read_header
from halftone.checkpoint.index import Checkpoint
from halftone.plan.layout import OutputShard
from halftone.plan.planning import Planned
from halftone.quantize.companions import carry_over, write_json
from halftone.quantize.configuration import configuration_files
from halftone.quantize.encoding import Encoder
from halftone.quantize.measured_scales import MeasuredScales
from halftone.quantize.results import checkpoint_document
from halftone.quantize.shards import Depot, Progress, Unseen, known_shards, write_shards
from halftone.quantize.statistics import Statistics
from halftone.quantize.workspace import (
    Workspace,
    discard_leftovers,
    finished,
    storage_errors,
)
from halftone.spec.documents import CheckpointDocument, Method
from halftone.spec.errors import EnvironmentFault, RefusedInput
from halftone.spec.files import FileEntry
from halftone.spec.names import CHECKPOINT_FILE, INDEX_FILE, Reason


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
    document_path = _resolved(document_path or output / CHECKPOINT_FILE)
    measured_digest = None if statistics is None else statistics.document.digest
    done = finished(output, planned.plan.digest, measured_digest, document_path)
    if done is not None:
        discard_leftovers(output)
        return done
    _refuse_unreadable(planned, checkpoint)
    encoder = encoder_of(planned, statistics)
    with Workspace(output, planned.plan, _origin(checkpoint, measured_digest)) as workspace:
        entries = write_shards(
            planned.shards,
            checkpoint,
            workspace,
            encoder,
            workers,
            progress or Unseen(),
            _carried_bytes(planned, checkpoint),
        )
        return _complete(planned, checkpoint, workspace, entries, measured_digest, document_path)


def quantize_part(
    planned: Planned,
    checkpoint: Checkpoint,
    output: Path,
    part: int,
    parts: int,
    *,
    statistics: Statistics | None = None,
    workers: int = 2,
    progress: Progress | None = None,
    depot: Depot | None = None,
) -> None:
    """Write the shards of part number `part` of `parts`, for `assemble` to make a checkpoint of.

    Shards go from `output` to `depot` if there is one, else they stay beside `output`. Raises what
    `quantize` raises.
    """
    require_carried_out(planned, statistics)
    _refuse_unreadable(planned, checkpoint)
    measured_digest = None if statistics is None else statistics.document.digest
    origin = _origin(checkpoint, measured_digest)
    with Workspace(output, planned.plan, origin, part) as workspace:
        write_shards(
            planned.shards[part::parts],
            checkpoint,
            workspace,
            encoder_of(planned, statistics),
            workers,
            progress or Unseen(),
            0,
            depot,
        )
        _refuse_changed(checkpoint)


def assemble(
    planned: Planned,
    checkpoint: Checkpoint,
    output: Path,
    *,
    statistics: Statistics | None = None,
    document_path: Path | None = None,
    depot: Depot | None = None,
) -> CheckpointDocument:
    """Make one checkpoint of the shards of all parts, and return its document.

    With a `depot`, `output` gets everything but the shards, which stay there. Raises what
    `quantize` raises, and EnvironmentFault(WorkdirInconsistent) that names a shard which no part
    has written.
    """
    require_carried_out(planned, statistics)
    document_path = _resolved(document_path or output / CHECKPOINT_FILE)
    measured_digest = None if statistics is None else statistics.document.digest
    if depot is None:
        done = finished(output, planned.plan.digest, measured_digest, document_path)
        if done is not None:
            discard_leftovers(output)
            return done
    _refuse_unreadable(planned, checkpoint)
    with Workspace(output, planned.plan, _origin(checkpoint, measured_digest)) as workspace:
        known = known_shards(planned.shards, workspace, depot)
        entries = [entry for entry in known.values() if entry is not None]
        missing = [file for file, entry in known.items() if entry is None]
        if missing:
            raise EnvironmentFault(
                Reason.WorkdirInconsistent,
                missing[0],
                f"'{missing[0]}' is not written yet ({len(missing)} of {len(known)} shards are "
                "missing); let every part of the work end, then assemble again.",
            )
        return _complete(planned, checkpoint, workspace, entries, measured_digest, document_path)


def _complete(
    planned: Planned,
    checkpoint: Checkpoint,
    workspace: Workspace,
    entries: list[dict[str, Any]],
    measured_digest: str | None,
    document_path: Path,
) -> CheckpointDocument:
    """Add what lies beside the shards, then make the whole visible."""
    _refuse_changed(checkpoint)
    _write_companions(planned, checkpoint, workspace)
    document = checkpoint_document(planned, workspace.staged, entries, __version__, measured_digest)
    workspace.publish(document, document_path)
    return document


def _resolved(document_path: Path) -> Path:
    return Path(os.path.realpath(document_path.parent)) / document_path.name


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


def _origin(checkpoint: Checkpoint, measured_digest: str | None) -> dict[str, Any]:
    """Our version, the statistics, and when each local shard was last written.

    Two fine-tunes of one model have equal headers: without this, a source that was replaced between
    two runs would leave a mixture of both.
    """
    found: dict[str, Any] = {"halftoneVersion": __version__, "statisticsDigest": measured_digest}
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
