"""Requests to an endpoint in the background, as a test's block has them: open loop, or a flood.

    with Load(url, ({"model": "pocket", "prompt": "1 + 1 =", "max_tokens": 8} for _ in count()),
              every_s=0.5) as load:
        load.statuses[200]

Called by live tests of dashboards and alerts. `every_s` sends each at its time, whatever came of
those before, as arrivals of users do; without it `at_once` are in flight all the time. It measures
nothing: that is for benchmarks.
"""

import asyncio
import threading
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Final, Self

import httpx

Body = Mapping[str, Any]
_PATH: Final = "/v1/completions"
_PATIENCE_S: Final = 900.0  # nobody gives up before the endpoint does
_WEARY_S: Final = 0.2  # before the next, after one that nobody answered


class Load:
    """Goes on from entering until leaving, which lets go of whatever is not answered by then.

    `statuses` counts answers by their status, 0 for what nobody answered.
    """

    def __init__(
        self, url: str, bodies: Iterable[Body], *, every_s: float | None = None, at_once: int = 1
    ) -> None:
        self._url = url
        self._bodies = iter(bodies)
        self._every_s = every_s
        self._at_once = at_once
        self.statuses: Counter[int] = Counter()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._work: asyncio.Task[None] | None = None

    def __enter__(self) -> Self:
        self._work = self._loop.create_task(self._send())
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        assert self._work is not None
        self._loop.call_soon_threadsafe(self._work.cancel)
        self._thread.join()
        self._loop.close()

    def _run(self) -> None:
        assert self._work is not None
        self._loop.run_until_complete(asyncio.wait((self._work,)))

    async def _send(self) -> None:
        limits = httpx.Limits(max_connections=None)
        async with (
            httpx.AsyncClient(timeout=_PATIENCE_S, limits=limits, trust_env=False) as http,
            asyncio.TaskGroup() as group,
        ):
            if self._every_s is None:
                for _ in range(self._at_once):
                    group.create_task(self._again(http))
                return
            for body in self._bodies:
                group.create_task(self._ask(http, body))
                await asyncio.sleep(self._every_s)

    async def _again(self, http: httpx.AsyncClient) -> None:
        for body in self._bodies:
            if not await self._ask(http, body):
                await asyncio.sleep(_WEARY_S)

    async def _ask(self, http: httpx.AsyncClient, body: Body) -> int:
        try:
            status = (await http.post(self._url + _PATH, json=dict(body))).status_code
        except httpx.HTTPError:
            status = 0
        self.statuses[status] += 1
        return status
