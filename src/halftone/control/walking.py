"""One walk along a job's steps: how far it is, what every step has found, what has to be made next.

Called by `reconciling`. The walk is made anew each time, from the children that exist; a former
status is believed only where a child or its pods are gone.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from halftone.control import facts
from halftone.control.children import child_job, worker_count
from halftone.control.conditions import Told
from halftone.control.decision import Deletion
from halftone.control.judging import Absent, Done, Failed, State, Working, judge
from halftone.control.naming import child_name
from halftone.control.observed import Observed, ObservedChild
from halftone.control.settings import Settings
from halftone.control.stages import Step, steps
from halftone.spec.cluster import RETRY_ANNOTATION, ChildStage, Condition, Doing, Ended, Waiting
from halftone.spec.documents import Method
from halftone.spec.job import JobSpec
from halftone.spec.names import Reason
from halftone.spec.status import ConditionStatus, JobStatus
from halftone.spec.targets import Existing

# Made without a plan, so no plan's digest tells whether they are of the present one.
_BEFORE_PLAN: Final = frozenset({ChildStage.Plan, ChildStage.Target})
# After these a stage can only fail again, unless the source is looked at anew.
_NEED_ANOTHER_PLAN: Final = frozenset(
    {Reason.SourceChanged.value, Reason.WorkdirInconsistent.value}
)


@dataclass
class Walk:
    """Built step by step. `status` collects what was found, `told` one entry a condition."""

    observed: Observed
    spec: JobSpec
    before: JobStatus
    settings: Settings
    is_final: bool
    status: JobStatus
    told: list[Told] = field(default_factory=list)
    creations: list[Mapping[str, Any]] = field(default_factory=list)
    deletions: list[Deletion] = field(default_factory=list)
    running: list[ObservedChild] = field(default_factory=list)
    is_over: bool = False

    @property
    def retry(self) -> str:
        """The value of the annotation that asks for another try, "" for none."""
        annotations = self.observed.metadata.get("annotations") or {}
        return str(annotations.get(RETRY_ANNOTATION, ""))

    def go(self) -> None:
        """Along all steps; those behind one that is not done wait, or are not reached."""
        self._step(self.steps()[0])
        for step in self.steps()[1:]:
            self._step(step)

    def steps(self) -> tuple[Step, ...]:
        """The steps of this job, as far as they are known before it is planned."""
        plan = self.status.plan
        return steps(
            self.spec,
            calibrated=plan is not None and plan.method is Method.Calibrated,
            workers=self._workers(),
        )

    def _workers(self) -> int:
        """How many write shards: what the Job has, whatever the spec says since."""
        begun = self._newest(ChildStage.Quantize)
        return begun.completions if begun is not None else worker_count(self.spec, self.status)

    def _step(self, step: Step) -> None:
        if self.is_over:
            failed = any(told.status is ConditionStatus.FALSE for told in self.told)
            self._tell(
                step,
                ConditionStatus.FALSE if failed else ConditionStatus.UNKNOWN,
                Ended.NotReached if failed else Doing.Pending,
                "An earlier stage failed." if failed else "Waits for the stages before it.",
            )
            return
        at_once = step.condition is Condition.Accepted
        states = []
        for stage in step.children:
            state = self._child(stage)
            states.append(state)
            if not isinstance(state, Done) and not at_once:
                break
        self._conclude(step, states)

    def _conclude(self, step: Step, states: list[State]) -> None:
        """One sentence for the children of a step: a failure before what is still at work."""
        failed = next((state for state in states if isinstance(state, Failed)), None)
        if failed is not None:
            self.is_over = True
            self._tell(step, ConditionStatus.FALSE, failed.reason, failed.message)
            return
        working = [state for state in states if isinstance(state, Working)]
        occupied = self._occupied(states) if not working else None
        if occupied is not None:
            self.is_over = True
            self._tell(step, ConditionStatus.FALSE, Reason.TargetOccupied, occupied)
            return
        if not working:
            self._tell(step, ConditionStatus.TRUE, step.done, _done_message(step, self.status))
            return
        self.is_over = True
        waiting = next((state.waiting for state in working if state.waiting is not None), None)
        reason, message = waiting or (step.doing, _doing_message(step, self))
        self._tell(step, ConditionStatus.UNKNOWN, reason, message)

    def _occupied(self, states: list[State]) -> str | None:
        """Why an artifact that `target` found is in the way: it is of another plan."""
        publish, plan = self.spec.publish, self.status.plan
        if publish is None or publish.existing is Existing.Replace or plan is None:
            return None
        results = [state.result for state in states if isinstance(state, Done) and state.result]
        there = next((result.occupant for result in results if result.occupant), None)
        if there is None or there.planDigest == plan.digest:
            return None
        return (
            f"`{publish.uri}` holds the artifact {there.checkpointDigest[:12]} of another plan; "
            "publish under another name, or with `publish.existing: Replace`, which keeps the "
            "former reachable by its digest."
        )

    def _tell(self, step: Step, status: ConditionStatus, reason: str, message: str) -> None:
        self.told.append(Told(step.condition, status, str(reason), message))

    def _child(self, stage: ChildStage) -> State:
        """How the newest child of `stage` does, after making it or its successor where needed."""
        child = self._newest(stage)
        state = judge(child, self.observed.now)
        if isinstance(state, Done):
            return self._done(stage, state, child)
        if isinstance(state, Failed):
            return self._failed(stage, state, child)
        if isinstance(state, Absent):
            return self._absent(stage, child)
        if child is not None:
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

    def _done(self, stage: ChildStage, state: Done, child: ObservedChild | None) -> State:
        if stage is ChildStage.Quantize and self._workers() > 1:
            return state  # what the workers wrote is told by `assemble`
        found = facts.of_result(stage, state.result) if state.result is not None else {}
        if not facts.is_complete(stage, found):
            found = facts.of_status(stage, self.before)
        if not facts.is_complete(stage, found):
            # Nobody remembers what it found. Done stages return at once: let it tell again.
            assert child is not None
            self.deletions.append(Deletion(child.name, child.uid))
            return Working()
        self.status = self.status.model_copy(update=found)
        return state

    def _failed(self, stage: ChildStage, state: Failed, child: ObservedChild | None) -> State:
        assert child is not None
        if self.retry and self.retry != child.retry:
            again = ChildStage.Plan if state.reason in _NEED_ANOTHER_PLAN else stage
            newest = max(
                (one for one in self.observed.children if one.stage is again),
                key=lambda one: one.attempt,
                default=None,
            )
            if newest is None or newest.retry != self.retry:
                self._create(again)
                return Working()
            if again is not stage:
                # The plan was made again and is the same: this stage may try once more.
                self._create(stage)
                return Working()
        if state.result is not None:
            self.status = self.status.model_copy(update=facts.of_result(stage, state.result))
        return state

    def _absent(self, stage: ChildStage, child: ObservedChild | None) -> State:
        if child is not None:  # it is being deleted; what comes next has to wait for its name
            return Working()
        if self.is_final:
            return self._remembered(stage)
        self._create(stage)
        if self._next_name(stage) in self.observed.taken:
            name = self._next_name(stage)
            self.creations.pop()
            return Working(
                (
                    Waiting.NameTaken,
                    f"The Job '{name}' is not this job's own; delete it, or create this "
                    "QuantizationJob under another name.",
                )
            )
        return Working()

    def _remembered(self, stage: ChildStage) -> State:
        """A job that is over needs none of its children any more."""
        self.status = self.status.model_copy(update=facts.of_status(stage, self.before))
        step = next(step for step in self.steps() if stage in step.children)
        row = self.before.condition(step.condition)
        if row is not None and row.status is ConditionStatus.FALSE:
            return Failed(row.reason, row.message)
        return Done(None)

    def _create(self, stage: ChildStage) -> None:
        self.creations.append(
            child_job(
                self.observed.metadata,
                self.spec,
                self.status,
                stage,
                self._next_attempt(stage),
                self.retry,
                self.settings,
            )
        )

    def _next_name(self, stage: ChildStage) -> str:
        return child_name(str(self.observed.metadata["name"]), stage, self._next_attempt(stage))

    def _next_attempt(self, stage: ChildStage) -> int:
        return 1 + max((c.attempt for c in self.observed.children if c.stage is stage), default=0)


def _done_message(step: Step, status: JobStatus) -> str:
    plan, checkpoint, report, artifact = (
        status.plan,
        status.checkpoint,
        status.report,
        status.artifact,
    )
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


def _doing_message(step: Step, walk: Walk) -> str:
    progress = walk.observed.progress
    if step.condition is Condition.Quantized and progress is not None and progress[1]:
        return f"{progress[0] * 100 // progress[1]} % of {progress[1]} bytes are read."
    return f"{step.doing}."
