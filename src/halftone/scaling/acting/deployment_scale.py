"""A Deployment of Kubernetes as a target, through its scale subresource.

Called by `halftone autoscale --deployment`. A count is set against the version that was read, so
that whoever changed it in between is seen at the next look and not overwritten. What it asks for is
what the chart's Role allows: get the Deployment, update its scale, list HorizontalPodAutoscalers,
create Events.
"""

import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from halftone.scaling.acting.api_server import ApiError, ApiServer
from halftone.scaling.acting.targets import Observed, TargetError
from halftone.scaling.inputs.counts import ReplicaCounts

log = logging.getLogger(__name__)

_COMPONENT: Final = "halftone.dev/autoscale"
_FORBIDDEN: Final = 403
_NOT_FOUND: Final = 404
_CONFLICT: Final = 409
_NOTE: Final = 1024  # characters that an Event may say


class DeploymentScale:
    """One Deployment. `identity` is who says what Events tell."""

    def __init__(self, api: ApiServer, namespace: str, name: str, identity: str) -> None:
        self._api = api
        self._namespace = namespace
        self._name = name
        self._identity = identity
        self._may_list = True
        self._object: dict[str, Any] = {}

    @property
    def name(self) -> str:
        """As kubectl would name it."""
        return f"deployment '{self._namespace}/{self._name}'"

    def observe(self) -> Observed:
        """Counts of its status, and HorizontalPodAutoscalers that name it. Raises TargetError."""
        try:
            found = self._api.get(self._path())
            rivals = self._rivals()
        except ApiError as error:
            raise TargetError(self._refusal(error)) from error
        self._object = found
        try:
            return observed(found, rivals)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            why = f"{type(error).__name__}: {error}"
            raise TargetError(f"The {self.name} is not understood ({why}).") from error

    def scale(self, count: int, seen: Observed) -> None:
        """Update the scale subresource at the version that was seen. Raises TargetError."""
        body = {
            "apiVersion": "autoscaling/v1",
            "kind": "Scale",
            "metadata": {
                "name": self._name,
                "namespace": self._namespace,
                "resourceVersion": seen.version,
            },
            "spec": {"replicas": count},
        }
        try:
            self._api.replace(f"{self._path()}/scale", body)
        except ApiError as error:
            raise TargetError(self._refusal(error)) from error

    def tell(self, reason: str, sentence: str) -> None:
        """An Event of the Deployment."""
        now = datetime.now(UTC)
        body = {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {
                "name": f"{self._name[:200]}.{int(now.timestamp() * 1e6):x}",
                "namespace": self._namespace,
            },
            "eventTime": now.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "reportingController": _COMPONENT,
            "reportingInstance": self._identity[:128],
            "action": "Scale",
            "type": "Warning",
            "reason": reason,
            "note": sentence[:_NOTE],
            "regarding": {
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "name": self._name,
                "namespace": self._namespace,
                "uid": self._object.get("metadata", {}).get("uid", ""),
            },
        }
        try:
            self._api.create(f"/apis/events.k8s.io/v1/namespaces/{self._namespace}/events", body)
        except ApiError as error:
            log.info("an Event could not be told: %s", error)

    def close(self) -> None:
        """Close what is open to the API server, which a Lease may still open again."""
        self._api.close()

    def _path(self) -> str:
        return f"/apis/apps/v1/namespaces/{self._namespace}/deployments/{self._name}"

    def _rivals(self) -> tuple[str, ...]:
        if not self._may_list:
            return ()
        place = f"/apis/autoscaling/v2/namespaces/{self._namespace}/horizontalpodautoscalers"
        try:
            return rivals(self._api.get(place), self._name)
        except ApiError as error:
            if error.code != _FORBIDDEN:
                raise
            self._may_list = False
            log.warning("HorizontalPodAutoscalers are not looked for: %s", error.message)
            return ()

    def _refusal(self, error: ApiError) -> str:
        if error.code == _NOT_FOUND:
            return f"There is no {self.name}; see `--deployment`."
        if error.code == _CONFLICT:
            return f"The {self.name} has changed since it was read; it is looked at again."
        return f"The {self.name} could not be read or set: {error}."


def observed(deployment: Mapping[str, Any], others: tuple[str, ...] = ()) -> Observed:
    """What a Deployment's spec and status say. One that has no `replicas` has 1."""
    spec, status = deployment["spec"], deployment.get("status", {})
    wanted = int(spec.get("replicas", 1))
    ready = int(status.get("readyReplicas", 0))
    # Until its controller has seen the spec, the status is that of the one before.
    draining = int(status.get("terminatingReplicas") or 0)
    counts = ReplicaCounts(ready, max(0, wanted - ready), draining, None)
    return Observed(wanted, counts, others, str(deployment["metadata"]["resourceVersion"]))


def rivals(autoscalers: Mapping[str, Any], deployment: str) -> tuple[str, ...]:
    """Names of the HorizontalPodAutoscalers in a list that have this Deployment for target."""
    found = []
    for each in autoscalers.get("items", ()):
        target = each["spec"]["scaleTargetRef"]
        if (target["kind"], target["name"]) == ("Deployment", deployment):
            found.append(f"the HorizontalPodAutoscaler '{each['metadata']['name']}'")
    return tuple(sorted(found))
