"""Inspect a checkpoint from anyone: what it is made of, and what is wrong with it.

    inspection = inspect_uri("hf://org/name@revision")
    inspection.defects          # empty for a sound checkpoint

A directory is read whole. Of a remote checkpoint headers and global scales are read, within a
budget; block scales are a sixteenth of the weights and are left where they are. Called by the
command line and by the gate `structure`; it never writes.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from halftone.checkpoint.architectures import GENERIC, find
from halftone.checkpoint.architectures.table import Architecture
from halftone.checkpoint.index import MAX_CONFIG_BYTES, Checkpoint, read_checkpoint
from halftone.checkpoint.json_objects import parse_object
from halftone.checkpoint.serving_config import is_multimodal, quantization_block, read_rules
from halftone.checkpoint.serving_rules import QuantMethod, Rules, UnknownRules, WillNotLoad
from halftone.spec.errors import RefusedInput
from halftone.spec.files import FileEntry, FileSource, Traffic
from halftone.spec.names import (
    CONFIG_FILE,
    INDEX_FILE,
    MODELOPT_CONFIG_FILE,
    DefectKind,
    RemarkReason,
)
from halftone.stores import open_source
from halftone.validate.budget import Budget
from halftone.validate.cache_scales import cache_defects, cache_scales
from halftone.validate.findings import (
    Coverage,
    Defect,
    Extent,
    Inspection,
    Reading,
    Remark,
)
from halftone.validate.input_scales import expert_remarks, merged_input_defects
from halftone.validate.inventory import Inventory, take_inventory
from halftone.validate.loading import loading_defects, served_modules
from halftone.validate.originals import Originals
from halftone.validate.scales import Scales, Unit, read_scales, scale_defects, units_of
from halftone.validate.structure import index_defects, structural_defects
from halftone.validate.summary import group_findings, role_findings
from halftone.validate.values import search_values
from halftone.validate.weight_error import Errors, measure

# Below this an index costs less than the thought whether to read it.
_SMALL_INDEX_BYTES: Final = 2_000_000
_NUMBERED_SHARD = re.compile(r"^model-(\d{5})-of-(\d{5})\.safetensors$")


def inspect_uri(
    uri: str, source_uri: str | None = None, budget: Budget | None = None
) -> Inspection:
    """Inspect the checkpoint at `uri`; with `source_uri`, compare its weights with the source's.

    `budget` limits each remote store by itself. Raises what the stores and headers raise.
    """
    checkpoint = open_source(uri)
    try:
        if source_uri is None:
            return inspect_source(checkpoint, None, budget)
        original = open_source(source_uri)
        try:
            return inspect_source(checkpoint, original, budget)
        finally:
            original.close()
    finally:
        checkpoint.close()


def inspect_source(
    source: FileSource, original: FileSource | None = None, budget: Budget | None = None
) -> Inspection:
    """`inspect_uri` for stores that are open already."""
    allowed = budget or Budget()
    checkpoint, index = _read(source)
    remote = _is_remote(checkpoint)
    table = find(checkpoint.config)
    architecture = table or GENERIC
    inventory = take_inventory(checkpoint.tensors, architecture)
    rules, defects = _rules(checkpoint, inventory, architecture)
    defects += structural_defects(inventory, checkpoint.config)
    defects += loading_defects(inventory, architecture, rules)
    units = units_of(inventory)
    caches = cache_scales(inventory)
    left = allowed.left(source) if remote else None
    scales = read_scales(source, units, left, caches.entries())
    defects += scale_defects(units, scales)
    defects += merged_input_defects(units, scales)
    defects += cache_defects(caches, scales, checkpoint.config)
    index, differing = _compare_index(checkpoint, index, allowed.left(source))
    defects += differing
    found, values = search_values(
        source, checkpoint.tensors.values(), allowed.left(source) if remote else None
    )
    defects += found
    errors = _errors(checkpoint, original, allowed, inventory, units, scales)
    reading = Reading(
        requests=source.traffic.requests,
        bytes=source.traffic.bytes,
        index=index,
        globalScales=_coverage(scales),
        values=values,
        weights=errors.coverage,
    )
    return Inspection(
        checkpoint=source.uri,
        revision=source.revision,
        source=None if original is None else original.uri,
        architecture=architecture.name,
        quantMethod=rules.method,
        bytes=sum(entry.nbytes for entry in checkpoint.tensors.values()),
        tensors=len(checkpoint.tensors),
        read=reading,
        roles=role_findings(inventory, errors),
        groups=group_findings(units, scales, errors),
        defects=(*defects, *errors.defects),
        warnings=(
            *_remarks(checkpoint, table, rules, reading),
            *expert_remarks(inventory, scales),
            *errors.remarks,
        ),
    )


def _is_remote(checkpoint: Checkpoint) -> bool:
    return checkpoint.source.local_path(checkpoint.shards[0].file) is None


# The index ----------------------------------------------------------------------------------------


class _WithoutIndex:
    """A source seen without its index; everything else passes through.

    The index of a large mixture of experts is as long as all headers together and says nothing
    that they do not say better, where the shards' own numbers show that all of them are there.
    """

    def __init__(self, source: FileSource) -> None:
        self._source = source
        self._files = tuple(entry for entry in source.files() if entry.path != INDEX_FILE)

    @property
    def uri(self) -> str:
        return self._source.uri

    @property
    def revision(self) -> str | None:
        return self._source.revision

    @property
    def traffic(self) -> Traffic:
        return self._source.traffic

    def files(self) -> Sequence[FileEntry]:
        return self._files

    def read_range(self, path: str, offset: int, length: int) -> bytes:
        return self._source.read_range(path, offset, length)

    def read_into(self, path: str, offset: int, buffer: memoryview) -> None:
        self._source.read_into(path, offset, buffer)

    def local_path(self, path: str) -> Path | None:
        return self._source.local_path(path)

    def close(self) -> None:
        self._source.close()


def _read(source: FileSource) -> tuple[Checkpoint, Extent]:
    """Headers, and the index unless it is long and can wait."""
    entries = {entry.path: entry for entry in source.files()}
    index = entries.get(INDEX_FILE)
    if index is None:
        return read_checkpoint(source, whole=False), Extent.Absent
    shards = [path for path in entries if path.endswith(".safetensors") and "/" not in path]
    waits = (
        index.size_bytes > _SMALL_INDEX_BYTES
        and _are_complete(shards)
        and source.local_path(INDEX_FILE) is None
    )
    if not waits:
        return read_checkpoint(source, whole=False), Extent.Complete
    hidden = read_checkpoint(_WithoutIndex(source), whole=False)
    return replace(hidden, source=source), Extent.NotRead


def _are_complete(shards: Sequence[str]) -> bool:
    """Whether the shards' own numbers say that they are all there, and nothing else is."""
    matches = [_NUMBERED_SHARD.match(name) for name in shards]
    numbers = sorted(int(match[1]) for match in matches if match)
    totals = {int(match[2]) for match in matches if match}
    return len(numbers) == len(shards) and numbers == list(range(1, max(totals, default=0) + 1))


def _compare_index(
    checkpoint: Checkpoint, index: Extent, left: Budget
) -> tuple[Extent, list[Defect]]:
    """Differences that are known, or found now where the budget still has room for the index."""
    if index is not Extent.NotRead:
        return index, list(index_defects(checkpoint.index_only, checkpoint.unindexed))
    source = checkpoint.source
    size = next(entry.size_bytes for entry in source.files() if entry.path == INDEX_FILE)
    if size > left.nbytes or left.requests < 1:
        return Extent.NotRead, []
    placed = _json(source, INDEX_FILE, size).get("weight_map")
    placed = placed if isinstance(placed, dict) else {}
    tensors = checkpoint.tensors
    index_only = [n for n, file in placed.items() if n not in tensors or tensors[n].file != file]
    unindexed = [n for n, entry in tensors.items() if placed.get(n) != entry.file]
    return Extent.Complete, list(index_defects(index_only, unindexed))


# Rules and errors ---------------------------------------------------------------------------------


def _rules(
    checkpoint: Checkpoint, inventory: Inventory, architecture: Architecture
) -> tuple[Rules, list[Defect]]:
    """The quantization rules; a block that no server can read is a defect of its own."""
    try:
        rules = read_rules(
            checkpoint.config, _hf_quant_config(checkpoint), is_multimodal(inventory.modules)
        )
        rules.prepare(served_modules(inventory, architecture))
        return rules, []
    except WillNotLoad as reason:
        return UnknownRules(), [
            Defect(
                kind=DefectKind.IgnoreListWillNotLoad,
                tensor=CONFIG_FILE,
                message=f"A server refuses the quantization configuration: {reason}.",
            )
        ]


def _hf_quant_config(checkpoint: Checkpoint) -> dict[str, Any] | None:
    """ModelOpt's own file, read only where `config.json` leaves something to say."""
    block = quantization_block(checkpoint.config)
    algorithm = "" if block is None else str(block.get("quant_algo", "")).upper()
    complete = block is not None and (algorithm != "MIXED_PRECISION" or "quantized_layers" in block)
    entry = next((e for e in checkpoint.other_files if e.path == MODELOPT_CONFIG_FILE), None)
    if complete or entry is None or entry.size_bytes > MAX_CONFIG_BYTES:
        return None
    return _json(checkpoint.source, entry.path, entry.size_bytes)


def _json(source: FileSource, path: str, size: int) -> dict[str, Any]:
    """A JSON object, {} for anything else: what is not readable is not promised by it."""
    raw = source.read_range(path, 0, size)
    try:
        return parse_object(raw, path)
    except RefusedInput:
        return {}


def _errors(
    checkpoint: Checkpoint,
    original: FileSource | None,
    allowed: Budget,
    inventory: Inventory,
    units: Sequence[Unit],
    scales: Scales,
) -> Errors:
    if original is None:
        return Errors()
    base = read_checkpoint(original)
    originals = Originals(base, find(base.config) or find(checkpoint.config) or GENERIC)
    budgets = (
        allowed.left(checkpoint.source) if _is_remote(checkpoint) else None,
        allowed.left(original) if _is_remote(base) else None,
    )
    return measure(checkpoint.source, inventory, units, scales, originals, budgets)


def _coverage(scales: Scales) -> Coverage:
    extent = Extent.Complete if scales.complete else Extent.Sampled
    if scales.total and not scales.values:
        extent = Extent.NotRead
    elif not scales.total:
        extent = Extent.Absent
    return Coverage(extent=extent, read=len(scales.values), total=scales.total)


def _remarks(
    checkpoint: Checkpoint, table: Architecture | None, rules: Rules, reading: Reading
) -> list[Remark]:
    remarks = []
    if table is None:
        remarks.append(
            Remark(
                reason=RemarkReason.GenericArchitecture,
                subject=CONFIG_FILE,
                message=f"`model_type` '{checkpoint.config.get('model_type')}' has no architecture "
                "table; roles and fused groups were guessed from the last components of names, "
                "and groups that a server fuses under other names were not checked.",
            )
        )
    if rules.method is QuantMethod.Unknown:
        remarks.append(
            Remark(
                reason=RemarkReason.UnknownQuantMethod,
                subject=CONFIG_FILE,
                message="The quantization method is not one whose loading rules are known here; "
                "whether a server loads it was not judged.",
            )
        )
    if reading.globalScales.extent in {Extent.Sampled, Extent.NotRead}:
        remarks.append(
            Remark(
                reason=RemarkReason.Sampled,
                subject=checkpoint.source.uri,
                message=f"{reading.globalScales.read:,} of {reading.globalScales.total:,} global "
                "scales were read, a sample of every layer; raise the budget, or inspect a "
                "download, to read all.",
            )
        )
    return remarks
