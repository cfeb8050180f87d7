"""What the kubelet and Prometheus ask: is it alive, is it ready, what does it count.

Called by `__main__`. Alive is a replica whose event loop turns and whose tasks all run; a server
that cannot be reached is no reason to be started anew. Ready is one that knows what the server has
in one namespace at least, leader or not, so that a rollout does not wait for an election; what is
wrong with the others it tells.
"""

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from halftone.telemetry.operator import OperatorMetrics

_TEXT = {"Content-Type": CONTENT_TYPE_LATEST}


class Health:
    """`/healthz`, `/readyz` and `/metrics` on one port."""

    def __init__(
        self,
        metrics: OperatorMetrics,
        refresh: Callable[[], None],
        troubles: Callable[[], list[str]],
        is_useful: Callable[[], bool] = lambda: False,
    ) -> None:
        self._metrics = metrics
        self._refresh = refresh
        self._troubles = troubles
        self._is_useful = is_useful
        self._tasks: list[asyncio.Task[Any]] = []

    def watch(self, tasks: Iterable[asyncio.Task[Any]]) -> None:
        """Whose end means that this replica is dead."""
        self._tasks = list(tasks)

    async def serve(self, host: str, port: int) -> web.AppRunner:
        """Begin to answer; `cleanup()` of what is returned ends it. Port 0 takes a free one.

        Raises OSError for an address that cannot be listened at.
        """
        application = web.Application()
        application.router.add_get("/healthz", self._healthz)
        application.router.add_get("/readyz", self._readyz)
        application.router.add_get("/metrics", self._scrape)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError:
            await runner.cleanup()
            raise
        return runner

    async def _healthz(self, _request: web.Request) -> web.Response:
        return _answer(self._ended())

    async def _readyz(self, _request: web.Request) -> web.Response:
        ended, troubles = self._ended(), self._troubles()
        return _answer([*ended, *troubles], is_well=not ended and self._is_useful())

    def _ended(self) -> list[str]:
        return [f"{task.get_name()} has ended" for task in self._tasks if task.done()]

    async def _scrape(self, _request: web.Request) -> web.Response:
        self._refresh()
        return web.Response(body=generate_latest(self._metrics.registry), headers=_TEXT)


def _answer(troubles: list[str], *, is_well: bool = False) -> web.Response:
    text = "\n".join(troubles) or "ok"
    return web.Response(status=503 if troubles and not is_well else 200, text=f"{text}\n")
