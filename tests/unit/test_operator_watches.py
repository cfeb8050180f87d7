"""What the operator makes of watches and answers that nobody meant for it.

We test these aspects:
- a line of a log that anybody may write is read only if it tells progress
- of a pod the container counts that does the work, whatever stands beside it
- an object that cannot be read ends no watch, and hides no other
- a watch that ends at once without a word is begun anew after a pause, one whose token expired by a
  list
- each namespace is judged as soon as it was listed, and one that is gone is named
- a 200 that the API server did not give, and a server that refuses at first, are ApiErrors
"""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from halftone.spec.cluster import ATTEMPT_LABEL, JOB_LABEL, STAGE_LABEL
from halftone.spec.pipelines import JOB_UID_LABEL
from halftone.telemetry.operator import OperatorMetrics
from operators.quantizationjob.api import Api, ApiError
from operators.quantizationjob.health import Health
from operators.quantizationjob.indexes import Index
from operators.quantizationjob.pump import Pump
from operators.quantizationjob.queue import Queue
from operators.quantizationjob.reading import Key, progress_of, read_pod
from operators.quantizationjob.watch import Kind, Watch
from tests.doubles.api_answers import answering, listed, refused, said, serving, text
from tests.servers.ports import free_port


def _body(name: str, namespace: str = "here", job: str = "small", **more: Any) -> dict[str, Any]:
    labels = {JOB_LABEL: job, STAGE_LABEL: "quantize", ATTEMPT_LABEL: "1"}
    found = {"name": name, "namespace": namespace, "uid": f"uid-of-{name}", "resourceVersion": "1"}
    return {"metadata": {**found, "labels": labels}, **more}


_CONTAINERS = {"template": {"spec": {"containers": [{"name": "main"}]}}}


@pytest.mark.parametrize("of_run", [False, True])
def test_a_pod_ends_as_the_container_that_does_the_work(of_run: bool) -> None:
    """A mesh, a vault or Argo put others beside it."""
    work, body = ("main" if of_run else "stage"), _body("p")
    if of_run:
        body["metadata"]["labels"][JOB_UID_LABEL] = "u"
    names = ("istio-proxy", work, "wait")
    ended = [{"name": n, "state": {"terminated": {"exitCode": int(n != work)}}} for n in names]
    assert read_pod({**body, "status": {"containerStatuses": ended}}).pod.exit_code == 0
    assert read_pod({**body, "status": {"containerStatuses": ended[:1]}}).pod.exit_code is None


@pytest.mark.parametrize(
    "line",
    [
        "[" * 8000,
        '{"bytesDone": Infinity, "bytesTotal": 1}',
        '{"bytesDone": 1, "bytesTotal": 1e30}',
        "5",
    ],
)
def test_what_is_no_progress_is_passed_over(line: str) -> None:
    assert progress_of(f'{{"bytesDone": 1, "bytesTotal": 2}}\n{line}') == (1, 2)


def test_an_object_that_cannot_be_read_ends_no_watch(tmp_path: Path) -> None:
    bad, good = _body("bad", spec={}), _body("good", spec=_CONTAINERS)

    async def names() -> set[str]:
        answers = {r"GET .*/jobs\?": listed(bad, good), "GET": listed()}
        async with (
            answering(tmp_path, answers) as (api, _),
            _Running(api, ["here"]) as (pump, _queue),
        ):
            await pump.ready()
            return {owned.child.name for owned in pump.indexes.children.get(Key("here", "small"))}

    assert asyncio.run(names()) == {"good"}


def test_a_watch_that_ends_at_once_is_begun_anew_after_a_pause(tmp_path: Path) -> None:
    troubles: list[str] = []
    watches: list[Watch] = []
    enough = asyncio.Event()

    async def closing(_: web.Request) -> web.StreamResponse:
        troubles.append(watches[0].trouble)
        if len(troubles) == 3:
            enough.set()
        return web.Response()

    async def watch() -> None:
        async with answering(tmp_path, {"watch=1": closing, "GET": listed()}) as (api, _):
            index: Index[str] = Index(lambda _: None, lambda *_: None)
            watches.append(Watch(api, Kind("", "v1", "pods"), "here", index, 60))
            task = asyncio.create_task(watches[0].run())
            await enough.wait()
            task.cancel()
            await asyncio.wait([task])

    _run(watch)
    assert troubles[1:] == ["0 Silent: the server ended the watch without a word"] * 2


def test_a_watch_whose_token_expired_is_listed_anew(tmp_path: Path) -> None:
    """Only other requests renew it, and an operator at rest makes none."""

    async def watch() -> None:
        expired = refused(401, "Unauthorized")
        async with answering(tmp_path, {"watch=1": expired, "GET": listed()}) as (api, asked):
            index: Index[str] = Index(lambda _: None, lambda *_: None)
            one = Watch(api, Kind("", "v1", "pods"), "here", index, 60)
            task = asyncio.create_task(one.run())
            while len(asked) < 4:
                await asyncio.sleep(0.01)
            task.cancel()
            await asyncio.wait([task])
        assert ["watch=1" in str(each) for each in asked[:4]] == [False, True, False, True]

    _run(watch)


def test_each_namespace_is_judged_as_soon_as_it_was_listed(tmp_path: Path) -> None:
    objects = {name: _body("mine", name, spec={}, status={}) for name in ("here", "half")}
    may = asyncio.Event()

    async def pods(request: web.Request) -> web.StreamResponse:
        found = listed(_body("p", "half", "mine")) if may.is_set() else refused(403, "no such role")
        return await found(request)

    async def judge() -> None:
        answers = {
            "GET .*/gone/": refused(403, "it is gone"),
            r"GET .*/half/pods\?": pods,
            r"GET .*/half/quantizationjobs\?": listed(objects["half"]),
            r"GET .*/here/quantizationjobs\?": listed(objects["here"]),
            "GET": listed(),
        }
        async with (
            answering(tmp_path, answers) as (api, _),
            _Running(api, ["gone", "half", "here"]) as (pump, queue),
        ):
            await pump.ready()
            pump.begin()
            assert await queue.get() == Key("here", "mine")
            status, told = await _readiness(pump)
            assert status == 200
            assert "pods in 'half' are not listed yet" in told
            assert "quantizationjobs in 'gone' are not listed yet" in told
            may.set()
            key = await queue.get()
            assert key == Key("half", "mine")
            assert len(pump.indexes.pods.get(key)) == 1  # not before

    _run(judge)


def test_a_200_of_somebody_else_is_an_error_of_the_api(tmp_path: Path) -> None:
    async def ask() -> None:
        answers = {"leases": text("<html>"), "plain": said({"hello": 1}), "list": said([1])}
        async with answering(tmp_path, {**answers, "PATCH": text("")}) as (api, _):
            for path in ("leases/x", "plain", "list"):
                await _fails(api.get("", "v1", "here", path))
            await _fails(api.apply("here", "x", {}))
            await _fails(api.merge("here", "x", {}))

    _run(ask)


@pytest.mark.parametrize("answer", [text("busy", 500), said({"why": "not"}, 401), text("<html>")])
def test_a_server_that_refuses_at_first(tmp_path: Path, answer: Any) -> None:
    async def ask() -> None:
        async with serving(tmp_path, {"GET": answer}, version=answer) as (path, _):
            try:
                api = await Api.connect(str(path), lambda *_: None)
            except ApiError:
                return
            with pytest.raises(ApiError):
                await api.get("", "v1", "here", "pods")
            await api.close()

    _run(ask)


async def _fails(request: Awaitable[Any]) -> None:
    with pytest.raises(ApiError) as error:
        await request
    assert error.value.code == 0


async def _readiness(pump: Pump) -> tuple[int, str]:
    health = Health(OperatorMetrics(), lambda: None, pump.troubles, pump.is_useful)
    port = free_port()
    runner = await health.serve("127.0.0.1", port)
    try:
        async with (
            aiohttp.ClientSession() as http,
            http.get(f"http://127.0.0.1:{port}/readyz") as answer,
        ):
            return answer.status, await answer.text()
    finally:
        await runner.cleanup()


class _Running:
    """A pump that runs."""

    def __init__(self, api: Api, namespaces: list[str]) -> None:
        self._queue = Queue()
        self._found = Pump(api, self._queue, OperatorMetrics(), namespaces, silence=60)

    async def __aenter__(self) -> tuple[Pump, Queue]:
        self._task = asyncio.create_task(self._found.run())
        return self._found, self._queue

    async def __aexit__(self, *error: object) -> None:
        assert not self._task.done(), self._task
        self._task.cancel()
        await asyncio.wait([self._task])


def _run(work: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(60):
            await work()

    asyncio.run(limited())
