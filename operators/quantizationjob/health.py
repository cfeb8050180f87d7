"""What the kubelet and Prometheus ask: is it alive, is it ready, what does it count.

Called by `__main__`. Alive is a replica whose event loop turns and whose tasks all run; ready is
one that answers, leader or not, so that a rollout does not wait for an election.
"""

import asyncio
from collections.abc import Callable, Iterable

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from halftone.telemetry.operator import OperatorMetrics

_TEXT = {"Content-Type": CONTENT_TYPE_LATEST}


class Health:
    """`/healthz`, `/readyz` and `/metrics` on one port."""

    def __init__(self, metrics: OperatorMetrics, refresh: Callable[[], None]) -> None:
        self._metrics = metrics
        self._refresh = refresh
        self._tasks: list[asyncio.Task[None]] = []

    def watch(self, tasks: Iterable[asyncio.Task[None]]) -> None:
        """Whose end means that this replica is dead."""
        self._tasks = list(tasks)

    async def serve(self, host: str, port: int) -> web.AppRunner:
        """Begin to answer; `cleanup()` of what is returned ends it. Port 0 takes a free one."""
        application = web.Application()
        application.router.add_get("/healthz", self._healthz)
        application.router.add_get("/readyz", self._healthz)
        application.router.add_get("/metrics", self._scrape)
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, host, port).start()
        return runner

    async def _healthz(self, _request: web.Request) -> web.Response:
        ended = [task.get_name() for task in self._tasks if task.done()]
        if ended:
            return web.Response(status=503, text=f"ended: {', '.join(ended)}\n")
        return web.Response(text="ok\n")

    async def _scrape(self, _request: web.Request) -> web.Response:
        self._refresh()
        return web.Response(body=generate_latest(self._metrics.registry), headers=_TEXT)
