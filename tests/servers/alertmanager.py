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
from pathlib import Path
from typing import Any, Final, Self

import yaml

from tests.servers.own_process import OwnProcess
from tests.servers.ports import free_port
from tests.servers.prometheus import built

_READY_WITHIN: Final = 60.0  # seconds; it takes one on an idle machine


class Alertmanager(OwnProcess):
    """One server process with its data below `folder`."""

    def __init__(
        self, folder: Path, webhook: str | None = None, configuration: str | None = None
    ) -> None:
        self.address = f"127.0.0.1:{free_port()}"
        super().__init__("Alertmanager", folder / "alertmanager", f"http://{self.address}")
        self._configuration = configuration or yaml.safe_dump(telling(webhook))
        self._binary = built("alertmanager")

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
        self._begin(command)
        try:
            self._wait("to start", _READY_WITHIN, lambda: self._get("/-/ready") is not None)
        except BaseException:
            self.__exit__()  # Python does not call it for an __enter__ that raised
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

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
