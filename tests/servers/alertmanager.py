"""A real Alertmanager on loopback, which tells at once.

Called by tests that see an alert arrive where somebody would be told of it.

    with (
        Alertmanager(tmp_path) as alertmanager,
        Prometheus(tmp_path, jobs, [RULES], alertmanagers=[alertmanager.address]) as prometheus,
    ):
        alertmanager.until("ReplicaDown", model_name="qwen")["annotations"]["summary"]

`webhook` is the address that it posts every notification to; without one nobody is told, and
alerts are read from its API. A configuration of one's own takes the place of both. The binary is
what `make tools` built; a missing one fails the test.
"""

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Self
from urllib.error import URLError
from urllib.request import urlopen

import pytest
import yaml

from tests.servers.ports import free_port
from tests.servers.prometheus import built

_READY_WITHIN: Final = 60.0  # seconds; it takes one on an idle machine


class Alertmanager:
    """One server process with its data below `folder`."""

    def __init__(
        self, folder: Path, webhook: str | None = None, configuration: str | None = None
    ) -> None:
        self._folder = folder / "alertmanager"
        self._configuration = configuration or yaml.safe_dump(telling(webhook))
        self._binary = built("alertmanager")
        self._process: subprocess.Popen[bytes] | None = None
        self.address = f"127.0.0.1:{free_port()}"

    @property
    def url(self) -> str:
        """Where its API is."""
        return f"http://{self.address}"

    def __enter__(self) -> Self:
        self._folder.mkdir(parents=True)
        configuration = self._folder / "alertmanager.yml"
        configuration.write_text(self._configuration)
        command: list[str | Path] = [
            self._binary,
            f"--config.file={configuration}",
            f"--storage.path={self._folder / 'data'}",
            f"--web.listen-address={self.address}",
            "--cluster.listen-address=",  # alone: looks for no others
            "--log.level=warn",
        ]
        with (self._folder / "log").open("wb") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            self._wait("to start", _READY_WITHIN, lambda: self._get("/-/ready") is not None)
        except BaseException:
            self.__exit__()  # Python does not call it for an __enter__ that raised
            raise
        return self

    def __exit__(self, *error: object) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(60)
            self._process = None

    def alerts(self) -> list[dict[str, Any]]:
        """Every alert that fires now: `labels`, `annotations`, `startsAt`, `receivers`, …"""
        said = self._get("/api/v2/alerts?active=true")
        assert said is not None, f"Alertmanager does not answer:\n{self._log()}"
        found: list[dict[str, Any]] = json.loads(said)
        return found

    def firing(self, name: str, **labels: str) -> list[dict[str, Any]]:
        """The alerts of this name that have at least these labels."""
        wanted = {"alertname": name, **labels}.items()
        return [each for each in self.alerts() if wanted <= each["labels"].items()]

    def until(self, name: str, within: float = 60.0, **labels: str) -> dict[str, Any]:
        """Wait `within` seconds at most until such an alert fires; returns the first."""
        self._wait(f"for {name}", within, lambda: bool(self.firing(name, **labels)))
        return self.firing(name, **labels)[0]

    def until_quiet(self, name: str, within: float = 60.0, **labels: str) -> None:
        """Wait `within` seconds at most until no such alert fires."""
        self._wait(f"for {name} to end", within, lambda: not self.firing(name, **labels))

    def _get(self, path: str) -> bytes | None:
        try:
            with urlopen(f"{self.url}{path}", timeout=10) as answer:
                said: bytes = answer.read()
                return said
        except URLError:
            return None

    def _wait(self, what: str, seconds: float, is_so: Callable[[], bool]) -> None:
        deadline = time.monotonic() + seconds
        while not is_so():
            ended = self._process is None or self._process.poll() is not None
            if ended or time.monotonic() > deadline:
                pytest.fail(f"waited in vain {what} in Alertmanager:\n{self._log()}")
            time.sleep(0.05)

    def _log(self) -> str:
        return (self._folder / "log").read_text(errors="replace")[-2000:]


def telling(webhook: str | None) -> dict[str, Any]:
    """A configuration that tells one receiver of every alert alone, as soon as it can."""
    hooks = [] if webhook is None else [{"url": webhook, "send_resolved": True}]
    return {
        "route": {
            "receiver": "tests",
            "group_by": ["..."],
            "group_wait": "0s",
            "group_interval": "1s",
            "repeat_interval": "1h",
        },
        "receivers": [{"name": "tests", "webhook_configs": hooks}],
    }
