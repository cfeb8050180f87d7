"""What a former status is believed of: that a job is over, and what a stage found.

Called by `reconciling` and `walking`. Children that exist are asked first. A status is what is left
of those that are gone, or whose pods are; and somebody may have edited it, so it is believed only
where it holds together.
"""

from hashlib import sha256

from halftone.control import facts
from halftone.control.observed import Observed, ObservedChild
from halftone.control.stages import Step, steps
from halftone.spec.cluster import RETRY_ANNOTATION, ChildStage, Condition
from halftone.spec.documents import Method
from halftone.spec.job import JobSpec
from halftone.spec.status import ConditionStatus, JobStatus

# What a status and the annotation of a child have room for.
_MAX_RETRY = 253


def retry_of(observed: Observed) -> str:
    """The value of the retry annotation, "" for none; a digest in the place of a long one."""
    annotations = observed.metadata.get("annotations") or {}
    value = str(annotations.get(RETRY_ANNOTATION) or "")
    return value if len(value) <= _MAX_RETRY else sha256(value.encode()).hexdigest()


def has_ended(spec: JobSpec, before: JobStatus) -> bool:
    """Whether `before` is, in all its parts, the status of a job that began and is over."""
    ended = before.condition(Condition.Succeeded)
    if ended is None or before.startTime is None or before.completionTime is None:
        return False
    rows = [before.condition(step.condition) for step in _steps(spec, before)]
    told = [row.status for row in rows if row is not None]
    if len(told) < len(rows) or ConditionStatus.UNKNOWN in told:
        return False
    if ended.status is ConditionStatus.TRUE:
        return set(told) == {ConditionStatus.TRUE} and _is_whole(spec, before)
    # Stages come true in their order, and after the first that failed none was reached.
    failed = told.index(ConditionStatus.FALSE) if ConditionStatus.FALSE in told else len(told)
    is_ordered = set(told[failed:]) == {ConditionStatus.FALSE}
    return ended.status is ConditionStatus.FALSE and is_ordered


def asks_again(observed: Observed, spec: JobSpec, before: JobStatus) -> bool:
    """Whether a job that failed is asked, since, for another try."""
    ended = before.condition(Condition.Succeeded)
    retry = retry_of(observed)
    failed = ended is not None and ended.status is ConditionStatus.FALSE
    return failed and has_ended(spec, before) and retry not in ("", before.retry)


def recalled(
    step: Step, stage: ChildStage, child: ObservedChild | None, before: JobStatus, now: JobStatus
) -> dict[str, object] | None:
    """What `before` says that `stage` found, None if that is not to be believed.

    `child` is the last Job of the stage, without pods or on its way out; None if it is gone too.
    `now` is what was found of the stages before this one.
    """
    row = before.condition(step.condition)
    is_true = row is not None and row.status is ConditionStatus.TRUE
    has_succeeded = child is not None and child.complete and not child.deleting
    if not is_true and (not has_succeeded or stage is ChildStage.Target):
        return None
    if child is not None and child.retry not in ("", before.retry):
        return None  # made after that status was written
    if stage not in (ChildStage.Plan, ChildStage.Target) and not _is_of_one_plan(before, now):
        return None
    found = facts.of_status(stage, before)
    return found if facts.is_complete(stage, found) else None


def _steps(spec: JobSpec, before: JobStatus) -> tuple[Step, ...]:
    calibrated = before.plan is not None and before.plan.method is Method.Calibrated
    return steps(spec, calibrated=calibrated, workers=1)


def _is_of_one_plan(one: JobStatus, other: JobStatus) -> bool:
    return one.plan is not None and other.plan is not None and one.plan.digest == other.plan.digest


def _is_whole(spec: JobSpec, before: JobStatus) -> bool:
    """Whether every stage left what one that succeeded leaves."""
    stages = [stage for step in _steps(spec, before) for stage in step.children]
    return all(facts.is_complete(stage, facts.of_status(stage, before)) for stage in stages)
