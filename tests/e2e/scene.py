"""All that the story needs before it begins: a node, S3, KubeRay, Prometheus, two namespaces.

Called by `python -m tests.e2e`. The node is a real kubelet in a network namespace of its own, which
this process enters; or the cluster that KUBECONFIG names, of which this machine must be the node:
pods mount `.venvs/serve` from here, and Services are asked by their addresses. Ray and vLLM come
from that read-only hostPath volume in place of an image of seven gigabytes. The network of our own
node does not enforce NetworkPolicies.
"""

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.cluster import endpoint_environment, kuberay, prometheus_in_cluster, s3_in_cluster
from tests.cluster.client import Client
from tests.cluster.control_plane import ControlPlane
from tests.cluster.existing import ExistingCluster
from tests.cluster.network import ADDRESS, Network
from tests.cluster.node import Node
from tests.cluster.own_images import archives
from tests.cluster.prometheus_in_cluster import PrometheusInCluster
from tests.cluster.s3_in_cluster import S3InCluster
from tests.e2e.judging import other_machine
from tests.e2e.logs import FollowedLogs
from tests.e2e.timeline import Timeline
from tests.endpoint.release import API_KEY
from tests.endpoint.release import NAMESPACE as MODELS
from tests.node.jobs import secret
from tests.node.provisions import provide

JOBS: Final = "halftone"
_RESTRICTED: Final = {
    f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")
}
# The kernel's name of this boot, which a kubelet tells of its node.
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
_OURS: Final = (
    JOBS,
    MODELS,
    s3_in_cluster.NAMESPACE,
    kuberay.NAMESPACE,
    prometheus_in_cluster.NAMESPACE,
)
# What is made here and has no namespace.
_WIDE: Final = (
    *(f"persistentvolume/{name}" for name in endpoint_environment.VOLUMES),
    *(f"clusterrole/{name}" for name in (kuberay.NAME, "prometheus")),
    *(f"clusterrolebinding/{name}" for name in (kuberay.NAME, "prometheus", "prometheus-operator")),
)


@dataclass(frozen=True)
class Scene:
    """What runs; `folder` is for logs, `public_key` what artifacts are verified with.

    `existing`: nobody throws this cluster away.
    """

    cluster: ControlPlane
    client: Client
    s3: S3InCluster
    monitoring: PrometheusInCluster
    timeline: Timeline
    logs: FollowedLogs
    folder: Path
    public_key: Path
    existing: bool

    @property
    def inside(self) -> str:
        """What a command stands behind to reach the cluster from a shell."""
        return " ".join(
            self.cluster.processes.inside("env", f"KUBECONFIG={self.cluster.kubeconfig}")
        )


@contextmanager
def set_up(folder: Path, timeline: Timeline, load: str = "") -> Iterator[Scene]:
    """A cluster below `folder` until the block ends; with KUBECONFIG set that one, whose node gets
    images by the command `load`, which an archive's path is put behind.
    """
    existing = bool(os.environ.get("KUBECONFIG"))
    with timeline.act("images are built where they changed, and saved"):
        saved = _images(folder / "archives")
    used = _existing(folder, saved, load, timeline) if existing else _own(folder, saved, timeline)
    with used as cluster, Client(cluster) as client:
        followed = FollowedLogs(cluster, folder / "logs")
        try:
            with followed:
                with timeline.act("S3, KubeRay's operator, Prometheus and Alertmanager"):
                    s3 = S3InCluster(cluster)
                    kuberay.install(cluster)
                    monitoring = PrometheusInCluster(cluster)
                key = folder / "key.pub"
                with timeline.act("two namespaces under Pod Security `restricted`, Secrets"):
                    _prepare(cluster, client, s3, folder, key)
                yield Scene(
                    cluster, client, s3, monitoring, timeline, followed, folder, key, existing
                )
                s3.client.close()
        finally:
            with suppress(subprocess.SubprocessError):  # the cluster may be what broke
                _keep_events(cluster, folder / "logs")


def _images(folder: Path) -> list[Path]:
    folder.mkdir(parents=True)
    return [
        *archives(),
        endpoint_environment.image(),
        kuberay.image(folder),
        s3_in_cluster.image(folder),
        *prometheus_in_cluster.images(folder),
    ]


@contextmanager
def _own(folder: Path, images: list[Path], timeline: Timeline) -> Iterator[ControlPlane]:
    with ExitStack() as stack:
        with timeline.act("a control plane and a node with a real kubelet"):
            network = stack.enter_context(Network(f"halftone-{os.getpid()}"))
            plane = ControlPlane(folder / "cluster", address=ADDRESS, network=network.path)
            cluster = stack.enter_context(plane)
            stack.enter_context(Node(cluster, network, images))
        with network.entered():
            yield cluster


@contextmanager
def _existing(
    folder: Path, images: list[Path], load: str, timeline: Timeline
) -> Iterator[ControlPlane]:
    with ExistingCluster(folder / "cluster") as cluster:
        with timeline.act("the cluster that KUBECONFIG names has room, and gets the images"):
            _require_this_machine(cluster)
            own = (*(f"namespace/{name}" for name in _OURS), *_WIDE)
            there = cluster.kubectl("get", "--ignore-not-found", "-o=name", *own)
            if there:
                raise RuntimeError(
                    f"the cluster has {', '.join(there.split())}, which are made here and removed "
                    "at the end; delete them, or take another cluster."
                )
            for archive in images if load else ():
                subprocess.run([*load.split(), str(archive)], check=True, capture_output=True)
        yield cluster


def _require_this_machine(cluster: ControlPlane) -> None:
    """Before anything is made: somebody's KUBECONFIG may name a cluster that many people use."""
    boot_id = _BOOT_ID.read_text(encoding="ascii").strip() if _BOOT_ID.exists() else ""
    wrong = other_machine(cluster.get("nodes")["items"], boot_id)
    if wrong:
        raise RuntimeError(
            f"{wrong}; unset KUBECONFIG, or name an empty cluster whose only node is this machine."
        )


def take_away(cluster: ControlPlane) -> None:
    """What `set_up` brought into a cluster, but for CustomResourceDefinitions."""
    cluster.kubectl("delete", "namespaces", "--ignore-not-found", "--timeout=300s", *_OURS)
    cluster.kubectl("delete", "--ignore-not-found", *_WIDE)


def _prepare(
    cluster: ControlPlane, client: Client, s3: S3InCluster, folder: Path, key: Path
) -> None:
    for namespace in (JOBS, MODELS):
        client.namespace(namespace)
        labels = {"metadata": {"labels": _RESTRICTED}}
        client.patch(f"/api/v1/namespaces/{namespace}", labels)
    provide(client, s3, JOBS, key)
    core = f"/api/v1/namespaces/{MODELS}"
    client.create(f"{core}/secrets", secret("s3", "credentials", s3.credentials_file))
    client.create(f"{core}/secrets", secret("clients", "api-key", API_KEY))
    signer = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "signer"},
        "data": {"publickey.pem": key.read_text(encoding="utf-8")},
    }
    client.create(f"{core}/configmaps", signer)
    volumes = endpoint_environment.listed(MODELS, folder / "environment")
    cluster.kubectl("apply", "-f", "-", text=json.dumps(volumes))


def _keep_events(cluster: ControlPlane, folder: Path) -> None:
    events = cluster.kubectl("get", "events", "-A", "--sort-by=.lastTimestamp")
    (folder.parent / "events.txt").write_text(events, encoding="utf-8")
