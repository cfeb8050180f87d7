"""What stages found, as it stands in a status: taken from their results, else from the last status.

Called by `walking`. A pod may be gone while its Job still says that it succeeded; then the status
that was written while it was there is what is left.
"""

from decimal import ROUND_FLOOR, Decimal, InvalidOperation
from typing import Final

from pydantic import ValidationError

from halftone.spec.cluster import ChildStage
from halftone.spec.reports import PUBLISHABLE
from halftone.spec.stage_results import GateFacts, StageResult
from halftone.spec.status import (
    ArtifactStatus,
    CheckpointStatus,
    GateStatus,
    JobStatus,
    PlanStatus,
    ReportStatus,
)

# What each stage leaves in a status; the others leave nothing.
FIELDS: Final = {
    ChildStage.Plan: ("plan",),
    ChildStage.Quantize: ("checkpoint",),
    ChildStage.Assemble: ("checkpoint",),
    ChildStage.Validate: ("report", "gates", "recoveryPercent"),
    ChildStage.Publish: ("artifact",),
}
# Bounds of the API for what stages hand over.
_MAX_GATES: Final = 40
_MAX_PERCENT: Final = 1000


def of_result(stage: ChildStage, result: StageResult) -> dict[str, object]:
    """The fields of a status that `result` of `stage` gives; none if the API has no room for them,
    for an image may say anything.
    """
    try:
        return _of_result(stage, result)
    except ValidationError:
        return {}


def _of_result(stage: ChildStage, result: StageResult) -> dict[str, object]:
    found: dict[str, object] = {}
    if stage is ChildStage.Plan and result.plan is not None:
        found["plan"] = PlanStatus(**result.plan.model_dump())
        found["recipe"] = result.plan.recipe
    if stage in (ChildStage.Quantize, ChildStage.Assemble) and result.checkpoint is not None:
        found["checkpoint"] = CheckpointStatus(**result.checkpoint.model_dump())
    if stage is ChildStage.Validate and result.report is not None:
        gates = {gate.name: _gate(gate) for gate in result.report.gates}
        found["report"] = ReportStatus(digest=result.report.digest, verdict=result.report.verdict)
        found["gates"] = tuple(gates.values())[:_MAX_GATES]
        found["recoveryPercent"] = _whole(result.report.recoveryPercent)
    if stage is ChildStage.Publish and result.artifact is not None:
        found["artifact"] = ArtifactStatus(**result.artifact.model_dump())
    return found


def of_status(stage: ChildStage, before: JobStatus) -> dict[str, object]:
    """The same fields, as they were written before; without a verdict that shuts publishing, which
    cannot be of a `validate` that succeeded.
    """
    if stage is ChildStage.Validate and not opens_publishing(before):
        return {}
    return {field: getattr(before, field) for field in FIELDS.get(stage, ())}


def is_complete(stage: ChildStage, found: dict[str, object]) -> bool:
    """Whether `found` has what a successful `stage` must have left."""
    needed = FIELDS.get(stage, ())[:1]
    return all(found.get(field) is not None for field in needed)


def opens_publishing(status: JobStatus) -> bool:
    """Whether there is a report, and its verdict is one that does."""
    return status.report is not None and status.report.verdict in PUBLISHABLE


def _gate(gate: GateFacts) -> GateStatus:
    return GateStatus(name=gate.name, outcome=gate.outcome, value=gate.value)


def _whole(percent: str | None) -> int | None:
    """Rounded down, so that nothing looks better than it is; None for what is no number."""
    try:
        found = Decimal(percent or "NaN")
    except InvalidOperation:
        return None
    if not found.is_finite():
        return None
    # Bounded before it becomes an integer: one of `1e999999999` has as many digits.
    bounded = min(Decimal(_MAX_PERCENT), max(Decimal(0), found))
    return int(bounded.to_integral_value(ROUND_FLOOR))
