"""A job that a Kubeflow run carries out, and what people, time and accidents do to it.

We test these aspects:
- every state of a run, with the claim of this replica or another's, suspended, deleted, late;
- suspension and resuming, the deadline, the retry annotation;
- a run that vanished, was terminated or retried by hand; a status that somebody edited;
- the time to live, a deletion, and a server that is away meanwhile;
- a made claim comes first, pods of others say nothing, runs beside the job's own are ended.
"""

import json
import subprocess
import sys
from dataclasses import replace

import pytest

from halftone.control.decision import Decision, DeleteRun, TerminateRun
from halftone.spec.cluster import ChildStage, Condition, Waiting
from halftone.spec.pipelines import RunState, Task
from halftone.spec.stage_results import StageResult
from tests.conftest import ROOT
from tests.control_cases import row, statuses, told
from tests.control_laws import check_status_laws
from tests.kubeflow_cases import (
    RUNNER,
    TASKS,
    URL,
    RunWorld,
    begun,
    details,
    new_run,
    told_by,
    up_to,
)


def test_suspension_terminates_after_it_was_told_and_resuming_makes_another_run() -> None:
    world = begun()
    up_to(world, Task.Quantize)
    world.edit(suspend=True)
    assert (
        world.visit().run is None
    )  # the status comes first, so that nobody takes it for a failure
    assert told(world.read)["Quantized"] == ("Unknown", "Suspended")
    assert world.visit().run == TerminateRun("run-1")
    world.settle()
    world.cancel()
    world.settle()
    assert told(world.read)["Quantized"] == ("Unknown", "Suspended")
    assert world.visit().requeue_seconds is None
    world.edit(suspend=False)
    world.settle()
    assert world.submitted == ["team.small-uid-of-job-1-1", "team.small-uid-of-job-3-2"]
    # What was true stays so while the new run finds its work done.
    assert statuses(world)["Accepted"] == "True"
    world.finish()
    assert statuses(world)["Succeeded"] == "True"
    assert world.terminated == ["run-1"]
    resumed = [event for event in world.events if event in ("JobSuspended", "JobResumed")]
    assert resumed == ["JobSuspended", "JobResumed"]


def test_resuming_while_the_server_is_away_is_no_termination_by_hand() -> None:
    world = begun()
    up_to(world, Task.Quantize)
    world.edit(suspend=True)
    world.settle()
    world.cancel()
    world.settle()
    world.trouble = "Away."
    world.edit(suspend=False)
    world.settle()
    assert told(world.read)["Quantized"] == ("Unknown", Waiting.PipelinesUnreachable)
    assert statuses(world)["Accepted"] == "True"
    world.pass_time(600)
    world.trouble = None
    world.finish()
    assert statuses(world)["Succeeded"] == "True"
    assert len(world.submitted) == 2


def test_resuming_waits_for_the_former_run() -> None:
    world = begun()
    world.edit(suspend=True)
    world.settle()
    world.edit(suspend=False)
    world.settle()
    assert len(world.submitted) == 1
    world.cancel()
    world.settle()
    assert len(world.submitted) == 2


def test_a_suspended_job_begins_later() -> None:
    world = RunWorld(blocks={"suspend": True})
    world.settle()
    assert (world.submitted, told(world.read)["Accepted"]) == ([], ("Unknown", "Suspended"))
    world.edit(suspend=False)
    world.finish()
    assert len(world.submitted) == 1


def test_a_run_that_succeeds_under_suspension_counts() -> None:
    world = begun()
    for task in TASKS:
        world.end_task(task)
    world.end_run()
    world.edit(suspend=True)
    world.settle()
    assert statuses(world)["Succeeded"] == "True"


def test_a_deadline_terminates_and_a_retry_makes_another_run() -> None:
    world = begun(blocks={"activeDeadlineSeconds": 60})
    world.pass_time(61)
    decision = world.visit()
    assert decision.run == TerminateRun("run-1")
    assert told(world.read)["Accepted"] == ("False", "DeadlineExceeded")
    world.ask_again("more")
    world.settle()
    assert len(world.submitted) == 1  # the former is still ending
    world.cancel()
    world.finish()
    assert statuses(world)["Succeeded"] == "True"
    assert (world.read.retry, world.submitted[-1]) == ("more", "team.small-uid-of-job-1-2")


def test_a_deadline_is_not_told_while_nobody_can_end_the_run() -> None:
    world = begun(blocks={"activeDeadlineSeconds": 60})
    world.pass_time(61)
    world.trouble = "Nobody answers."
    world.settle()
    assert told(world.read)["Accepted"] == ("Unknown", Waiting.PipelinesUnreachable)
    world.trouble = None
    assert world.visit().run == TerminateRun("run-1")
    assert told(world.read)["Accepted"] == ("False", "DeadlineExceeded")


def test_a_retry_set_before_the_failure_is_acted_upon_once() -> None:
    world = begun()
    world.ask_again("1")
    world.settle()
    assert len(world.submitted) == 1
    world.end_run(RunState.Failed)
    world.settle()
    assert len(world.submitted) == 2
    world.tell()
    world.end_run(RunState.Failed)
    world.settle()
    assert told(world.read)["Accepted"] == ("False", "PipelineRunFailed")
    assert (world.read.retry, len(world.submitted)) == ("1", 2)


@pytest.mark.parametrize("live", [True, False])
def test_a_run_that_was_terminated_by_hand_is_said_to_be(live: bool) -> None:
    world = begun()
    world.put("run-1", RunState.Canceling)
    if live:
        world.settle()
        assert statuses(world)["Succeeded"] == "Unknown"
    world.cancel()
    world.settle()
    assert told(world.read)["Accepted"] == ("False", "PipelineRunTerminated")
    assert world.terminated == []


def test_a_run_that_is_retried_by_hand_is_followed_unless_the_job_is_over() -> None:
    world = begun()
    world.trouble = "Away."  # nobody sees it fail
    world.put("run-1", RunState.Canceling)
    world.end_run(RunState.Failed)
    world.tell()
    world.trouble = None
    world.finish()
    assert statuses(world)["Succeeded"] == "True"
    other = begun()
    other.end_run(RunState.Failed)
    other.settle()
    other.tell()
    other.settle()
    assert statuses(other)["Succeeded"] == "False"


def test_a_run_that_vanished_is_made_again_until_the_job_is_over() -> None:
    world = begun()
    up_to(world, Task.Quantize)
    world.runs.clear()
    world.settle()
    assert world.submitted == ["team.small-uid-of-job-1-1", "team.small-uid-of-job-1-2"]
    assert statuses(world)["Accepted"] == "True"
    world.finish()
    world.runs.clear()
    world.settle()
    assert (len(world.submitted), statuses(world)["Succeeded"]) == (2, "True")


@pytest.mark.parametrize(
    "edit",
    [
        {},
        {"name": "of-nobody"},
        {"name": "team.small-uid-of-job-1-1", "id": "another"},
        {"name": "team.small-uid-of-job-1-1"},
        {"name": "x", "claimedBy": "two", "claimTime": "never", "id": "../../healthz"},
    ],
)
def test_an_edited_status_makes_no_second_run(edit: dict[str, str]) -> None:
    world = begun()
    if edit:
        world.status["pipelineRun"] = edit
    else:
        world.status = {}
    world.version += 1
    world.finish()
    mine = world.read.pipelineRun
    assert mine is not None
    assert (mine.id, mine.url, len(world.submitted)) == ("run-1", URL, 1)
    assert statuses(world)["Succeeded"] == "True"


def test_another_plan_takes_back_what_was_true_of_the_former() -> None:
    world = begun()
    up_to(world, Task.Validate)
    world.end_run(RunState.Failed)
    world.settle()
    world.ask_again("1")
    world.settle()
    plan = told_by(Task.Plan).plan
    assert plan is not None
    other = plan.model_copy(update={"digest": "9" * 64})
    world.tell()
    world.end_task(Task.Plan, StageResult(stage="plan", plan=other))
    world.settle()
    assert world.read.plan is not None
    assert (world.read.plan.digest, world.read.checkpoint) == ("9" * 64, None)
    assert statuses(world)["Quantized"] == "Unknown"


def test_the_time_to_live_deletes_runs_before_the_object() -> None:
    world = begun(blocks={"ttlSecondsAfterFinished": 60})
    world.end_run(RunState.Failed)
    world.settle()
    world.ask_again("1")
    world.finish()
    world.pass_time(61)
    decisions: list[Decision] = [world.visit() for _ in range(3)]
    assert [one.delete_self for one in decisions] == [False, False, True]
    mine = world.read.pipelineRun
    assert mine is not None
    assert [one.run for one in decisions] == [DeleteRun("run-1"), DeleteRun(mine.id or ""), None]
    assert world.runs == []


def test_the_time_to_live_waits_for_the_server() -> None:
    world = begun(blocks={"ttlSecondsAfterFinished": 60})
    world.finish()
    world.pass_time(61)
    world.trouble = "Away."
    decision = world.visit()
    assert (decision.delete_self, decision.status) == (False, None)
    assert decision.requeue_seconds == 5.0  # nothing else would bring the job back
    world.trouble = None
    assert isinstance(world.visit().run, DeleteRun)


@pytest.mark.parametrize("publish", [True, False])
def test_a_deletion_terminates_waits_and_cleans_up(publish: bool) -> None:
    blocks = {} if publish else {"publish": None, "workVolume": {"claimName": "work"}}
    world = begun(blocks=blocks)
    world.add_pod(Task.Resolve)
    world.delete()
    assert world.visit().run == TerminateRun("run-1")
    world.settle()
    assert (world.is_gone, world.made) == (False, [])
    world.cancel()
    world.settle()
    if publish:
        assert world.made == [ChildStage.CleanUp]
        world.succeed(world.live()[0])
        world.settle()
    assert world.is_gone
    assert len(world.runs) == 1  # it stays as history


def test_a_deletion_does_not_wait_for_ever_for_the_server() -> None:
    world = begun()
    world.delete()
    world.trouble = "Nobody answers."
    world.settle()
    said = row(world.read, Condition.Succeeded).message
    assert (world.is_gone, said) == (False, "Its run cannot be ended: Nobody answers.")
    world.pass_time(16 * 60)
    decision = world.visit()
    assert world.is_gone
    assert "Nobody answers. End it in Kubeflow Pipelines." in decision.events[0].message


@pytest.mark.parametrize("over", [False, True])
def test_a_run_whose_server_the_operator_lost_is_told_before_the_job_goes(over: bool) -> None:
    world = begun()
    if over:
        world.finish()
    world.settings = world.settings.model_copy(update={"kubeflowPipelines": None})
    world.delete()
    world.visit()
    if over:  # nothing runs any more
        assert world.made == [ChildStage.CleanUp]
        return
    why = "Its run cannot be ended: this operator was not installed with Kubeflow Pipelines."
    assert (row(world.read, Condition.Succeeded).message, world.made) == (why, [])
    world.pass_time(16 * 60)
    decision = world.visit()
    assert world.is_gone
    assert f"{why} End it in Kubeflow Pipelines." in decision.events[0].message


def test_a_made_claim_comes_before_the_run() -> None:
    made = {"publish": {"huggingFace": {"repository": "a/b"}}}
    world = RunWorld(blocks={**made, "workVolume": {"storageClassName": "fast", "size": "1Gi"}})
    world.visit()
    decision = world.visit()
    assert [one["kind"] for one in decision.creations] == ["PersistentVolumeClaim"]
    assert len(world.submitted) == 1


def test_pods_of_another_run_say_nothing() -> None:
    world = begun()
    world.end_task(Task.Plan)
    world.pods = [replace(one, run="another") for one in world.pods]
    world.put("run-1", RunState.Running, run_details=details())
    world.settle()
    assert world.read.plan is None
    assert json.dumps(world.status).count("another") == 0


def test_runs_of_the_job_beside_its_own_are_ended_first() -> None:
    world = RunWorld(blocks=RUNNER)
    name = "team.small-uid-of-job-1-1"
    world.runs = [new_run("run-8", name, 2), new_run("run-7", name, 1)]
    world.visit()
    assert world.terminated == ["run-8"]
    world.cancel()
    world.tell()
    world.settle()
    mine = world.read.pipelineRun
    assert mine is not None
    assert (mine.id, world.submitted) == ("run-7", [])


def test_the_operator_needs_no_kfp() -> None:
    code = "import sys, operators.quantizationjob.__main__ as m; m.packaged_pipeline(); "
    code += "sys.exit(str({n for n in sys.modules if n.partition('.')[0] in ('kfp', 'torch')}))"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert found.stderr.strip() == "set()"


@pytest.mark.parametrize("state", RunState)
@pytest.mark.parametrize("situation", ["own", "foreign", "suspended", "deleted", "late"])
def test_every_state_in_every_situation(state: RunState, situation: str) -> None:
    world = begun(blocks={"activeDeadlineSeconds": 60})
    world.put("run-1", state)
    match situation:
        case "foreign":
            world.identity = "two"
        case "suspended":
            world.edit(suspend=True)
            assert world.visit().run is None
        case "deleted":
            world.delete()
        case "late":
            world.pass_time(61)
    observed, _ = world.observe()
    decision = world.visit()
    if not observed.metadata.get("deletionTimestamp"):
        check_status_laws(observed, decision)
    ends = situation in ("suspended", "deleted", "late") and not state.is_final
    told_to_end = ends and state is not RunState.Canceling
    assert decision.run == (TerminateRun("run-1") if told_to_end else None)
    world.cancel()
    if not world.run.state.is_final:
        world.end_run(RunState.Failed)
    world.pass_time(60)
    world.settle()
    if situation == "deleted":
        assert world.made == [ChildStage.CleanUp]
    elif situation == "suspended" and not state.is_final:
        assert told(world.read)["Succeeded"] == ("Unknown", "Suspended")
    else:
        assert statuses(world)["Succeeded"] == "False"
    assert len(world.submitted) == 1
