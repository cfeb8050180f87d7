"""From headers and a recipe to a plan: every judgement in order, or the first refusal.

`plan_checkpoint` never reads a weight and never writes. Its result carries the document and,
for a plan that is not refused, the layout that the engine works through. The engine calls it again
and compares digests, so a plan that no longer fits its source is noticed before work starts.
"""

from dataclasses import dataclass
from math import prod
from typing import Any

from halftone.checkpoint.architectures import (
    ARCHITECTURES,
    GENERIC,
    Architecture,
    find,
)
from halftone.checkpoint.index import Checkpoint
from halftone.plan.companions import carried_files, licence
from halftone.plan.kv_scales import kv_scales
from halftone.plan.layout import MAX_SHARD_BYTES, OutputShard, StoredPart, lay_out
from halftone.plan.loading import loading_notices
from halftone.plan.measurements import (
    attention_with_cache,
    cached_attention,
    refuse_shared_caches,
)
from halftone.plan.notices import notices
from halftone.plan.precision import (
    fused_groups,
    refuse_inexpressible,
    refuse_unserved_experts,
)
from halftone.plan.resources import estimate
from halftone.plan.sources import refuse_packed, source_scales, stale_tensors
from halftone.plan.summary import role_summaries, sizes
from halftone.plan.tensors import LogicalTensor, logical_tensors
from halftone.spec.documents import (
    Method,
    OutputFile,
    Plan,
    PlanOutput,
    PlanSource,
    Refusal,
    Resources,
    RoleSummary,
    SourceFile,
    TensorRow,
    canonical_json,
    sha256_hex,
)
from halftone.spec.errors import RefusedInput
from halftone.spec.formats import FORMATS
from halftone.spec.job import (
    GenericArchitecture,
    Recipe,
)
from halftone.spec.names import Reason


@dataclass(frozen=True)
class Planned:
    """A plan and, unless it is refused, how to carry it out."""

    plan: Plan
    architecture: Architecture | None = None
    shards: tuple[OutputShard, ...] = ()
    tensors: tuple[LogicalTensor, ...] = ()

    def full_document(self) -> Plan:
        """The plan with a row for every tensor; what `plan.json` holds."""
        return self.plan.model_copy(
            update={
                "tensors": tuple(
                    TensorRow(t.name, t.role, t.format, t.group) for t in self.tensors
                ),
                "layout": tuple(row for shard in self.shards for row in shard.rows),
            }
        )


def plan_checkpoint(
    checkpoint: Checkpoint, recipe: Recipe, max_shard_bytes: int = MAX_SHARD_BYTES
) -> Planned:
    """The plan for `checkpoint` under `recipe`; a refusal is part of the plan, not an exception."""
    source = _source(checkpoint)
    try:
        return _accepted(checkpoint, recipe, source, max_shard_bytes)
    except RefusedInput as refusal:
        return Planned(refused_plan(refusal, source, recipe))


def refused_plan(
    refusal: RefusedInput, source: PlanSource | None = None, recipe: Recipe | None = None
) -> Plan:
    """A plan that says why there is none."""
    return Plan(
        digest="",
        architecture=None,
        method=Method.DataFree,
        source=source,
        recipe=recipe,
        output=None,
        roles=(),
        groups=(),
        sizes=None,
        resources=None,
        warnings=(),
        refusal=Refusal(reason=refusal.reason, subject=refusal.subject, message=refusal.message),
    ).sealed()


def _accepted(
    checkpoint: Checkpoint, recipe: Recipe, source: PlanSource, max_shard_bytes: int
) -> Planned:
    architecture = _architecture(checkpoint.config, recipe)
    refuse_packed(checkpoint)
    refuse_inexpressible(recipe)
    scales = source_scales(checkpoint)
    logical = logical_tensors(checkpoint, architecture, recipe, scales)
    stale = stale_tensors(checkpoint) if scales else frozenset()
    tensors = tuple(t for t in logical.tensors if t.name not in stale)
    roles = role_summaries(tensors, recipe.checkpointFormat)
    _refuse_nothing_to_quantize(recipe, roles)
    refuse_unserved_experts(roles, recipe)
    _refuse_no_cache(recipe, tensors)
    refuse_shared_caches(checkpoint.config, recipe)
    groups = fused_groups(tensors)
    scales_of_caches = kv_scales(cached_attention(tensors, recipe), recipe.checkpointFormat)
    cache_parts = tuple(part for both in scales_of_caches for part in both[1:])
    shards = lay_out(tensors, cache_parts, max_shard_bytes, recipe.checkpointFormat)
    _refuse_name_twice(shards)
    method = _method(roles, recipe)
    plan = Plan(
        digest="",
        architecture=architecture.name,
        method=method,
        source=source,
        recipe=recipe,
        output=_output(checkpoint, tensors, roles, cache_parts, shards),
        roles=roles,
        groups=groups,
        sizes=sizes(roles),
        resources=_resources(checkpoint, source, shards, recipe),
        warnings=(
            *notices(checkpoint, architecture, recipe, logical, scales, roles, source, method),
            *loading_notices(tensors, architecture, recipe.checkpointFormat),
        ),
        refusal=None,
    ).sealed()
    return Planned(plan, architecture, shards, tensors)


def _architecture(config: dict[str, Any], recipe: Recipe) -> Architecture:
    found = find(config)
    if found is not None:
        return found
    if recipe.genericArchitecture is GenericArchitecture.Allow:
        return GENERIC
    known = ", ".join(table.name for table in ARCHITECTURES)
    raise RefusedInput(
        Reason.UnknownArchitecture,
        "config.json",
        f"`model_type` '{config.get('model_type')}' in `config.json` has no architecture table; "
        f"known are {known}. Set `genericArchitecture: Allow` in the recipe to go by the last "
        "components of the names.",
    )


def _source(checkpoint: Checkpoint) -> PlanSource:
    tensors = checkpoint.tensors.values()
    source = checkpoint.source
    return PlanSource(
        uri=source.uri,
        revision=source.revision,
        bytes=sum(entry.nbytes for entry in tensors),
        tensors=len(tensors),
        parameters=sum(prod(entry.shape) for entry in tensors),
        configSha256=sha256_hex(canonical_json(checkpoint.config)),
        licence=licence(source, checkpoint.other_files),
        files=tuple(
            SourceFile(path=s.file, sizeBytes=s.size_bytes, headerSha256=s.sha256)
            for s in checkpoint.shards
        ),
    )


def _output(
    checkpoint: Checkpoint,
    tensors: tuple[LogicalTensor, ...],
    roles: tuple[RoleSummary, ...],
    cache_parts: tuple[StoredPart, ...],
    shards: tuple[OutputShard, ...],
) -> PlanOutput:
    return PlanOutput(
        bytes=sum(line.bytesAfter for line in roles),
        kvScaleBytes=sum(part.nbytes for part in cache_parts),
        fileBytes=sum(shard.size_bytes for shard in shards),
        parameters=sum(prod(t.shape) for t in tensors),
        files=tuple(
            OutputFile(
                path=shard.file,
                sizeBytes=shard.size_bytes,
                headerBytes=len(shard.header),
                headerSha256=shard.header_sha256,
                tensors=len(shard.rows),
            )
            for shard in shards
        ),
        carried=tuple(entry.path for entry in carried_files(checkpoint.other_files)),
    )


def _resources(
    checkpoint: Checkpoint,
    source: PlanSource,
    shards: tuple[OutputShard, ...],
    recipe: Recipe,
) -> Resources:
    remote = checkpoint.source.local_path(checkpoint.shards[0].file) is None
    return estimate(shards, source.bytes, recipe.scaleSearch, remote)


def _method(roles: tuple[RoleSummary, ...], recipe: Recipe) -> Method:
    formats = {line.format for line in roles if line.format is not None}
    if recipe.measures_cache or any(FORMATS[fmt].needs_calibration for fmt in formats):
        return Method.Calibrated
    return Method.DataFree


def _refuse_name_twice(shards: tuple[OutputShard, ...]) -> None:
    """A kept tensor may not have the name of something that a quantized one is stored as."""
    seen: set[str] = set()
    for shard in shards:
        for row in shard.rows:
            if row.name in seen:
                raise RefusedInput(
                    Reason.MalformedCheckpoint,
                    row.name,
                    f"The source holds `{row.name}`, a name that the output needs for a quantized "
                    "weight; remove that tensor from the source, or leave its role out of the "
                    "recipe.",
                )
            seen.add(row.name)


def _refuse_no_cache(recipe: Recipe, tensors: tuple[LogicalTensor, ...]) -> None:
    """Nobody could say whose scales a cache has that no layer of the table keeps."""
    if recipe.kvCache is None or attention_with_cache(tensors):
        return
    raise RefusedInput(
        Reason.NotSupported,
        "quantization.kvCache",
        f"`quantization.kvCache` asks for an {recipe.kvCache.format} cache, but no layer of the "
        "source is known to keep keys and values: none has a `self_attn.k_proj`; take `kvCache` "
        "out of the recipe, or set `kvCache: null` where a preset brings it.",
    )


def _refuse_nothing_to_quantize(recipe: Recipe, roles: tuple[RoleSummary, ...]) -> None:
    present = {line.role for line in roles}
    wanted = [line.role for line in recipe.precision]
    if present.isdisjoint(wanted):
        raise RefusedInput(
            Reason.NothingToQuantize,
            "quantization.precision",
            f"The recipe '{recipe.name}' quantizes {', '.join(wanted)}, but the model has the "
            f"roles {', '.join(sorted(present))}; choose a recipe that names one of them.",
        )
