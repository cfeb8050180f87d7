"""All that the story needs before it begins: a node, S3, KubeRay, Prometheus, two namespaces.

Called by `python -m tests.e2e`. The node is a real kubelet in a network namespace of its own, which
this process enters. Ray and vLLM come from a read-only hostPath volume in place of an image of
seven gigabytes. The network does not enforce NetworkPolicies.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from subprocess import SubprocessError
from typing import Final

from tests.cluster import endpoint_environment, kuberay, prometheus_in_cluster, s3_in_cluster
from tests.cluster.client import Client
from tests.cluster.control_plane import ControlPlane
from tests.cluster.network import ADDRESS, Network
from tests.cluster.node import Node
from tests.cluster.own_images import archives
from tests.cluster.prometheus_in_cluster import PrometheusInCluster
from tests.cluster.s3_in_cluster import S3InCluster
from tests.e2e.timeline import Timeline
from tests.endpoint.release import API_KEY
from tests.endpoint.release import NAMESPACE as MODELS
from tests.node.jobs import secret
from tests.node.provisions import provide

JOBS: Final = "halftone"
_RESTRICTED: Final = {
    f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")
}


@dataclass(frozen=True)
class Scene:
    """What runs; `folder` is for logs, `public_key` what artifacts are verified with."""

    cluster: ControlPlane
    client: Client
    s3: S3InCluster
    monitoring: PrometheusInCluster
    timeline: Timeline
    folder: Path
    public_key: Path


@contextmanager
def set_up(folder: Path, timeline: Timeline) -> Iterator[Scene]:
    """A cluster below `folder` until the block ends."""
    with timeline.act("images are built where they changed, and saved"):
        files = folder / "archives"
        files.mkdir(parents=True)
        saved = [
            *archives(),
            endpoint_environment.image(),
            kuberay.image(files),
            s3_in_cluster.image(files),
            *prometheus_in_cluster.images(files),
        ]
    with (
        Network(f"halftone-{os.getpid()}") as network,
        ControlPlane(folder / "cluster", address=ADDRESS, network=network.path) as cluster,
        _node(cluster, network, saved, timeline),
        network.entered(),
        Client(cluster) as client,
    ):
        with timeline.act("S3, KubeRay's operator, Prometheus and Alertmanager run in it"):
            s3 = S3InCluster(cluster)
            kuberay.install(cluster)
            monitoring = PrometheusInCluster(cluster)
        with timeline.act("two namespaces under Pod Security `restricted`, Secrets, the source"):
            key = folder / "key.pub"
            _prepare(cluster, client, s3, folder, key)
        try:
            yield Scene(cluster, client, s3, monitoring, timeline, folder, key)
        finally:
            _keep_logs(cluster, folder / "logs")
            s3.client.close()


@contextmanager
def _node(
    cluster: ControlPlane, network: Network, images: list[Path], timeline: Timeline
) -> Iterator[None]:
    node = Node(cluster, network, images)
    with timeline.act("a control plane and a node with a real kubelet"):
        node.__enter__()
    try:
        yield
    finally:
        node.__exit__()


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


def logs_of(cluster: ControlPlane) -> dict[str, str]:
    """What every container that is still there has said, by namespace and pod."""
    found = {}
    for pod in cluster.get("pods", "-A")["items"]:
        name, namespace = pod["metadata"]["name"], pod["metadata"]["namespace"]
        command = ("logs", "-n", namespace, name, "--all-containers", "--prefix")
        try:
            found[f"{namespace}-{name}"] = cluster.kubectl(*command)
        except SubprocessError as error:  # a pod that never began has no log
            found[f"{namespace}-{name}"] = str(error)
    return found


def _keep_logs(cluster: ControlPlane, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, said in logs_of(cluster).items():
        (folder / f"{name}.log").write_text(said, encoding="utf-8")
    events = cluster.kubectl("get", "events", "-A", "--sort-by=.lastTimestamp")
    (folder / "events.txt").write_text(events, encoding="utf-8")
