"""Inventory, scales and errors as the rows of an inspection. No judgement stands here."""

from collections import defaultdict
from collections.abc import Sequence
from math import isfinite, prod

from halftone.spec.roles import Role
from halftone.validate.cache_scales import attention_of
from halftone.validate.findings import GroupFinding, RoleFinding
from halftone.validate.inventory import CACHE_SCALES, COMPANIONS, Inventory, Module
from halftone.validate.scales import Scales, Unit, global_scale_of
from halftone.validate.weight_error import Errors, Sums


def role_findings(inventory: Inventory, errors: Errors) -> tuple[RoleFinding, ...]:
    """Tensors, parameters and bytes by role and format; scales count as bytes of their weight."""
    totals: defaultdict[tuple[Role, str], list[int]] = defaultdict(lambda: [0, 0, 0])
    for module in inventory.modules.values():
        owner = inventory.modules.get(f"{attention_of(module.name)}.k_proj", module)
        for parameter, entry in module.parts.items():
            of = owner if parameter in CACHE_SCALES else module
            role, fmt = of.place.role, of.format
            if entry is module.codes and module.layouts:
                _add(totals[role, fmt], 1, prod(module.shape), entry.nbytes)
            elif parameter in COMPANIONS:
                _add(totals[role, fmt], 0, 0, entry.nbytes)
            else:
                _add(totals[role, str(entry.dtype)], 1, prod(entry.shape), entry.nbytes)
    order = {role: position for position, role in enumerate(Role)}
    findings = []
    for (role, fmt), (tensors, parameters, nbytes) in sorted(
        totals.items(), key=lambda item: (order[item[0][0]], item[0][1])
    ):
        own, serving = _rounded(errors.roles.get((role, fmt)))
        findings.append(
            RoleFinding(
                role=role,
                format=fmt,
                tensors=tensors,
                parameters=parameters,
                bytes=nbytes,
                relativeError=own,
                relativeErrorServing=serving,
            )
        )
    return tuple(findings)


def group_findings(
    units: Sequence[Unit], scales: Scales, errors: Errors
) -> tuple[GroupFinding, ...]:
    """Every unit with its scales as stored and, where it was compared, its errors."""
    findings = []
    for unit in units:
        own, serving = _rounded(errors.units.get(unit.name))
        formats = {member.format for member in unit.members}
        findings.append(
            GroupFinding(
                name=unit.name,
                members=tuple(member.key for member in unit.members),
                format=formats.pop() if len(formats) == 1 else "Mixed",
                globalScales=_stored_scales(unit.members, scales),
                relativeError=own,
                relativeErrorServing=serving,
            )
        )
    return tuple(findings)


def _stored_scales(members: Sequence[Module], scales: Scales) -> tuple[float | None, ...]:
    entries = [global_scale_of(member) for member in members]
    if not any(entries):
        return ()
    values = [scales.of(entry) for entry in entries]
    return tuple(v if v is not None and isfinite(v) else None for v in values)


def _add(total: list[int], tensors: int, parameters: int, nbytes: int) -> None:
    total[0] += tensors
    total[1] += parameters
    total[2] += nbytes


def _rounded(sums: Sums | None) -> tuple[float | None, float | None]:
    """Six digits after the point; None where nothing was compared or nothing can be said."""
    if sums is None:
        return None, None
    own, serving = (round(e, 6) if isfinite(e) else None for e in sums.relative)
    return own, serving
