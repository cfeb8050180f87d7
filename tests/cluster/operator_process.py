"""The operator as a process of this machine, with the rights of the chart's own service account.

Called by the API tier and by benchmarks. It is started as in its image: one module, one settings
file, a kubeconfig that holds a token.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Self

import httpx

from tests.cluster.chart import RELEASE, ROOT, install_rights
from tests.cluster.control_plane import ControlPlane
from tests.servers.ports import free_port

_POLL: Final = 0.05


class OperatorProcess:
    """An operator for one namespace. `server` is another address of the API server: a proxy's.

    `kill` is SIGKILL; leaving the block ends it with SIGTERM, and fails if it had ended by itself.
    """

    def __init__(
        self,
        cluster: ControlPlane,
        namespace: str,
        folder: Path,
        *,
        server: str | None = None,
        options: Sequence[str] = (),
        lease: bool = True,
        environment: dict[str, str] | None = None,
        kubeconfig: Path | None = None,
        arguments: Sequence[str] = (),
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.log = folder / "operator.log"
        self.port = free_port()
        self._settings = folder / "settings.yaml"
        self._settings.write_text(install_rights(cluster, namespace, *options))
        self._kubeconfig = kubeconfig or cluster.write_token_kubeconfig(
            folder / "kubeconfig", namespace, RELEASE, server
        )
        self._lease = ["--lease-namespace", namespace, "--lease-name", RELEASE] if lease else []
        self._arguments = arguments
        self._environment = {**os.environ, **(environment or {}), "PYTHONPATH": str(ROOT)}
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; a former process must have ended."""
        assert self.process is None or self.process.poll() is not None
        command = [sys.executable, "-m", "operators.quantizationjob"]
        command += ["--settings", str(self._settings), "--kubeconfig", str(self._kubeconfig)]
        command += ["--host", "127.0.0.1", "--port", str(self.port)]
        command += [*self._lease, *self._arguments]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, env=self._environment, cwd=ROOT
            )

    def wait_ready(self, seconds: float = 60) -> None:
        """Return once its watches have been read; raise with its log if it ends."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.require_running()
            try:
                answer = httpx.get(self.url("/readyz"), timeout=5, trust_env=False)
                if answer.status_code == 200:
                    return
            except httpx.HTTPError:
                pass
            time.sleep(_POLL)
        raise TimeoutError(f"the operator was not ready in {seconds:.0f} s:\n{self.tail()}")

    def url(self, path: str) -> str:
        """Of its health and metrics."""
        return f"http://127.0.0.1:{self.port}{path}"

    def metrics(self) -> str:
        """What Prometheus would scrape."""
        return httpx.get(self.url("/metrics"), timeout=30, trust_env=False).text

    def require_running(self) -> None:
        """Raise with the end of its log if it has ended."""
        if self.process is None or self.process.poll() is not None:
            raise RuntimeError(f"the operator has ended:\n{self.tail()}")

    def tail(self) -> str:
        """The end of its log."""
        return self.log.read_text(errors="replace")[-4000:] if self.log.exists() else ""

    def memory(self) -> int:
        """Resident bytes at their highest."""
        assert self.process is not None
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024

    def kill(self) -> None:
        """End it as a lost node does."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """End it as the kubelet does; raises if it had ended by itself, or does not end."""
        self.require_running()
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self.kill()
            raise TimeoutError(f"the operator did not end:\n{self.tail()}") from None

    def __enter__(self) -> Self:
        self.start()
        try:
            self.wait_ready()
        except BaseException:
            if self.process is not None and self.process.poll() is None:
                self.kill()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        assert self.process is not None
        if kind is None:
            self.stop()
        elif self.process.poll() is None:
            self.kill()
