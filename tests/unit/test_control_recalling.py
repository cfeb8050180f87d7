"""What a former status is believed of, and of what it is not.

We test these aspects:
- what a stage found is remembered when its Job or its pods go, at once and for as long as it takes;
- a status of another plan, of an earlier try, or that does not hold together is not believed;
- children of another plan end before those of the present one begin.
"""

from datetime import timedelta
from typing import Any

import pytest

from halftone.control.decision import Decision
from halftone.control.observed import ObservedChild
from halftone.spec.cluster import ChildStage, Condition
from halftone.spec.status import JobStatus
from tests.control_cases import NOW, World, child, done, pod, row, seen, told
from tests.control_laws import check, jobs_of

PLAN, TARGET, QUANTIZE = ChildStage.Plan, ChildStage.Target, ChildStage.Quantize
LATER = NOW + timedelta(hours=1)
PLANNED = (done(PLAN), done(TARGET))


def made(decision: Decision) -> list[ChildStage]:
    return [stage for stage, _ in jobs_of(decision)]


def after(stage: ChildStage) -> JobStatus:
    """The status of a job whose `stage` is just done."""
    world = World()
    for _ in range(10):
        world.settle()
        live = world.live()
        for one in live:
            world.succeed(one)
        if stage in {one.stage for one in live}:
            world.settle()
            return world.read
    raise AssertionError(f"there is never a {stage}")


ACCEPTED, QUANTIZED, OVER = after(PLAN), after(QUANTIZE), after(ChildStage.Publish)


@pytest.mark.parametrize("seconds", [0, 29, 31, 3600])
def test_pods_may_go_as_soon_as_they_were_heard(seconds: int) -> None:
    children = (done(PLAN, pods=()), done(TARGET, pods=()), child(QUANTIZE, pods=(pod(),)))
    now = NOW + timedelta(seconds=seconds)
    decision = check(seen(*children, status=ACCEPTED, now=now))
    assert (decision.status, decision.creations, decision.deletions) == (None, (), ())


@pytest.mark.parametrize(
    "children",
    [
        (child(QUANTIZE),),
        (done(PLAN, deleting=True), child(QUANTIZE)),
        (done(PLAN, deleting=True, pods=()), done(TARGET), child(QUANTIZE)),
    ],
)
def test_jobs_that_are_done_may_go(children: tuple[ObservedChild, ...]) -> None:
    decision = check(seen(*children, status=ACCEPTED, now=LATER))
    assert (decision.status, decision.creations, decision.deletions) == (None, (), ())


def test_a_status_of_another_plan_says_nothing() -> None:
    assert QUANTIZED.plan is not None
    other = QUANTIZED.plan.model_copy(update={"digest": "f" * 64})
    status = QUANTIZED.model_copy(update={"plan": other})
    assert made(check(seen(*PLANNED, status=QUANTIZED))) == [ChildStage.Validate]
    assert made(check(seen(*PLANNED, status=status))) == [QUANTIZE]


@pytest.mark.parametrize("seconds", [1, 100])
@pytest.mark.parametrize("going", [False, True])
def test_a_status_from_before_a_retry_says_nothing_of_it(seconds: int, going: bool) -> None:
    again = done(PLAN, attempt=2, retry="x", pods=(), deleting=going)
    now = NOW + timedelta(seconds=seconds)
    decision = check(seen(*PLANNED, again, status=ACCEPTED, now=now))
    assert row(decision.status, Condition.Accepted).status.value == "Unknown"
    asked = not going and seconds > 30
    assert [gone.name for gone in decision.deletions] == ["small-plan-2"] * asked
    assert not decision.creations


MISSING = ("plan", "checkpoint", "report", "artifact", "conditions", "startTime", "completionTime")


@pytest.mark.parametrize("field", MISSING)
def test_an_end_without_all_that_belongs_to_it_is_none(field: str) -> None:
    empty: Any = () if field == "conditions" else None
    status = OVER.model_copy(update={field: empty})
    whole = check(seen(*PLANNED, status=OVER))
    assert (whole.status, whole.creations) == (None, ())
    decision = check(seen(*PLANNED, status=status))
    assert decision.status is not None
    # What is missing is found out anew, or is put back from what is there.
    later = check(seen(*PLANNED, status=decision.status))
    assert bool(made(decision) or made(later)) or decision.status == OVER


def test_an_end_that_is_only_asserted_is_none() -> None:
    rows = tuple(r.model_copy(update={"reason": "Fine"}) for r in OVER.conditions)
    status = JobStatus(conditions=rows, startTime=OVER.startTime, completionTime=OVER.startTime)
    decision = check(seen(*PLANNED, status=status))
    assert made(decision) == [QUANTIZE]
    assert told(decision.status)["Succeeded"] == ("Unknown", "Quantizing")


def test_children_of_another_plan_end_first() -> None:
    stray = child(QUANTIZE, plan_digest="f" * 64, pods=(pod(),))
    first = check(seen(*PLANNED, stray))
    assert (made(first), [gone.uid for gone in first.deletions]) == ([], [stray.uid])
    going = child(QUANTIZE, plan_digest="f" * 64, deleting=True)
    second = check(seen(*PLANNED, going))
    assert (made(second), second.deletions) == ([], ())
    assert made(check(seen(*PLANNED))) == [QUANTIZE]
