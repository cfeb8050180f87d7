"""A declared stand-in for a cloud's node autoscaler: one pool of simulated nodes, each with a GPU.

    with NodePool(cluster) as pool:
        ...                      # nodes come for pods that find none, and go when they are empty

Called by `tests/nodepools`. KWOK keeps the nodes alive and answers for pods on them; this says only
which there are. As cluster autoscalers do it, it looks at pods that the scheduler could place
nowhere, at what they select and tolerate, and counts no pod of a DaemonSet as a reason to keep a
node. One pod takes a whole node. It must never touch a pod.
"""

import time
from collections.abc import Iterable, Mapping
from typing import Any, Final

from tests.cluster.control_plane import ControlPlane
from tests.cluster.looking import Looking
from tests.servers.ports import free_port
from tools.servers import program

GPU: Final = "nvidia.com/gpu"
# Nodes with it are KWOK's, and no others.
_FAKE: Final = {"kwok.x-k8s.io/node": "fake"}
LABELS: Final = {
    "kubernetes.io/os": "linux",
    "kubernetes.io/arch": "amd64",
    # What NVIDIA's GPU feature discovery would find on a Blackwell.
    "nvidia.com/gpu.present": "true",
    "nvidia.com/gpu.compute.major": "10",
}
TAINTS: Final = ({"key": GPU, "value": "present", "effect": "NoSchedule"},)
_ROOM: Final = {"cpu": "16", "memory": "128Gi", "pods": "110", GPU: "1"}
_LEASE_S: Final = 40


def start_kwok(cluster: ControlPlane) -> None:
    """KWOK for nodes of `node`; it ends with the cluster."""
    cluster.processes.start(
        "kwok",
        program("kwok"),
        f"--kubeconfig={cluster.kubeconfig}",
        "--manage-all-nodes=false",
        "--manage-nodes-with-annotation-selector=kwok.x-k8s.io/node=fake",
        f"--server-address=127.0.0.1:{free_port()}",
        f"--node-lease-duration-seconds={_LEASE_S}",
        # Nobody listens there.
        "--cidr=10.251.0.1/24",
        # It keeps nothing there, and looks all the same.
        environment={"HOME": str(cluster.folder)},
    )


def node(name: str, taints: Iterable[Mapping[str, str]] = TAINTS) -> dict[str, Any]:
    """A simulated node with one GPU."""
    labels = {**LABELS, "kubernetes.io/hostname": name}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": labels, "annotations": dict(_FAKE)},
        "spec": {"taints": list(taints)},
        "status": {"capacity": dict(_ROOM), "allocatable": dict(_ROOM)},
    }


class NodePool(Looking):
    """Nodes `gpu-0`, `gpu-1` and so on, while the block runs.

    A node comes `lead_s` after a pod waits for one, and goes when it was empty for `empty_s`. A
    pool that is not `in_stock` brings nothing.
    """

    def __init__(self, cluster: ControlPlane, *, lead_s: float, empty_s: float) -> None:
        super().__init__(cluster)
        self.in_stock = True
        self._lead_s, self._empty_s = lead_s, empty_s
        self._due: list[float] = []
        self._empty_since: dict[str, float] = {}
        self._made = 0

    def look(self) -> None:
        """Make the nodes that are due, and delete those that were empty for long."""
        pods, nodes = self.items("/api/v1/pods"), self._names()
        now = time.monotonic()
        there = {name: held_by(name, pods) for name in nodes}
        waiting = sum(waits_for_a_node(pod) for pod in pods)
        free = sum(not held for held in there.values())
        if self.in_stock:
            short = waiting - free - len(self._due)
            self._due += [now + self._lead_s] * max(0, short)
        while self._due and self._due[0] <= now:
            del self._due[0]
            self.client.post("/api/v1/nodes", json=node(f"gpu-{self._made}")).raise_for_status()
            self._made += 1
        empty = {name for name, held in there.items() if not held} if not waiting else set()
        since = {name: self._empty_since.get(name, now) for name in empty}
        for name in [one for one, at in since.items() if now - at >= self._empty_s]:
            self.client.delete(f"/api/v1/nodes/{name}").raise_for_status()
            del since[name]
        self._empty_since = since

    def _names(self) -> list[str]:
        nodes = self.items("/api/v1/nodes")
        return [one["metadata"]["name"] for one in nodes if is_simulated(one)]


def is_simulated(one: Mapping[str, Any]) -> bool:
    """Whether a node is KWOK's."""
    return bool(_FAKE.items() <= one["metadata"].get("annotations", {}).items())


def held_by(name: str, pods: Iterable[Mapping[str, Any]]) -> list[str]:
    """The pods that keep a node: all on it that have not ended, but those of DaemonSets."""
    return [
        pod["metadata"]["name"]
        for pod in pods
        if pod["spec"].get("nodeName") == name
        and pod["status"].get("phase") not in ("Succeeded", "Failed")
        and "DaemonSet" not in owners(pod)
    ]


def owners(pod: Mapping[str, Any]) -> set[str]:
    """The kinds of what owns a pod."""
    return {one["kind"] for one in pod["metadata"].get("ownerReferences", [])}


def waits_for_a_node(pod: Mapping[str, Any]) -> bool:
    """Whether the scheduler has found no node for a pod that one of this pool would have room for.

    Affinity to nodes is read as far as an operator `In` of the terms that a pod requires.
    """
    return is_unschedulable(pod) and _asks_for_a_gpu(pod) and _selects(pod) and _tolerates(pod)


def is_unschedulable(pod: Mapping[str, Any]) -> bool:
    """Whether the scheduler has looked for a node in vain."""
    told = pod["status"].get("conditions", [])
    why = {one["type"]: one.get("reason") for one in told if one["status"] == "False"}
    # One that has sent another pod away has a node, as soon as that has gone.
    has_place = "deletionTimestamp" in pod["metadata"] or "nominatedNodeName" in pod["status"]
    return why.get("PodScheduled") == "Unschedulable" and not has_place


def _asks_for_a_gpu(pod: Mapping[str, Any]) -> bool:
    limits = [one.get("resources", {}).get("limits", {}) for one in pod["spec"]["containers"]]
    return sum(int(one.get(GPU, 0)) for one in limits) == int(_ROOM[GPU])


def _selects(pod: Mapping[str, Any]) -> bool:
    spec = pod["spec"]
    near = spec.get("affinity", {}).get("nodeAffinity", {})
    required = near.get("requiredDuringSchedulingIgnoredDuringExecution", {})
    terms = required.get("nodeSelectorTerms", [{}])
    return spec.get("nodeSelector", {}).items() <= LABELS.items() and any(
        all(_is_in(one) for one in term.get("matchExpressions", [])) for term in terms
    )


def _is_in(expression: Mapping[str, Any]) -> bool:
    return expression["operator"] == "In" and LABELS.get(expression["key"]) in expression["values"]


def _tolerates(pod: Mapping[str, Any]) -> bool:
    told = pod["spec"].get("tolerations", [])
    return all(
        any(
            one.get("key", taint["key"]) == taint["key"]
            and one.get("effect", taint["effect"]) == taint["effect"]
            and (one.get("operator") == "Exists" or one.get("value") == taint["value"])
            for one in told
        )
        for taint in TAINTS
    )
