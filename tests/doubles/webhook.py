"""Whom Alertmanager tells: a server on loopback that keeps every notification.

Called by tests that see an alert reach its receiver.

    with Webhook() as webhook, Alertmanager(tmp_path, webhook.url):
        webhook.until("ReplicaDown", "firing")
"""

import json
import time
from typing import Any, Self

from tests.doubles.exporters import AnsweringServer


class Webhook:
    """One receiver; `notified` is what it was sent, in order."""

    def __init__(self) -> None:
        self.notified: list[dict[str, Any]] = []
        self._server = AnsweringServer(self._keep)

    @property
    def url(self) -> str:
        """Where notifications go."""
        return self._server.origin

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.stop()

    def told(self, name: str, status: str) -> list[dict[str, Any]]:
        """Each alert of this name that it was told of as `firing` or `resolved`."""
        alerts = (alert for each in list(self.notified) for alert in each["alerts"])
        return [a for a in alerts if (a["labels"]["alertname"], a["status"]) == (name, status)]

    def until(self, name: str, status: str, within: float = 60.0) -> dict[str, Any]:
        """Wait `within` seconds at most until it is told so; returns the alert."""
        deadline = time.monotonic() + within
        while not self.told(name, status):
            assert time.monotonic() < deadline, f"not told of {name} {status}: {self.notified}"
            time.sleep(0.05)
        return self.told(name, status)[0]

    def _keep(self, body: bytes) -> tuple[int, bytes]:
        self.notified.append(json.loads(body))
        return 200, b""
