"""The gate `WeightError`: how far the weights are from the source's, as a server decodes them.

Runs unasked, with the limits of each format (`halftone.validate.weight_error`). A gate that the job
lists replaces it: its `maximum` is for each role; a single group may still reach the limit of its
format, because one hard group in thousands says little about a role, and a broken one is far
beyond either.
"""

from collections.abc import Mapping
from math import isfinite
from typing import Any

from halftone.checkpoint.architectures import GENERIC, find
from halftone.checkpoint.index import read_checkpoint
from halftone.plan.planning import Planned
from halftone.spec.errors import RefusedInput
from halftone.spec.files import FileSource
from halftone.spec.gates import WEIGHT_ERROR_GATE, Metric, WeightError
from halftone.spec.names import Reason
from halftone.spec.reports import GateResult, Outcome
from halftone.validate.gates.decimals import decimal_text
from halftone.validate.inventory import Inventory, layer_of, take_inventory
from halftone.validate.originals import Originals
from halftone.validate.scales import Unit, read_scales, units_of
from halftone.validate.weight_error import LIMITS, Errors, Kept, measure

_GroupRow = dict[str, Any]


def measure_weight_error(
    gate: WeightError | None, planned: Planned, source: FileSource, checkpoint: FileSource
) -> tuple[GateResult, dict[str, Any]]:
    """The gate's result and its evidence, {"roles": […], "groups": […]}; `gate` None: unasked.

    Every weight of both is read once, in tiles.
    """
    read = read_checkpoint(checkpoint, whole=False)
    base = read_checkpoint(source)
    architecture = planned.architecture or find(base.config) or GENERIC
    inventory = take_inventory(read.tensors, architecture)
    units = units_of(inventory)
    scales = read_scales(checkpoint, units, None)
    originals = Originals(base, architecture)
    # Copies are compared byte for byte by `structure`; what was dequantized on the way in is not.
    errors = measure(
        checkpoint,
        inventory,
        units,
        scales,
        originals,
        (None, None),
        Kept.Dequantized,
        tolerated=0.0 if gate is None else float(gate.maximum),
    )
    rows = [_group_row(unit, errors) for unit in units if unit.name in errors.units]
    limits = _limits(gate, inventory)
    evidence = {"roles": _role_rows(errors, limits), "groups": rows}
    return _result(gate, errors, evidence["roles"]), evidence


def _limits(gate: WeightError | None, inventory: Inventory) -> dict[str, float]:
    """The largest relative error that a role may have, by format."""
    found = {module.format: LIMITS.get(module.layout) for module in inventory.quantized}
    return {
        fmt: float(gate.maximum) if gate is not None else limits[1]
        for fmt, limits in found.items()
        if limits is not None
    }


def _group_row(unit: Unit, errors: Errors) -> _GroupRow:
    first = unit.members[0]
    own, serving = errors.units[unit.name].relative
    where = layer_of(first.name)
    return {
        "name": unit.name,
        "role": str(first.place.role),
        "layer": where[1] if where else None,
        "format": first.format,
        "relativeError": _finite(own),
        "relativeErrorServing": _finite(serving),
    }


def _role_rows(errors: Errors, limits: Mapping[str, float]) -> list[dict[str, Any]]:
    rows = []
    for (role, fmt), sums in sorted(errors.roles.items()):
        if fmt in limits:
            own, serving = sums.relative
            rows.append(
                {
                    "role": str(role),
                    "format": fmt,
                    "relativeError": _finite(own),
                    "relativeErrorServing": _finite(serving),
                    "limit": limits[fmt],
                }
            )
    return rows


def _finite(value: float) -> float | None:
    """What JSON can say; None stands for an error without bound."""
    return round(value, 6) if isfinite(value) else None


def _result(gate: WeightError | None, errors: Errors, roles: list[dict[str, Any]]) -> GateResult:
    if not roles and not errors.defects:
        raise RefusedInput(
            Reason.NothingToQuantize,
            WEIGHT_ERROR_GATE,
            "The checkpoint has no quantized weight that could be compared with its source; "
            "validate the checkpoint that `halftone quantize` wrote.",
        )
    worst = max(roles, key=_ratio, default=None)
    beyond = worst is not None and _ratio(worst) > 1.0
    told = _told(worst)
    outcome, message, culprit = Outcome.Passed, told, None
    if errors.defects:
        first = errors.defects[0]
        more = f" ({len(errors.defects) - 1:,} more)" if len(errors.defects) > 1 else ""
        outcome, message, culprit = Outcome.Failed, first.message + more, first.tensor
    elif beyond and worst is not None:
        outcome, message, culprit = Outcome.Failed, told, worst["role"]
    elif errors.remarks:
        message = f"{told} {errors.remarks[0].message}"
    return GateResult(
        name=WEIGHT_ERROR_GATE if gate is None else gate.name,
        metric=Metric.WeightError,
        outcome=outcome,
        message=message,
        score=None if worst is None else decimal_text(worst["relativeErrorServing"]),
        limit=None if worst is None else f"≤ {worst['limit']:g} in {worst['format']}",
        unit="‖W - W'‖ / ‖W‖",
        culprit=culprit,
        items=errors.coverage.read,
    )


def _ratio(row: Mapping[str, Any]) -> float:
    """How near a role is to its limit; above 1 it is beyond."""
    serving, limit = row["relativeErrorServing"], row["limit"]
    if serving is None:
        return float("inf")
    if not limit:
        return float("inf") if serving else 0.0
    return float(serving / limit)


def _told(worst: Mapping[str, Any] | None) -> str:
    if worst is None:
        return "Nothing could be compared."
    return (
        f"Nearest to its limit is {worst['role']} in {worst['format']}: "
        f"{decimal_text(worst['relativeErrorServing'])} as served, "
        f"{decimal_text(worst['relativeError'])} alone; the limit is {worst['limit']:g}."
    )
