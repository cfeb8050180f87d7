"""The tier of node pools: Ray and KubeRay on a real node, GPUs on simulated ones, minutes a test.

One cluster a run, in a network namespace of its own, which this process enters. Needs root,
`.venvs/serve`, `python -m tools.packages`, `python -m tools.servers build kwok` and some 6 GB of
memory. No target but its own collects this folder. `-s` shows what happened when.
"""

import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from tests.cluster import endpoint_environment, kuberay
from tests.cluster.client import Client
from tests.cluster.control_plane import ControlPlane
from tests.cluster.endpoint_chart import Object, ray_service, render
from tests.cluster.network import ADDRESS, Network
from tests.cluster.node import Node
from tests.cluster.node_pool import NodePool, start_kwok
from tests.cluster.worker_twins import WorkerTwins
from tests.conftest import ROOT
from tests.node.jobs import secret
from tests.nodepools.scene import NAME, NAMESPACE, Scene

# Seconds that the cloud takes to bring a node: long enough to see the pod wait for it.
LEAD_S: Final = 8.0
# Seconds after which an empty node goes. Cluster autoscalers wait ten minutes.
EMPTY_S: Final = 15.0
# Until a pod without a replica goes. On a busy machine it takes Serve two minutes to ask for its
# first one.
IDLE_S: Final = 180
VALUES: Final[dict[str, Any]] = {
    **{k: v for k, v in endpoint_environment.VALUES.items() if k != "image"},
    "maxRequestSeconds": 60,
    "ray": {"idleTimeoutSeconds": IDLE_S},
    # What two cores have room for. Workers keep the chart's own requests: nodes are large.
    "head": {"resources": {"requests": {"cpu": "1", "memory": "2Gi"}}},
}
_IMAGE: Final = ",".join(f"image.{k}={v}" for k, v in endpoint_environment.VALUES["image"].items())


@pytest.fixture(scope="session")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """All that runs, and the chart not yet applied."""
    folder = tmp_path_factory.mktemp("nodepools-tier")
    begun = time.monotonic()
    archives = [endpoint_environment.image(), kuberay.image(folder)]
    with (
        Network(f"halftone-{os.getpid()}") as network,
        ControlPlane(folder / "cluster", address=ADDRESS, network=network.path) as cluster,
        Node(cluster, network, archives),
        network.entered(),
        Client(cluster) as client,
    ):
        kuberay.install(cluster)
        start_kwok(cluster)
        _prepare(cluster, client, folder)
        with (
            NodePool(cluster, lead_s=LEAD_S, empty_s=EMPTY_S) as pool,
            WorkerTwins(cluster, NAMESPACE) as twins,
        ):
            found = Scene(cluster, client, pool, twins, begun)
            found.tell("cluster", "a real node, KubeRay's operator, and no node with a GPU")
            yield found
            found.close()


@pytest.fixture(scope="session")
def objects(tmp_path_factory: pytest.TempPathFactory) -> list[Object]:
    """The chart's objects for GPUs; of its application the name alone is another."""
    return _rendered(tmp_path_factory.mktemp("values"))


@pytest.fixture(scope="session")
def warm_objects(objects: list[Object], tmp_path_factory: pytest.TempPathFactory) -> list[Object]:
    """The same, and one place that is kept free: no value but that one may have changed."""
    found = _rendered(tmp_path_factory.mktemp("warm"), "--set", "warmNodes=1")
    return [*objects, *(one for one in found if _key(one) not in set(map(_key, objects)))]


def _key(one: Object) -> tuple[str, str]:
    return one["kind"], one["metadata"]["name"]


def _rendered(folder: Path, *options: str) -> list[Object]:
    values = folder / "values.yaml"
    values.write_text(yaml.safe_dump(VALUES), encoding="utf-8")
    words = ("--values", str(values), "--set", _IMAGE, *options)
    rendered = render(NAMESPACE, *words, release=NAME)
    found = [
        one for one in rendered if "helm.sh/hook" not in one["metadata"].get("annotations", {})
    ]
    spec = ray_service(found)["spec"]
    served = yaml.safe_load(spec["serveConfigV2"])
    (application,) = served["applications"]
    application |= {"import_path": "pool_application:build", "external_scaler_enabled": True}
    spec["serveConfigV2"] = yaml.safe_dump(served)
    return found


def _prepare(cluster: ControlPlane, client: Client, folder: Path) -> None:
    """A namespace with all that the chart's values name, and a DaemonSet on every node."""
    client.namespace(NAMESPACE)
    core = f"/api/v1/namespaces/{NAMESPACE}"
    client.create(f"{core}/secrets", secret("clients", "api-key", "a-key-of-clients"))
    signer = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "signer"},
        "data": {"publickey.pem": "nothing is verified here"},
    }
    client.create(f"{core}/configmaps", signer)
    environment = folder / "environment"
    volumes = endpoint_environment.listed(NAMESPACE, environment)
    shutil.copy(ROOT / "tests" / "peers" / "pool_application.py", environment / "src")
    cluster.kubectl("apply", "-f", "-", text=json.dumps(volumes))
    cluster.kubectl("apply", "-f", "-", text=json.dumps(_on_every_node()))


def _on_every_node() -> Object:
    """What a vendor's plugin or a log collector is: a pod of each node, whatever its taints."""
    labels = {"app": "on-every-node"}
    container = {
        "name": "pause",
        "image": "localhost/pause:1",
        "imagePullPolicy": "Never",
        "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}},
    }
    spec = {"containers": [container], "tolerations": [{"operator": "Exists"}]}
    return {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": "on-every-node", "namespace": "kube-system"},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": spec},
        },
    }
