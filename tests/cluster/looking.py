"""What plays a part of a cluster by looking at it again and again, in a thread of its own.

Called by stand-ins of nodes' autoscalers and of pods on simulated nodes.
"""

import threading
from abc import ABC, abstractmethod
from typing import Any, Final, Self

import httpx

from tests.cluster.control_plane import ControlPlane

_LOOK_S: Final = 0.5


class Looking(ABC):
    """Looks while the block runs. `errors` are what the API server refused; `client` asks it."""

    def __init__(self, cluster: ControlPlane) -> None:
        self.errors: list[str] = []
        self.client = cluster.connection()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    @abstractmethod
    def look(self) -> None:
        """Look once, and do what is due; what it raises of httpx becomes an error."""

    def items(self, path: str) -> list[dict[str, Any]]:
        """The objects at `path`."""
        found: list[dict[str, Any]] = self.client.get(path).raise_for_status().json()["items"]
        return found

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stopped.set()
        self._thread.join()
        self.client.close()

    def _run(self) -> None:
        while not self._stopped.wait(_LOOK_S):
            try:
                self.look()
            except httpx.HTTPError as error:
                self.errors.append(str(error))

    @property
    def looks(self) -> bool:
        """Whether it still does, and has not broken off."""
        return self._thread.is_alive()
