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
from halftone.control.conditions import Told, read_past, rows, time_text
from halftone.control.decision import Decision, Event, SubmitRun
from halftone.control.ending import end, needs_cleaning
from halftone.control.kubeflow.accepting import run_refusal
from halftone.control.kubeflow.running import RunWalk
from halftone.control.observed import Observed
from halftone.control.recalling import asks_again, has_ended
from halftone.control.saying import unreached
from halftone.control.settings import Settings
from halftone.control.stages import steps
from halftone.control.telling import event, events, source_text, summary
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
from halftone.spec.running import Runner
from halftone.spec.status import ConditionStatus, JobStatus, ProgressStatus

# How soon a job is looked at again that waits for something which sends us no event.
_WAIT_SECONDS = 30.0


def reconcile(
    observed: Observed, settings: Settings, pipeline: Mapping[str, Any] | None = None
) -> Decision:
    """What to do about one job now. `pipeline` is the compiled one, of which runs are made."""
    before = read_status(observed.status)
    spec, refusal = read_spec(observed)
    if observed.metadata.get("deletionTimestamp"):
        return end(observed, spec, before, settings)
    if spec is None:
        assert refusal is not None
        # One that is over stays so, although this version cannot read what it asked for.
        is_over = before.startTime is not None and before.completionTime is not None
        return Decision() if is_over else _refused(observed, before, refusal, None)
    again = asks_again(observed, spec, before)
    is_final = has_ended(spec, before) and not again
    if not is_final and not _has_begun(observed, spec, before):
        refusal = first_refusal(spec, observed) or run_refusal(spec, observed, settings)
        if refusal is not None:
            return _refused(observed, before, refusal, spec)
    return _Visit(observed, spec, before, settings, is_final, again, pipeline).decide()


def read_status(status: Mapping[str, Any]) -> JobStatus:
    """The former status; an empty one where somebody left what cannot be read."""
    try:
        return JobStatus.model_validate(dict(status))
    except ValidationError:
        return JobStatus()


def _has_begun(observed: Observed, spec: JobSpec, before: JobStatus) -> bool:
    if spec.runner is Runner.KubeflowPipelines:
        return before.pipelineRun is not None or bool(observed.run and observed.run.runs)
    return any(child.stage is ChildStage.Plan for child in observed.children)


def read_spec(observed: Observed) -> tuple[JobSpec | None, Refusal | None]:
    """The spec; None with the reason for one that this version cannot read."""
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


def _refused(
    observed: Observed, before: JobStatus, refusal: Refusal, spec: JobSpec | None
) -> Decision:
    """A job that cannot begin: `Accepted` says why, and everything after it waits or is over."""
    order = steps(spec, calibrated=False, workers=1) if spec is not None else ()
    status = ConditionStatus.UNKNOWN if refusal.waits else ConditionStatus.FALSE
    told = [Told(Condition.Accepted, status, str(refusal.reason), refusal.message)]
    told += [unreached(step.condition, told) for step in order[1:]]
    told.append(summary(told))
    generation = int(observed.metadata.get("generation", 0))
    found = rows(told, before, generation, observed.now)
    ended = None if refusal.waits else before.completionTime or time_text(observed.now)
    now = JobStatus(
        conditions=found,
        observedGeneration=generation,
        completionTime=ended,
        source=None if spec is None else source_text(spec),
        recipe=None if spec is None else recipe_text(spec, observed),
        retry=before.retry,
    )
    kept = None if spec is None else spec.ttlSecondsAfterFinished
    left = remaining_life(kept, before.completionTime if ended else None, observed.now)
    return Decision(
        status=None if now == before else now,
        events=tuple(events(order or (), found, before)),
        delete_self=left == 0 and now == before,
        requeue_seconds=_WAIT_SECONDS if refusal.waits else left or kept,
    )


def recipe_text(spec: JobSpec, observed: Observed) -> str:
    """What the column RECIPE shows before there is a plan."""
    return spec.quantization.preset or str(observed.metadata["name"])


def remaining_life(kept: int | None, ended: str | None, now: datetime) -> float | None:
    """Seconds until the object may go, 0 when they are over; None if it stays, or is not over."""
    moment = read_past(ended, now)
    if kept is None or moment is None:
        return None
    return max(0.0, (moment + timedelta(seconds=kept) - now).total_seconds())


class _Visit:
    """One visit of a job that is well formed and not being deleted."""

    def __init__(
        self,
        observed: Observed,
        spec: JobSpec,
        before: JobStatus,
        settings: Settings,
        is_final: bool,
        is_asked_again: bool,
        pipeline: Mapping[str, Any] | None,
    ) -> None:
        self._observed = observed
        self._spec = spec
        self._before = before
        self._settings = settings
        self._now = observed.now
        self._was_final = is_final
        self._generation = int(observed.metadata.get("generation", 0))
        first = JobStatus(
            observedGeneration=self._generation,
            source=source_text(spec),
            recipe=recipe_text(spec, observed),
        )
        known = (observed, spec, before, settings, is_final, is_asked_again, first)
        by_run = spec.runner is Runner.KubeflowPipelines
        self._walk = RunWalk(*known, pipeline or {}) if by_run else Walk(*known)

    def decide(self) -> Decision:
        """Walk, then apply what overrides a walk: suspension, the deadline, the time to live."""
        walk = self._walk
        walk.go()
        told = list(walk.told)
        over = summary(told).status is not ConditionStatus.UNKNOWN
        start: datetime | None = self._start()
        if over:
            walk.end()
        elif self._spec.suspend:
            told = self._stopped(told, ConditionStatus.UNKNOWN, Doing.Suspended)
            walk.suspend()
            start = None
        elif start is not None and self._is_late(start) and walk.is_known:
            told = self._stopped(told, ConditionStatus.FALSE, Ended.DeadlineExceeded)
            walk.stop()
            over = True
        status = self._status(told, start, over)
        goes = over and self._was_final and self._life() == 0
        stays = goes and walk.holds_object()
        makes = bool(walk.creations) or isinstance(walk.run, SubmitRun)
        return Decision(
            status=None if status == self._before else status,
            creations=(*self._claim(), *walk.creations) if makes else (),
            deletions=tuple(dict.fromkeys(walk.deletions)),
            run=walk.run,
            finalizer=True if needs_cleaning(self._spec) and not self._has_finalizer() else None,
            delete_self=goes and not stays,
            events=tuple(self._events(status)),
            requeue_seconds=walk.pace if stays else self._requeue(start, over),
            progress_wanted=() if over or self._spec.suspend else walk.progress_wanted,
        )

    def _start(self) -> datetime:
        """When the work began that goes on now: at first, after a suspension, or at a retry."""
        former = read_past(self._before.startTime, self._now)
        return self._now if former is None or self._walk.is_asked_again else former

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
                found.append(unreached(one.condition, found))
            else:
                found.append(Told(one.condition, status, reason, message))
        return found

    def _is_late(self, start: datetime) -> bool:
        allowed = self._spec.activeDeadlineSeconds
        return allowed is not None and self._now - start >= timedelta(seconds=allowed)

    def _status(self, told: list[Told], start: datetime | None, over: bool) -> JobStatus:
        walk = self._walk
        told.append(self._summary(told, over))
        progress = self._observed.progress
        is_told = progress is not None and not over and bool(walk.progress_wanted)
        return walk.status.model_copy(
            update={
                "conditions": rows(told, self._before, self._generation, self._now),
                "startTime": None if start is None else time_text(start),
                "completionTime": self._completion(told[-1]) if over else None,
                "progress": _progress(progress) if is_told and progress is not None else None,
                "retry": walk.acted_upon or None,
            }
        )

    def _summary(self, told: list[Told], over: bool) -> Told:
        """`Succeeded`; at a good end it says how the artifact is served."""
        found = summary(told)
        artifact = self._walk.status.artifact
        if not over or found.status is not ConditionStatus.TRUE or artifact is None:
            return found
        line = artifact.helmCommand or f"{artifact.uri} is published."
        return Told(found.condition, found.status, found.reason, line)

    def _completion(self, ended: Told) -> str:
        """When the job came to the end that it is at."""
        former = self._before.condition(Condition.Succeeded)
        stays = former is not None and former.status is ended.status
        kept = self._before.completionTime if stays else None
        return kept if kept and read_past(kept, self._now) else time_text(self._now)

    def _events(self, status: JobStatus) -> list[Event]:
        found = list(events(self._walk.steps(), status.conditions, self._before))
        if status.retry is not None and status.retry != self._before.retry:
            told = f"Goes on from its last good document (`{RETRY_ANNOTATION}`)."
            found.insert(0, event(EventReason.JobRetried, told))
        ended = status.condition(Condition.Succeeded)
        former = self._before.condition(Condition.Succeeded)
        succeeded = ended is not None and ended.status is ConditionStatus.TRUE
        is_new = former is None or former.status is not ConditionStatus.TRUE
        if succeeded and is_new and status.artifact is not None:
            command = status.artifact.helmCommand
            line = f"Serve it with: {command}" if command else f"It is {status.artifact.uri}."
            found.append(event(EventReason.ArtifactPublished, line))
        return found

    def _claim(self) -> tuple[Mapping[str, Any], ...]:
        """The claim to make before the first child that mounts it."""
        made = work_claim(self._observed.metadata, self._spec)
        if made is None or self._observed.claims.get(made["metadata"]["name"]) is not None:
            return ()
        return (made,)

    def _has_finalizer(self) -> bool:
        return FINALIZER in (self._observed.metadata.get("finalizers") or ())

    def _life(self) -> float | None:
        kept = self._spec.ttlSecondsAfterFinished
        return remaining_life(kept, self._before.completionTime, self._now)

    def _requeue(self, start: datetime | None, over: bool) -> float | None:
        """The nearest moment at which time alone changes something."""
        if over:
            return (self._life() or None) if self._was_final else self._spec.ttlSecondsAfterFinished
        moments: list[float] = []
        if start is not None and self._spec.activeDeadlineSeconds is not None:
            late = start + timedelta(seconds=self._spec.activeDeadlineSeconds)
            moments.append(max(0.0, (late - self._now).total_seconds()))
        if self._walk.pace is not None:
            moments.append(self._walk.pace)
        elif not self._spec.suspend:
            moments.append(_WAIT_SECONDS)
        return min(moments, default=None)


def _progress(told: tuple[int, int]) -> ProgressStatus:
    """What workers say; an image may say anything."""
    done, total = (max(0, count) for count in told)
    return ProgressStatus(bytesDone=min(done, total), bytesTotal=total)
