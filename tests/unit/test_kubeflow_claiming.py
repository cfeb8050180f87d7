"""Who makes a job's run, and that there is one of it, whatever is killed in between.

We test these aspects:
- names: the uid whole, at most 128 characters, numbers that grow;
- claims: fresh and old, one's own and another replica's, of a clock that is wrong;
- a POST whose answer is lost, a claim that is taken over, two replicas without an election;
- a law: however visits of several replicas, their kills and a user's wishes are mixed, one run of
  a name is made, never two are at work when a third begins, and the job comes to an end.
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halftone.control.decision import SubmitRun
from halftone.control.kubeflow import claiming
from halftone.control.reconciling import reconcile
from halftone.spec.cluster import Condition
from halftone.spec.pipelines import RunState
from halftone.spec.status import ConditionStatus, PipelineRunStatus
from tests.control_cases import NOW, metadata, statuses, told
from tests.control_laws import check_status_laws
from tests.kubeflow_cases import PIPELINE, RunWorld, moved, new_run

NAMES = ("one", "two")
UID = "9d3b2c1a-0000-4000-8000-0123456789ab"


def test_a_name_holds_the_uid_whole() -> None:
    long = metadata(name="j" * 50, namespace="n" * 63, uid=UID, generation=7)
    name = claiming.run_name(long, 12)
    assert len(name) == 128
    assert name.endswith(f"-{UID}-7-12")
    assert claiming.next_number(UID, [name, "other", UID, ""]) == 13
    assert claiming.next_number(UID, []) == 1


@pytest.mark.parametrize(
    ("who", "age", "usable", "held"),
    [
        ("one", 0, True, False),
        ("one", 31, False, False),
        ("two", 5, False, True),
        ("two", 91, False, False),
        (None, 5, False, False),
        ("two", -3600, False, False),
    ],
)
def test_a_claim_holds_for_a_while(who: str | None, age: int, usable: bool, held: bool) -> None:
    mine = claiming.claim("n", "x", NOW - timedelta(seconds=age))
    mine = mine.model_copy(update={"claimedBy": who})
    assert claiming.is_usable(mine, "one", NOW, 90) is usable
    assert claiming.is_held(mine, "one", NOW, 90) is held


@pytest.mark.parametrize("time", [None, "", "yesterday"])
def test_a_claim_of_no_time_holds_nothing(time: str | None) -> None:
    mine = PipelineRunStatus(name="n", claimedBy="one", claimTime=time)
    assert not claiming.is_usable(mine, "one", NOW, 90)
    assert not claiming.is_held(mine, "two", NOW, 90)


def test_the_claim_comes_before_the_run() -> None:
    world = RunWorld()
    first = world.visit()
    assert (first.run, first.status and first.status.pipelineRun) == (
        None,
        claiming.claim("team.small-uid-of-job-1-1", "one", NOW),
    )
    second = world.visit()
    assert isinstance(second.run, SubmitRun)
    assert second.status is None
    third = world.visit()
    assert third.run is None
    assert world.read.pipelineRun is not None
    assert world.read.pipelineRun.id == "run-1"


def test_another_replica_waits_and_then_takes_over() -> None:
    world = RunWorld()
    world.visit()
    world.identity = "two"
    world.settle()
    assert world.submitted == []
    assert told(world.read)["Accepted"] == ("Unknown", "Planning")
    message = world.read.conditions[0].message
    assert message == "The run is being made by 'one'."
    world.pass_time(91)
    world.settle()
    assert world.submitted == ["team.small-uid-of-job-1-1"]
    assert world.read.pipelineRun is not None
    assert world.read.pipelineRun.claimedBy == "two"


def test_a_run_is_adopted_by_any_replica() -> None:
    world = RunWorld()
    world.visit()
    world.visit()
    world.identity = "two"
    world.finish()
    assert len(world.submitted) == 1
    assert statuses(world)["Succeeded"] == "True"


@pytest.mark.parametrize(
    ("states", "told_", "live"),
    [
        (["PENDING", "RUNNING", "CANCELING"], True, True),
        (["PENDING", "RUNNING", "CANCELING", "RUNNING"], True, True),
        (["RUNNING", "CANCELING", "FAILED"], True, False),
        (["RUNNING", "CANCELING", "FAILED", "RUNNING"], False, True),
        (["RUNNING", "FAILED"], False, False),
        (["RUNNING", "CANCELED"], True, False),
    ],
)
def test_who_was_told_to_end(states: list[str], told_: bool, live: bool) -> None:
    run = new_run("r", "n")
    for state in states:
        run = moved(run, RunState(state))
    assert claiming.is_live(run) is live
    assert (claiming.is_ending(run) if live else claiming.was_terminated(run)) is told_


@dataclass(frozen=True)
class Pending:
    """A decision that a replica has come to, and has not carried out yet."""

    decision: Any
    version: int


_BY_REPLICA = [f"{verb} {who}" for verb in ("decide", "apply", "kill", "visit") for who in NAMES]
_ACTS = st.sampled_from([*_BY_REPLICA, "suspend", "resume", "retry", "work", "end", "fail", "time"])


@settings(max_examples=50, deadline=None)
@given(st.lists(_ACTS, max_size=40), st.booleans())
def test_one_run_of_a_name_is_made_and_the_job_ends(acts: list[str], lost: bool) -> None:
    world = RunWorld()
    held: dict[str, Pending] = {}
    names = {"one": "one", "two": "two"}
    retries = 0
    for act in acts:
        verb, _, who = act.partition(" ")
        if verb in ("decide", "visit"):
            world.identity = names[who]
            observed, version = world.observe()
            decision = reconcile(observed, world.settings, PIPELINE)
            check_status_laws(observed, decision)
            held[who] = Pending(decision, version)
        if verb in ("apply", "visit") and who in held:
            one = held.pop(who)
            _carry_out(world, one, lost=lost)
        match verb:
            case "kill":
                held.pop(who, None)
                names[who] += "'"
            case "suspend" | "resume":
                world.edit(suspend=verb == "suspend")
            case "retry":
                retries += 1
                world.ask_again(str(retries))
            case "work" if world.runs and not world.run.state.is_final:
                done = {p.task for p in world.pods if p.run == world.run.display_name}
                left = [task for task in world.tasks if task not in done]
                if left:
                    world.end_task(left[0])
            case "end":
                world.cancel()
            case "fail" if world.runs and not world.run.state.is_final:
                world.end_run(RunState.Failed)
            case "time":
                # Longer than a claim is usable: what was decided before is not carried out after.
                held.clear()
                world.pass_time(100)
        assert len(world.submitted) == len(set(world.submitted))
        assert sum(not run.state.is_final for run in world.runs) <= 1
    world.identity = "three"
    if world.blocks.get("suspend"):
        world.edit(suspend=False)
    world.pass_time(100)
    world.run_to_rest()
    summary = world.read.condition(Condition.Succeeded)
    assert summary is not None
    assert summary.status is not ConditionStatus.UNKNOWN
    assert len(world.submitted) == len(set(world.submitted))


def _carry_out(world: RunWorld, one: Pending, *, lost: bool) -> None:
    """As `Pipelines` does: it looks once more before it makes a run; `lost` is the rest then."""
    action = one.decision.run
    if isinstance(action, SubmitRun):
        there = {run.display_name for run in world.runs}
        if action.request.display_name in there:
            return
        if lost:
            world.ask(action)
            return
    gone = action is not None and not isinstance(action, SubmitRun)
    if gone and action.run_id not in {run.run_id for run in world.runs}:
        return
    if gone and next(r for r in world.runs if r.run_id == action.run_id).state.is_final:
        world.apply(one.decision.__class__(status=one.decision.status), one.version)
        return
    world.apply(one.decision, one.version)
