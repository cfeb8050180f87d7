"""A Deployment for `halftone autoscale`, and the account that the endpoint's chart gives it.

    kubeconfig = autoscaled(cluster, client, "models", tmp_path)

Called by the API tier, and by live tests that have it scraped. No pod of it runs; `call_ready` says
of its pods what a kubelet would say of those that do.
"""

from pathlib import Path
from typing import Any, Final

from tests.cluster.client import Client, pods_path
from tests.cluster.control_plane import ControlPlane
from tests.cluster.endpoint_chart import RELEASE, render

_OPTIONS: Final = (
    "--set=engine.mode=Standalone,autoscaling.prometheusUrl=http://prometheus:9090",
    "--set=autoscaling.capacity.configMapName=card",
)
_PLACES: Final = {
    "ServiceAccount": "/api/v1/namespaces/{}/serviceaccounts",
    "Role": "/apis/rbac.authorization.k8s.io/v1/namespaces/{}/roles",
    "RoleBinding": "/apis/rbac.authorization.k8s.io/v1/namespaces/{}/rolebindings",
}
_LABELS: Final = {"app": RELEASE}


def autoscaled(
    cluster: ControlPlane, client: Client, namespace: str, folder: Path, replicas: int = 2
) -> Path:
    """The chart's account, role and binding, and a Deployment by the name of the chart's; returns a
    kubeconfig of that account.
    """
    for one in render(namespace, *_OPTIONS):
        labels = one["metadata"]["labels"]
        if labels["app.kubernetes.io/component"] == "autoscaler" and one["kind"] in _PLACES:
            client.create(_PLACES[one["kind"]].format(namespace), one)
    client.create(f"/apis/apps/v1/namespaces/{namespace}/deployments", _deployment(replicas))
    path = folder / "kubeconfig"
    return cluster.write_token_kubeconfig(path, namespace, f"{RELEASE}-autoscale")


def _deployment(replicas: int) -> dict[str, Any]:
    """Of pods that nobody runs."""
    container = {"name": "pause", "image": "nowhere.test/pause"}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": RELEASE},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": _LABELS},
            "template": {"metadata": {"labels": _LABELS}, "spec": {"containers": [container]}},
        },
    }


def call_ready(client: Client, namespace: str) -> str:
    """Wait for the one pod, which needs a node (`node_stand_in`), and say that it is ready; its
    name, once the Deployment counts it.
    """

    def placed() -> list[dict[str, Any]]:
        pods = client.items(pods_path(namespace), labelSelector=f"app={RELEASE}")
        return [one for one in pods if "nodeName" in one["spec"]]

    client.wait("a pod with a node", lambda: len(placed()) == 1)
    name = str(placed()[0]["metadata"]["name"])
    ready = [{"type": kind, "status": "True"} for kind in ("Ready", "ContainersReady")]
    body = {"status": {"phase": "Running", "conditions": ready}}
    client.patch(f"{pods_path(namespace)}/{name}/status", body)
    path = f"/apis/apps/v1/namespaces/{namespace}/deployments/{RELEASE}"
    client.wait("a ready replica", lambda: client.get(path)["status"].get("readyReplicas") == 1)
    return name
