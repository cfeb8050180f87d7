"""One namespace with an operator and a stand-in for kubelets, shared by the tests of a module.

Called by the operator's tests of the API tier. A test has its own job there, named by itself, and
says how the pods of that job end.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from halftone.spec.cluster import JOB_LABEL, RETRY_ANNOTATION, STAGE_LABEL, ChildStage
from halftone.spec.stage_results import Failure, StageResult
from tests.cluster.answers import all_well, job, stage_of
from tests.cluster.client import (
    Client,
    Object,
    children_path,
    condition_of,
    jobs_path,
    pods_path,
)
from tests.cluster.control_plane import ControlPlane
from tests.cluster.kubelet_stand_in import Answer, Answers, KubeletStandIn
from tests.cluster.operator_process import OperatorProcess

_NODE = "stand-in"


class World:
    """`answers` has, by the name of a job, how its pods end; others stay pending."""

    def __init__(self, cluster: ControlPlane, client: Client, namespace: str) -> None:
        self.cluster = cluster
        self.client = client
        self.namespace = namespace
        self.answers: dict[str, Answers] = {}
        # (job, stage) of every pod that was answered or seen pending, in order.
        self.pods_seen: dict[str, tuple[str, str]] = {}
        self.operator: OperatorProcess

    def answer(self, pod: Mapping[str, Any]) -> Answer | None:
        """For the stand-in."""
        labels = pod["metadata"]["labels"]
        self.pods_seen[pod["metadata"]["uid"]] = labels[JOB_LABEL], labels[STAGE_LABEL]
        known = self.answers.get(labels[JOB_LABEL])
        return None if known is None else known(pod)

    def apply(self, name: str, answers: Answers | None = all_well, **spec: Any) -> Object:
        """Create a job whose pods end as `answers` says."""
        if answers is not None:
            self.answers[name] = answers
        return self.client.create(jobs_path(self.namespace), job(name, self.namespace, **spec))

    def change(self, name: str, **spec: Any) -> None:
        """Patch the spec of a job."""
        self.client.patch(f"{jobs_path(self.namespace)}/{name}", {"spec": spec})

    def retry(self, name: str, value: str) -> None:
        """Ask for another try."""
        body = {"metadata": {"annotations": {RETRY_ANNOTATION: value}}}
        self.client.patch(f"{jobs_path(self.namespace)}/{name}", body)

    def delete(self, name: str) -> None:
        """Ask for the job's deletion."""
        self.client.delete(f"{jobs_path(self.namespace)}/{name}")

    def find(self, name: str) -> Object | None:
        """The job, None when it is gone."""
        return self.client.find(f"{jobs_path(self.namespace)}/{name}")

    def wait_for(self, name: str, condition: str, status: str, reason: str | None = None) -> Object:
        """Until a condition has `status` (and `reason`); returns the condition."""
        row: Object = {}

        def holds() -> bool:
            row.clear()
            row.update(condition_of(self.find(name) or {}, condition))
            return row.get("status") == status and reason in (None, row.get("reason"))

        try:
            self.client.wait(f"{condition}={status} ({reason}) of {name}", holds)
        except TimeoutError as error:
            raise TimeoutError(f"{error}; it says {row}\n{self.operator.tail()}") from None
        return row

    def wait_gone(self, name: str) -> None:
        """Until the job is no more."""
        self.client.wait(f"the end of {name}", lambda: self.find(name) is None)

    def wait_child(self, name: str) -> Object:
        """A Job by its name, as soon as there is one."""
        path = f"{children_path(self.namespace)}/{name}"
        self.client.wait(f"the Job {name}", lambda: self.client.find(path) is not None)
        return self.client.get(path)

    def wait_no_child(self, name: str, child: str) -> None:
        """Until the job `name` has no Job `child`; says what the operator says if it stays."""
        try:
            self.client.wait(f"the end of {child}", lambda: child not in self.children(name))
        except TimeoutError as error:
            raise TimeoutError(f"{error}\n{self.operator.tail()}") from None

    def wait_pod(self, child: str) -> Object:
        """The first living pod of a Job."""
        found: list[Object] = []

        def holds() -> bool:
            rows = self.client.items(
                pods_path(self.namespace), labelSelector=f"batch.kubernetes.io/job-name={child}"
            )
            found[:] = [one for one in rows if one["status"]["phase"] == "Pending"]
            return bool(found)

        self.client.wait(f"a pod of {child}", holds)
        return found[0]

    def children(self, name: str) -> list[str]:
        """Names of a job's Jobs, in alphabetical order."""
        rows = self.client.items(children_path(self.namespace), labelSelector=f"{JOB_LABEL}={name}")
        return sorted(str(one["metadata"]["name"]) for one in rows)

    def events(self, name: str) -> list[tuple[str, str]]:
        """(type, reason) of a job's events, in the order in which they were written."""
        path = f"/apis/events.k8s.io/v1/namespaces/{self.namespace}/events"
        rows = [one for one in self.client.items(path) if one["regarding"]["name"] == name]
        rows = [one for one in rows if one["regarding"]["kind"] == "QuantizationJob"]
        rows.sort(key=lambda one: str(one["eventTime"]))
        return [(str(one["type"]), str(one["reason"])) for one in rows]

    def place(self, pod: Object, **status: Any) -> None:
        """Give a pod a node, and the status that a kubelet would write."""
        name = pod["metadata"]["name"]
        body = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": name},
            "target": {"apiVersion": "v1", "kind": "Node", "name": _NODE},
        }
        self._make_node()
        path = f"{pods_path(self.namespace)}/{name}"
        if "nodeName" not in pod["spec"]:
            self.client.create(f"{path}/binding", body)
        self.client.patch(f"{path}/status", {"status": status})

    def _make_node(self) -> None:
        """A node to which nothing is scheduled; nobody runs there."""
        if self.client.find(f"/api/v1/nodes/{_NODE}") is None:
            body = {"metadata": {"name": _NODE}, "spec": {"unschedulable": True}}
            self.client.create("/api/v1/nodes", body)

    def audited(self, **fields: str) -> list[Object]:
        """Requests of the operator's account in this namespace, answered without an error."""
        user = f"system:serviceaccount:{self.namespace}:halftone"
        rows = []
        with self.cluster.audit_log.open() as log:
            for line in log:
                if user not in line:
                    continue
                row = json.loads(line)
                about = row.get("objectRef") or {}
                if row["user"]["username"] == user and all(
                    {"verb": row["verb"], **about}.get(name) == value
                    for name, value in fields.items()
                ):
                    rows.append(row)
        return rows

    def children_made(self, name: str) -> list[str]:
        """Names of the Jobs that the operator made for a job, one entry a time that it did."""
        return [
            str(row["objectRef"]["name"])
            for row in self.audited(verb="create", resource="jobs")
            if row["responseStatus"]["code"] == 201
            and str(row["objectRef"].get("name", "")).startswith(f"{name}-")
        ]


@contextmanager
def world(
    cluster: ControlPlane, client: Client, namespace: str, folder: Path, **options: Any
) -> Iterator[World]:
    """A running one. Options are those of the operator's process."""
    found = World(cluster, client, client.namespace(namespace))
    found.operator = OperatorProcess(cluster, namespace, folder / "operator", **options)
    with (
        found.operator,
        KubeletStandIn(cluster, found.answer, namespace=namespace) as stand_in,
    ):
        yield found
    assert not stand_in.errors


def ends(at: ChildStage, *answers: Answer) -> Answers:
    """All well but for the pods of the stage `at`, which end as `answers`, the last for ever."""
    left = list(answers)

    def answer(pod: Mapping[str, Any]) -> Answer | None:
        if stage_of(pod) is not at:
            return all_well(pod)
        return left.pop(0) if len(left) > 1 else left[0]

    return answer


def stops(at: ChildStage) -> Answers:
    """All well up to the stage `at`, whose pods stay as they are."""

    def answer(pod: Mapping[str, Any]) -> Answer | None:
        return None if stage_of(pod) is at else all_well(pod)

    return answer


def refused(stage: ChildStage, reason: str, message: str, exit_code: int) -> Answer:
    """A stage that failed and says why."""
    failure = Failure(reason=reason, subject="spec", message=message)
    result = StageResult(stage=stage.value, failure=failure)
    return Answer(result, exit_code=exit_code, reason="Error")


def disruption() -> dict[str, Any]:
    """The status of a pod whose node was taken away."""
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    row = {
        "type": "DisruptionTarget",
        "status": "True",
        "reason": "EvictionByEvictionAPI",
        "lastTransitionTime": now,
    }
    return {"phase": "Failed", "conditions": [row]}
