"""Sentences of conditions that are about what was done or is being done.

Called by `walking`.
"""

from halftone.control.stages import Step
from halftone.spec.cluster import Condition
from halftone.spec.stage_results import OccupantFacts
from halftone.spec.status import JobStatus


def done_message(step: Step, status: JobStatus) -> str:
    """Of a condition that is true."""
    plan, checkpoint = status.plan, status.checkpoint
    report, artifact = status.report, status.artifact
    if step.condition is Condition.Accepted and plan is not None:
        return (
            f"Recipe {plan.recipe}, {plan.method}; the checkpoint will have {plan.sizeBytes} bytes."
        )
    if step.condition is Condition.Quantized and checkpoint is not None:
        return f"{checkpoint.sizeBytes} bytes, digest {checkpoint.digest[:12]}."
    if step.condition is Condition.Validated and report is not None:
        return f"Verdict {report.verdict}, report {report.digest[:12]}."
    if step.condition is Condition.Published and artifact is not None:
        return f"{artifact.uri}, digest {artifact.digest[:12]}."
    return f"{step.done}."


def doing_message(step: Step, progress: tuple[int, int] | None) -> str:
    """Of a condition whose children are at work."""
    if step.condition is Condition.Quantized and progress is not None and progress[1] > 0:
        return f"{progress[0] * 100 // progress[1]} % of {progress[1]} bytes are read."
    return f"{step.doing}."


def occupied_message(uri: str, occupant: OccupantFacts) -> str:
    """Of a target that holds another artifact."""
    return (
        f"`{uri}` holds the artifact {occupant.checkpointDigest[:12]} of another plan; publish "
        "under another name, or with `publish.existing: Replace`, which keeps the former reachable "
        "by its digest."
    )
