"""Everything that the tier runs: a cluster with a node, Kubeflow's back end, S3, our images.

Called by the tier's fixture, by `recording` and by the benchmark. Runs live in Kubeflow's own
namespace, as in every installation without profiles, and so do the jobs that ask for them.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.cluster import kubeflow, own_images, s3_in_cluster
from tests.cluster.client import Client
from tests.cluster.control_plane import ControlPlane
from tests.cluster.kubeflow import NAMESPACE, Kubeflow
from tests.cluster.network import ADDRESS, Network
from tests.cluster.node import Node
from tests.cluster.s3_in_cluster import S3InCluster
from tests.node.provisions import provide


@dataclass(frozen=True)
class BackEnd:
    """All that runs. `task` is our image of tasks, by its digest."""

    cluster: ControlPlane
    client: Client
    kubeflow: Kubeflow
    s3: S3InCluster
    task: str
    signing_key: Path
    namespace: str = NAMESPACE


@contextmanager
def back_end(folder: Path) -> Iterator[BackEnd]:
    """Bring all of it up below `folder`, as root; this process enters its network meanwhile."""
    begun = time.monotonic()
    archives = [
        *own_images.archives(own_images.TASK),
        *kubeflow.images(folder),
        s3_in_cluster.image(folder),
    ]
    with (
        Network(f"halftone-{os.getpid()}") as network,
        ControlPlane(folder / "cluster", address=ADDRESS, network=network.path) as cluster,
        Node(cluster, network, archives) as node,
        network.entered(),
        Kubeflow(cluster) as real,
        Client(cluster) as client,
    ):
        s3 = S3InCluster(cluster)
        provide(client, s3, NAMESPACE, folder / "key.pub")
        task = node.by_digest(own_images.reference(own_images.TASK))
        print(f"Kubeflow answers after {time.monotonic() - begun:.0f} s", flush=True)
        yield BackEnd(cluster, client, real, s3, task, folder / "key.pub")
        s3.client.close()
