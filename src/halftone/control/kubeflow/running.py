"""A job that is carried out by one run of the pipeline: how far it is, and what to do about it.

Called by `control.reconciling` in place of `control.walking`. Conditions, reasons and sentences are
those of the other runner. What a run found stands in its pods' results; what stands in the status
already is believed of conditions that were true, for a run that is made anew begins at the
beginning and finds its work done.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final

from halftone.control import facts
from halftone.control.conditions import Told, read_past
from halftone.control.decision import DeleteRun, Deletion, SubmitRun, TerminateRun
from halftone.control.failures import Failed, silent
from halftone.control.judging import Done, State, Working, why_waiting
from halftone.control.kubeflow import claiming, failing
from halftone.control.kubeflow.choosing import LATER, SOON, Choosing
from halftone.control.kubeflow.tasks_seen import ORDER, TasksSeen
from halftone.control.observed import Observed
from halftone.control.recalling import retry_of
from halftone.control.saying import doing_message, done_message, unreached, verdict_message
from halftone.control.settings import Settings
from halftone.control.stages import Step, steps
from halftone.control.telling import with_serving_line
from halftone.spec.cluster import ChildStage, Condition, Doing, Waiting
from halftone.spec.documents import Method
from halftone.spec.job import JobSpec
from halftone.spec.names import Reason
from halftone.spec.pipelines import CONDITION_OF, Run, RunState, Task
from halftone.spec.status import ConditionStatus, JobStatus

# The task with which a condition is true.
_LAST: Final = {
    Condition.Accepted: Task.Plan,
    Condition.Calibrated: Task.Calibrate,
    Condition.Quantized: Task.Assemble,
    Condition.Validated: Task.Validate,
    Condition.Published: Task.Publish,
}
# Tasks whose results fill a status. `publish` tells of all the others, which may have no pods.
_TELLING: Final = {
    Task.Plan: ChildStage.Plan,
    Task.Assemble: ChildStage.Assemble,
    Task.Validate: ChildStage.Validate,
    Task.Publish: ChildStage.Publish,
}
# How a pod or a task ended may be seen after its run has ended.
_FOLLOWS: Final = timedelta(seconds=30)


@dataclass
class RunWalk:
    """Built by `go`. `status` collects what was found, `told` one entry a condition.

    `run` is what to ask of the server; `pace` how soon to look again, None for no hurry. The other
    fields are as in `walking.Walk`.
    """

    observed: Observed
    spec: JobSpec
    before: JobStatus
    settings: Settings
    is_final: bool
    is_asked_again: bool
    status: JobStatus
    pipeline: Mapping[str, Any]
    told: list[Told] = field(default_factory=list)
    creations: tuple[Mapping[str, Any], ...] = ()
    deletions: tuple[Deletion, ...] = ()
    progress_wanted: tuple[str, ...] = ()
    run: SubmitRun | TerminateRun | DeleteRun | None = None
    pace: float | None = None

    def __post_init__(self) -> None:
        self.retry = retry_of(self.observed)
        self.has_acted = bool(self.retry) and self.retry == self.before.retry
        self._tasks: TasksSeen | None = None
        self._waiting: tuple[str, str] | None = None
        self._choice = Choosing(self.observed, self.spec, self.before, self.settings, self.pipeline)
        self._first = self.status

    @property
    def acted_upon(self) -> str:
        """The last value of the annotation that was acted upon, "" for none."""
        return self.retry if self.has_acted else self.before.retry or ""

    @property
    def is_known(self) -> bool:
        """Whether the server has said which runs there are, or nobody has asked it for any yet."""
        seen = self.observed.run
        return self.before.pipelineRun is None or (seen is not None and seen.runs is not None)

    def holds_object(self) -> bool:
        """Whether runs have to be deleted before the object may go; `run` is then the next, and
        `pace` says when to look again.
        """
        seen = self.observed.run
        if seen is None:
            return False
        if not seen.runs:
            self.pace = LATER  # nothing else brings the job back
            return seen.runs is None
        last = seen.runs[-1]
        self.pace = SOON
        if claiming.is_live(last):
            self.run = None if claiming.is_ending(last) else TerminateRun(last.run_id)
        else:
            self.run = DeleteRun(last.run_id)
        return True

    def go(self) -> None:
        """Find the run, or see to it that there is one; then tell what it has come to."""
        if self.is_final:
            self._remember()
            return
        seen = self.observed.run
        if seen is None or seen.runs is None:
            self._cannot_see(None if seen is None else seen.trouble)
            self._take_choice()
            return
        self.has_acted = self.has_acted or self.is_asked_again
        run = self._choice.choose(seen.runs, is_asked_again=self.is_asked_again)
        self._waiting = self._choice.waiting
        self._tell_all(run)
        failed = any(one.status is ConditionStatus.FALSE for one in self.told)
        if failed and self.retry not in ("", self.before.retry) and not self.spec.suspend:
            self.has_acted, self._tasks = True, None
            self._choice.start_over(seen.runs)
            self._tell_all(None)
        self._take_choice()

    def steps(self) -> tuple[Step, ...]:
        """The steps of this job, as far as they are known before it is planned."""
        plan = self.status.plan
        begun = self._tasks is not None and self._tasks.has_begun(Task.Calibrate)
        calibrated = begun if plan is None else plan.method is Method.Calibrated
        return steps(self.spec, calibrated=calibrated, workers=1)

    def end(self) -> None:
        """The job is over."""
        if not self.is_final:
            self.stop()

    def suspend(self) -> None:
        """The job rests: its run is told to end once the status says so."""

    def stop(self) -> None:
        """End the run that is at work, and make none."""
        self._choice.stop()
        self._take_choice()

    def _take_choice(self) -> None:
        choice = self._choice
        self.run, self.pace = choice.action, choice.pace
        self.status = self.status.model_copy(update={"pipelineRun": choice.mine})

    def _cannot_see(self, trouble: str | None) -> None:
        """Nobody answers; what was true stays so, and the rest waits."""
        self._waiting = (
            Waiting.PipelinesUnreachable,
            trouble
            or "This operator was not installed with Kubeflow Pipelines, which carries this job "
            "out; have `kubeflowPipelines.endpoint` of the chart set to the server's address.",
        )
        self._choice.resume_unseen()
        self._choice.pace = LATER
        self._tell_all(None)

    # What was known before.

    def _remember(self) -> None:
        """A job that is over needs no run any more."""
        generation = self.status.observedGeneration
        self.status = self.before.model_copy(update={"observedGeneration": generation})
        rows = (self.before.condition(step.condition) for step in self.steps())
        self.told = [
            Told(row.type, row.status, row.reason, row.message) for row in rows if row is not None
        ]

    def _recall(self) -> None:
        """What was found of conditions that were true."""
        for task, stage in _TELLING.items():
            row = self.before.condition(CONDITION_OF[task])
            if row is not None and row.status is ConditionStatus.TRUE:
                self._keep(facts.of_status(stage, self.before))
        if self.status.plan is not None:
            self._keep({"recipe": self.status.plan.recipe})

    def _was_true(self, condition: Condition) -> bool:
        row = self.before.condition(condition)
        return row is not None and row.status is ConditionStatus.TRUE

    # What it has come to.

    def _tell_all(self, run: Run | None) -> None:
        self.told, self.status = [], self._first
        self._recall()
        seen = self.observed.run
        if run is not None and seen is not None:
            self._tasks = TasksSeen(run, seen.pods)
            self._take_facts(self._tasks)
        told_last = False
        for number in range(len(Condition)):
            order = self.steps()
            if number >= len(order):
                break
            step = order[number]
            if told_last:
                self.told.append(unreached(step.condition, self.told))
                continue
            state = self._state(step, run, is_last=step is order[-1])
            told_last = not isinstance(state, Done)
            self._conclude(step, state)

    def _take_facts(self, tasks: TasksSeen) -> None:
        """What pods of the run say; facts of another plan hold no more."""
        whole = tasks.result(Task.Publish)
        for task, stage in _TELLING.items():
            result = tasks.result(task)
            own = {} if result is None else facts.of_result(stage, result)
            told = {} if whole is None else facts.of_result(stage, whole)
            found = own if facts.is_complete(stage, own) else told
            if task is Task.Plan and found and self._is_another(found):
                self.status = self._first
            self._keep(found)

    def _is_another(self, found: Mapping[str, object]) -> bool:
        """Whether the plan that was found is not the one that is known."""
        plan, new = self.status.plan, found.get("plan")
        return plan is not None and new is not None and getattr(new, "digest", "") != plan.digest

    def _state(self, step: Step, run: Run | None, *, is_last: bool) -> State:
        if self._choice.failure is not None:
            return self._choice.failure
        tasks = self._tasks
        if run is None or tasks is None:
            holds = self._was_true(step.condition) and not is_last
            return Done(None) if holds else Working()
        if run.state is RunState.Succeeded:
            return self._succeeded(step, run, tasks)
        if self._has_more_to_show(run, tasks):
            self._choice.pace = SOON
            return Working()
        goes_on = claiming.is_live(run) or self._is_ended_by_deadline(run)
        failed = None if goes_on else self._failed(run, tasks)
        if failed is not None and failed[0] is step.condition:
            return failed[1]
        if self._is_done(step, tasks) and not (is_last and claiming.is_live(run)):
            return self._objection(step) or Done(None)
        if failed is not None:
            # The steps before the one that failed were done, or it would not have begun.
            is_before = failed[0] is not None and _before(step.condition, failed[0])
            return Done(None) if is_before else failed[1]
        if self._holds(step) and not is_last:
            return Done(None)
        pods = [pod for task in _tasks_of(step) for pod in _newest(tasks, task)]
        return Working(why_waiting(pods, codes_tell=False))

    def _is_ended_by_deadline(self, run: Run) -> bool:
        """Whether it was us who ended it, and were killed before the status could say so."""
        allowed, start = (
            self.spec.activeDeadlineSeconds,
            read_past(self.before.startTime, self.observed.now),
        )
        if allowed is None or start is None or not claiming.was_terminated(run):
            return False
        return self.observed.now - start >= timedelta(seconds=allowed)

    def _is_done(self, step: Step, tasks: TasksSeen) -> bool:
        """By its own account, or because what comes after it has begun."""
        needed = [_LAST[step.condition]]
        if step.condition is Condition.Accepted and ChildStage.Target in step.children:
            needed.append(Task.Target)
        if all(tasks.is_done(task) for task in needed):
            return True
        later = [task for task in ORDER if _before(step.condition, CONDITION_OF[task])]
        return any(tasks.has_begun(task) for task in later)

    def _holds(self, step: Step) -> bool:
        """Whether a condition that was true before this run stays so until the run says no."""
        return self._was_true(step.condition) and self._has_facts(step)

    def _has_facts(self, step: Step) -> bool:
        return all(
            facts.is_complete(
                stage, {name: getattr(self.status, name) for name in facts.FIELDS[stage]}
            )
            for task, stage in _TELLING.items()
            if CONDITION_OF[task] is step.condition
        )

    def _succeeded(self, step: Step, run: Run, tasks: TasksSeen) -> State:
        """Everything is done; but the job's status has to say what was found."""
        if not self._has_facts(step):
            if self._ended_just_now(run):
                return Working()
            name = tasks.silent(_LAST[step.condition]) or tasks.silent(Task.Publish)
            if name is not None:
                return silent(_LAST[step.condition], name)
            return failing.untold(self._pod_namespace, self._url(run))
        return self._objection(step) or Done(None)

    def _has_more_to_show(self, run: Run, tasks: TasksSeen) -> bool:
        """Whether a run that failed may yet say where: 2.14 tells of its last tasks later."""
        told = claiming.is_live(run) or claiming.was_terminated(run) or run.error is not None
        return not told and tasks.failing() is None and self._ended_just_now(run)

    def _ended_just_now(self, run: Run) -> bool:
        ended = read_past(run.finished_at, self.observed.now)
        # The server's clock may be ahead of ours.
        return ended is not None and abs(self.observed.now - ended) < _FOLLOWS

    def _objection(self, step: Step) -> Failed | None:
        """Nothing counts as published past a verdict that does not open publishing."""
        report = self.status.report
        if step.condition is not Condition.Validated or report is None:
            return None
        if facts.opens_publishing(self.status):
            return None
        return Failed(Reason.VerdictNotPassed, verdict_message(report.verdict))

    def _failed(self, run: Run, tasks: TasksSeen) -> tuple[Condition | None, Failed]:
        """Where and why a run failed that is over."""
        url = self._url(run)
        if claiming.was_terminated(run):
            return None, failing.terminated(url)
        task = tasks.failing()
        plan_bytes = None if self.status.plan is None else self.status.plan.memoryBytes
        found = failing.explain(run, tasks, task, self.spec, self.settings, plan_bytes, url)
        return (None if task is None else CONDITION_OF[task]), found

    def _conclude(self, step: Step, state: State) -> None:
        if isinstance(state, Failed):
            if state.result is not None:
                for stage in step.children:
                    self._keep(facts.of_result(stage, state.result))
            self._tell(step, ConditionStatus.FALSE, state.reason, state.message)
        elif isinstance(state, Done):
            message = done_message(step, self.status)
            self._tell(step, ConditionStatus.TRUE, step.done, message)
        else:
            stuck = state.waiting if isinstance(state, Working) else None
            doing = step.doing, doing_message(step, self.observed.progress)
            reason, message = self._waiting or stuck or doing
            if reason == Doing.Planning:
                reason = step.doing
            self._tell(step, ConditionStatus.UNKNOWN, reason, message)

    def _tell(self, step: Step, status: ConditionStatus, reason: str, message: str) -> None:
        self.told.append(Told(step.condition, status, str(reason), message))

    def _keep(self, found: Mapping[str, object]) -> None:
        status = self.status.model_copy(update=dict(found))
        self.status = with_serving_line(status, str(self.observed.metadata["name"]))

    @property
    def _pod_namespace(self) -> str:
        return self._choice.kubeflow.podNamespace or str(self.observed.metadata["namespace"])

    def _url(self, run: Run) -> str:
        return self._choice.url(run)


def _before(one: Condition, other: Condition) -> bool:
    order = list(Condition)
    return order.index(one) < order.index(other)


def _tasks_of(step: Step) -> list[Task]:
    return [task for task in ORDER if CONDITION_OF[task] is step.condition]


def _newest(tasks: TasksSeen, task: Task) -> list[Any]:
    """Pods of a task that is at work; of one that is done, none waits."""
    return [] if tasks.is_done(task) else tasks.pods(task)
