"""What somebody else removes or edits: children, pods, finalizers and statuses.

We test these aspects:
- a child that is still needed comes back, once its pods are gone; one that is done does not;
- what is remembered nowhere is found out again;
- a status that was edited is put right, and opens nothing; a removed finalizer is put back.
"""

from typing import Any

import pytest

from halftone.spec.cluster import ChildStage
from tests.control_cases import World, at_work, run_until, statuses, told

ALONE = (ChildStage.Plan, ChildStage.Quantize, ChildStage.Validate, ChildStage.Publish)
ORDER = ["Accepted", "Quantized", "Validated", "Published", "Succeeded"]
ALL_TRUE = dict.fromkeys(ORDER[:-1], "True") | {"Succeeded": "True"}


def test_a_deleted_child_comes_back_while_it_is_needed() -> None:
    world = World()
    run_until(world, ChildStage.Quantize)
    at_work(world, ChildStage.Quantize).deleting = True
    world.settle()
    assert world.made.count(ChildStage.Quantize) == 1  # not beside pods that are still going
    world.collect()
    world.settle()
    assert world.made.count(ChildStage.Quantize) == 2
    world.jobs = {n: one for n, one in world.jobs.items() if one.stage is ChildStage.Quantize}
    world.run_to_rest()
    assert world.made.count(ChildStage.Plan) == 1  # what it found is remembered
    assert statuses(world) == ALL_TRUE


def test_nothing_comes_back_when_the_job_is_over() -> None:
    world = World()
    world.run_to_rest()
    before, world.jobs = world.status, {}
    world.settle()
    assert world.status == before


def test_pods_that_went_are_remembered_by_the_status() -> None:
    world = World()
    run_until(world, ChildStage.Publish)
    for one in world.jobs.values():
        one.pods = []
    world.pass_time(100)
    world.run_to_rest()
    assert len(world.made) == len(set(world.made))
    assert statuses(world) == ALL_TRUE


def test_what_nobody_remembers_is_found_again() -> None:
    world = World()
    run_until(world, ChildStage.Publish)
    for one in world.jobs.values():
        one.pods = []
    world.status, world.version = {}, world.version + 1
    world.pass_time(100)
    world.run_to_rest()
    assert statuses(world) == ALL_TRUE


FORGED: dict[str, Any] = {
    "startTime": "2026-01-01T00:00:00Z",
    "completionTime": "2026-01-01T00:00:00Z",
    "conditions": [
        {
            "type": name,
            "status": "True",
            "reason": "Fine",
            "message": "Trust me.",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
            "observedGeneration": 1,
        }
        for name in ORDER
    ],
}


@pytest.mark.parametrize(
    "forgery",
    [
        FORGED,
        {**FORGED, "report": {"digest": "f" * 64, "verdict": "Passed"}},
        {"completionTime": "2026-01-01T00:00:00Z", "startTime": "2026-01-01T00:00:00Z"},
        {"conditions": "nonsense"},
        {"plan": {"digest": 7}},
        {},
    ],
)
@pytest.mark.parametrize("stage", ALONE[1:])
def test_an_edited_status_is_repaired(stage: ChildStage, forgery: dict[str, Any]) -> None:
    world = World()
    run_until(world, stage)
    honest = told(world.read)
    world.status, world.version = {**world.status, **forgery}, world.version + 1
    world.settle()
    assert told(world.read) == honest
    world.run_to_rest()
    assert len(world.made) == len(set(world.made))
    assert statuses(world) == ALL_TRUE


def test_an_edited_end_is_repaired() -> None:
    world = World()
    world.run_to_rest()
    honest = dict(world.status)
    world.status = {
        **honest,
        "recoveryPercent": 12,
        "checkpoint": {"digest": "f" * 64, "sizeBytes": 1},
    }
    world.settle()
    assert world.status == honest


@pytest.mark.parametrize(
    "moment", ["9999-12-31T23:59:59Z", "0001-01-01T00:00:00+14:00", "2999-01-01T00:00:00Z"]
)
def test_an_edited_time_neither_stops_a_job_nor_keeps_it(moment: str) -> None:
    world = World(blocks={"activeDeadlineSeconds": 3600, "ttlSecondsAfterFinished": 60})
    run_until(world, ChildStage.Quantize)
    world.status = {**world.status, "startTime": moment}
    world.settle()
    assert world.status["startTime"] != moment
    world.run_to_rest()
    assert statuses(world) == ALL_TRUE
    world.status = {**world.status, "completionTime": moment}
    world.settle()
    assert world.status["completionTime"] != moment


def test_a_removed_finalizer_is_put_back() -> None:
    world = World()
    run_until(world, ChildStage.Quantize)
    world.meta["finalizers"] = ["somebody.example/else"]
    assert world.visit().finalizer is True


def test_a_report_that_shuts_publishing_is_not_remembered_as_one_that_passed() -> None:
    world = World()
    run_until(world, ChildStage.Validate)
    passed = at_work(world, ChildStage.Validate)
    world.succeed(passed)
    passed.pods = []
    shut = {"report": {"digest": "f" * 64, "verdict": "Failed"}}
    world.status, world.version = {**world.status, **shut}, world.version + 1
    world.pass_time(100)
    decision = world.visit()
    assert [deletion.name for deletion in decision.deletions] == ["small-validate-1"]
    world.run_to_rest()
    assert statuses(world) == ALL_TRUE
    assert world.read.report is not None
    assert world.read.report.verdict.value == "Passed"
