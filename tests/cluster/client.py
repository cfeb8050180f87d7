"""A plain HTTP client of a control plane, for tests that read much: kubectl costs a process a call.

Called by the API tier, its stand-ins and benchmarks. It is nobody's code under test.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any, Final, Self

import httpx

from halftone.spec.cluster import GROUP, PLURAL, VERSION
from tests.cluster.control_plane import ControlPlane

MERGE: Final = {"Content-Type": "application/merge-patch+json"}
_POLL: Final = 0.1

Object = dict[str, Any]


def jobs_path(namespace: str) -> str:
    """The collection of QuantizationJobs in a namespace."""
    return f"/apis/{GROUP}/{VERSION}/namespaces/{namespace}/{PLURAL}"


def children_path(namespace: str) -> str:
    """The collection of Jobs in a namespace."""
    return f"/apis/batch/v1/namespaces/{namespace}/jobs"


def pods_path(namespace: str) -> str:
    """The collection of pods in a namespace."""
    return f"/api/v1/namespaces/{namespace}/pods"


class Client:
    """Objects by path, as dictionaries; an error of the server is an httpx.HTTPStatusError."""

    def __init__(self, cluster: ControlPlane) -> None:
        self.http = cluster.connection()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.http.close()

    def get(self, path: str, **query: str) -> Object:
        """One object, or a whole list."""
        found: Object = self._read(path, query).raise_for_status().json()
        return found

    def _read(self, path: str, query: Mapping[str, str]) -> httpx.Response:
        """A server that is busy says so with 429, and is asked again, as every client does it."""
        answers: list[httpx.Response] = []

        def is_answered() -> bool:
            answers[:] = [self.http.get(path, params=query or None)]
            return answers[0].status_code != httpx.codes.TOO_MANY_REQUESTS

        Client.wait(self, f"an answer to GET {path}", is_answered)
        return answers[0]

    def find(self, path: str) -> Object | None:
        """One object; None where there is none."""
        answer = self._read(path, {})
        if answer.status_code == 404:
            return None
        found: Object = answer.raise_for_status().json()
        return found

    def items(self, path: str, **query: str) -> list[Object]:
        """What a collection holds."""
        found: list[Object] = self.get(path, **query)["items"]
        return found

    def create(self, path: str, body: Mapping[str, Any]) -> Object:
        """POST to a collection."""
        found: Object = self.http.post(path, json=body).raise_for_status().json()
        return found

    def patch(self, path: str, body: Mapping[str, Any]) -> Object:
        """A JSON merge patch of an object, or of its `/status`."""
        answer = self.http.patch(path, json=body, headers=MERGE)
        found: Object = answer.raise_for_status().json()
        return found

    def delete(self, path: str, policy: str = "Background", grace_s: int | None = None) -> None:
        """Delete one object; one that is gone is no error. A pod has `grace_s` to end, 0 is a kill;
        its own time if None.
        """
        grace = {} if grace_s is None else {"gracePeriodSeconds": str(grace_s)}
        answer = self.http.delete(path, params={"propagationPolicy": policy, **grace})
        if answer.status_code != 404:
            answer.raise_for_status()

    def namespace(self, name: str) -> str:
        """Make a namespace, and wait for its default service account, which pods need."""
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
        self.create("/api/v1/namespaces", body)
        account = f"/api/v1/namespaces/{name}/serviceaccounts/default"
        self.wait(f"the account of {name}", lambda: self.find(account) is not None)
        return name

    def job(self, namespace: str, name: str) -> Object:
        """A QuantizationJob."""
        return self.get(f"{jobs_path(namespace)}/{name}")

    def wait(self, what: str, condition: Callable[[], bool], seconds: float = 120) -> None:
        """Return once `condition` holds; raise TimeoutError with `what` after `seconds`."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError(f"{what} did not happen in {seconds:.0f} s")
            time.sleep(_POLL)

    def wait_for(
        self, namespace: str, name: str, condition: str, status: str, seconds: float = 120
    ) -> Object:
        """Wait until a QuantizationJob's condition has a status; returns the object."""
        last: Object = {}

        def holds() -> bool:
            last.clear()
            last.update(self.job(namespace, name))
            return condition_of(last, condition).get("status") == status

        try:
            self.wait(f"{condition}={status} of {name}", holds, seconds)
        except TimeoutError as error:
            found = last.get("status", {}).get("conditions", [])
            told = [(c["type"], c["status"], c["reason"], c.get("message")) for c in found]
            raise TimeoutError(f"{error}; it says {told}") from None
        return last


def condition_of(job: Object, kind: str) -> Object:
    """A row of a QuantizationJob's conditions; {} where it has none of that kind."""
    rows: list[Object] = job.get("status", {}).get("conditions", [])
    return next((row for row in rows if row["type"] == kind), {})
