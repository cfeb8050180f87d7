"""Visits of the operator that meet an API server which does not do what is asked.

We test these aspects:
- the finalizer is given up whoever put it there, those of others stay, and a changed object is
  looked at again
- an event that is refused keeps nothing from happening
- a webhook that does not answer refuses a child, another 500 does not
- a child that is refused, or whose name is taken, is not tried again at once
- logs that nobody answers hold a visit up for seconds, and are not asked for again soon
- progress is that of the children who told it
- bytes are counted as workers go on: no step is a byte, and what was done before is not counted
- what a Job controller said is forgotten with the job
"""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from halftone.control.decision import Decision, Event
from halftone.spec.cluster import (
    ATTEMPT_LABEL,
    FINALIZER,
    JOB_LABEL,
    STAGE_LABEL,
    ChildStage,
    EventReason,
)
from halftone.telemetry.operator import OperatorMetrics
from operators.quantizationjob.api import Api, ApiError
from operators.quantizationjob.apply import Applier, ChildRefused
from operators.quantizationjob.observe import Observer
from operators.quantizationjob.queue import Queue
from operators.quantizationjob.reading import Key
from operators.quantizationjob.workers import Workers
from tests.control_cases import NAME, SETTINGS, SPACE, spec
from tests.doubles.api_answers import Answer, answering, never, refused, said, text
from tests.unwatched import unwatched

_KEY = Key(SPACE, NAME)
_UID = "uid-of-job"
_OURS = {"apiVersion": "halftone.dev/v1alpha1", "metadata": {"resourceVersion": "8"}}
_MANIFEST = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": f"{NAME}-plan-1"}}
_GONE = Event(EventReason.UploadsRemoved, "Nothing is left.")


def _object(**more: Any) -> dict[str, Any]:
    found = {"name": NAME, "namespace": SPACE, "uid": _UID, "resourceVersion": "7", **more}
    return {"metadata": found, "spec": spec(), "status": {}}


def _child(stage: ChildStage, **status: Any) -> dict[str, Any]:
    labels = {JOB_LABEL: NAME, STAGE_LABEL: stage.value, ATTEMPT_LABEL: "1"}
    return {
        "metadata": {
            "name": f"{NAME}-{stage.value}-1",
            "namespace": SPACE,
            "uid": f"uid-of-{stage.value}",
            "creationTimestamp": "2026-01-02T03:04:05Z",
            "labels": labels,
            "ownerReferences": [{"uid": _UID, "controller": True}],
        },
        "spec": {"template": {"spec": {"containers": [{"name": "main"}]}}},
        "status": {"startTime": "2026-01-02T03:04:06Z", **status},
    }


def _pod(stage: ChildStage, number: int = 0) -> dict[str, Any]:
    found = {"name": f"{NAME}-{stage.value}-{number}", "namespace": SPACE}
    owners = [{"uid": f"uid-of-{stage.value}", "controller": True}]
    metadata = {**found, "labels": {JOB_LABEL: NAME}, "ownerReferences": owners}
    return {"metadata": metadata, "status": {"phase": "Running"}}


def test_a_finalizer_of_anybody_is_given_up(tmp_path: Path) -> None:
    metadata = _object(finalizers=["a.example/x", FINALIZER, "b.example/y"])["metadata"]

    async def give_up() -> None:
        async with answering(tmp_path, {"PATCH": said(_OURS)}) as (api, asked):
            written = await Applier(api, "one").apply(_KEY, metadata, Decision(finalizer=False))
            assert written.resource_version == "8"
            assert asked[0].kind == "application/merge-patch+json"
            told = asked[0].body["metadata"]
            assert told["finalizers"] == ["a.example/x", "b.example/y"]
            assert (told["uid"], told["resourceVersion"]) == (_UID, "7")

    _run(give_up)


@pytest.mark.parametrize(("status", "is_over"), [(404, True), (409, False)])
def test_an_object_that_changed_is_looked_at_again(
    tmp_path: Path, status: int, is_over: bool
) -> None:
    metadata = _object(finalizers=[FINALIZER])["metadata"]

    async def give_up() -> None:
        async with answering(tmp_path, {"PATCH": refused(status, "no")}) as (api, _):
            applier = Applier(api, "one")
            if is_over:
                await applier.apply(_KEY, metadata, Decision(finalizer=False))
            else:
                with pytest.raises(ApiError):
                    await applier.apply(_KEY, metadata, Decision(finalizer=False))

    _run(give_up)


@pytest.mark.parametrize("status", [403, 422, 500])
def test_a_refused_event_keeps_nothing_from_happening(tmp_path: Path, status: int) -> None:
    metadata = _object(finalizers=[FINALIZER])["metadata"]

    async def end() -> None:
        answers = {"POST .*/events": refused(status, "no"), "PATCH": said(_OURS)}
        async with answering(tmp_path, answers) as (api, asked):
            decision = Decision(finalizer=False, events=(_GONE,))
            await Applier(api, "one").apply(_KEY, metadata, decision)
            assert [one.method for one in asked] == ["POST", "PATCH"]

    _run(end)


def test_a_dead_webhook_refuses_a_child(tmp_path: Path) -> None:
    dead = 'Internal error occurred: failed calling webhook "a.example": no route to host'

    async def create(answer: Answer) -> None:
        async with answering(tmp_path, {"POST": answer}) as (api, _):
            applier, decision = Applier(api, "one"), Decision(creations=(_MANIFEST,))
            await applier.apply(_KEY, _object()["metadata"], decision)

    with pytest.raises(ChildRefused, match="no route to host"):
        asyncio.run(create(refused(500, dead)))
    with pytest.raises(ApiError):
        asyncio.run(create(refused(500, "etcd is gone")))


_FOREIGN = {"apiVersion": "batch/v1", "metadata": {"name": "x", "uid": "y"}}


@pytest.mark.parametrize(
    "answers",
    [
        {"POST .*/jobs": refused(403, "exceeded quota")},
        {"POST .*/jobs": refused(409, "it exists"), r"GET .*/jobs/": said(_FOREIGN)},
    ],
)
def test_a_refused_child_is_not_tried_at_once_again(
    tmp_path: Path, answers: dict[str, Answer]
) -> None:
    """Of a job that is being deleted: nothing else than its clean-up is left to do."""

    async def work() -> None:
        held = {**answers, "PATCH": said(_OURS)}  # it makes sure of its finalizer first
        async with answering(tmp_path, held) as (api, asked):
            metrics, queue, indexes = OperatorMetrics(), Queue(), unwatched()
            deleted = {"deletionTimestamp": "2999-01-02T03:04:05Z", "finalizers": [FINALIZER]}
            indexes.objects.put(_object(**deleted))
            done = [{"type": "Complete", "status": "True"}]
            indexes.children.put(_child(ChildStage.Quantize, conditions=done))
            observer, applier = Observer(api, indexes), Applier(api, "one")
            workers = Workers(queue, observer, applier, SETTINGS, metrics)
            task = asyncio.create_task(workers.work())
            queue.add(_KEY)
            await _visits(metrics, 2)
            for number in range(3):  # behind each of which the job would have another turn
                queue.add(Key(SPACE, "nobody"))
                await _visits(metrics, 3 + number)
            task.cancel()
            await asyncio.wait([task])
            assert len([one for one in asked if one.method == "POST"]) in (1, 2)

    _run(work)


def test_logs_that_nobody_answers_hold_nothing_up(tmp_path: Path) -> None:
    async def ask() -> None:
        async with answering(tmp_path, {"/log": never}) as (api, asked):
            indexes = unwatched()
            indexes.objects.put(_object())
            indexes.children.put(_child(ChildStage.Quantize))
            for number in range(40):
                indexes.pods.put(_pod(ChildStage.Quantize, number))
            observer, names = Observer(api, indexes, log_seconds=0.2), [f"{NAME}-quantize-1"]
            async with asyncio.timeout(20):  # one of them alone had 30 seconds before
                await observer.ask_progress(_KEY, names, every=0.001)
            count = len(asked)
            assert 0 < count < 40
            await observer.ask_progress(_KEY, names, every=60)
            assert len(asked) == count

    _run(ask)


def test_progress_is_of_those_who_told_it(tmp_path: Path) -> None:
    line = text('{"stepsDone": 3, "stepsTotal": 4}\n')

    async def ask() -> None:
        async with answering(tmp_path, {"/log": line}) as (api, _):
            indexes = unwatched()
            indexes.objects.put(_object())
            done = [{"type": "Complete", "status": "True"}]
            indexes.children.put(_child(ChildStage.Plan, conditions=done))
            indexes.children.put(_child(ChildStage.Calibrate, active=1))
            indexes.pods.put(_pod(ChildStage.Calibrate))
            observer = Observer(api, indexes)
            await observer.ask_progress(_KEY, [f"{NAME}-calibrate-1"], every=0)
            assert await _progress(observer) == (3, 4)
            indexes.children.put(_child(ChildStage.Calibrate, conditions=done))
            indexes.children.put(_child(ChildStage.Quantize, active=1))
            assert await _progress(observer) is None

    _run(ask)


def test_bytes_are_counted_as_workers_go_on(tmp_path: Path) -> None:
    """Two workers; one is seen again after a log that could not be read, one begins anew."""
    told: dict[int, list[int | None]] = {
        0: [100, 350, None, 700, 700],
        1: [900, 1000, 1100, 50, 80],
    }
    read: list[int] = []

    async def ask() -> None:
        answers: dict[str, Answer] = {}
        async with answering(tmp_path, answers) as (api, _):
            observer = _quantizing(api, ChildStage.Quantize, 2)
            for moment in range(5):
                for number, said_so in told.items():
                    done = said_so[moment]
                    line = text(f'{{"bytesDone": {done}, "bytesTotal": 5000}}\n')
                    answers[f"/{NAME}-quantize-{number}/log"] = (
                        refused(500, "no") if done is None else line
                    )
                names = [f"{NAME}-quantize-1"]
                read.append(await observer.ask_progress(_KEY, names, every=0))

    _run(ask)
    assert read == [0, 250 + 100, 100, 350, 30]


def test_no_step_is_a_byte(tmp_path: Path) -> None:
    steps = iter([3, 4])

    async def ask() -> None:
        answers: dict[str, Answer] = {}
        async with answering(tmp_path, answers) as (api, _):
            observer = _quantizing(api, ChildStage.Calibrate, 1)
            for _ in range(2):
                line = f'{{"stepsDone": {next(steps)}, "stepsTotal": 4}}\n'
                answers["/log"] = text(line)
                names = [f"{NAME}-calibrate-1"]
                assert await observer.ask_progress(_KEY, names, every=0) == 0
            assert await _progress(observer) == (4, 4)

    _run(ask)


def _quantizing(api: Api, stage: ChildStage, workers: int) -> Observer:
    """Knows a job with a stage that runs in so many pods."""
    indexes = unwatched()
    indexes.objects.put(_object())
    indexes.children.put(_child(stage, active=workers))
    for number in range(workers):
        indexes.pods.put(_pod(stage, number))
    return Observer(api, indexes)


def test_what_a_job_controller_said_is_forgotten_with_the_job(tmp_path: Path) -> None:
    said_so = {"reason": "FailedCreate", "message": "quota", "lastTimestamp": "2026-01-01"}
    events = {"apiVersion": "v1", "metadata": {}, "items": [said_so]}

    async def ask() -> None:
        async with answering(tmp_path, {"/events": said(events)}) as (api, asked):
            indexes = unwatched()
            observer = Observer(api, indexes)
            indexes.objects.put(_object())
            indexes.children.put(_child(ChildStage.Plan))
            for _ in range(2):
                observed = await observer.observe(_KEY)
                assert observed is not None
                assert observed.children[0].refusal == ("FailedCreate", "quota")
            assert len(_events(asked)) == 1
            indexes.objects.drop((SPACE, NAME))
            assert await observer.observe(_KEY) is None
            indexes.objects.put(_object())
            await observer.observe(_KEY)
            assert len(_events(asked)) == 2

    _run(ask)


def _events(asked: list[Any]) -> list[Any]:
    return [one for one in asked if "/events" in one.path]


async def _progress(observer: Observer) -> tuple[int, int] | None:
    observed = await observer.observe(_KEY)
    assert observed is not None
    return observed.progress


async def _visits(metrics: OperatorMetrics, count: int) -> None:
    """Until so many have ended."""
    name, labels = "halftone_operator_reconciles_total", {"result": "done"}
    while (metrics.registry.get_sample_value(name, labels) or 0) < count:
        await asyncio.sleep(0)


def _run(work: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(60):
            await work()

    asyncio.run(limited())
