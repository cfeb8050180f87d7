"""A declared stand-in for kubelets: it answers for pods that no node runs, patching their status.

Called by tests and benchmarks of the API tier, over the real API server. What it cannot show
(images, volumes, real work) is shown by the node tier. An answer is what a container would leave:
an exit code and a termination message.
"""

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, Self

import httpx

from halftone.spec.cluster import JOB_LABEL, STAGE_LABEL
from halftone.spec.stage_results import StageResult
from tests.cluster.client import MERGE
from tests.cluster.control_plane import ControlPlane

_READ_SECONDS: Final = 5.0


@dataclass(frozen=True)
class Answer:
    """How the container of a pod ends."""

    result: StageResult | None = None
    exit_code: int = 0
    reason: str = "Completed"


# Of a pod, what becomes of it; None leaves it pending.
Answers = Callable[[Mapping[str, Any]], Answer | None]


class KubeletStandIn:
    """Answers for pods with our labels, in `namespace` or in all, in threads of its own."""

    def __init__(
        self,
        cluster: ControlPlane,
        answers: Answers,
        threads: int = 4,
        *,
        namespace: str | None = None,
    ) -> None:
        self.answers = answers
        self._path = f"/api/v1/namespaces/{namespace}/pods" if namespace else "/api/v1/pods"
        self._client = cluster.connection()
        self._pool = ThreadPoolExecutor(threads)
        self._answered: set[str] = set()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._follow)
        self.errors: list[str] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stopped.set()
        self._thread.join()
        self._pool.shutdown()
        self._client.close()

    def _follow(self) -> None:
        while not self._stopped.is_set():
            try:
                for pod in self._pods():
                    if self._stopped.is_set():
                        return
                    self._consider(pod)
            except httpx.HTTPError as error:
                self.errors.append(str(error))

    def _pods(self) -> Iterator[dict[str, Any]]:
        """Every pod as it is listed, then as it changes, until the watch ends."""
        query = {"labelSelector": f"{JOB_LABEL},{STAGE_LABEL}"}
        found = self._client.get(self._path, params=query).raise_for_status().json()
        yield from found["items"]
        version = found["metadata"]["resourceVersion"]
        follow = {**query, "watch": "1", "resourceVersion": version, "timeoutSeconds": "4"}
        timeout = httpx.Timeout(60, read=_READ_SECONDS * 4)
        with self._client.stream("GET", self._path, params=follow, timeout=timeout) as lines:
            for line in lines.iter_lines():
                event = json.loads(line)
                if event["type"] in ("ADDED", "MODIFIED"):
                    yield event["object"]

    def _consider(self, pod: dict[str, Any]) -> None:
        uid = pod["metadata"]["uid"]
        ended = pod["status"].get("phase") in ("Succeeded", "Failed")
        if ended or uid in self._answered or "deletionTimestamp" in pod["metadata"]:
            return
        answer = self.answers(pod)
        if answer is not None:
            self._answered.add(uid)
            self._pool.submit(self._end, pod, answer)

    def _end(self, pod: dict[str, Any], answer: Answer) -> None:
        metadata = pod["metadata"]
        message = "" if answer.result is None else answer.result.to_bytes().decode()
        ended = {"exitCode": answer.exit_code, "reason": answer.reason, "message": message}
        container = pod["spec"]["containers"][0]
        status = {
            "phase": "Failed" if answer.exit_code else "Succeeded",
            "containerStatuses": [
                {
                    "name": container["name"],
                    "image": container["image"],
                    "imageID": "",
                    "ready": False,
                    "restartCount": 0,
                    "state": {"terminated": ended},
                }
            ],
        }
        path = f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}/status"
        found = self._client.patch(path, json={"status": status}, headers=MERGE)
        if found.is_error and found.status_code != 404:
            self.errors.append(found.text)
