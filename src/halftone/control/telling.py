"""The summary of a job's conditions, and the events that its transitions are worth.

Called by `reconciling`.
"""

import shlex
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from halftone.control.conditions import Told, shortened
from halftone.control.decision import Event
from halftone.control.stages import Step
from halftone.spec.cluster import Condition, Doing, Ended, EventReason, Waiting
from halftone.spec.job import JobSpec
from halftone.spec.names import Reason
from halftone.spec.status import ConditionRow, ConditionStatus, JobStatus

# The API server's own bound for the text of an event.
_EVENT_BYTES: Final = 1024
# The bound of `status.artifact.helmCommand`; only a path of quotes makes a longer one.
_LONGEST_LINE: Final = 8192
_REST: Final = "(Cut here; the condition says more.)"
# Of a report that was made and shuts publishing; a condition may be False for other reasons too.
_GATES: Final = frozenset(
    {
        Reason.GateFailed,
        Reason.GateInconclusive,
        Reason.GateUnderpowered,
        Reason.DefectsFound,
        Reason.VerdictNotPassed,
    }
)
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
            yield event(by_condition[row.type].event, row.message)
        elif row.status is ConditionStatus.FALSE:
            yield event(_failure(row), f"{row.reason}: {row.message}", warning=True)
        elif row.reason == Doing.Suspended:
            yield event(EventReason.JobSuspended, row.message)
        elif row.reason in set(Waiting):
            warning = row.reason not in _HARMLESS
            yield event(EventReason.StageWaiting, f"{row.reason}: {row.message}", warning=warning)
        elif former is not None and former.reason == Doing.Suspended:
            yield event(EventReason.JobResumed, "`spec.suspend` is no longer set.")


def event(reason: EventReason, message: str, *, warning: bool = False) -> Event:
    """An event with as much of `message` as the API server takes."""
    return Event(reason, shortened(message, _EVENT_BYTES, _REST), warning)


def _failure(row: ConditionRow) -> EventReason:
    if row.reason == Ended.DeadlineExceeded:
        return EventReason.DeadlineExceeded
    if row.type is Condition.Accepted:
        return EventReason.JobRefused
    if row.reason in _GATES:
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


def serving_line(job: str, uri: str, revision: str | None, digest: str) -> str:
    """The command that serves the artifact, to be pasted into a shell as it is."""
    values = {"artifact.uri": uri, "artifact.revision": revision, "artifact.digest": digest}
    settings = " ".join(
        f"--set-string {shlex.quote(f'{name}={_escaped(value)}')}"
        for name, value in values.items()
        if value
    )
    return f"helm upgrade --install {job} halftone/halftone-endpoint {settings}"


def with_serving_line(status: JobStatus, job: str) -> JobStatus:
    """`status`, which says of its artifact how it is served, if it has one."""
    artifact = status.artifact
    if artifact is None:
        return status
    line = serving_line(job, artifact.uri, artifact.revision, artifact.digest)
    told = line if len(line) <= _LONGEST_LINE else None
    return status.model_copy(update={"artifact": artifact.model_copy(update={"helmCommand": told})})


def _escaped(value: str) -> str:
    """As Helm reads one value, in which a comma begins the next one."""
    return value.replace("\\", "\\\\").replace(",", "\\,")
