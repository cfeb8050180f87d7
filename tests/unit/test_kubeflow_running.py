"""A job that a Kubeflow run carries out, in a small world: from its claim to its end.

We test these aspects:
- conditions, reasons, sentences and events are those of the Jobs runner, for one method and the
  other; tasks from the cache are done by their state, and `publish` tells what they found;
- every state of a run that goes on or ended;
- a failure: the pod's own result, what the kubelet knows, the server's error, or the run's page; a
  verdict that does not pass; a run that the server refuses;
- waiting: reasons of pods, a server that does not answer, an operator without one.
"""

from typing import Any

import pytest

from halftone.control.decision import TerminateRun
from halftone.spec.cluster import FINALIZER, Condition, Ended, Waiting
from halftone.spec.documents import Method
from halftone.spec.names import Reason
from halftone.spec.pipelines import RunError, RunState, Task
from halftone.spec.reports import Verdict
from halftone.spec.stage_results import StageResult
from tests.control_cases import SETTINGS, World, failure, row, statuses, told
from tests.kubeflow_cases import (
    ALL_TRUE,
    TASKS,
    URL,
    RunWorld,
    begun,
    details,
    failed_at,
    told_by,
    up_to,
)


@pytest.mark.parametrize("method", Method)
def test_a_life_says_what_the_other_runner_says(method: Method) -> None:
    by_run, by_jobs = RunWorld(method=method), World(method=method)
    by_run.finish()
    by_jobs.run_to_rest()
    assert told(by_run.read) == told(by_jobs.read)
    assert by_run.events == by_jobs.events
    kept = {"conditions", "completionTime", "pipelineRun"}
    assert by_run.read.model_dump(exclude=kept) == by_jobs.read.model_dump(exclude=kept)
    words = [[one.message for one in world.read.conditions] for world in (by_run, by_jobs)]
    assert words[0] == words[1]
    mine = by_run.read.pipelineRun
    assert mine is not None
    assert (mine.name, mine.id, mine.url) == ("team.small-uid-of-job-1-1", "run-1", URL)
    assert by_run.submitted == [mine.name]
    assert by_run.meta["finalizers"] == [FINALIZER]
    assert by_run.made == []


def test_conditions_come_true_one_after_the_other() -> None:
    world, story = begun(), []
    for task in TASKS:
        story.append(next(r.reason for r in world.read.conditions if r.status.value == "Unknown"))
        world.end_task(task)
        world.settle()
    planning, writing = ["Planning"] * 3, ["Quantizing"] * 3
    assert story == [*planning, *writing, "Validating", "Publishing"]
    # The exit handler is still at work.
    assert told(world.read)["Published"] == ("Unknown", "Publishing")
    world.end_run()
    world.settle()
    assert statuses(world) == {**ALL_TRUE, "Succeeded": "True"}


def test_what_was_cached_is_told_by_publish() -> None:
    world = begun()
    world.tell(**dict.fromkeys((t.value for t in TASKS[:-1]), "SUCCEEDED"))
    world.settle()
    assert statuses(world) == {**ALL_TRUE, "Published": "Unknown", "Succeeded": "Unknown"}
    assert world.read.plan is None
    world.end_task(Task.Publish)
    world.end_run()
    world.settle()
    assert statuses(world) == {**ALL_TRUE, "Succeeded": "True"}
    status = world.read
    assert None not in (status.plan, status.checkpoint, status.report, status.artifact)
    assert row(status, Condition.Accepted).message.startswith("Recipe nvfp4a16, DataFree;")


@pytest.mark.parametrize("state", [RunState.Pending, RunState.Running, RunState.Paused, "LATER"])
def test_a_run_that_goes_on_is_looked_at_again(state: str) -> None:
    world = begun()
    world.put("run-1", RunState(state))
    decision = world.visit()
    assert (decision.status, decision.run, decision.requeue_seconds) == (None, None, 10.0)
    assert told(world.read)["Accepted"] == ("Unknown", "Planning")


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        (RunState.Failed, Ended.PipelineRunFailed),
        (RunState.Canceled, Ended.PipelineRunTerminated),
        (RunState.Skipped, Ended.PipelineRunFailed),
    ],
)
def test_a_run_that_ended_badly_ends_the_job(state: RunState, reason: Ended) -> None:
    world = begun()
    world.end_run(state)
    world.settle()
    assert told(world.read)["Succeeded"] == ("False", reason)
    assert URL in row(world.read, Condition.Accepted).message
    assert world.read.completionTime is not None


def test_a_failing_task_says_why() -> None:
    said = StageResult(stage="quantize", failure=failure("SourceChanged", "It changed; look."))
    world = failed_at(Task.Quantize, exit_code=2, result=said)
    assert told(world.read) == {
        "Accepted": ("True", "Accepted"),
        "Quantized": ("False", "SourceChanged"),
        "Validated": ("False", "NotReached"),
        "Published": ("False", "NotReached"),
        "Succeeded": ("False", "SourceChanged"),
    }
    assert row(world.read, Condition.Quantized).message == "It changed; look."
    assert world.events[-1] == "StageFailed"


@pytest.mark.parametrize(
    ("pod", "reason", "sentence"),
    [
        ({"exit_code": 137, "terminated_reason": "OOMKilled"}, "OutOfMemory", "killed for its"),
        ({"terminated_reason": "Evicted", "said": "disk is full."}, "OutOfSpace", "was evicted"),
        (
            {"exit_code": 1, "said": "no module"},
            "StageFailed",
            f"1: no module. See {URL}",
        ),
        ({}, "PipelineRunFailed", f"The task `validate` failed. See {URL}"),
    ],
)
def test_what_the_kubelet_knows_takes_the_place_of_a_result(
    pod: dict[str, Any], reason: str, sentence: str
) -> None:
    world = failed_at(Task.Validate, **pod)
    assert told(world.read)["Validated"] == ("False", reason)
    assert sentence in row(world.read, Condition.Validated).message
    assert "halftone.dev/retry" in row(world.read, Condition.Validated).message


def test_where_a_run_failed_may_be_told_later() -> None:
    world = begun()
    world.tell(resolve="RUNNING")
    world.end_run(RunState.Failed, ago=1)
    assert world.visit().requeue_seconds == 1.0
    assert statuses(world)["Succeeded"] == "Unknown"
    world.put("run-1", RunState.Failed, run_details=details(resolve="FAILED"))
    world.settle()
    assert row(world.read, Condition.Accepted).message.startswith("The task `resolve` failed.")


def test_a_deadline_is_told_although_the_status_came_after_the_end_of_the_run() -> None:
    world = begun(blocks={"activeDeadlineSeconds": 60})
    world.pass_time(61)
    world.put("run-1", RunState.Canceling)  # by us, who were killed before the status
    world.cancel()
    world.settle()
    assert told(world.read)["Accepted"] == ("False", "DeadlineExceeded")


def test_a_server_whose_clock_is_ahead_keeps_no_job_waiting() -> None:
    world = begun()
    world.end_run(RunState.Failed, ago=-3600)
    world.settle()
    assert told(world.read)["Accepted"] == ("False", "PipelineRunFailed")


def test_a_kill_for_memory_is_told_before_what_an_earlier_try_said() -> None:
    world = begun()
    up_to(world, Task.Validate)
    said = StageResult(stage="validate", failure=failure("Timeout", "Nobody answered."))
    world.add_pod(Task.Validate, phase="Failed", exit_code=1, result=said)
    world.pass_time(10)
    world.add_pod(Task.Validate, phase="Failed", exit_code=137, terminated_reason="OOMKilled")
    world.end_run(RunState.Failed)
    world.settle()
    assert told(world.read)["Validated"] == ("False", "OutOfMemory")


def test_the_servers_own_error_is_told() -> None:
    world = begun()
    world.put("run-1", RunState.Failed, error=RunError(code=13, message="quota of pods."))
    world.settle()
    said = (
        f"The run failed: quota of pods. See {URL}, then set the annotation `halftone.dev/retry`."
    )
    assert row(world.read, Condition.Accepted).message == said


def test_a_gate_that_fails_is_told_as_by_the_other_runner() -> None:
    report = told_by(Task.Validate).report
    assert report is not None
    bad = report.model_copy(update={"verdict": Verdict.Failed})
    told_ = failure(Reason.GateFailed, "Gate `quality` failed.")
    said = StageResult(stage="validate", failure=told_, report=bad)
    world = failed_at(Task.Validate, exit_code=1, result=said)
    assert told(world.read)["Validated"] == ("False", "GateFailed")
    assert world.events[-1] == "GateFailed"
    assert (world.read.report and world.read.report.verdict) == Verdict.Failed
    assert [gate.name for gate in world.read.gates] == ["weights"]
    assert world.read.artifact is None


def test_a_verdict_that_shuts_publishing_ends_the_run() -> None:
    report = told_by(Task.Validate).report
    assert report is not None
    bad = report.model_copy(update={"verdict": Verdict.Failed})
    world = begun()
    up_to(world, Task.Validate)
    world.end_task(Task.Validate, StageResult(stage="validate", report=bad))
    decision = world.visit()
    assert told(world.read)["Validated"] == ("False", "VerdictNotPassed")
    assert decision.run == TerminateRun("run-1")


def test_a_run_without_any_result_fails_with_the_value_to_set() -> None:
    world = begun()
    world.end_run(ago=0)
    world.visit()
    assert told(world.read)["Succeeded"][0] == "Unknown"  # its pods may be seen yet
    world.pass_time(60)
    world.settle()
    assert told(world.read)["Accepted"] == ("False", "StageFailed")
    assert "`kubeflowPipelines.podNamespace`" in row(world.read, Condition.Accepted).message
    assert len(world.submitted) == 1


def test_the_servers_refusal_is_told_in_its_words() -> None:
    world = RunWorld()
    world.visit()
    world.refused = {"team.small-uid-of-job-1-1": "Invalid input error: no such parameter."}
    world.settle()
    assert told(world.read)["Accepted"] == ("False", "PipelineRunRefused")
    assert "no such parameter. Mend" in row(world.read, Condition.Accepted).message
    world.refused = {}
    world.ask_again("1")
    world.finish()
    assert world.submitted == ["team.small-uid-of-job-1-2"]


@pytest.mark.parametrize(
    ("pod", "reason"),
    [
        ({"waiting": ("ImagePullBackOff", "not found")}, Waiting.ImageNotPulled),
        ({"waiting": ("Unschedulable", "no gpu"), "scheduled": False}, Waiting.Unschedulable),
        ({"waiting": ("CreateContainerConfigError", "no key")}, Waiting.ReferenceMissing),
    ],
)
def test_a_pod_that_waits_is_told(pod: dict[str, Any], reason: Waiting) -> None:
    world = begun()
    world.add_pod(Task.Resolve, phase="Pending", **pod)
    world.settle()
    assert told(world.read)["Accepted"] == ("Unknown", reason)
    assert world.events == ["StageWaiting"]


@pytest.mark.parametrize("code", [1, 3])  # 1 is what Kubeflow's launcher makes of any other
def test_a_pod_that_is_tried_again_is_told(code: int) -> None:
    world = begun()
    up_to(world, Task.Validate)
    world.add_pod(Task.Validate, phase="Failed", exit_code=code)
    world.settle()
    assert told(world.read)["Validated"] == ("Unknown", Waiting.Retrying)


@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_a_server_that_does_not_answer_is_waited_for(when: str) -> None:
    world = RunWorld()
    if when == "meanwhile":
        world.begin()
        up_to(world, Task.Quantize)
    world.trouble = "`http://kfp.example:8888` cannot be reached: refused."
    world.settle()
    assert told(world.read)["Succeeded"] == ("Unknown", Waiting.PipelinesUnreachable)
    assert row(world.read, Condition.Succeeded).message == world.trouble
    assert world.visit().requeue_seconds == 5.0
    assert statuses(world)["Accepted"] == ("True" if when == "meanwhile" else "Unknown")
    world.trouble = None
    world.finish()
    assert statuses(world)["Succeeded"] == "True"
    assert len(world.submitted) == 1


def test_without_a_server_the_job_is_refused_with_the_value_to_set() -> None:
    world = RunWorld(settings=SETTINGS)
    world.settle()
    assert told(world.read)["Accepted"] == ("False", "NotRunnableHere")
    assert "`kubeflowPipelines.endpoint`" in row(world.read, Condition.Accepted).message
