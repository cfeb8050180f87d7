"""A real Prometheus on loopback, which scrapes every second.

Called by integration tests of scaling's inputs, and by whatever decides by them.

    with Prometheus(tmp_path, {"endpoint": Job([exporter.address])}) as prometheus:
        prometheus.url
        prometheus.until("vllm:num_requests_running == 2")

The binary is what `make tools` builds.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest
import yaml

from tests.servers.own_process import OwnProcess
from tests.servers.ports import free_port
from tools.servers import build, program

_READY_WITHIN = 120.0  # seconds; it takes one on an idle machine
_PATIENCE_S = 10  # of a scrape; Prometheus's own default


@dataclass(frozen=True)
class Job:
    """What one job scrapes: addresses, labels that it adds, and relabelling of what it found.

    A label `job` takes the place of the job's name. `interval` is the server's if left out.
    """

    targets: Sequence[str]
    labels: Mapping[str, str] = field(default_factory=dict)
    relabelling: Sequence[Mapping[str, Any]] = ()
    interval: str | None = None


class Prometheus(OwnProcess):
    """One server process with its data below `folder`; `rules` are files of rules, and their alerts
    go to the Alertmanagers at these addresses. It listens at `address` alone.
    """

    def __init__(
        self,
        folder: Path,
        jobs: Mapping[str, Job],
        rules: Sequence[Path] = (),
        interval: str = "1s",
        alertmanagers: Sequence[str] = (),
        address: str = "127.0.0.1",
    ) -> None:
        super().__init__("Prometheus", folder / "prometheus", f"http://{address}:{free_port()}")
        self._jobs = dict(jobs)
        self._rules = rules
        self._interval = interval
        self._alertmanagers = list(alertmanagers)
        self._binary = built("prometheus")

    def __enter__(self) -> Self:
        self._folder.mkdir(parents=True)
        (self._folder / "prometheus.yml").write_text(yaml.safe_dump(self._configuration()))
        for name, job in self._jobs.items():
            self.scrape(name, job.targets)
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start the process and wait until it answers."""
        command: list[str | Path] = [
            self._binary,
            f"--config.file={self._folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={self._folder / 'data'}",
            f"--web.listen-address={self.url.removeprefix('http://')}",
            "--log.level=warn",
        ]
        self._begin(command)
        self._wait("to start", _READY_WITHIN, lambda: self._get("/-/ready") is not None)

    def scrape(self, job: str, targets: Sequence[str]) -> None:
        """Let a job scrape these from now on, and no others."""
        path = self._folder / f"{job}.json"
        fresh = path.with_suffix(".new")
        labels = dict(self._jobs[job].labels)
        fresh.write_text(json.dumps([{"targets": list(targets), "labels": labels}]))
        fresh.rename(path)

    def query(self, query: str) -> list[dict[str, Any]]:
        """The vector that an instant query gives."""
        said = self._get(f"/api/v1/query?{urlencode({'query': query})}")
        assert said is not None, f"Prometheus does not answer:\n{self._log()}"
        result: list[dict[str, Any]] = json.loads(said)["data"]["result"]
        return result

    def ask(self, path: str, **parameters: str) -> Any:
        """The data of an answer of the API, below `/api/v1`. Raises ValueError with what Prometheus
        says where it refuses."""
        try:
            url = f"{self.url}/api/v1/{path}?{urlencode(parameters)}"
            with urlopen(url, timeout=_PATIENCE_S) as answer:
                return json.load(answer)["data"]
        except HTTPError as error:
            raise ValueError(error.read().decode(errors="replace")) from error

    def until(self, query: str) -> list[dict[str, Any]]:
        """Wait until an instant query gives anything; returns that."""
        self._wait(f"for {query}", _READY_WITHIN, lambda: bool(self.query(query)))
        return self.query(query)

    def _configuration(self) -> dict[str, Any]:
        often = {"scrape_interval": self._interval, "evaluation_interval": self._interval}
        patience = min(int(self._interval.removesuffix("s")), _PATIENCE_S)
        return {
            "global": {**often, "scrape_timeout": f"{patience}s"},
            "rule_files": [str(path) for path in self._rules],
            "alerting": {
                "alertmanagers": [{"static_configs": [{"targets": self._alertmanagers}]}],
            },
            "scrape_configs": [
                {
                    "job_name": name,
                    "scrape_interval": job.interval or self._interval,
                    "file_sd_configs": [{"files": [str(self._folder / f"{name}.json")]}],
                    "metric_relabel_configs": [dict(each) for each in job.relabelling],
                }
                for name, job in self._jobs.items()
            ],
        }


def built(name: str) -> Path:
    """Where a program lies that `make tools` builds. While that is still at work, or was never
    done, this waits until the program is built; fails the test where it cannot be.
    """
    try:
        build(name)
    except SystemExit as refused:
        pytest.fail(str(refused))
    return program(name)
