"""What may be chosen: every format of every role, what it weighs, and why some are out.

Judged and priced by planning itself, so a combination weighs to the byte what its plan says:
layout, scales and KV scales included. Called by `halftone.quantize.sweep.sweeping`; reads headers
alone.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple, NoReturn

from halftone.checkpoint.architectures import GENERIC, find
from halftone.checkpoint.index import Checkpoint
from halftone.plan.planning import Planned, plan_checkpoint
from halftone.plan.tensors import LogicalTensor
from halftone.spec.documents import PlanSource
from halftone.spec.errors import RefusedInput
from halftone.spec.formats import FORMATS, Format
from halftone.spec.job import Recipe, RolePrecision
from halftone.spec.names import Reason, WarningReason
from halftone.spec.roles import QUANTIZABLE_ROLES, Role

# Tiny, and known to hurt: by weight error alone they would look like the cheapest of all.
_SENSITIVE: Final = frozenset({Role.LinearAttentionGate})


class Standing(StrEnum):
    """Whether a format may be proposed for a role."""

    Candidate = "Candidate"
    # Activations need a measured scale, or weights cannot judge the role, and there are no data.
    NeedsData = "NeedsData"
    # Well formed, but today's vLLM does not load it.
    NotLoadable = "NotLoadable"
    # The shape, the group or the layout does not allow it.
    Refused = "Refused"


class Candidate(NamedTuple):
    """One role in one format, None for kept; `nbytes` is 0 where planning refuses it."""

    role: Role
    format: Format | None
    nbytes: int
    standing: Standing
    because: str | None = None


@dataclass(frozen=True)
class Candidates:
    """The table to choose from, and what planning says of the source.

    `bundles` are roles that must share a format, most of them single. `tensors` are the matrices of
    each role as a server asks for them, `fixed_bytes` is all that no choice changes.
    """

    architecture: str
    source: PlanSource
    rows: tuple[Candidate, ...]
    bundles: tuple[tuple[Role, ...], ...]
    tensors: dict[Role, tuple[LogicalTensor, ...]]
    fixed_bytes: int

    def row(self, role: Role, fmt: Format | None) -> Candidate | None:
        """The row of `role` in `fmt`."""
        return next((r for r in self.rows if r.role is role and r.format is fmt), None)


def candidates(
    checkpoint: Checkpoint, recipe: Recipe, named: Sequence[Format], has_data: bool
) -> Candidates:
    """Every format for every role that `checkpoint` has; all but precision is taken from `recipe`.

    `named` are formats that somebody asked for: then only these are looked at, also where today's
    server does not load them. Raises RefusedInput where nothing may be proposed, with planning's
    own sentence where that is the cause.
    """
    bundles = _bundles(checkpoint)
    if not bundles:
        _refuse_without_roles(checkpoint, recipe)
    formats = tuple(dict.fromkeys(named)) or tuple(Format)
    judged = _judged(checkpoint, recipe, bundles, formats)
    accepted = {key: one for key, one in judged.items() if one.plan.refusal is None}
    if not accepted:
        raise _refusal(next(iter(judged.values())))
    tensors = {
        role: tuple(t for t in planned.tensors if t.role is role)
        for role, planned in {role: one for (role, _), one in accepted.items()}.items()
    }
    rows = tuple(_rows(judged, tensors, bool(named), has_data))
    _refuse_all_out(rows)
    planned = next(iter(accepted.values()))
    if planned.plan.source is None or planned.plan.architecture is None:
        raise AssertionError("an accepted plan is complete. This is a bug. Please report.")
    return Candidates(
        planned.plan.architecture,
        planned.plan.source,
        rows,
        tuple(bundle for bundle in bundles if bundle[0] in tensors),
        {role: tuple(t for t in found if t.format is not None) for role, found in tensors.items()},
        total_bytes(planned) - sum(_bytes_of(role, planned) for role in tensors),
    )


def with_precision(recipe: Recipe, formats: Mapping[Role, Format | None]) -> Recipe:
    """`recipe` with this precision list, in the order of the roles."""
    lines = tuple(
        RolePrecision(role=role, format=fmt)
        for role in Role
        if (fmt := formats.get(role)) is not None
    )
    return recipe.model_copy(update={"precision": lines})


def total_bytes(planned: Planned) -> int:
    """Bytes of tensors that an accepted plan writes, its KV scales included."""
    if planned.plan.output is None:
        raise AssertionError("an accepted plan has an output. This is a bug. Please report.")
    return planned.plan.output.bytes + planned.plan.output.kvScaleBytes


def _bundles(checkpoint: Checkpoint) -> tuple[tuple[Role, ...], ...]:
    """The quantizable roles that the names show; those that share a fused group are together.

    In every table of today a fused group has one role, so every bundle is a single one.
    """
    architecture = find(checkpoint.config) or GENERIC
    groups: defaultdict[str, set[Role]] = defaultdict(set)
    for name in checkpoint.tensors:
        place = architecture.place(name)
        if place.row is None or place.role not in QUANTIZABLE_ROLES:
            continue
        if place.row.stacked or place.parameter == "weight":
            groups[place.group or place.role].add(place.role)
    bundles: list[set[Role]] = []
    for roles in groups.values():
        touching = [bundle for bundle in bundles if bundle & roles]
        bundles = [bundle for bundle in bundles if not bundle & roles]
        bundles.append(roles.union(*touching))
    order = list(Role)
    found = [tuple(sorted(bundle, key=order.index)) for bundle in bundles]
    return tuple(sorted(found, key=lambda bundle: order.index(bundle[0])))


def _judged(
    checkpoint: Checkpoint,
    recipe: Recipe,
    bundles: Sequence[tuple[Role, ...]],
    formats: Sequence[Format],
) -> dict[tuple[Role, Format], Planned]:
    """What planning says of each role in each format, in the order of roles.

    A format is planned for all roles at once, and for each bundle alone where that was refused or
    would not load.
    """
    every = [role for bundle in bundles for role in bundle]
    found: dict[tuple[Role, Format], Planned] = {}
    for fmt in formats:
        joint = _plan(checkpoint, recipe, every, fmt)
        together = joint.plan.refusal is None and _obstacle(joint) is None
        for bundle in bundles:
            planned = joint if together else _plan(checkpoint, recipe, bundle, fmt)
            found |= {(role, fmt): planned for role in bundle}
    return {(role, fmt): found[role, fmt] for role in every for fmt in formats}


def _plan(checkpoint: Checkpoint, recipe: Recipe, roles: Iterable[Role], fmt: Format) -> Planned:
    return plan_checkpoint(checkpoint, with_precision(recipe, dict.fromkeys(roles, fmt)))


def _obstacle(planned: Planned) -> str | None:
    """Why today's server does not load it, in planning's words."""
    notices = planned.plan.warnings
    found = (n.message for n in notices if n.reason is WarningReason.ServerCannotLoad)
    return next(found, None)


def _bytes_of(role: Role, planned: Planned) -> int:
    return sum(line.bytesAfter for line in planned.plan.roles if line.role is role)


def _rows(
    judged: Mapping[tuple[Role, Format], Planned],
    tensors: Mapping[Role, Sequence[LogicalTensor]],
    named: bool,
    has_data: bool,
) -> Iterator[Candidate]:
    told = None
    for (role, fmt), planned in judged.items():
        if role is not told and role in tensors:
            kept = sum(tensor.kept_bytes for tensor in tensors[role])
            yield Candidate(role, None, kept, Standing.Candidate)
        told = role
        refusal, obstacle = planned.plan.refusal, _obstacle(planned)
        if refusal is not None:
            yield Candidate(role, fmt, 0, Standing.Refused, refusal.message)
            continue
        standing = Standing.Candidate
        if obstacle is not None and not named:
            standing = Standing.NotLoadable
        elif not has_data and (FORMATS[fmt].needs_calibration or role in _SENSITIVE):
            standing = Standing.NeedsData
        yield Candidate(role, fmt, _bytes_of(role, planned), standing, obstacle)


# Refusals -----------------------------------------------------------------------------------------


def _refusal(planned: Planned) -> RefusedInput:
    refusal = planned.plan.refusal
    if refusal is None:
        raise AssertionError("an accepted plan has no refusal. This is a bug. Please report.")
    return RefusedInput(refusal.reason, refusal.subject, refusal.message)


def _refuse_without_roles(checkpoint: Checkpoint, recipe: Recipe) -> NoReturn:
    """Planning's own sentence, unless it speaks of the recipe, which nobody wrote."""
    planned = _plan(checkpoint, recipe, sorted(QUANTIZABLE_ROLES), Format.FP8_DYNAMIC)
    refusal = _refusal(planned)
    if refusal.reason is not Reason.NothingToQuantize:
        raise refusal
    raise RefusedInput(
        refusal.reason,
        checkpoint.source.uri,
        f"'{checkpoint.source.uri}' has no tensor of a role that may be quantized "
        f"({', '.join(sorted(QUANTIZABLE_ROLES))}); give the checkpoint of a language model.",
    )


def _refuse_all_out(rows: Sequence[Candidate]) -> None:
    """Refuse where only "kept" is left; with data, or with all formats, something would be."""
    out = [row for row in rows if row.format is not None]
    if any(row.standing is Standing.Candidate for row in out):
        return
    if any(row.standing is Standing.NeedsData for row in out):
        formats = ", ".join(dict.fromkeys(str(row.format) for row in out))
        raise RefusedInput(
            Reason.CalibrationRequired,
            "--format",
            f"Without data nothing can be said of {formats} on this model; give `--dataset FILE`, "
            "or leave `--format` out.",
        )
    row = next(row for row in out if row.because is not None)
    raise RefusedInput(Reason.ShapeNotQuantizable, str(row.role), str(row.because))
