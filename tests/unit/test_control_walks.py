"""Random walks through a small world: whatever happens, the end is the same and nothing is lost.

We test these aspects:
- pods that succeed, fail, are killed, disrupted or collected, Jobs that are deleted, an operator
  that sees the past, decides on parts of it, or dies between two writes: every decision obeys the
  laws, and once the trouble is over the job ends as it always does;
- without trouble of the kind that loses work no stage is carried out twice;
- two operators that both believe to lead make no child twice.
"""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halftone.control.decision import Decision
from halftone.control.observed import Observed
from halftone.spec.cluster import ChildStage, Condition
from halftone.spec.documents import Method
from halftone.spec.status import ConditionStatus
from tests.control_cases import NOW, World, row, told
from tests.control_laws import check

TRUE = ConditionStatus.TRUE
BLOCKS: tuple[dict[str, Any], ...] = (
    {},
    {"parallelism": 3},
    {"publish": None, "workVolume": {"claimName": "work"}},
    {"workVolume": {"storageClassName": "fast", "size": "1Gi", "accessMode": "ReadWriteMany"}},
)
GENTLE = ("start", "start", "succeed", "succeed", "succeed", "wait", "disrupt", "visit")
ROUGH = (
    *GENTLE,
    *("fault", "refuse", "changed", "kill", "drop", "drop-done", "forget-pods", "suspend"),
    *("resume", "retry", "collect", "stale", "stale", "half", "edit-status", "finalizer"),
)


class Walk:
    """A world, a past to be stale in, and actions by name; a number chooses among what there is."""

    def __init__(self, blocks: dict[str, Any], method: Method) -> None:
        self.world = World(blocks=dict(blocks), method=method)
        self.past: list[tuple[Observed, int]] = []
        self.retries = 0

    def act(self, name: str, number: int) -> None:
        world, live = self.world, self.world.live()
        jobs = list(world.jobs.values())
        one = live[number % len(live)] if live else None
        if name == "wait":
            world.pass_time(number)
        elif name == "collect":
            world.collect()
        elif name in ("suspend", "resume"):
            world.edit(suspend=name == "suspend")
        elif name == "retry":
            self.retries += 1
            world.ask_again(f"walk-{self.retries - number % 2}")
        elif name == "edit-status" and world.status:
            gone = sorted(world.status)[number % len(world.status)]
            world.status = {key: part for key, part in world.status.items() if key != gone}
            world.version += 1
        elif name == "finalizer":
            world.meta.pop("finalizers", None)
        elif name == "drop" and one is not None:
            one.deleting = True
        elif name == "drop-done" and jobs:
            jobs[number % len(jobs)].deleting = True
        elif name == "forget-pods" and jobs:
            jobs[number % len(jobs)].pods = []
        elif one is not None:
            self._end(name, one)

    def _end(self, name: str, one: Any) -> None:
        world = self.world
        if name == "start":
            world.start(one)
        elif name == "succeed":
            world.succeed(one)
        elif name == "disrupt":
            world.disrupt(one)
        elif name == "fault":
            world.fail(one, "StoreUnavailable", 3)
        elif name == "refuse":
            world.fail(one, "GateFailed" if one.stage is ChildStage.Validate else "AccessDenied", 2)
        elif name == "changed":
            world.fail(one, "SourceChanged", 2)
        elif name == "kill":
            world.fail(one, "Killed", 137)

    def look(self, name: str, number: int) -> Decision:
        """One visit: of the present, of a past, or one that is cut off before its status."""
        observed, version = self.world.observe()
        self.past = [*self.past[-4:], (observed, version)]
        if name == "stale":
            stale, version = self.past[number % len(self.past)]
            # Each index lags by itself; the clock does not.
            observed = replace(stale, children=observed.children if number % 3 else stale.children)
            observed = replace(observed, now=self.world.now)
        decision = check(observed)
        if name == "half":
            self.world.apply(replace(decision, status=None, events=()), version)
        else:
            self.world.apply(decision, version)
        return decision

    def calm(self) -> None:
        """The trouble is over: whoever had suspended resumes, and asks again where it failed."""
        self.world.edit(suspend=False)
        for attempt in range(8):
            self.world.collect()
            self.world.run_to_rest()
            if row(self.world.read, Condition.Succeeded).status is TRUE:
                return
            self.world.ask_again(f"calm-{attempt}")
        raise AssertionError(f"it never succeeds: {told(self.world.read)}")


def actions(names: tuple[str, ...]) -> st.SearchStrategy[list[tuple[str, int]]]:
    return st.lists(st.tuples(st.sampled_from(names), st.integers(0, 50)), max_size=30)


def final(world: World) -> tuple[object, ...]:
    status = world.read
    return told(status), status.artifact, status.report, status.checkpoint, status.gates


def expected(blocks: dict[str, Any], method: Method) -> tuple[object, ...]:
    world = World(blocks=dict(blocks), method=method)
    world.run_to_rest()
    return final(world)


@pytest.mark.parametrize("blocks", BLOCKS)
@pytest.mark.parametrize("method", list(Method))
@settings(max_examples=10)
@given(story=actions(ROUGH))
def test_every_walk_ends_well(
    blocks: dict[str, Any], method: Method, story: list[tuple[str, int]]
) -> None:
    go_through(blocks, method, story)


@pytest.mark.soak
@settings(max_examples=4000)
@given(blocks=st.sampled_from(BLOCKS), method=st.sampled_from(Method), story=actions(ROUGH))
def test_many_walks_end_well(
    blocks: dict[str, Any], method: Method, story: list[tuple[str, int]]
) -> None:
    go_through(blocks, method, story)


def go_through(blocks: dict[str, Any], method: Method, story: list[tuple[str, int]]) -> None:
    """A story with its trouble, then calm; the end is that of a job without any."""
    walk = Walk(blocks, method)
    for name, number in story:
        walk.act(name, number)
        walk.look(name, number)
    walk.calm()
    assert final(walk.world) == expected(blocks, method)


@pytest.mark.parametrize("blocks", BLOCKS[:2])
@settings(max_examples=12)
@given(story=actions((*GENTLE, "drop-done", "forget-pods", "half", "finalizer")))
def test_no_stage_is_carried_out_twice_for_nothing(
    blocks: dict[str, Any], story: list[tuple[str, int]]
) -> None:
    walk = Walk(blocks, Method.DataFree)
    lost = set()
    for name, number in story:
        live = {one.stage for one in walk.world.live()}
        walk.act(name, number)
        lost |= live & {one.stage for one in walk.world.jobs.values() if one.deleting}
        # What ended is seen before its pods are gone, else nobody can know what it found.
        unseen = {one.stage for one in walk.world.jobs.values() if not one.is_live and not one.pods}
        lost |= unseen | {one.stage for one in walk.world.jobs.values() if one.deleting}
        walk.look(name, number)
        if name != "half":
            lost -= finished(walk.world)
    walk.calm()
    made = walk.world.made
    assert {stage for stage in made if made.count(stage) > 1} <= lost


def finished(world: World) -> set[ChildStage]:
    """Stages of which the status knows that they are done."""
    rows = {found.type: found.status for found in world.read.conditions}
    steps = {
        Condition.Accepted: {ChildStage.Plan, ChildStage.Target},
        Condition.Quantized: {ChildStage.Quantize, ChildStage.Assemble},
        Condition.Validated: {ChildStage.Validate},
        Condition.Published: {ChildStage.Publish},
    }
    done = (stages for kind, stages in steps.items() if rows.get(kind) is TRUE)
    return set().union(*done)


@settings(max_examples=12)
@given(story=actions((*GENTLE, "fault")), lag=st.integers(1, 4))
def test_two_operators_make_nothing_twice(story: list[tuple[str, int]], lag: int) -> None:
    walk = Walk({"parallelism": 2}, Method.DataFree)
    seen: list[tuple[Observed, int]] = []
    for name, number in story:
        walk.act(name, number)
        seen.append(walk.world.observe())
        walk.look("now", 0)
        behind, version = seen[max(0, len(seen) - 1 - lag)]
        walk.world.apply(check(replace(behind, now=walk.world.now)), version)
    names = [one.manifest["metadata"]["name"] for one in walk.world.jobs.values()]
    assert len(names) == len(set(names)) == len(walk.world.made)
    walk.calm()


@pytest.mark.parametrize("skew", [-3600, -60, 60, 3600])
def test_a_clock_that_is_wrong_changes_nothing(skew: int) -> None:
    world = World()
    for _ in range(12):
        observed, version = world.observe()
        world.apply(check(replace(observed, now=world.now)), version)
        for one in world.live():
            one.pods, before = [], one
            world.start(before)
            stale, version = world.observe()
            world.succeed(one)
            # The Job's end is seen, its pod's not yet; and the clocks of the two differ.
            past = {child.name: child.pods for child in stale.children}
            fresh, version = world.observe()
            children = tuple(replace(c, pods=past.get(c.name, c.pods)) for c in fresh.children)
            torn = replace(
                fresh,
                children=children,
                now=world.now.fromtimestamp(world.now.timestamp() + skew, NOW.tzinfo),
            )
            world.apply(check(torn), version)
        world.pass_time(60)
    world.run_to_rest()
    assert len(world.made) == len(set(world.made)) == 5
    assert row(world.read, Condition.Succeeded).status is TRUE
