"""A Kubeflow server and the pods of its runs, no larger than what a decision can notice.

Called by the tests of `halftone.control.kubeflow`. The world of `tests.control_cases`, with runs.
"""

from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, Final

from halftone.control.decision import Decision, SubmitRun, TerminateRun
from halftone.control.kubeflow.asking import question
from halftone.control.observed import Observed, ObservedPod, ObservedRun, RunPod
from halftone.control.reconciling import reconcile
from halftone.control.settings import KubeflowSettings, Settings
from halftone.spec.cluster import ChildStage
from halftone.spec.documents import Method
from halftone.spec.pipelines import Run, RunDetails, RunState, StateChange, Task, TaskDetail
from halftone.spec.recipes import packaged_pipeline
from halftone.spec.stage_results import StageResult
from tests.cluster.answers import result
from tests.control_cases import SETTINGS, World, pod

PIPELINE: Final = packaged_pipeline()
KUBEFLOW: Final = KubeflowSettings(endpoint="http://kfp.example:8888", uiUrl="https://kfp.example")
BY_RUN: Final = SETTINGS.model_copy(
    update={"kubeflowPipelines": KUBEFLOW, "taskImage": "registry.example/task:1"}
)
RUNNER: Final = {"runner": "KubeflowPipelines"}
# The order in which tasks of a data-free job come to their end.
TASKS: Final = (
    Task.Resolve,
    Task.Plan,
    Task.Target,
    Task.Split,
    Task.Quantize,
    Task.Assemble,
    Task.Validate,
    Task.Publish,
)
URL: Final = "https://kfp.example/#/runs/details/run-1"
ALL_TRUE: Final = dict.fromkeys(("Accepted", "Quantized", "Validated", "Published"), "True")
_STAGES: Final = {stage.value: stage for stage in ChildStage}


def told_by(task: Task, method: Method = Method.DataFree) -> StageResult:
    """What a task says when all went well; `publish` tells of everything."""
    if task is Task.Publish:
        every = [result(_STAGES[one.value], method) for one in (Task.Plan, Task.Assemble)]
        facts: dict[str, Any] = {"plan": every[0].plan, "checkpoint": every[1].checkpoint}
        facts |= {"report": result(ChildStage.Validate).report}
        return result(ChildStage.Publish).model_copy(update=facts)
    stage = _STAGES.get(task.value)
    return StageResult(stage=task.value) if stage is None else result(stage, method)


@dataclass
class RunWorld(World):
    """One QuantizationJob whose runner is Kubeflow Pipelines, its server, and its operator.

    `identity` is the replica's that looks. `trouble`: why the server cannot be asked.
    """

    settings: Settings = BY_RUN
    identity: str = "one"
    trouble: str | None = None
    runs: list[Run] = field(default_factory=list)
    pods: list[RunPod] = field(default_factory=list)
    submitted: list[str] = field(default_factory=list)
    terminated: list[str] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.blocks = {**RUNNER, **self.blocks}

    def observe(self) -> tuple[Observed, int]:
        """What is to be seen now, the server's answer among it, if it is asked."""
        observed, version = super().observe()
        observed = replace(observed, identity=self.identity, refused=self.refused)
        asked = question(observed)
        if asked is None or self.settings.kubeflowPipelines is None:
            return observed, version
        if self.trouble is not None:
            return replace(observed, run=ObservedRun(None, self.trouble)), version
        one = [run for run in self.runs if run.run_id == asked.run_id]
        runs = one or [r.model_copy(update={"run_details": RunDetails()}) for r in self.runs[::-1]]
        return replace(observed, run=ObservedRun(tuple(runs), None, tuple(self.pods))), version

    def visit(self) -> Decision:
        """Observe, judge and apply, with nothing in between."""
        observed, version = self.observe()
        decision = reconcile(observed, self.settings, PIPELINE)
        assert decision == reconcile(observed, self.settings, PIPELINE)
        self.apply(decision, version)
        return decision

    def settle(self, limit: int = 20) -> None:
        """Visit until there is nothing to do."""
        for _ in range(limit):
            decision = self.visit()
            if not (decision.status or decision.creations or decision.deletions or decision.run):
                return
        raise AssertionError("the operator never comes to rest")

    def apply(self, decision: Decision, version: int) -> None:
        """The server first: what is asked of it stays, also where the status is another by now."""
        if decision.run is not None:
            self.ask(decision.run)
        super().apply(decision, version)

    def ask(self, action: Any) -> None:
        """As the server carries out what it is asked for."""
        if isinstance(action, SubmitRun):
            name = action.request.display_name
            self.submitted.append(name)
            self.counter += 1
            self.runs.append(new_run(f"run-{self.counter}", name, self.counter))
        elif isinstance(action, TerminateRun):
            self.terminated.append(action.run_id)
            self.put(action.run_id, RunState.Canceling)
        else:
            self.deleted.append(action.run_id)
            self.runs = [run for run in self.runs if run.run_id != action.run_id]

    @property
    def run(self) -> Run:
        """The last run."""
        return self.runs[-1]

    def put(self, run_id: str, state: RunState, **more: Any) -> None:
        """Let a run be in `state`."""
        self.runs = [
            moved(run, state, **more) if run.run_id == run_id else run for run in self.runs
        ]

    def tell(self, **states: str) -> None:
        """Let the last run be at work, with these tasks."""
        self.put(self.run.run_id, RunState.Running, run_details=details(**states))

    def end_task(self, task: Task, told: StageResult | None = None, code: int = 0) -> None:
        """A pod of `task` ends, and the server says so."""
        told = told or told_by(task, self.method)
        self.add_pod(task, phase="Failed" if code else "Succeeded", exit_code=code, result=told)
        states = {d.display_name: d.state.value for d in self.run.run_details.task_details}
        states[task.value] = "FAILED" if code else "SUCCEEDED"
        self.tell(**states)

    def add_pod(self, task: Task, **more: Any) -> ObservedPod:
        """A pod of the last run."""
        self.counter += 1
        made = pod(f"pod-{self.counter}", created=self.now, **more)
        self.pods.append(RunPod(task, self.run.display_name, made))
        return made

    def begin(self) -> None:
        """Visit until there is a run that the status knows."""
        self.settle()
        self.tell()
        self.settle()

    def end_run(self, state: RunState = RunState.Succeeded, ago: float = 60) -> None:
        """The run came to its end so many seconds ago, as it stands."""
        finished = (self.now - timedelta(seconds=ago)).strftime("%Y-%m-%dT%H:%M:%SZ")
        self.put(self.run.run_id, state, finished_at=finished)

    def finish(self) -> None:
        """Everything goes well, and the operator sees it."""
        if not self.runs or self.run.state.is_final:
            self.begin()
        for task in self.tasks:
            self.end_task(task)
            self.pass_time(1)
        self.end_run()
        self.settle()

    @property
    def tasks(self) -> tuple[Task, ...]:
        """Those of this job."""
        measured = (*TASKS[:3], Task.Calibrate, *TASKS[3:])
        return measured if self.method is Method.Calibrated else TASKS

    def cancel(self) -> None:
        """What was told to end does so, as 2.14 has it."""
        for run in self.runs:
            if run.state is RunState.Canceling:
                self.put(run.run_id, RunState.Failed)
        ended = [replace(p, pod=replace(p.pod, phase="Failed")) for p in self.pods]
        self.pods = [
            n if o.pod.phase == "Running" else o for o, n in zip(self.pods, ended, strict=True)
        ]

    def run_to_rest(self, limit: int = 60) -> None:
        """Everything goes well from here on, until there is nothing left to do."""
        for _ in range(limit):
            self.cancel()
            self.settle()
            if self.runs and not self.run.state.is_final:
                done = {p.task for p in self.pods if p.run == self.run.display_name}
                left = [task for task in self.tasks if task not in done]
                if left:
                    self.end_task(left[0])
                else:
                    self.end_run()
            self.pass_time(60)
            decision = self.visit()
            live = [run for run in self.runs if not run.state.is_final]
            if not (live or decision.status or decision.creations or decision.run):
                return
        raise AssertionError("the job never ends")


def new_run(run_id: str, name: str, number: int = 0) -> Run:
    """As the server makes it."""
    made = f"2026-01-02T03:04:{number % 60:02}Z"
    return moved(Run(run_id=run_id, display_name=name, created_at=made), RunState.Pending)


def moved(run: Run, state: RunState, **more: Any) -> Run:
    """`run` in another state, with its history."""
    history = (*run.state_history, StateChange(state=state))
    kept = run.state_history if state is run.state else history
    return run.model_copy(update={"state": state, "state_history": kept, **more})


def details(**states: str) -> RunDetails:
    """Tasks by their names, and what the server tells beside them."""
    noise = {"root": "RUNNING", "root-driver": "SUCCEEDED", "executor": "FAILED"}
    rows = [
        TaskDetail(display_name=name.replace("_", "-"), state=RunState(state))
        for name, state in {**noise, **states}.items()
    ]
    return RunDetails(task_details=tuple(rows))


def begun(**more: Any) -> RunWorld:
    """A job whose run was made and goes on."""
    world = RunWorld(**more)
    world.begin()
    return world


def up_to(world: RunWorld, task: Task) -> None:
    """All tasks before `task` are done."""
    for one in world.tasks[: world.tasks.index(task)]:
        world.end_task(one)
    world.settle()


def failed_at(task: Task, **pod: Any) -> RunWorld:
    """A run that failed at `task`, whose pod ended so."""
    world = begun()
    up_to(world, task)
    if pod:
        world.add_pod(task, phase="Failed", **pod)
    states = {d.display_name: d.state.value for d in world.run.run_details.task_details}
    states.pop("executor")
    world.tell(**{**states, task.value: "FAILED"})
    world.end_run(RunState.Failed)
    world.settle()
    return world
