"""One walk along a job's steps: how far it is, what every step has found, what has to be made next.

Called by `reconciling`. The walk is made anew each time, from the children that exist; a former
status is believed only where a child or its pods are gone (`recalling`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from halftone.control import facts
from halftone.control.acceptance import workers_share_the_volume
from halftone.control.children import child_job, worker_count
from halftone.control.conditions import Told
from halftone.control.decision import Deletion
from halftone.control.failures import Failed, silent
from halftone.control.judging import Absent, Done, State, Working, is_live, judge
from halftone.control.naming import child_name, volume_name
from halftone.control.observed import Observed, ObservedChild
from halftone.control.recalling import recalled, retry_of
from halftone.control.saying import (
    doing_message,
    done_message,
    occupied_message,
    unreached,
    verdict_message,
)
from halftone.control.settings import Settings
from halftone.control.stages import Step, steps
from halftone.control.telling import with_serving_line
from halftone.spec.cluster import ChildStage, Condition, Waiting
from halftone.spec.documents import Method
from halftone.spec.job import JobSpec
from halftone.spec.names import Reason
from halftone.spec.stage_results import OccupantFacts
from halftone.spec.status import ConditionStatus, JobStatus
from halftone.spec.targets import Existing

# Stages that take long enough for somebody to wonder.
_TELL_PROGRESS: Final = frozenset({ChildStage.Calibrate, ChildStage.Quantize})
# Made without a plan, so no plan's digest tells whether they are of the present one.
_BEFORE_PLAN: Final = frozenset({ChildStage.Plan, ChildStage.Target})
# Of these the operator needs to hear what they found.
_MUST_TELL: Final = frozenset({*facts.FIELDS, ChildStage.Target})
# After these a stage can only fail again, unless the source is looked at anew.
_NEED_ANOTHER_PLAN: Final = frozenset(
    {Reason.SourceChanged.value, Reason.WorkdirInconsistent.value}
)


@dataclass
class Walk:
    """Built step by step. `status` collects what was found, `told` one entry a condition.

    `is_final`: the job is over, and nothing is made for it any more. `is_asked_again`: it was over,
    and the annotation has a new value.
    """

    observed: Observed
    spec: JobSpec
    before: JobStatus
    settings: Settings
    is_final: bool
    is_asked_again: bool
    status: JobStatus
    told: list[Told] = field(default_factory=list)
    creations: list[Mapping[str, Any]] = field(default_factory=list)
    deletions: list[Deletion] = field(default_factory=list)
    running: list[ObservedChild] = field(default_factory=list)
    is_over: bool = False
    # What is asked of a Kubeflow server: nothing.
    run: None = None
    # The source has to be planned anew because a later stage found it changed.
    plans_again: bool = False

    def __post_init__(self) -> None:
        self.retry = retry_of(self.observed)
        known = {child.retry for child in self.observed.children} | {self.before.retry}
        # Whether the annotation's value is one that was acted upon, in this visit or before.
        self.has_acted = bool(self.retry) and (self.is_asked_again or self.retry in known)

    @property
    def acted_upon(self) -> str:
        """The last value of the annotation that was acted upon, "" for none."""
        return self.retry if self.has_acted else self.before.retry or ""

    @property
    def progress_wanted(self) -> tuple[str, ...]:
        """The running children that say in their logs how far they are."""
        return tuple(child.name for child in self.running if child.stage in _TELL_PROGRESS)

    @property
    def pace(self) -> float | None:
        """How soon it is to be looked at again, in seconds; None for no hurry."""
        every = float(self.settings.progressSeconds) if self.running else None
        return None if self.spec.suspend else every

    @property
    def is_known(self) -> bool:
        """Whether enough was seen to end what is at work."""
        return True

    def holds_object(self) -> bool:
        """Whether something has to go before the object may; garbage collection has the rest."""
        return False

    def end(self) -> None:
        """The job is over; a step has two children, one may be absent beside one that failed."""
        self.creations = []

    def suspend(self) -> None:
        """The job rests."""
        self.stop()

    def stop(self) -> None:
        """End what is at work, and make nothing."""
        self.creations = []
        self.deletions += [
            Deletion(child.name, child.uid)
            for child in self.observed.children
            if is_live(child) and not child.deleting
        ]

    def go(self) -> None:
        """Along all steps; those behind one that is not done wait, or are not reached."""
        first = self.status
        self._step(self.steps()[0])
        for step in self.steps()[1:]:
            self._step(step)
        if self.plans_again:
            self._begin_again(first)

    def steps(self) -> tuple[Step, ...]:
        """The steps of this job, as far as they are known before it is planned."""
        plan = self.status.plan
        return steps(
            self.spec,
            calibrated=plan is not None and plan.method is Method.Calibrated,
            workers=self._workers(),
        )

    def _begin_again(self, first: JobStatus) -> None:
        """Nothing that was found of the former plan holds any more."""
        self.status = first
        self.told = []
        accepted, *others = self.steps()
        message = doing_message(accepted, None)
        self._tell(accepted, ConditionStatus.UNKNOWN, accepted.doing, message)
        for step in others:
            self.told.append(unreached(step.condition, self.told))

    def _workers(self) -> int:
        """How many write shards: what the Job has, whatever the spec says since."""
        begun = self._newest(ChildStage.Quantize)
        return begun.completions if begun is not None else worker_count(self.spec, self.status)

    def _step(self, step: Step) -> None:
        if self.is_over:
            self.told.append(unreached(step.condition, self.told))
            return
        at_once = step.condition is Condition.Accepted
        states = []
        for stage in step.children:
            state = self._child(step, stage)
            states.append(state)
            if not isinstance(state, Done) and not at_once:
                break
        self._conclude(step, states)

    def _conclude(self, step: Step, states: list[State]) -> None:
        """One sentence for the children of a step: a failure before what is still at work."""
        failed = next((state for state in states if isinstance(state, Failed)), None)
        working = [state for state in states if isinstance(state, Working)]
        self.is_over = failed is not None or bool(working)
        if failed is not None:
            self._tell(step, ConditionStatus.FALSE, failed.reason, failed.message)
        elif working:
            waiting = next((state.waiting for state in working if state.waiting is not None), None)
            reason, message = waiting or (step.doing, doing_message(step, self.observed.progress))
            self._tell(step, ConditionStatus.UNKNOWN, reason, message)
        else:
            self._tell(step, ConditionStatus.TRUE, step.done, done_message(step, self.status))

    def _tell(self, step: Step, status: ConditionStatus, reason: str, message: str) -> None:
        self.told.append(Told(step.condition, status, str(reason), message))

    def _child(self, step: Step, stage: ChildStage) -> State:
        """How the newest child of `stage` does, after making it or its successor where needed."""
        child = self._newest(stage)
        plan_bytes = None if self.status.plan is None else self.status.plan.memoryBytes
        state = judge(child, self.observed.now, plan_bytes)
        if isinstance(state, Done) and child is not None:
            state = self._done(step, stage, state, child)
        if isinstance(state, Failed) and child is not None:
            return self._failed(step, stage, state, child)
        if isinstance(state, Absent):
            return self._absent(step, stage, child)
        if isinstance(state, Working) and child is not None:
            return self._working(step, stage, state, child)
        return state

    def _working(
        self, step: Step, stage: ChildStage, state: Working, child: ObservedChild
    ) -> State:
        """`state`, unless the Job has ended, its pods went, and it is known what it found."""
        if not is_live(child):
            if self.is_final:
                return self._remembered(step, stage)
            recall = recalled(step, stage, child, self.before, self.status)
            if child.complete and recall is not None:
                self._keep(recall)
                return Done(None)
        self.running.append(child)
        return state

    def _newest(self, stage: ChildStage) -> ObservedChild | None:
        """The child that counts: of the present plan, with the highest number."""
        plan = self.status.plan
        of_plan = [
            child
            for child in self.observed.children
            if child.stage is stage
            and (stage in _BEFORE_PLAN or (plan is not None and child.plan_digest == plan.digest))
        ]
        return max(of_plan, key=lambda child: child.attempt, default=None)

    def _done(self, step: Step, stage: ChildStage, state: Done, child: ObservedChild) -> State:
        if stage is ChildStage.Quantize and self._workers() > 1:
            return state  # what the workers wrote is told by `assemble`
        if state.result is not None:
            found = facts.of_result(stage, state.result)
            if not facts.is_complete(stage, found):
                return silent(stage, child.name)
            self._keep(found)
            return self._objection(stage, state.result.occupant) or state
        if state.silent is not None and stage in _MUST_TELL:
            return silent(stage, state.silent)
        if self.is_final:
            return self._remembered(step, stage)
        recall = recalled(step, stage, child, self.before, self.status)
        if recall is None:
            # Nobody remembers what it found. Done stages return at once: let it tell again.
            self.deletions.append(Deletion(child.name, child.uid))
            return Working()
        self._keep(recall)
        return state

    def _objection(self, stage: ChildStage, occupant: OccupantFacts | None) -> Failed | None:
        """Why a stage that succeeded is not good enough; nothing is published past these."""
        publish, plan = self.spec.publish, self.status.plan
        if stage is ChildStage.Validate and not facts.opens_publishing(self.status):
            verdict = "" if self.status.report is None else self.status.report.verdict
            return Failed(Reason.VerdictNotPassed, verdict_message(verdict))
        if stage is not ChildStage.Target or occupant is None or publish is None or plan is None:
            return None
        if publish.existing is Existing.Replace or occupant.planDigest == plan.digest:
            return None
        return Failed(
            Reason.TargetOccupied, occupied_message(publish.uri, occupant.checkpointDigest)
        )

    def _keep(self, found: Mapping[str, object]) -> None:
        """Put what a stage found into the status; of an artifact also how it is served."""
        status = self.status.model_copy(update=dict(found))
        self.status = with_serving_line(status, str(self.observed.metadata["name"]))

    def _failed(self, step: Step, stage: ChildStage, state: Failed, child: ObservedChild) -> State:
        if self.retry not in ("", child.retry) and not self.is_final:
            self.has_acted = True
            plan = self._newest(ChildStage.Plan)
            is_stale = stage not in _BEFORE_PLAN and state.reason in _NEED_ANOTHER_PLAN
            if is_stale and (plan is None or plan.retry != self.retry):
                self.plans_again = True
                return self._make(step, ChildStage.Plan)
            # Where the plan was made again and is the same, this stage may try once more.
            return self._make(step, stage)
        if state.result is not None:
            self._keep(facts.of_result(stage, state.result))
        return state

    def _absent(self, step: Step, stage: ChildStage, child: ObservedChild | None) -> State:
        if self.is_final:
            return self._remembered(step, stage)
        recall = recalled(step, stage, child, self.before, self.status)
        if recall is not None:
            self._keep(recall)
            return Done(None)
        if child is not None:  # it is being deleted; what comes next has to wait for its name
            return Working()
        return self._make(step, stage)

    def _remembered(self, step: Step, stage: ChildStage) -> State:
        """A job that is over needs none of its children any more."""
        row = self.before.condition(step.condition)
        self._keep(facts.of_status(stage, self.before))
        if row is not None and row.status is ConditionStatus.FALSE:
            return Failed(row.reason, row.message)
        return Done(None)

    def _make(self, step: Step, stage: ChildStage) -> Working:
        """A new child of `stage`, unless something is in its way."""
        if stage not in _BEFORE_PLAN:
            strays = self._strays()
            if strays:
                gone = (child for child in strays if not child.deleting)
                self.deletions += [Deletion(child.name, child.uid) for child in gone]
                return Working()
        if stage is ChildStage.Quantize and worker_count(self.spec, self.status) > 1:
            refusal = workers_share_the_volume(self.spec, self.observed)
            if refusal is not None:
                return Working((Waiting.VolumeNotShared, refusal.message))
        obstacle = self._obstacle(step, stage)
        if not self._is_taken(stage) and self._refused(stage) is None:
            self._create(stage)
        return Working(obstacle)

    def _strays(self) -> list[ObservedChild]:
        """Children of another plan whose pods may still write where the next ones will."""
        digest = None if self.status.plan is None else self.status.plan.digest
        return [
            child
            for child in self.observed.children
            if child.stage not in _BEFORE_PLAN and is_live(child) and child.plan_digest != digest
        ]

    def _obstacle(self, step: Step, stage: ChildStage) -> tuple[Waiting, str] | None:
        """What keeps the API server from making a child; told until the child is seen."""
        name = self._next_name(stage)
        if self._is_taken(stage):
            return (
                Waiting.NameTaken,
                f"The Job '{name}', or its volume, is not this job's own; delete it, or create "
                "this QuantizationJob under another name.",
            )
        refused = self._refused(stage)
        if refused is not None:
            return Waiting.PodsRefused, f"The Job '{name}' cannot be made: {refused}"
        row = self.before.condition(step.condition)
        if row is None or row.reason not in (Waiting.NameTaken, Waiting.PodsRefused):
            return None
        return (Waiting(row.reason), row.message) if f"'{name}'" in row.message else None

    def _refused(self, stage: ChildStage) -> str | None:
        """The API server's words on a child, or on its volume, that it does not take."""
        names = (self._volume(), self._next_name(stage))
        return next((words for n in names if (words := self.observed.refused.get(n))), None)

    def _is_taken(self, stage: ChildStage) -> bool:
        return not self.observed.taken.isdisjoint({self._next_name(stage), self._volume()})

    def _volume(self) -> str:
        return volume_name(str(self.observed.metadata["name"]))

    def _create(self, stage: ChildStage) -> None:
        attempt = self._next_attempt(stage)
        metadata, retry = self.observed.metadata, self.acted_upon
        self.creations.append(
            child_job(metadata, self.spec, self.status, stage, attempt, retry, self.settings)
        )

    def _next_name(self, stage: ChildStage) -> str:
        return child_name(str(self.observed.metadata["name"]), stage, self._next_attempt(stage))

    def _next_attempt(self, stage: ChildStage) -> int:
        return 1 + max((c.attempt for c in self.observed.children if c.stage is stage), default=0)
