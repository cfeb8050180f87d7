"""From what the shards gave to `checkpoint.json`: digests, and errors per group and per role."""

from collections import defaultdict
from math import sqrt
from pathlib import Path
from typing import Any

from halftone.checkpoint.digests import checkpoint_digest, file_sha256
from halftone.plan.layout import Unit
from halftone.plan.planning import Planned
from halftone.quantize.encoding import Sums
from halftone.spec.documents import (
    CheckpointDocument,
    GroupResult,
    RoleError,
    WrittenFile,
)
from halftone.spec.formats import Format
from halftone.spec.job import ScaleSearch
from halftone.spec.roles import Role


def checkpoint_document(
    planned: Planned,
    directory: Path,
    entries: list[dict[str, Any]],
    version: str,
    statistics_digest: str | None,
) -> CheckpointDocument:
    """The document for the shards of `entries` and for what else is in `directory`.

    Shards keep the sizes and digests of their journal; they need not lie there.
    """
    shards = {
        entry["file"]: WrittenFile(
            path=entry["file"], sizeBytes=entry["sizeBytes"], sha256=entry["sha256"]
        )
        for entry in entries
    }
    others = {
        path.name: WrittenFile(
            path=path.name, sizeBytes=path.stat().st_size, sha256=file_sha256(path)
        )
        for path in directory.iterdir()
        if path.name not in shards
    }
    files = tuple(file for _, file in sorted((others | shards).items()))
    sums = {unit[0]: (unit[1], Sums(*unit[2:])) for entry in entries for unit in entry["units"]}
    units = [unit for shard in planned.shards for unit in shard.units if unit.format is not None]
    return CheckpointDocument(
        digest=checkpoint_digest(files),
        planDigest=planned.plan.digest,
        statisticsDigest=statistics_digest,
        halftoneVersion=version,
        files=files,
        roles=_roles(planned, units, {name: both[1] for name, both in sums.items()}),
        groups=tuple(_group(planned, unit, *sums[unit.name]) for unit in units),
    )


def _group(planned: Planned, unit: Unit, scale: float | None, sums: Sums) -> GroupResult:
    if unit.format is None:
        raise AssertionError("only quantized units have results. This is a bug. Please report.")
    return GroupResult(
        name=unit.name,
        format=unit.format,
        members=tuple(member.name for member in unit.members),
        globalScale=None if scale is None else f"{scale:.9g}",
        relativeError=_relative(sums.error, sums.weight),
        minMaxError=_compared(planned, unit.format, sums),
    )


def _roles(planned: Planned, units: list[Unit], sums: dict[str, Sums]) -> tuple[RoleError, ...]:
    totals: defaultdict[tuple[Role, Format], Sums] = defaultdict(Sums)
    for unit in units:
        if unit.format is not None:
            totals[unit.members[0].role, unit.format] += sums[unit.name]
    order = {role: place for place, role in enumerate(Role)}
    return tuple(
        RoleError(
            role=role,
            format=fmt,
            relativeError=_relative(total.error, total.weight),
            minMaxError=_compared(planned, fmt, total),
        )
        for (role, fmt), total in sorted(totals.items(), key=lambda item: order[item[0][0]])
    )


def _compared(planned: Planned, fmt: Format, sums: Sums) -> str | None:
    """The error of MinMax, where another search ran: the gain that it was worth."""
    recipe = planned.plan.recipe
    searched = recipe is not None and recipe.scaleSearch is not ScaleSearch.MinMax
    if not searched or fmt not in {Format.NVFP4, Format.NVFP4A16}:
        return None
    return _relative(sums.min_max_error, sums.weight)


def _relative(error: float, weight: float) -> str:
    return f"{sqrt(error / weight):.6f}" if weight else "0.000000"
