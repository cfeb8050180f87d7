"""A way to a real API server on which things go wrong when a test says so.

The server behind it is unchanged; what is bad is the way, or the moment at which a client dies.
TLS ends here and begins anew, so that single requests can be told apart.

    with ApiProxy(cluster.url, cluster.authority.folder) as proxy:
        proxy.cut(r"PATCH .*/status", Moment.After, then=operator.kill)
        OperatorProcess(..., server=proxy.url)
"""

import asyncio
import json
import re
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum, auto
from pathlib import Path
from typing import Any, Self

import aiohttp
from aiohttp import web

_HOP_BY_HOP = {"connection", "content-length", "host", "keep-alive", "transfer-encoding"}


class Moment(Enum):
    """When the connection of one request is cut."""

    # The server never hears of it.
    Before = auto()
    # The server acts, and the client never hears of it.
    After = auto()


@dataclass(frozen=True)
class Seen:
    """One request as it arrived, by the monotonic clock."""

    at: float
    method: str
    path: str
    body: str

    @property
    def is_write(self) -> bool:
        """Whether it changes something that belongs to a job; the Lease does not."""
        return self.method != "GET" and "/leases" not in self.path

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


@dataclass
class _Fault:
    """What happens to requests that `concerns` picks, `times` times."""

    concerns: Callable[[Seen], bool]
    times: float = 1
    moment: Moment | None = None
    then: Callable[[], Any] = lambda: None
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    blocks: bool = False
    # What a test reads when it was not used.
    name: str = ""
    fired: int = 0

    @property
    def is_left(self) -> bool:
        """Whether it never happened, or less often than it was asked for."""
        return not self.fired or 0 < self.times < float("inf")


class ApiProxy:
    """Forwards to the API server at `server`, with the certificates of `pki`."""

    def __init__(self, server: str, pki: Path) -> None:
        self.seen: list[Seen] = []
        self._server = server
        self._pki = pki
        self._faults: list[_Fault] = []
        self._streams: set[asyncio.Task[Any]] = set()
        self._frozen = False
        self._ending = b""
        self._port = 0
        self._lock = threading.Lock()
        self._up = threading.Event()
        self._stop: asyncio.Event
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._run(),))

    def __enter__(self) -> Self:
        self._thread.start()
        if not self._up.wait(30):
            raise TimeoutError("the proxy did not start")
        return self

    def __exit__(self, *error: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        self._loop.close()

    @property
    def url(self) -> str:
        """What stands in a kubeconfig."""
        return f"https://127.0.0.1:{self._port}"

    def cut(
        self,
        match: str | Callable[[Seen], bool],
        moment: Moment,
        times: float = 1,
        then: Callable[[], Any] = lambda: None,
    ) -> None:
        """Cut requests at `moment`, and call `then` (which may kill the client) before."""
        self._add(_Fault(_matcher(match), times, moment, then, name=f"cut {moment.name} {match}"))

    def fail(
        self, match: str, status: int, times: float = 1, retry_after: int | None = None
    ) -> None:
        """Answer requests whose `METHOD PATH` matches with `status`, in the server's place."""
        headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
        name = f"{status} to {match}"
        self._add(_Fault(_matcher(match), times, status=status, headers=headers, name=name))

    def slow(self, match: str, seconds: float, times: float = float("inf")) -> None:
        """Hold requests that match back for `seconds`."""
        self._add(_Fault(_matcher(match), times, seconds=seconds, name=f"slow {match}"))

    def block(self, match: str = "") -> None:
        """A partition: requests that match are never answered."""
        self._add(_Fault(_matcher(match), float("inf"), blocks=True, name=f"block {match}"))

    def recover(self) -> int:
        """Nothing goes wrong any more. Returns how many times something did.

        Raises AssertionError with what was asked for and did not happen: such a test shows nothing.
        """
        with self._lock:
            faults, self._faults = self._faults, []
        self._frozen = False
        left = [f"{fault.name} ({fault.fired} times)" for fault in faults if fault.is_left]
        assert not left, f"faults that did not happen as often as they should: {left}"
        return sum(fault.fired for fault in faults)

    def freeze_watches(self) -> None:
        """Watches stay open and say nothing any more."""
        self._frozen = True

    def end_watches(self, *, gone: bool = False) -> None:
        """End all watches: silently, or (`gone`) with the server's word that they are too old."""
        status = {"kind": "Status", "apiVersion": "v1", "code": 410, "reason": "Expired"}
        event = {"type": "ERROR", "object": {**status, "message": "too old resource version"}}
        self._ending = json.dumps(event).encode() + b"\n" if gone else b""
        self._loop.call_soon_threadsafe(lambda: [task.cancel() for task in self._streams])

    def _add(self, fault: _Fault) -> None:
        with self._lock:
            self._faults.append(fault)

    def _fault_of(self, seen: Seen) -> _Fault | None:
        with self._lock:
            self.seen.append(seen)
            for fault in self._faults:
                if fault.times and fault.concerns(seen):
                    fault.times -= 1
                    fault.fired += 1
                    return fault
        return None

    async def _run(self) -> None:
        self._stop = asyncio.Event()
        here = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        here.load_cert_chain(self._pki / "apiserver.crt", self._pki / "apiserver.key")
        there = ssl.create_default_context(cafile=str(self._pki / "ca.crt"))
        application = web.Application(client_max_size=1 << 26)
        application.router.add_route("*", "/{path:.*}", self._handle)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        connector = aiohttp.TCPConnector(ssl=there, limit=0)
        self._client = aiohttp.ClientSession(
            self._server,
            connector=connector,
            auto_decompress=False,
            timeout=aiohttp.ClientTimeout(),
        )
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=here).start()
        self._port = runner.addresses[0][1]
        self._up.set()
        await self._stop.wait()
        await runner.cleanup()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        await connector.close(abort_ssl=True)
        await self._client.close()
        await asyncio.sleep(0.1)  # transports close in the loop's next rounds

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        path = request.path_qs
        seen = Seen(time.monotonic(), request.method, path, body.decode(errors="replace"))
        fault = self._fault_of(seen) or _Fault(lambda _: True)
        if fault.blocks:
            await self._stop.wait()
        await asyncio.sleep(fault.seconds)
        if fault.moment is Moment.Before:
            fault.then()
            return self._cut(request)
        if fault.status:
            return _answer(fault.status, fault.headers)
        headers = {n: v for n, v in request.headers.items() if n.lower() not in _HOP_BY_HOP}
        async with self._client.request(
            request.method, path, data=body or None, headers=headers, skip_auto_headers=["Accept"]
        ) as answer:
            if "watch=1" in path:
                return await self._stream(request, answer)
            content = await answer.read()
            if fault.moment is Moment.After:
                fault.then()
                return self._cut(request)
            kept = {n: v for n, v in answer.headers.items() if n.lower() not in _HOP_BY_HOP}
            return web.Response(status=answer.status, headers=kept, body=content)

    async def _stream(
        self, request: web.Request, answer: aiohttp.ClientResponse
    ) -> web.StreamResponse:
        kept = {n: v for n, v in answer.headers.items() if n.lower() not in _HOP_BY_HOP}
        response = web.StreamResponse(status=answer.status, headers=kept)
        await response.prepare(request)
        copying = asyncio.ensure_future(self._copy(answer, response))
        self._streams.add(copying)
        try:
            await asyncio.wait([copying])
        finally:
            copying.cancel()
            self._streams.discard(copying)
        with suppress(ConnectionError):  # the client has gone
            if self._ending and copying.cancelled():
                await response.write(self._ending)
            await response.write_eof()
        return response

    async def _copy(self, answer: aiohttp.ClientResponse, response: web.StreamResponse) -> None:
        async for chunk in answer.content.iter_any():
            if not self._frozen:
                await response.write(chunk)

    def _cut(self, request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.abort()
        raise ConnectionResetError


def _matcher(match: str | Callable[[Seen], bool]) -> Callable[[Seen], bool]:
    if callable(match):
        return match
    pattern = re.compile(match)
    return lambda seen: pattern.search(str(seen)) is not None


def _answer(code: int, headers: dict[str, str]) -> web.Response:
    """As the API server says it."""
    reasons = {409: "Conflict", 410: "Expired", 429: "TooManyRequests", 500: "InternalError"}
    body = {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "message": "on demand",
        "reason": reasons.get(code, "ServiceUnavailable"),
        "code": code,
    }
    return web.json_response(body, status=code, headers=headers)
