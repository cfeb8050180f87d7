"""KubeRay's own operator, which makes clusters and pods of RayServices: beside a control plane, or
in a pod of a node.

Called by the API tier, without a node: pods stay Pending there, and Ray is never asked anything.
Called by `tests/endpoint` with one, where the operator has the rights of KubeRay's own release.
"""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import httpx

from tests.cluster import definitions
from tests.cluster.archives import single_binary_image
from tests.cluster.control_plane import ControlPlane
from tests.servers.ports import free_port
from tools.servers import kuberay_definitions, program

RAY_API: Final = "/apis/ray.io/v1"
IMAGE: Final = "localhost/kuberay-operator:1"
NAMESPACE: Final = "kuberay"
NAME: Final = "kuberay-operator"
# Behind a feature gate that is closed.
_OFF: Final = "raycronjobs"
_VISITS: Final = 'controller_runtime_reconcile_total{controller="rayservice"'


def install_definitions(cluster: ControlPlane) -> None:
    """Apply KubeRay's CRDs, but of a kind that KubeRay leaves alone unless it is told."""
    paths = [path for path in kuberay_definitions() if _OFF not in path.stem]
    definitions.install(cluster, "KubeRay's CRDs", paths)


class Visits:
    """How often the operator has looked at a RayService, by its own count."""

    def __init__(self, url: str) -> None:
        self._url = url

    def __call__(self) -> int:
        """0 before the first, and while the operator does not answer yet."""
        try:
            text = httpx.get(self._url, timeout=10, trust_env=False).text
        except httpx.HTTPError:
            return 0
        lines = (line.rpartition(" ") for line in text.splitlines())
        return sum(int(float(count)) for name, _, count in lines if name.startswith(_VISITS))


@contextmanager
def operator(cluster: ControlPlane) -> Iterator[Visits]:
    """KubeRay's operator of all namespaces, until the block ends."""
    install_definitions(cluster)
    port = free_port()
    log = cluster.folder / "logs" / "kuberay-operator.log"
    command = cluster.processes.inside(
        str(program("kuberay-operator")),
        f"--metrics-addr=127.0.0.1:{port}",
        f"--health-probe-bind-address=127.0.0.1:{free_port()}",
        "--enable-leader-election=false",
    )
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=cluster.folder,
            env={"KUBECONFIG": str(cluster.kubeconfig), "PATH": "/usr/bin:/bin"},
        )
    try:
        yield Visits(f"http://127.0.0.1:{port}/metrics")
        if process.poll() is not None:
            raise RuntimeError(f"KubeRay's operator has ended:\n{log.read_text()[-2000:]}")
    finally:
        process.terminate()
        process.wait(timeout=60)


def image(folder: Path) -> Path:
    """The archive of the operator's image."""
    archive = folder / f"{NAME}.tar"
    single_binary_image(archive, IMAGE, program(NAME))
    return archive


def install(cluster: ControlPlane) -> None:
    """The operator as a pod with its own account; returns once it is ready."""
    install_definitions(cluster)
    rights = kuberay_definitions()[0].parents[2] / "rbac" / "role.yaml"
    cluster.kubectl("apply", "-f", str(rights))
    objects = {"apiVersion": "v1", "kind": "List", "items": _objects()}
    cluster.kubectl("apply", "-f", "-", text=json.dumps(objects))
    cluster.kubectl(
        "rollout", "status", f"deployment/{NAME}", "-n", NAMESPACE, "--timeout=120s"
    )  # fmt: skip


def _objects() -> list[dict[str, Any]]:
    meta = {"name": NAME, "namespace": NAMESPACE}
    # By these the endpoint's policy lets it in.
    labels = {
        "app.kubernetes.io/name": "kuberay",
        "app.kubernetes.io/component": "kuberay-operator",
    }
    container = {
        "name": NAME,
        "image": IMAGE,
        "imagePullPolicy": "Never",
        "args": ["--enable-leader-election=false"],
        "readinessProbe": {"httpGet": {"path": "/metrics", "port": 8080}, "periodSeconds": 1},
        # As in KubeRay's own manifest: without a share it gets nothing of a busy machine.
        "resources": {"requests": {"cpu": "100m", "memory": "512Mi"}},
    }
    rights = "rbac.authorization.k8s.io"
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta},
        {
            "apiVersion": f"{rights}/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": NAME},
            "roleRef": {"apiGroup": rights, "kind": "ClusterRole", "name": NAME},
            "subjects": [{"kind": "ServiceAccount", **meta}],
        },
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": meta,
            "spec": {
                "selector": {"matchLabels": labels},
                "template": {
                    "metadata": {"labels": labels},
                    "spec": {"serviceAccountName": NAME, "containers": [container]},
                },
            },
        },
    ]
