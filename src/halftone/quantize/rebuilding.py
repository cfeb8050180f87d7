"""Quantization that anyone can check: make some groups again from the source, and compare bytes.

    rebuilt = rebuild(planned, checkpoint, artifact, count=20, seed=None)

Called by `halftone verify --rebuild`. The groups are drawn from the operating system's randomness,
uniformly and without replacement, so a forger cannot know which. Tensors that are kept count as
groups of one: they are as easy to forge. The work is the engine's own; both sides are read by
ranges, and only the groups that were drawn.
"""

import random
import tempfile
from concurrent.futures import ThreadPoolExecutor
from math import comb
from typing import IO, Final, NamedTuple, NoReturn

from halftone.checkpoint.index import Checkpoint
from halftone.plan.changes import changed_file
from halftone.plan.layout import MAX_SHARD_BYTES, OutputShard, Unit, lay_out
from halftone.plan.planning import Planned, plan_checkpoint
from halftone.quantize.encoding import Encoder
from halftone.quantize.engine import encoder_of, require_carried_out
from halftone.quantize.statistics import Statistics
from halftone.quantize.tiles import TileReader
from halftone.quantize.writing import ShardWriter
from halftone.spec.documents import Plan, PlanSource
from halftone.spec.errors import CheckFailed, RefusedInput
from halftone.spec.files import FileSource
from halftone.spec.names import PLAN_FILE, Reason

_CHUNK: Final = 8 * 2**20


class Rebuilt(NamedTuple):
    """Which groups of how many were made again, all with equal bytes."""

    groups: tuple[str, ...]
    of: int
    nbytes: int

    def chance_of_finding(self, forged: int) -> float:
        """The probability that this many forged groups would not all have been missed."""
        missed = comb(self.of - forged, len(self.groups)) / comb(self.of, len(self.groups))
        return 1.0 - missed


def plan_again(published: Plan, checkpoint: Checkpoint) -> Planned:
    """Plan `checkpoint` as `published` was planned; the result has its digest.

    The source may lie elsewhere now (a mirror, a download): where it was is no part of what it is.
    Raises RefusedInput(SourceChanged) with the first file that is not the one that was planned
    with, RefusedInput(NotSupported) for a plan that this version makes differently.
    """
    if published.recipe is None or published.source is None or published.output is None:
        raise RefusedInput(
            Reason.NotSupported,
            PLAN_FILE,
            f"The artifact's {PLAN_FILE} is that of a refused plan, from which nothing can be "
            "rebuilt; ask its publisher for the right one.",
        )
    largest = max((f.sizeBytes - f.headerBytes for f in published.output.files), default=1)
    for max_shard_bytes in (MAX_SHARD_BYTES, max(largest, 1)):
        planned = _moved(
            plan_checkpoint(checkpoint, published.recipe, max_shard_bytes), published.source
        )
        if planned.plan.digest == published.digest:
            return planned
    raise _other_plan(published, planned.plan)


def rebuild(
    planned: Planned,
    checkpoint: Checkpoint,
    artifact: FileSource,
    count: int,
    seed: int | None = None,
    *,
    statistics: Statistics | None = None,
    workers: int = 2,
) -> Rebuilt:
    """Make `count` groups of `planned` again and compare them with the shards in `artifact`.

    A calibrated plan takes the `statistics` that the artifact was made from. `count` is cut to the
    number of groups; `seed` is for tests. Raises CheckFailed(DigestDiffers) with the first tensor
    that differs, RefusedInput for a calibrated plan without its statistics. Needs room for the
    largest group in the directory for temporary files.
    """
    require_carried_out(planned, statistics)
    encoder = encoder_of(planned, statistics)
    drawn = draw(planned, count, seed)
    for shard in {shard.file: shard for shard, _ in drawn}.values():
        _require_header(shard, artifact)
    remote = checkpoint.source.local_path(checkpoint.shards[0].file) is None
    reader = TileReader(checkpoint.source)
    nbytes = 0
    with (
        ThreadPoolExecutor(workers, thread_name_prefix="tile") as pool,
        ThreadPoolExecutor(1, thread_name_prefix="flush") as flusher,
    ):
        for shard, unit in drawn:
            with tempfile.TemporaryFile(prefix="halftone-") as file:
                alone = _made(unit, file, reader, encoder, pool, flusher, remote)
                _require_equal(alone, file, shard, artifact)
            nbytes += unit.nbytes
    names = tuple(unit.name for _, unit in drawn)
    return Rebuilt(names, sum(len(shard.units) for shard in planned.shards), nbytes)


def draw(planned: Planned, count: int, seed: int | None = None) -> list[tuple[OutputShard, Unit]]:
    """`count` different groups with the shards that hold them, each as likely as any other."""
    every = [(shard, unit) for shard in planned.shards for unit in shard.units]
    chance = random.SystemRandom() if seed is None else random.Random(seed)  # noqa: S311 (tests)
    return chance.sample(every, min(count, len(every)))


def _moved(planned: Planned, source: PlanSource) -> Planned:
    """`planned` as if its source lay where `source` did."""
    plan = planned.plan
    if plan.source is None:
        return planned
    there = plan.source.model_copy(update={"uri": source.uri, "revision": source.revision})
    moved = plan.model_copy(update={"source": there}).sealed()
    return Planned(moved, planned.architecture, planned.shards, planned.tensors)


def _other_plan(published: Plan, now: Plan) -> RefusedInput:
    """Why this source does not give the published plan."""
    if now.refusal is not None:
        return RefusedInput(now.refusal.reason, now.refusal.subject, now.refusal.message)
    path = changed_file(published.source, now.source)
    if path is not None:
        return RefusedInput(
            Reason.SourceChanged,
            path,
            f"'{path}' of the source is not the file that the plan was made for (its size or "
            f"header differs from {PLAN_FILE}); give the revision that {PLAN_FILE} names.",
        )
    return RefusedInput(
        Reason.NotSupported,
        PLAN_FILE,
        f"This source and version give the plan {now.digest[:12]}, the artifact was made by "
        f"{published.digest[:12]}; give the whole source (weights, configuration, tokenizer, "
        "licence), and use the version of Halftone that provenance.json names.",
    )


def _require_header(shard: OutputShard, artifact: FileSource) -> None:
    """The header says where every tensor is, so equal headers make equal offsets comparable."""
    sizes = {entry.path: entry.size_bytes for entry in artifact.files()}
    if sizes.get(shard.file) != shard.size_bytes:
        _differs(shard.file, shard.file, "is missing or has another size than planned")
    if artifact.read_range(shard.file, 0, len(shard.header)) != shard.header:
        _differs(shard.file, shard.file, "has another header than planned")


def _made(
    unit: Unit,
    file: IO[bytes],
    reader: TileReader,
    encoder: Encoder,
    pool: ThreadPoolExecutor,
    flusher: ThreadPoolExecutor,
    remote: bool,
) -> OutputShard:
    """Write a shard that holds `unit` alone to `file`, by the engine's own hands."""
    scales = () if unit.members else unit.parts[0]
    (alone,) = lay_out(unit.members, scales, max(unit.nbytes, 1), encoder.layout)
    ShardWriter(
        alone, file.fileno(), reader, encoder, pool, flusher, lambda nbytes: None, remote
    ).write()
    return alone


def _require_equal(
    alone: OutputShard, file: IO[bytes], shard: OutputShard, artifact: FileSource
) -> None:
    """Compare every stored tensor of the group with the published one, piece by piece."""
    made_at, published_at = alone.offsets(), shard.offsets()
    for row in alone.rows:
        size = row.end - row.begin
        for begin in range(0, size, _CHUNK):
            length = min(_CHUNK, size - begin)
            file.seek(made_at[row.name] + begin)
            ours = file.read(length)
            theirs = artifact.read_range(shard.file, published_at[row.name] + begin, length)
            if ours != theirs:
                _differs(row.name, shard.file, "is not what the source gives")


def _differs(subject: str, file: str, how: str) -> NoReturn:
    where = "" if subject == file else f" in '{file}'"
    raise CheckFailed(
        Reason.DigestDiffers,
        subject,
        f"'{subject}'{where} {how}; do not use this artifact. If provenance.json names another "
        "version of Halftone than this one, check with that version first.",
    )
