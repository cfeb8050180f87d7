"""A real Prometheus on loopback, which scrapes every second.

Called by integration tests of scaling's inputs, and by whatever decides by them.

    with Prometheus(tmp_path, {"endpoint": Job([exporter.address])}) as prometheus:
        prometheus.url
        prometheus.until("vllm:num_requests_running == 2")

The binary is what `make tools` built; a missing one fails the test.
"""

import json
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from urllib.error import URLError
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest
import yaml

from tests.servers.ports import free_port
from tools.servers import program

_READY_WITHIN = 120.0  # seconds; it takes one on an idle machine


@dataclass(frozen=True)
class Job:
    """What one job scrapes: addresses, labels that it adds, and relabelling of what it found."""

    targets: Sequence[str]
    labels: Mapping[str, str] = field(default_factory=dict)
    relabelling: Sequence[Mapping[str, Any]] = ()


class Prometheus:
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
        self._folder = folder / "prometheus"
        self._jobs = dict(jobs)
        self._rules = rules
        self._interval = interval
        self._alertmanagers = list(alertmanagers)
        self._binary = built("prometheus")
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"http://{address}:{free_port()}"

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
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        self._wait("to start", lambda: self._get("/-/ready") is not None)

    def stop(self) -> None:
        """End the process; its data stays."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(60)
            self._process = None

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

    def until(self, query: str) -> list[dict[str, Any]]:
        """Wait until an instant query gives anything; returns that."""
        self._wait(f"for {query}", lambda: bool(self.query(query)))
        return self.query(query)

    def _configuration(self) -> dict[str, Any]:
        often = {"scrape_interval": self._interval, "evaluation_interval": self._interval}
        return {
            "global": {**often, "scrape_timeout": self._interval},
            "rule_files": [str(path) for path in self._rules],
            "alerting": {
                "alertmanagers": [{"static_configs": [{"targets": self._alertmanagers}]}],
            },
            "scrape_configs": [
                {
                    "job_name": name,
                    "file_sd_configs": [{"files": [str(self._folder / f"{name}.json")]}],
                    "metric_relabel_configs": [dict(each) for each in job.relabelling],
                }
                for name, job in self._jobs.items()
            ],
        }

    def _get(self, path: str) -> bytes | None:
        try:
            with urlopen(f"{self.url}{path}", timeout=10) as answer:
                said: bytes = answer.read()
                return said
        except URLError:
            return None

    def _wait(self, what: str, is_so: Any) -> None:
        deadline = time.monotonic() + _READY_WITHIN
        while not is_so():
            ended = self._process is None or self._process.poll() is not None
            if ended or time.monotonic() > deadline:
                pytest.fail(f"waited in vain {what} in Prometheus:\n{self._log()}")
            time.sleep(0.05)

    def _log(self) -> str:
        return (self._folder / "log").read_text(errors="replace")[-2000:]


def built(name: str) -> Path:
    """Where a program lies that `make tools` builds; fails the test where it does not."""
    path = program(name)
    if not path.exists():
        pytest.fail(f"{path} is missing; build it with `make tools`")
    return path
