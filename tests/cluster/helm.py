"""The chart installed as its users do it: `helm install --wait` against a cluster.

Called by the node tier, and by the API tier, where nothing waits for pods; `chart` renders without
a cluster.
"""

import os
import subprocess

from tests.cluster.chart import CHART, RELEASE
from tests.cluster.control_plane import ControlPlane
from tests.cluster.own_images import REGISTRY
from tools.servers import program

VALUES = (
    "--set", f"image.registry={REGISTRY}",
    "--set", "image.pullPolicy=Never",
    # Looked at more often than anybody needs, because the pocket model is done in a second.
    "--set", "progressSeconds=1",
)  # fmt: skip


class Helm:
    """Helm for one namespace of `cluster`; every error is a RuntimeError with what Helm says."""

    def __init__(self, cluster: ControlPlane, namespace: str) -> None:
        self._cluster = cluster
        self.namespace = namespace

    def install(self, *options: str) -> str:
        """Install or upgrade, and wait until the operator is ready; returns the notes."""
        wait = ("--wait", "--timeout", "180s")
        return self("upgrade", "--install", RELEASE, str(CHART), *wait, *VALUES, *options)

    def __call__(self, verb: str, *words: str) -> str:
        """Run Helm; returns what it prints."""
        folder = self._cluster.folder / "helm"
        homes = {f"HELM_{kind}_HOME": str(folder / kind) for kind in ("CACHE", "CONFIG", "DATA")}
        command = self._cluster.processes.inside(
            str(program("helm")), verb, *words, "--namespace", self.namespace,
            "--kubeconfig", str(self._cluster.kubeconfig),
        )  # fmt: skip
        found = subprocess.run(
            command, capture_output=True, text=True, check=False, env={**os.environ, **homes}
        )
        if found.returncode:
            raise RuntimeError(f"helm {verb}: {found.stdout}{found.stderr}")
        return found.stdout
