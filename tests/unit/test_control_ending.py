"""What happens to a job that is deleted: it stops, cleans up where nobody else reaches, and goes.

We test these aspects:
- children at work go first, and their pods with them; then one child cleans the target up;
- nothing is held for ever: a child that fails, waits, or will not go, and a name that is taken;
- without a finalizer, without a target, or without work there is nothing to clean up;
- what a user keeps in a claim stays there.
"""

from datetime import timedelta
from typing import Any

import pytest

from halftone.control.decision import Decision
from halftone.control.observed import ObservedChild
from halftone.control.reconciling import reconcile
from halftone.spec.cluster import FINALIZER, ChildStage, EventReason
from halftone.spec.status import JobStatus
from tests.cluster.answers import PLAN
from tests.control_cases import NOW, SETTINGS, World, bad_pod, broken, child, done, pod, seen
from tests.control_laws import check, jobs_of

DELETED = {"deletionTimestamp": "2026-01-02T03:04:05Z", "finalizers": [FINALIZER]}
CLEAN_UP, QUANTIZE = ChildStage.CleanUp, ChildStage.Quantize
WORKED = (done(ChildStage.Plan), done(ChildStage.Target), done(QUANTIZE))
LATE = NOW + timedelta(minutes=15)
CLAIM = {"workVolume": {"claimName": "work"}}
HUB = {"publish": {"huggingFace": {"repository": "org/model"}}}


def ending(*children: ObservedChild, **more: Any) -> Decision:
    return check(seen(*children, meta={**DELETED, **more.pop("meta", {})}, **more))


def made(decision: Decision) -> list[ChildStage]:
    return [stage for stage, _ in jobs_of(decision)]


def test_a_life_that_is_cut_short() -> None:
    world = World(blocks={"parallelism": 2})
    world.settle()
    for one in world.live():
        world.succeed(one)
    world.settle()
    world.delete()
    decision = world.visit()
    assert [gone.name for gone in decision.deletions] == ["small-quantize-1"]
    assert world.visit().deletions == ()  # it is going
    world.collect()
    world.visit()
    (cleaning,) = world.live()
    assert cleaning.stage is CLEAN_UP
    arguments = cleaning.manifest["spec"]["template"]["spec"]["containers"][0]["args"]
    assert arguments[-2:] == ["--plan-digest", PLAN]
    world.succeed(cleaning)
    world.visit()
    assert world.is_gone
    assert world.events[-1] == "UploadsRemoved"
    assert world.status == world.read.model_dump(mode="json", exclude_none=True)


def test_cleaning_up_comes_after_the_last_pod() -> None:
    going = child(QUANTIZE, deleting=True, pods=(pod(),))
    assert made(ending(*WORKED[:2], going)) == []
    assert made(ending(*WORKED[:2], done(QUANTIZE, deleting=True))) == []
    assert made(ending(*WORKED)) == [CLEAN_UP]


def test_no_child_blocks_a_deletion_in_the_foreground() -> None:
    world = World()
    world.run_to_rest()
    made_ones = [one.manifest for one in world.jobs.values()]
    made_ones += [manifest for _, manifest in jobs_of(ending(*WORKED))]
    assert len(made_ones) > len(WORKED)
    for manifest in made_ones:
        assert manifest["metadata"]["ownerReferences"][0]["blockOwnerDeletion"] is False


STUCK: dict[str, tuple[Any, ...]] = {
    "the child failed": (broken(CLEAN_UP, bad_pod(CLEAN_UP, "AccessDenied", message="No.")),),
    "the child waits for an image": (child(CLEAN_UP, pods=(pod(phase="Pending"),)),),
    "the child is being deleted": (child(CLEAN_UP, deleting=True),),
    "another child will not go": (child(ChildStage.Validate, deleting=True),),
}


@pytest.mark.parametrize("children", STUCK.values(), ids=STUCK.keys())
def test_nothing_is_held_for_ever(children: tuple[ObservedChild, ...]) -> None:
    decision = ending(*WORKED, *children, now=LATE)
    assert decision.finalizer is False
    (event,) = decision.events
    assert (event.reason, event.warning) == (EventReason.UploadsLeft, True)
    assert "s3://models/out and s3://models/out.work/team.small" in event.message


def test_an_operator_that_comes_late_still_cleans_up() -> None:
    running = child(QUANTIZE, pods=(pod(),))
    assert [gone.name for gone in ending(*WORKED[:2], running, now=LATE).deletions] == [
        running.name
    ]
    going = child(QUANTIZE, deleting=True, deleting_since=LATE)
    assert ending(*WORKED[:2], going, now=LATE).finalizer is None
    assert made(ending(*WORKED, now=LATE)) == [CLEAN_UP]
    just_made = child(CLEAN_UP, created=LATE)
    assert ending(*WORKED, just_made, now=LATE).finalizer is None


REFUSED = {"small-clean-up-1": "exceeded quota: pods"}


@pytest.mark.parametrize("facts", [{"refused": REFUSED}, {"taken": frozenset(REFUSED)}])
def test_a_clean_up_that_cannot_be_made_is_told_once(facts: dict[str, Any]) -> None:
    world = World()
    world.settle()
    told = ending(*WORKED, status=world.read, **facts)
    assert (told.creations, told.finalizer) == ((), None)
    (event,) = told.events
    assert event.warning
    assert event.message.startswith("The Job that cleans up cannot be made: ")
    again = ending(*WORKED, status=told.status, **facts)
    assert (again.status, again.events) == (None, ())
    assert (again.requeue_seconds, again.finalizer) == (10, None)
    assert ending(*WORKED, now=LATE, **facts).finalizer is False


def test_a_failure_is_not_waited_for() -> None:
    decision = ending(*WORKED, *STUCK["the child failed"])
    assert decision.finalizer is False
    assert decision.events[0].message.endswith("No.")


def test_it_is_looked_at_again_when_patience_ends() -> None:
    decision = ending(*WORKED, child(CLEAN_UP), now=NOW + timedelta(minutes=5))
    assert decision.finalizer is None
    assert decision.requeue_seconds == 600


NOTHING: dict[str, tuple[dict[str, Any], tuple[ObservedChild, ...]]] = {
    "nothing was begun": ({}, ()),
    "only the target was asked": ({}, (done(ChildStage.Target),)),
    "only headers were read": ({**CLAIM, **HUB}, WORKED[:2]),
    "there is no target": ({**CLAIM, "publish": None}, WORKED),
}


@pytest.mark.parametrize("case", NOTHING.values(), ids=NOTHING.keys())
def test_where_nothing_is_left_nothing_is_made(case: Any) -> None:
    blocks, children = case
    decision = ending(*children, blocks=blocks)
    assert (decision.finalizer, decision.creations, decision.events) == (False, (), ())


def test_a_namespace_that_goes_takes_nothing_in() -> None:
    decision = ending(*WORKED, namespace_terminating=True)
    assert (decision.finalizer, decision.creations) == (False, ())


def test_without_our_finalizer_it_is_not_ours_to_end() -> None:
    assert ending(*WORKED, meta={"finalizers": ["other.example/x"]}) == Decision()


def test_what_was_done_is_remembered_when_its_children_are_gone() -> None:
    world = World()
    world.run_to_rest()
    status = JobStatus.model_validate(world.status)
    ((stage, manifest),) = jobs_of(ending(status=status))
    assert stage is CLEAN_UP
    assert PLAN in manifest["spec"]["template"]["spec"]["containers"][0]["args"]


def test_a_status_that_forgot_its_plan_leaves_the_childrens() -> None:
    ((_, manifest),) = jobs_of(ending(*WORKED, status=JobStatus()))
    assert PLAN in manifest["spec"]["template"]["spec"]["containers"][0]["args"]


@pytest.mark.parametrize("digest", ["none", "D" * 64, f"{PLAN}\n", f"../{PLAN}"])
def test_what_a_child_says_of_its_plan_may_be_anything(digest: str) -> None:
    decision = ending(done(QUANTIZE, plan_digest=digest), status=JobStatus())
    assert made(decision) == [CLEAN_UP]
    (manifest,) = decision.creations
    assert "--plan-digest" not in manifest["spec"]["template"]["spec"]["containers"][0]["args"]


def test_a_spec_that_cannot_be_read_holds_nothing_back() -> None:
    decision = reconcile(seen(*WORKED, meta=DELETED, blocks={"source": {"unknown": 1}}), SETTINGS)
    assert decision.finalizer is False
    assert decision.events[0].reason is EventReason.UploadsLeft


def test_a_finished_job_is_cleaned_up_too() -> None:
    world = World(blocks={"ttlSecondsAfterFinished": 0})
    world.run_to_rest()
    assert world.visit().delete_self
    world.delete()
    world.visit()
    assert [one.stage for one in world.live()] == [CLEAN_UP]
