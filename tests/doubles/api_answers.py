"""A server that speaks HTTP as the API server does, and answers as a test says.

For answers that a real one gives only when it is broken, or when something else stands in its
place. Called by the operator's unit tests; where a real API server can be made to do it, the API
tier does that.

    async with answering(folder, {r"GET .*/pods\\?": listed()}) as (api, asked):
        await Pump(api, ...).run()
"""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from aiohttp import web

from operators.quantizationjob.api import Api

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True)
class Asked:
    """One request; `body` is its JSON."""

    method: str
    path: str
    kind: str
    body: Any

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


@asynccontextmanager
async def serving(
    folder: Path, answers: Mapping[str, Answer], version: Answer | None = None
) -> AsyncIterator[tuple[Path, list[Asked]]]:
    """A kubeconfig, and what was asked. The first pattern that `METHOD PATH` fits answers."""
    asked: list[Asked] = []
    version = version or said({"major": "1", "minor": "35", "gitVersion": "v1.35.0"})

    async def handle(request: web.Request) -> web.StreamResponse:
        if request.path.strip("/") == "version":
            answer = await version(request)
            answer.force_close()  # by the pool of a client that is then thrown away
            return answer
        body = await request.json() if request.can_read_body else None
        one = Asked(request.method, request.path_qs, request.content_type, body)
        asked.append(one)
        found = next((answers[p] for p in answers if re.search(p, str(one))), refused(404, ""))
        return await found(request)

    application = web.Application()
    application.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {"name": "a", "cluster": {"server": f"http://127.0.0.1:{runner.addresses[0][1]}"}}
        ],
        "users": [{"name": "u", "user": {"token": "x"}}],
        "contexts": [{"name": "c", "context": {"cluster": "a", "user": "u"}}],
        "current-context": "c",
    }
    path = folder / "kubeconfig"
    path.write_text(yaml.safe_dump(config))
    try:
        yield path, asked
    finally:
        await runner.cleanup()


@asynccontextmanager
async def answering(
    folder: Path, answers: Mapping[str, Answer]
) -> AsyncIterator[tuple[Api, list[Asked]]]:
    """A connected client, and what it has asked."""
    async with serving(folder, answers) as (path, asked):
        api = await Api.connect(str(path), lambda *_: None)
        try:
            yield api, asked
        finally:
            await api.close()


def said(body: Any, status: int = 200) -> Answer:
    """JSON."""

    async def answer(_: web.Request) -> web.StreamResponse:
        return web.json_response(body, status=status)

    return answer


def text(words: str, status: int = 200) -> Answer:
    """What a proxy may say in the server's place."""

    async def answer(_: web.Request) -> web.StreamResponse:
        return web.Response(text=words, status=status, content_type="text/html")

    return answer


def refused(status: int, message: str) -> Answer:
    """The API server's own way to say no."""
    return said({"kind": "Status", "apiVersion": "v1", "code": status, "message": message}, status)


def listed(*items: dict[str, Any], version: str = "1") -> Answer:
    """A list, and a watch of it that says nothing."""

    async def answer(request: web.Request) -> web.StreamResponse:
        if "watch" in request.query:
            return await _silence(request)
        found = {"apiVersion": "v1", "metadata": {"resourceVersion": version}, "items": items}
        return web.json_response(found)

    return answer


async def _silence(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    await never(request)
    return response


async def never(_: web.Request) -> web.StreamResponse:
    """No answer, until the server ends."""
    await asyncio.Event().wait()
    raise ConnectionResetError
