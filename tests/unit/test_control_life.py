"""A job's life in a small world: conditions, transitions, and what the user does meanwhile.

We test these aspects:
- conditions stand in the documented order and come true one after the other; the last event and
  `status.artifact` say how the artifact is served;
- a visit that finds nothing new writes nothing; times move with a status only;
- suspension and deadline at each stage; the time to live; a retry at each stage, its value once;
- what of the spec may change meanwhile.
"""

from typing import Any

import pytest

from halftone.spec.cluster import ChildStage, Condition, Doing, EventReason
from halftone.spec.documents import Method
from tests.control_cases import World, at_work, row, run_until, statuses, told

ALONE = (ChildStage.Plan, ChildStage.Quantize, ChildStage.Validate, ChildStage.Publish)
SHARED: dict[str, Any] = {"parallelism": 3}
ORDER = ["Accepted", "Quantized", "Validated", "Published", "Succeeded"]
ALL_TRUE = dict.fromkeys(ORDER[:-1], "True") | {"Succeeded": "True"}


def test_conditions_come_true_in_their_order() -> None:
    world = World(blocks=SHARED)
    story = []
    for stage in (*ALONE[:2], ChildStage.Assemble, *ALONE[2:]):
        run_until(world, stage)
        story.append(next(r.reason for r in world.read.conditions if r.status.value == "Unknown"))
        assert list(told(world.read)) == ORDER
    assert story == ["Planning", "Quantizing", "Quantizing", "Validating", "Publishing"]
    world.run_to_rest()
    assert statuses(world) == ALL_TRUE
    assert len(world.made) == len(set(world.made)) == 6


def test_calibration_has_a_condition_of_its_own() -> None:
    world = World(method=Method.Calibrated)
    world.run_to_rest()
    assert list(told(world.read)) == ["Accepted", "Calibrated", *ORDER[1:]]
    assert world.made[:4] == [
        ChildStage.Plan,
        ChildStage.Target,
        ChildStage.Calibrate,
        ChildStage.Quantize,
    ]


def test_the_end_says_how_the_artifact_is_served() -> None:
    world = World()
    run_until(world, ChildStage.Publish)
    world.succeed(at_work(world, ChildStage.Publish))
    decision = world.visit()
    line = (
        "helm upgrade --install small halftone/halftone-endpoint --set-string "
        f"artifact.uri=s3://models/out --set-string artifact.digest={'c' * 64}"
    )
    assert decision.events[-1].reason is EventReason.ArtifactPublished
    assert decision.events[-1].message == f"Serve it with: {line}"
    assert world.read.artifact is not None
    assert world.read.artifact.helmCommand == line
    assert row(world.read, Condition.Succeeded).message == line


def test_without_a_target_the_end_is_validation() -> None:
    world = World(blocks={"publish": None, "workVolume": {"claimName": "work"}})
    world.run_to_rest()
    assert list(told(world.read)) == ["Accepted", "Quantized", "Validated", "Succeeded"]
    assert ChildStage.Target not in world.made
    assert "finalizers" not in world.meta


@pytest.mark.parametrize("stage", ALONE)
def test_a_visit_that_finds_nothing_new_writes_nothing(stage: ChildStage) -> None:
    world = World()
    run_until(world, stage)
    world.pass_time(3600)
    decision = world.visit()
    assert (decision.status, decision.creations, decision.events) == (None, (), ())
    assert decision.requeue_seconds is not None


def test_times_move_with_a_status_only() -> None:
    world = World()
    world.settle()
    first = row(world.read, Condition.Accepted).lastTransitionTime
    world.pass_time(100)
    plan = at_work(world, ChildStage.Plan)
    world.fail(plan, "StoreUnavailable", 3)
    world.visit()
    assert row(world.read, Condition.Accepted).reason == "Retrying"
    assert row(world.read, Condition.Accepted).lastTransitionTime == first
    run_until(world, ChildStage.Quantize)
    assert row(world.read, Condition.Accepted).lastTransitionTime != first
    assert row(world.read, Condition.Quantized).lastTransitionTime == first


@pytest.mark.parametrize("stage", ALONE)
def test_suspension_ends_pods_and_goes_on_later(stage: ChildStage) -> None:
    world = World()
    run_until(world, stage)
    world.edit(suspend=True)
    world.settle()
    assert not world.live()
    assert row(world.read, Condition.Succeeded).reason == Doing.Suspended
    assert world.read.startTime is None
    assert world.events.count("JobSuspended") == 1
    assert row(world.read, Condition.Succeeded).observedGeneration == 2
    world.edit(suspend=False)
    world.visit()  # the Job is still on its way out
    assert world.made.count(stage) == 1
    world.collect()
    world.run_to_rest()
    assert world.events.count("JobResumed") == 1
    assert statuses(world) == ALL_TRUE
    others = [made for made in world.made if made not in (stage, ChildStage.Target)]
    assert len(others) == len(set(others))


def test_a_job_that_is_born_suspended_makes_nothing() -> None:
    world = World(blocks={"suspend": True})
    world.settle()
    assert not world.made
    assert told(world.read)["Succeeded"] == ("Unknown", "Suspended")


def test_suspending_what_is_over_changes_nothing() -> None:
    world = World()
    world.run_to_rest()
    world.edit(suspend=True)
    world.settle()
    assert statuses(world) == ALL_TRUE


@pytest.mark.parametrize("stage", ALONE)
def test_a_deadline_ends_the_job_until_it_is_asked_again(stage: ChildStage) -> None:
    world = World(blocks={"activeDeadlineSeconds": 1000})
    run_until(world, stage)
    world.pass_time(1000)
    assert world.visit().status is not None
    ended = world.read.completionTime
    assert told(world.read)["Succeeded"] == ("False", "DeadlineExceeded")
    world.edit(activeDeadlineSeconds=5000)
    world.settle()
    world.collect()
    world.settle()
    assert told(world.read)["Succeeded"] == ("False", "DeadlineExceeded")
    assert world.read.completionTime == ended
    world.ask_again("please")
    world.run_to_rest()
    assert statuses(world) == ALL_TRUE


def test_a_deadline_is_looked_at_in_time() -> None:
    world = World(blocks={"activeDeadlineSeconds": 7})
    world.visit()
    assert world.visit().requeue_seconds == 7


@pytest.mark.parametrize(("kept", "after"), [(0, 0), (60, 60)])
def test_a_job_lives_for_as_long_as_it_says(kept: int, after: int) -> None:
    world = World(blocks={"ttlSecondsAfterFinished": kept})
    run_until(world, ChildStage.Publish)
    world.succeed(at_work(world, ChildStage.Publish))
    last = world.visit()
    assert (last.delete_self, last.requeue_seconds) == (False, kept)
    world.pass_time(after - 1 if after else 0)
    assert world.visit().delete_self is (after == 0)
    world.pass_time(1)
    assert world.visit().delete_self


@pytest.mark.parametrize("stage", [*ALONE, ChildStage.Target])
def test_a_retry_goes_on_from_the_last_good_document(stage: ChildStage) -> None:
    world = World()
    run_until(world, stage)
    world.fail(at_work(world, stage), "AccessDenied", 2)
    world.settle()
    assert told(world.read)["Succeeded"] == ("False", "AccessDenied")
    before = list(world.made)
    world.ask_again("1")
    world.settle()
    assert world.made == [*before, stage]
    assert world.events.count("JobRetried") == 1
    world.fail(at_work(world, stage), "AccessDenied", 2)
    world.settle()
    world.ask_again("1")
    world.settle()
    assert world.made == [*before, stage]  # the same value says nothing new
    world.ask_again("2")
    world.run_to_rest()
    assert statuses(world) == ALL_TRUE
    assert world.made.count(stage) == 3
    assert world.read.retry == "2"


def test_after_a_changed_source_the_retry_plans_again() -> None:
    world = World()
    run_until(world, ChildStage.Quantize)
    world.fail(at_work(world, ChildStage.Quantize), "SourceChanged", 2)
    world.settle()
    world.ask_again("1")
    decision = world.visit()
    assert told(world.read)["Accepted"] == ("Unknown", "Planning")
    assert decision.status is not None
    assert decision.status.plan is None
    world.run_to_rest()
    assert statuses(world) == ALL_TRUE
    assert world.made.count(ChildStage.Plan) == 2
    assert world.made.count(ChildStage.Quantize) == 2


def test_a_retry_of_what_succeeded_is_ignored() -> None:
    world = World()
    world.run_to_rest()
    made = list(world.made)
    world.ask_again("more")
    decision = world.visit()
    assert (decision.status, decision.creations, decision.events) == (None, (), ())
    assert world.made == made


def test_a_value_that_came_before_the_failure_counts_once() -> None:
    world = World()
    run_until(world, ChildStage.Quantize)
    world.ask_again("early")
    world.settle()
    assert "JobRetried" not in world.events
    for expected in (2, 2):
        world.fail(at_work(world, ChildStage.Quantize), "StatisticsDiffer", 2)
        world.settle()
        assert world.made.count(ChildStage.Quantize) == expected
        if told(world.read)["Succeeded"][0] == "False":
            break
    assert world.events.count("JobRetried") == 1
    assert told(world.read)["Succeeded"] == ("False", "StatisticsDiffer")


def test_an_endless_annotation_is_kept_short() -> None:
    world = World()
    world.settle()
    world.fail(at_work(world, ChildStage.Plan), "AccessDenied", 2)
    world.settle()
    world.ask_again("x" * 5000)
    world.settle()
    assert world.read.retry is not None
    assert len(world.read.retry) == 64


def test_resources_may_change_until_the_child_is_made() -> None:
    world = World()
    run_until(world, ChildStage.Quantize)
    limit = {"limits": {"memory": "9Gi"}}
    world.edit(stages=[{"name": "Validate", "resources": limit}])
    run_until(world, ChildStage.Validate)
    made = at_work(world, ChildStage.Validate).manifest
    container = made["spec"]["template"]["spec"]["containers"][0]
    assert container["resources"] == {**limit, "requests": {"ephemeral-storage": "1078741824"}}


def test_workers_that_are_asked_for_too_late_change_nothing() -> None:
    world = World(blocks={"parallelism": 2})
    run_until(world, ChildStage.Quantize)
    world.edit(parallelism=1)
    run_until(world, ChildStage.Assemble)
    world.run_to_rest()
    assert statuses(world) == ALL_TRUE
    assert world.made.count(ChildStage.Quantize) == 1
