"""A stand-in for a node whose stages are real: the command of each pod runs on this machine.

    stages = RealStages(client, namespace, tmp_path)
    KubeletStandIn(cluster, stages, namespace=namespace)

Called by `tests/alerting`, where a stage has to fail by itself. Of a pod the command line, the
environment with the Secrets as the API server has them, the work and its termination message are
real. What is not: image, container, limits, volumes, and the user that it runs as.
"""

import base64
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from halftone.spec.cluster import ChildStage
from halftone.spec.stage_results import StageResult
from tests.cluster.answers import stage_of
from tests.cluster.client import Client, children_path
from tests.cluster.kubelet_stand_in import Answer
from tests.pods import Pods

_JOB: Final = "batch.kubernetes.io/job-name"
_INDEX: Final = "batch.kubernetes.io/job-completion-index"


class RealStages:
    """Answers for pods in `namespace`, one after the other; those of the stage `held` wait."""

    def __init__(self, client: Client, namespace: str, folder: Path) -> None:
        self._client = client
        self._namespace = namespace
        secrets = _Secrets(client, f"/api/v1/namespaces/{namespace}/secrets")
        self._pods = Pods(folder, secrets=secrets, cache=folder / "cache")
        self.held: ChildStage | None = None

    def __call__(self, pod: Mapping[str, Any]) -> Answer | None:
        """For the stand-in of kubelets."""
        if stage_of(pod) is self.held:
            return None
        metadata = pod["metadata"]
        name = metadata["labels"][_JOB]
        manifest = self._client.get(f"{children_path(self._namespace)}/{name}")
        ordered = self._pods.pods_of(manifest)[int(metadata.get("annotations", {}).get(_INDEX, 0))]
        ended = ordered.ended(ordered.start())
        result = StageResult.model_validate_json(ended.message) if ended.message else None
        return Answer(result, ended.code, "Error" if ended.code else "Completed")


class _Secrets(Mapping[str, Mapping[str, str]]):
    """Secrets of a namespace as they are when they are looked at."""

    def __init__(self, client: Client, path: str) -> None:
        self._client = client
        self._path = path

    def __getitem__(self, name: str) -> Mapping[str, str]:
        data = self._client.get(f"{self._path}/{name}")["data"]
        return {key: base64.b64decode(text).decode() for key, text in data.items()}

    def __iter__(self) -> Iterator[str]:
        return (str(one["metadata"]["name"]) for one in self._client.items(self._path))

    def __len__(self) -> int:
        return len(self._client.items(self._path))
