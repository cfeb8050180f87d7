"""What every container says, read while it says it, into a file each.

Called by `python -m tests.e2e`: a pod that is gone has no log to ask for, and a Secret in one would
not be found. Ray keeps what its processes say in files of its pods, which `read_ray` reads.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from subprocess import SubprocessError
from typing import Any, Final

import httpx

from tests.cluster.control_plane import ControlPlane
from tests.cluster.looking import Looking

_RAY: Final = "find /tmp/ray -type f -path '*/logs/*' -exec tail -n +1 {} + 2>/dev/null || true"
# A log that cannot be had now is asked for again after so long.
_AGAIN_S: Final = 2.0
_RAY_CONTAINERS: Final = ("ray-head", "ray-worker")


class FollowedLogs(Looking):
    """Writes `NAMESPACE.POD.ID.CONTAINER.RESTARTS.log` into `folder` while the block runs.

    `ID` tells pods of one name from each other, as a StatefulSet makes them.
    """

    def __init__(self, cluster: ControlPlane, folder: Path) -> None:
        super().__init__(cluster)
        self.folder = folder
        self._cluster = cluster
        self._followed: set[str] = set()
        folder.mkdir(parents=True, exist_ok=True)

    def look(self) -> None:
        """Begin to follow whichever container has begun since the last look."""
        for pod in self.items("/api/v1/pods"):
            for name, path, query in _begun(pod):
                if name in self._followed:
                    continue
                self._followed.add(name)
                words = (name, path, query)
                threading.Thread(target=self._follow, args=words, daemon=True).start()

    def _follow(self, name: str, path: str, query: dict[str, str]) -> None:
        """Write what is said until it ends; what is refused or breaks off is begun again."""
        waiting = httpx.Timeout(60, read=None)
        try:
            with (
                self._cluster.connection() as client,
                client.stream("GET", path, params=query, timeout=waiting) as said,
            ):
                said.raise_for_status()
                # What was read before stays: the runtime may have thrown it away since.
                with (self.folder / f"{name}.log").open("ab") as log:
                    for part in said.iter_bytes():
                        log.write(part)
                        log.flush()
        except (httpx.HTTPError, httpx.StreamError, OSError):
            self._stopped.wait(_AGAIN_S)
            self._followed.discard(name)

    def read_ray(self) -> None:
        """What Ray's processes have written in pods that are there."""
        for pod in self.items("/api/v1/pods"):
            meta = pod["metadata"]
            for container in pod["spec"]["containers"]:
                if container["name"] not in _RAY_CONTAINERS:
                    continue
                where = ("-n", meta["namespace"], meta["name"], "-c", container["name"])
                with suppress(SubprocessError):  # it is just going
                    said = self._cluster.kubectl("exec", *where, "--", "sh", "-c", _RAY)
                    path = self.folder / f"{meta['namespace']}.{meta['name']}.files.log"
                    path.write_text(said, encoding="utf-8")

    def missing(self, namespaces: tuple[str, ...], within_s: float = 20) -> list[str]:
        """Containers of these namespaces that have begun and of which no file comes `within_s`."""
        until = time.monotonic() + within_s
        while self.looks:
            names = sorted(
                name
                for pod in self.items("/api/v1/pods")
                if pod["metadata"]["namespace"] in namespaces
                for name, _, _ in _begun(pod)
                if not (self.folder / f"{name}.log").exists()
            )
            if not names or time.monotonic() > until:
                return names
            time.sleep(_AGAIN_S)
        return ["whatever has begun since looking broke off"]

    def texts(self) -> dict[str, str]:
        """All that was said so far, by the names of the files."""
        paths = sorted(self.folder.glob("*.log"))
        return {path.name: path.read_text("utf-8", errors="replace") for path in paths}


def _begun(pod: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, str]]]:
    """Of each container that has begun: the name of its file, and where its log is asked for."""
    meta = pod["metadata"]
    path = f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}/log"
    for kind in ("initContainerStatuses", "containerStatuses"):
        for row in pod["status"].get(kind, ()):
            if not row["state"].keys() & {"running", "terminated"}:
                continue
            whose = f"{meta['namespace']}.{meta['name']}.{meta['uid'][:8]}"
            name = f"{whose}.{row['name']}.{row['restartCount']}"
            yield name, path, {"container": row["name"], "follow": "true"}
