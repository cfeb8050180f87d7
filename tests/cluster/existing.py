"""A cluster that is there already, as tests use one that they have brought up themselves.

    with ExistingCluster(folder) as cluster:        # the one that KUBECONFIG names
        cluster.kubectl("get", "nodes")

Called by `tests/e2e`. What asks by HTTP goes through `kubectl proxy`, which knows every way to log
in. Nothing of the cluster itself is started, and nothing of it is ended.
"""

import subprocess
from pathlib import Path

import httpx

from tests.cluster.control_plane import ControlPlane
from tests.servers.ports import free_port
from tools.servers import program


class ExistingCluster(ControlPlane):
    """The current context of the user's kubeconfig; files go into `folder`."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.url = f"http://127.0.0.1:{free_port()}"

    def connection(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=60, trust_env=False)

    def stop(self) -> None:
        self.processes.stop()

    def _start(self) -> None:
        view = ("config", "view", "--raw", "--minify", "--flatten")
        found = subprocess.run(
            [str(program("kubectl")), *view], capture_output=True, text=True, check=False
        )
        if found.returncode:
            raise RuntimeError(f"KUBECONFIG names no cluster: {found.stderr.strip()}")
        self.kubeconfig.touch(mode=0o600)
        self.kubeconfig.write_text(found.stdout, encoding="utf-8")
        port = self.url.rpartition(":")[2]
        proxy = ("proxy", f"--port={port}", "--kubeconfig", self.kubeconfig)
        self.processes.start("kubectl-proxy", program("kubectl"), *proxy)
        told = "an answer of the cluster that KUBECONFIG names"
        self.processes.wait(told, self._is_ready, 30)

    def _is_ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/readyz", trust_env=False).text == "ok"
        except httpx.HTTPError:  # the proxy does not listen yet
            return False
