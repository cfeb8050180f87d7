"""The judgement of one visit: what was observed becomes a status and the next actions.

    decision = reconcile(observed, settings)

Called by the operator's pump for every job at every visit, and by nothing else. Level-based: it
never asks what happened, only what is; so a lost event, a second operator or a restart changes
nothing. It has no clock of its own.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from pydantic import ValidationError

from halftone.control.acceptance import Refusal, first_refusal
from halftone.control.children import work_claim
from halftone.control.conditions import Told, read_time, rows, time_text
from halftone.control.decision import Decision, Deletion, Event
from halftone.control.ending import end
from halftone.control.observed import Observed
from halftone.control.settings import Settings
from halftone.control.stages import steps
from halftone.control.telling import events, serving_line, source_text, summary
from halftone.control.walking import Walk
from halftone.spec.cluster import (
    FINALIZER,
    RETRY_ANNOTATION,
    ChildStage,
    Condition,
    Doing,
    Ended,
    EventReason,
)
from halftone.spec.errors import RefusedInput
from halftone.spec.job import JobSpec
from halftone.spec.names import API_VERSION, JOB_KIND
from halftone.spec.recipes import parse_job
from halftone.spec.status import ConditionStatus, JobStatus, ProgressStatus

# How soon a job is looked at again that waits for something which sends us no event.
_WAIT_SECONDS = 30.0
# Stages that take long enough for somebody to wonder.
_TELL_PROGRESS = frozenset({ChildStage.Calibrate, ChildStage.Quantize})


def reconcile(observed: Observed, settings: Settings) -> Decision:
    """What to do about one job now."""
    before = read_status(observed.status)
    spec, refusal = _read_spec(observed)
    if observed.metadata.get("deletionTimestamp"):
        return end(observed, spec, before, settings)
    if spec is None:
        assert refusal is not None
        return _refused(observed, before, refusal, None)
    is_final = _is_final(observed, before)
    begun = any(child.stage is ChildStage.Plan for child in observed.children)
    if not begun and not is_final:
        refusal = first_refusal(spec, observed)
        if refusal is not None:
            return _refused(observed, before, refusal, spec)
    return _Visit(observed, spec, before, settings, is_final).decide()


def read_status(status: Mapping[str, Any]) -> JobStatus:
    """The former status; an empty one where somebody left what cannot be read."""
    try:
        return JobStatus.model_validate(dict(status))
    except ValidationError:
        return JobStatus()


def _read_spec(observed: Observed) -> tuple[JobSpec | None, Refusal | None]:
    name = observed.metadata["name"]
    job = {
        "apiVersion": API_VERSION,
        "kind": JOB_KIND,
        "metadata": {"name": name},
        "spec": dict(observed.spec),
    }
    try:
        return parse_job(job, str(name)).spec, None
    except RefusedInput as error:
        return None, Refusal(error.reason, error.message)


def _is_final(observed: Observed, before: JobStatus) -> bool:
    """Whether the job ended, after it had begun, and nobody asked for another try since."""
    if before.completionTime is None or before.startTime is None:
        return False
    annotations = observed.metadata.get("annotations") or {}
    retry = str(annotations.get(RETRY_ANNOTATION, ""))
    succeeded = before.condition(Condition.Succeeded)
    failed = succeeded is not None and succeeded.status is ConditionStatus.FALSE
    return not (failed and retry and retry != (before.retry or ""))


def _refused(
    observed: Observed, before: JobStatus, refusal: Refusal, spec: JobSpec | None
) -> Decision:
    """A job that cannot begin: `Accepted` says why, and everything after it waits or is over."""
    order = steps(spec, calibrated=False, workers=1) if spec is not None else ()
    status = ConditionStatus.UNKNOWN if refusal.waits else ConditionStatus.FALSE
    later = (
        (Doing.Pending, "Waits for the stages before it.")
        if refusal.waits
        else (Ended.NotReached, "An earlier stage failed.")
    )
    told = [Told(Condition.Accepted, status, str(refusal.reason), refusal.message)]
    told += [Told(step.condition, status, *later) for step in order[1:]]
    told.append(summary(told))
    generation = int(observed.metadata.get("generation", 0))
    found = rows(told, before, generation, observed.now)
    ended = None if refusal.waits else before.completionTime or time_text(observed.now)
    now = JobStatus(
        conditions=found,
        observedGeneration=generation,
        completionTime=ended,
        source=None if spec is None else source_text(spec),
        recipe=None if spec is None else spec.quantization.preset,
    )
    return Decision(
        status=None if now == before else now,
        events=tuple(events(order or (), found, before)),
        requeue_seconds=_WAIT_SECONDS if refusal.waits else None,
    )


class _Visit:
    """One visit of a job that is well formed and not being deleted."""

    def __init__(
        self,
        observed: Observed,
        spec: JobSpec,
        before: JobStatus,
        settings: Settings,
        is_final: bool,
    ) -> None:
        self._observed = observed
        self._spec = spec
        self._before = before
        self._settings = settings
        self._now = observed.now
        self._was_final = is_final
        generation = int(observed.metadata.get("generation", 0))
        first = JobStatus(
            observedGeneration=generation,
            source=source_text(spec),
            recipe=spec.quantization.preset or str(observed.metadata["name"]),
        )
        self._walk = Walk(observed, spec, before, settings, is_final, first)

    def decide(self) -> Decision:
        """Walk, then apply what overrides a walk: suspension, the deadline, the time to live."""
        self._walk.go()
        told = list(self._walk.told)
        deletions = list(self._walk.deletions)
        creations = list(self._walk.creations)
        over = summary(told).status is not ConditionStatus.UNKNOWN
        start: datetime | None = self._start()
        if not over and self._spec.suspend:
            creations, told = [], self._stopped(told, ConditionStatus.UNKNOWN, Doing.Suspended)
            deletions += self._active()
            start = None
        elif not over and start is not None and self._is_late(start):
            creations, told = [], self._stopped(told, ConditionStatus.FALSE, Ended.DeadlineExceeded)
            deletions += self._active()
            over = True
        status = self._status(told, start, over)
        return Decision(
            status=None if status == self._before else status,
            creations=(*self._claim(), *creations) if creations else (),
            deletions=tuple(dict.fromkeys(deletions)),
            finalizer=None if self._has_finalizer() else True,
            delete_self=over and self._remaining_life() == 0,
            events=tuple(self._events(status)),
            requeue_seconds=self._requeue(start, over),
            progress_wanted=() if over or self._spec.suspend else self._telling(),
        )

    def _telling(self) -> tuple[str, ...]:
        """The running children that say in their logs how far they are."""
        return tuple(child.name for child in self._walk.running if child.stage in _TELL_PROGRESS)

    def _start(self) -> datetime:
        """When the work began that goes on now: at first, after a suspension, or at a retry."""
        former = read_time(self._before.startTime)
        began_anew = self._before.completionTime is not None and not self._was_final
        return self._now if former is None or began_anew else former

    def _stopped(self, told: list[Told], status: ConditionStatus, reason: str) -> list[Told]:
        """`told` with what was unknown stopped where it stands."""
        message = (
            "`spec.suspend` is set; finished work is kept."
            if reason == Doing.Suspended
            else f"`spec.activeDeadlineSeconds` ({self._spec.activeDeadlineSeconds}) is over; "
            f"raise it and set the annotation `{RETRY_ANNOTATION}` to go on."
        )
        found: list[Told] = []
        for one in told:
            if one.status is not ConditionStatus.UNKNOWN:
                found.append(one)
            elif any(former.reason == reason for former in found):
                later = Ended.NotReached if status is ConditionStatus.FALSE else Doing.Pending
                found.append(Told(one.condition, status, later, one.message))
            else:
                found.append(Told(one.condition, status, reason, message))
        return found

    def _active(self) -> list[Deletion]:
        return [
            Deletion(child.name, child.uid)
            for child in self._observed.children
            if not (child.complete or child.failure or child.deleting)
        ]

    def _is_late(self, start: datetime) -> bool:
        allowed = self._spec.activeDeadlineSeconds
        return allowed is not None and self._now - start >= timedelta(seconds=allowed)

    def _status(self, told: list[Told], start: datetime | None, over: bool) -> JobStatus:
        told.append(summary(told))
        walk = self._walk
        if over and told[-1].status is ConditionStatus.TRUE and walk.status.artifact is not None:
            line = serving_line(str(self._observed.metadata["name"]), walk.status)
            told[-1] = Told(Condition.Succeeded, told[-1].status, told[-1].reason, line)
        generation = int(self._observed.metadata.get("generation", 0))
        ended = None
        if over:
            kept = self._before.completionTime if self._was_final else None
            ended = kept or time_text(self._now)
        done_total = self._observed.progress
        progress = (
            ProgressStatus(bytesDone=done_total[0], bytesTotal=done_total[1])
            if done_total is not None and walk.running and not over
            else None
        )
        return walk.status.model_copy(
            update={
                "conditions": rows(told, self._before, generation, self._now),
                "startTime": None if start is None else time_text(start),
                "completionTime": ended,
                "progress": progress,
                "retry": walk.retry or None,
            }
        )

    def _events(self, status: JobStatus) -> list[Event]:
        order = self._walk.steps()
        found = list(events(order, status.conditions, self._before))
        if self._walk.retry and self._walk.retry != (self._before.retry or ""):
            told = f"Goes on from its last good document (`{RETRY_ANNOTATION}`)."
            found.insert(0, Event(EventReason.JobRetried, told))
        ended = status.condition(Condition.Succeeded)
        former = self._before.condition(Condition.Succeeded)
        succeeded = ended is not None and ended.status is ConditionStatus.TRUE
        if succeeded and (former is None or former.status is not ConditionStatus.TRUE):
            line = serving_line(str(self._observed.metadata["name"]), status)
            if line:
                found.append(Event(EventReason.ArtifactPublished, f"Serve it with: {line}"))
        return found

    def _claim(self) -> tuple[Mapping[str, Any], ...]:
        """The claim to make before the first child that mounts it."""
        made = work_claim(self._observed.metadata, self._spec)
        if made is None or self._observed.claims.get(made["metadata"]["name"]) is not None:
            return ()
        return (made,)

    def _has_finalizer(self) -> bool:
        return FINALIZER in (self._observed.metadata.get("finalizers") or ())

    def _remaining_life(self) -> float | None:
        """Seconds until the object may go, 0 when they are over; None without a limit."""
        kept = self._spec.ttlSecondsAfterFinished
        ended = read_time(self._before.completionTime) if self._was_final else None
        if kept is None or ended is None:
            return None
        left = (ended + timedelta(seconds=kept) - self._now).total_seconds()
        return max(0.0, left)

    def _requeue(self, start: datetime | None, over: bool) -> float | None:
        """The nearest moment at which time alone changes something."""
        moments: list[float] = []
        if over:
            life = self._spec.ttlSecondsAfterFinished if not self._was_final else None
            left = self._remaining_life() if self._was_final else life
            if left:
                moments.append(float(left))
        elif start is not None and self._spec.activeDeadlineSeconds is not None:
            late = start + timedelta(seconds=self._spec.activeDeadlineSeconds)
            moments.append(max(0.0, (late - self._now).total_seconds()))
        if not over and not self._spec.suspend and self._walk.running:
            moments.append(float(self._settings.progressSeconds))
        return min(moments, default=None)
