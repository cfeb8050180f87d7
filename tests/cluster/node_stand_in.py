"""A declared stand-in for a node: an object with room for every pod, kept ready by a heartbeat.

Called by benchmarks beside `kubelet_stand_in`, which answers for the pods that are bound to it.
"""

import threading
from datetime import UTC, datetime
from typing import Final, Self

from tests.cluster.client import MERGE
from tests.cluster.control_plane import ControlPlane

_NAME: Final = "stand-in"
_LEASES: Final = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
# Well within the grace period after which the node lifecycle controller calls a node lost.
_HEARTBEAT_SECONDS: Final = 8.0
_ROOM: Final = {"cpu": "100k", "memory": "1Pi", "ephemeral-storage": "1Pi", "pods": "100k"}


class NodeStandIn:
    """The node, while the block runs."""

    def __init__(self, cluster: ControlPlane) -> None:
        self._client = cluster.connection()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._beat)

    def __enter__(self) -> Self:
        node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": _NAME}}
        self._client.post("/api/v1/nodes", json=node).raise_for_status()
        lease = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": _NAME},
            "spec": self._renewal(),
        }
        self._client.post(_LEASES, json=lease).raise_for_status()
        ready = {"type": "Ready", "status": "True", "reason": "StandIn", "message": "A stand-in."}
        status = {"capacity": _ROOM, "allocatable": _ROOM, "conditions": [ready]}
        path = f"/api/v1/nodes/{_NAME}/status"
        self._client.patch(path, json={"status": status}, headers=MERGE).raise_for_status()
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stopped.set()
        self._thread.join()
        self._client.delete(f"/api/v1/nodes/{_NAME}")
        self._client.close()

    def _beat(self) -> None:
        while not self._stopped.wait(_HEARTBEAT_SECONDS):
            path = f"{_LEASES}/{_NAME}"
            self._client.patch(path, json={"spec": self._renewal()}, headers=MERGE)

    def _renewal(self) -> dict[str, object]:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        return {"holderIdentity": _NAME, "leaseDurationSeconds": 40, "renewTime": now}
