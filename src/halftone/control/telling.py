"""The summary of a job's conditions, and the events that its transitions are worth.

Called by `reconciling`.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from halftone.control.conditions import Told
from halftone.control.decision import Event
from halftone.control.stages import Step
from halftone.spec.cluster import Condition, Doing, Ended, EventReason, Waiting
from halftone.spec.job import JobSpec
from halftone.spec.status import ConditionRow, ConditionStatus, JobStatus

# Nobody has to do anything about these.
_HARMLESS: Final = frozenset({Waiting.Disrupted, Waiting.Queued})


def summary(told: Sequence[Told]) -> Told:
    """`Succeeded`: the first failure, else the first that is not yet true, else the last."""
    failed = next((one for one in told if one.status is ConditionStatus.FALSE), None)
    if failed is not None:
        return Told(Condition.Succeeded, failed.status, failed.reason, failed.message)
    open_ = next((one for one in told if one.status is ConditionStatus.UNKNOWN), None)
    last = open_ or told[-1]
    return Told(Condition.Succeeded, last.status, last.reason, last.message)


def events(
    steps: Iterable[Step], rows: Iterable[ConditionRow], before: JobStatus
) -> Iterator[Event]:
    """One event for each condition whose status or reason is another than it was."""
    by_condition = {step.condition: step for step in steps}
    for row in rows:
        former = before.condition(row.type)
        same = former is not None and (former.status, former.reason) == (row.status, row.reason)
        if same or row.type is Condition.Succeeded or row.reason == Ended.NotReached:
            continue
        if row.status is ConditionStatus.TRUE:
            yield Event(by_condition[row.type].event, row.message)
        elif row.status is ConditionStatus.FALSE:
            yield Event(_failure(row), f"{row.reason}: {row.message}", warning=True)
        elif row.reason == Doing.Suspended:
            yield Event(EventReason.JobSuspended, row.message)
        elif row.reason in set(Waiting):
            warning = row.reason not in _HARMLESS
            yield Event(EventReason.StageWaiting, f"{row.reason}: {row.message}", warning=warning)
        elif former is not None and former.reason == Doing.Suspended:
            yield Event(EventReason.JobResumed, "`spec.suspend` is no longer set.")


def _failure(row: ConditionRow) -> EventReason:
    if row.reason == Ended.DeadlineExceeded:
        return EventReason.DeadlineExceeded
    if row.type is Condition.Accepted:
        return EventReason.JobRefused
    if row.type is Condition.Validated:
        return EventReason.GateFailed
    return EventReason.StageFailed


def source_text(spec: JobSpec) -> str:
    """What the column SOURCE shows."""
    source = spec.source
    if source.huggingFace is not None:
        return source.huggingFace.repository
    if source.s3 is not None:
        return source.s3.uri
    assert source.directory is not None
    return f"{source.directory.claimName or ''}:{source.directory.path}"


def serving_line(job: str, status: JobStatus) -> str:
    """The command that serves the artifact, for the last event and the condition's message."""
    artifact = status.artifact
    if artifact is None:
        return ""
    revision = f" --set artifact.revision={artifact.revision}" if artifact.revision else ""
    return (
        f"helm upgrade --install {job} halftone/halftone-endpoint --set artifact.uri="
        f"{artifact.uri}{revision} --set artifact.digest={artifact.digest}"
    )
