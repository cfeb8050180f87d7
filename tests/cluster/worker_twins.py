"""Ray for workers on simulated nodes: a real pod on the real node beside each of them.

Called by `tests/nodepools`. KWOK says that a worker pod is ready, and runs nothing. So its twin
runs the worker's own container on the real node, without its GPU, and tells Ray the worker's name.
Ray's autoscaler then sees a node that has joined, is used, falls idle and is drained, and takes the
worker's pod away; the twin follows. KubeRay knows nothing of twins, for they have none of its
labels.
"""

import copy
import re
from collections.abc import Mapping
from typing import Any, Final

import httpx

from tests.cluster.client import pods_path
from tests.cluster.control_plane import ControlPlane
from tests.cluster.looking import Looking
from tests.cluster.node import NAME

_LABEL: Final = "twin-of"
# Of the pod's specification: whatever says where it may run, and what the API server filled in.
_PLACING: Final = (
    "affinity", "nodeSelector", "tolerations", "priority", "priorityClassName",
    "preemptionPolicy", "runtimeClassName", "overhead",
)  # fmt: skip
# Of a container: what a kubelet does to it, and what it takes of a node.
_TENDING: Final = ("livenessProbe", "readinessProbe", "startupProbe", "lifecycle", "resources")
_RESOURCES: Final = {"requests": {"cpu": "100m", "memory": "256Mi"}}
_FIELD: Final = re.compile(r"^metadata\.labels\['(.+)'\]$")


class WorkerTwins(Looking):
    """A twin for each worker of `namespace` that is on a simulated node, while the block runs."""

    def __init__(self, cluster: ControlPlane, namespace: str) -> None:
        super().__init__(cluster)
        self._path = pods_path(namespace)

    def look(self) -> None:
        """Make twins that are not there, and end those of which the worker is gone."""
        pods = self.items(self._path)
        workers = {one["metadata"]["name"]: one for one in pods if _is_simulated_worker(one)}
        twins = {one["metadata"]["labels"][_LABEL]: one for one in pods if is_twin(one)}
        for name in workers.keys() - twins.keys():
            self.client.post(self._path, json=twin_of(workers[name])).raise_for_status()
        for name, twin in twins.items():
            # One that has ended is begun anew, as a kubelet would: Ray ends when its head does.
            if name not in workers or twin["status"].get("phase") in ("Succeeded", "Failed"):
                self._end(twin["metadata"])

    def _end(self, twin: Mapping[str, Any]) -> None:
        if "deletionTimestamp" not in twin:
            query = {"gracePeriodSeconds": "1"}
            answer = self.client.delete(f"{self._path}/{twin['name']}", params=query)
            if answer.status_code != httpx.codes.NOT_FOUND:
                answer.raise_for_status()


def is_twin(pod: Mapping[str, Any]) -> bool:
    """Whether a pod is one of these."""
    return _LABEL in pod["metadata"].get("labels", {})


def _is_simulated_worker(pod: Mapping[str, Any]) -> bool:
    kind = pod["metadata"].get("labels", {}).get("ray.io/node-type")
    return bool(kind == "worker" and pod["spec"].get("nodeName", NAME) != NAME)


def twin_of(worker: Mapping[str, Any]) -> dict[str, Any]:
    """The pod that runs what `worker` would run."""
    spec = {k: v for k, v in copy.deepcopy(worker["spec"]).items() if k not in _PLACING}
    for container in (*spec.get("initContainers", []), *spec["containers"]):
        for key in _TENDING:
            container.pop(key, None)
        container["resources"] = copy.deepcopy(_RESOURCES)
        for variable in container.get("env", []):
            _tell(variable, worker["metadata"])
    name = worker["metadata"]["name"]
    # A restarted container would keep Ray's files of a head that is gone.
    spec |= {"nodeName": NAME, "restartPolicy": "Never"}
    metadata = {"name": f"{name}-twin", "labels": {_LABEL: name}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def _tell(variable: dict[str, Any], metadata: Mapping[str, Any]) -> None:
    """Say of the worker what the variable would otherwise find out of the twin."""
    field = variable.get("valueFrom", {}).get("fieldRef", {}).get("fieldPath", "")
    label = _FIELD.match(field)
    if label:
        value = metadata["labels"][label[1]]
    elif field == "metadata.name":
        value = metadata["name"]
    else:
        return
    del variable["valueFrom"]
    variable["value"] = value
