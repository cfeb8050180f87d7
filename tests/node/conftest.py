"""The node tier: the chart installed on a real node, every stage in a pod of our own images.

One cluster a run, in a network namespace of its own, which this process enters: what tests ask goes
to addresses inside. Needs root; `python -m tools.packages` brings the programs. A missing one fails
the tier, because without a real kubelet it would prove nothing.
"""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.client import Client
from tests.cluster.control_plane import ControlPlane
from tests.cluster.helm import Helm
from tests.cluster.network import ADDRESS, Network
from tests.cluster.node import Node
from tests.cluster.own_images import archives
from tests.cluster.s3_in_cluster import S3InCluster, image
from tests.node.provisions import provide

NAMESPACE = "halftone"


@dataclass(frozen=True)
class Up:
    """All that runs. `namespace` is the release's and the jobs' own."""

    cluster: ControlPlane
    node: Node
    s3: S3InCluster
    helm: Helm
    client: Client
    signing_key: Path
    namespace: str = NAMESPACE


@pytest.fixture(scope="session")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """The cluster with the operator in it, S3, the pocket model and the Secrets of jobs."""
    folder = tmp_path_factory.mktemp("node-tier")
    told = _Clock()
    saved = archives()
    told("images are built and saved")
    with (
        Network(f"halftone-{os.getpid()}") as network,
        ControlPlane(folder / "cluster", address=ADDRESS, network=network.path) as cluster,
    ):
        told("the control plane answers")
        with (
            Node(cluster, network, [*saved, image(folder)]) as node,
            network.entered(),
            Client(cluster) as client,
        ):
            told("the node is ready and has the images")
            s3 = S3InCluster(cluster)
            _prepare(cluster, client, s3, folder)
            helm = Helm(cluster, NAMESPACE)
            helm.install()
            told("S3 and the chart are installed")
            yield Up(cluster, node, s3, helm, client, folder / "key.pub")
            s3.client.close()


def _prepare(cluster: ControlPlane, client: Client, s3: S3InCluster, folder: Path) -> None:
    """The namespace under Pod Security "restricted", its Secrets, and the source."""
    client.namespace(NAMESPACE)
    enforce = {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}}
    client.patch(f"/api/v1/namespaces/{NAMESPACE}", enforce)
    provide(client, s3, NAMESPACE, folder / "key.pub")


class _Clock:
    """Says on the terminal how long each step of the fixture took; pytest shows it with `-s`."""

    def __init__(self) -> None:
        self._since = time.monotonic()

    def __call__(self, what: str) -> None:
        now = time.monotonic()
        print(f"node tier: {what} after {now - self._since:.1f} s", flush=True)
        self._since = now


def pods_of(up: Up, job: str) -> list[dict[str, Any]]:
    """Every pod of a QuantizationJob."""
    selector = f"halftone.dev/job={job}"
    return up.client.items(f"/api/v1/namespaces/{up.namespace}/pods", labelSelector=selector)


def is_at_work(up: Up, job: str) -> bool:
    """Whether a worker of it runs."""
    return any(
        pod["metadata"]["labels"]["halftone.dev/stage"] == "quantize"
        and pod["status"]["phase"] == "Running"
        for pod in pods_of(up, job)
    )
