"""Sentences of conditions that are about what was done, is being done, or is not to be done.

Called by `walking`, `kubeflow.running` and `reconciling`; a laptop says `occupied_message` too.
"""

from collections.abc import Iterable

from halftone.control.conditions import Told
from halftone.control.stages import Step
from halftone.spec.cluster import Condition, Doing, Ended
from halftone.spec.status import ConditionStatus, JobStatus


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


def unreached(condition: Condition, before: Iterable[Told]) -> Told:
    """Of a condition behind those of `before`, which are not all true: it waits for them, or will
    not be reached.
    """
    if any(told.status is ConditionStatus.FALSE for told in before):
        message = "An earlier stage failed."
        return Told(condition, ConditionStatus.FALSE, Ended.NotReached, message)
    message = "Waits for the stages before it."
    return Told(condition, ConditionStatus.UNKNOWN, Doing.Pending, message)


def verdict_message(verdict: str) -> str:
    """Of a report that was made and shuts publishing."""
    return f"The report's verdict '{verdict}' does not open publishing."


def occupied_message(uri: str, checkpoint_digest: str) -> str:
    """Of a target that holds another artifact."""
    return (
        f"`{uri}` holds the artifact {checkpoint_digest[:12]} of another plan; publish under "
        "another name, or set `publish.existing: Replace`, which keeps the former reachable by its "
        "digest."
    )
