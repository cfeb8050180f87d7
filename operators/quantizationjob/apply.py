"""All writes: a `Decision` becomes requests, in an order that a kill at any point does no harm to.

Called by `workers`. Finalizer, deletions, creations, what is asked of a Kubeflow server, then the
status in one write, then events, and events only if the status was written. A child that exists is
never touched: its name is that of the work, so finding it there means that somebody (another
replica, or ourselves before a restart) was faster.
"""

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from halftone.control.decision import Decision, Event
from halftone.spec.cluster import FIELD_MANAGER, FINALIZER, GROUP, PLURAL, VERSION
from halftone.spec.names import API_VERSION, JOB_KIND
from operators.quantizationjob.api import Api, ApiError
from operators.quantizationjob.pipelines import Pipelines
from operators.quantizationjob.reading import Key

log = logging.getLogger(__name__)

_PLURALS: Final = {"Job": "jobs", "PersistentVolumeClaim": "persistentvolumeclaims"}


class NamesTaken(Exception):
    """Objects of other owners have the names of children."""

    def __init__(self, names: frozenset[str]) -> None:
        super().__init__(", ".join(sorted(names)))
        self.names = names


class ChildRefused(Exception):
    """The API server does not let us make a child: a quota, a policy, a quantity of the job's."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(message)
        self.name = name
        self.message = message


class NamespaceTerminating(Exception):
    """Nothing can be made here any more."""


@dataclass(frozen=True)
class Written:
    """What the watches will show because of us: a resource version, and children."""

    resource_version: str | None
    children: frozenset[str]


class Applier:
    """Carries decisions out for one installation, called `instance` in events."""

    def __init__(self, api: Api, instance: str, pipelines: Pipelines | None = None) -> None:
        self._api = api
        self._pipelines = pipelines
        self._instance = instance

    async def apply(self, key: Key, metadata: Mapping[str, Any], decision: Decision) -> Written:
        """Carry out `decision` on the job with `metadata`.

        Raises ApiError (409 where the object changed meanwhile: look again), NamesTaken,
        ChildRefused, NamespaceTerminating, and what `Pipelines.carry_out` raises.
        """
        version = None
        if decision.finalizer is True:
            version = await self._take_finalizer(key, metadata)
        for deletion in decision.deletions:
            # In the foreground: what comes next must not begin while pods still write.
            path = f"jobs/{deletion.name}"
            await self._api.delete(key.namespace, "batch", "v1", path, deletion.uid, "Foreground")
        names = [str(manifest["metadata"]["name"]) for manifest in decision.creations]
        taken = {
            name
            for name, manifest in zip(names, decision.creations, strict=True)
            if not await self._create(key, metadata, manifest)
        }
        if taken:
            raise NamesTaken(frozenset(taken))  # before a status that does not know of it
        if decision.run is not None and self._pipelines is not None:
            await self._pipelines.carry_out(key, metadata["uid"], decision.run)
        if decision.status is not None:
            version = await self._write_status(key, metadata, decision, version)
        for event in decision.events:
            await self._emit(key, metadata, event)
        if decision.finalizer is False:
            version = await self._give_finalizer_up(key, metadata)
        if decision.delete_self:
            path = f"{PLURAL}/{key.name}"
            await self._api.delete(key.namespace, GROUP, VERSION, path, metadata["uid"])
        jobs = {m["metadata"]["name"] for m in decision.creations if m["kind"] == "Job"}
        return Written(version, frozenset(jobs))

    async def _take_finalizer(self, key: Key, metadata: Mapping[str, Any]) -> str:
        """Ours beside those of others. The uid keeps apply from creating.

        Of the object as we saw it: the version that comes back is what the status is written
        against, and must not hide that another replica was here meanwhile, which would lose what it
        wrote (a claim to a run).
        """
        body = _identity(key, metadata)
        body["metadata"] |= {
            "resourceVersion": metadata["resourceVersion"],
            "finalizers": [FINALIZER],
        }
        return _version(await self._api.apply(key.namespace, key.name, body))

    async def _give_finalizer_up(self, key: Key, metadata: Mapping[str, Any]) -> str | None:
        """All finalizers but ours, of the object as we saw it; None if it is gone already.

        Apply takes away only what nobody else has put there, and an object that was restored from a
        copy had ours from the beginning.
        """
        others = [one for one in metadata.get("finalizers") or () if one != FINALIZER]
        body = _identity(key, metadata)
        body["metadata"] |= {
            "resourceVersion": metadata["resourceVersion"],
            "finalizers": others,
        }
        try:
            return _version(await self._api.merge(key.namespace, key.name, body))
        except ApiError as error:
            if error.code == 404:
                return None
            raise

    async def _create(
        self, key: Key, metadata: Mapping[str, Any], manifest: Mapping[str, Any]
    ) -> bool:
        """Make a child; False if its name belongs to somebody else."""
        plural = _PLURALS[manifest["kind"]]
        try:
            await self._api.create(key.namespace, plural, manifest)
        except ApiError as error:
            if error.code == 403 and "being terminated" in error.message:
                raise NamespaceTerminating from error
            # A webhook that does not answer is no fault of the API server, and may last.
            by_webhook = error.code == 500 and "webhook" in error.message
            if error.code in (400, 403, 422) or by_webhook:
                raise ChildRefused(manifest["metadata"]["name"], error.message) from error
            if error.code != 409:
                raise
            return await self._is_ours(key, metadata, plural, manifest)
        return True

    async def _is_ours(
        self, key: Key, metadata: Mapping[str, Any], plural: str, manifest: Mapping[str, Any]
    ) -> bool:
        group, _, version = manifest["apiVersion"].rpartition("/")
        path = f"{plural}/{manifest['metadata']['name']}"
        try:
            found = await self._api.get(group, version, key.namespace, path)
        except ApiError as error:
            if error.code == 404:
                raise ApiError(409, "Conflict", "the child went away meanwhile") from error
            raise
        owners = found["metadata"].get("ownerReferences") or ()
        return any(owner["uid"] == metadata["uid"] for owner in owners)

    async def _write_status(
        self, key: Key, metadata: Mapping[str, Any], decision: Decision, version: str | None
    ) -> str:
        """One write of the whole status, unless the object is another by now.

        Apply leaves fields alone that somebody else has put there. They are nobody's but ours, so
        what should not be there is taken away by a second write, which is hardly ever needed.
        """
        assert decision.status is not None
        body = _identity(key, metadata)
        body["metadata"]["resourceVersion"] = version or metadata["resourceVersion"]
        body["status"] = decision.status.model_dump(mode="json", exclude_none=True)
        found = await self._api.apply(key.namespace, key.name, body, "/status")
        if found.get("status") != body["status"]:
            surplus = dict.fromkeys(set(found.get("status") or {}) - set(body["status"]))
            body["metadata"]["resourceVersion"] = _version(found)
            body["status"] = {**body["status"], **surplus}
            found = await self._api.merge(key.namespace, key.name, body, "/status")
        return _version(found)

    async def _emit(self, key: Key, metadata: Mapping[str, Any], event: Event) -> None:
        """One event. That it cannot be written is logged, and no reason to fail."""
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        body = {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            # `kubectl describe` shows events in the order of their names.
            "metadata": {"name": f"{key.name}.{time.time_ns():x}", "namespace": key.namespace},
            "eventTime": now,
            "reportingController": f"{GROUP}/{FIELD_MANAGER}",
            "reportingInstance": self._instance,
            "action": "Reconcile",
            "reason": event.reason.value,
            "note": event.message,
            "type": "Warning" if event.warning else "Normal",
            "regarding": {
                "apiVersion": API_VERSION,
                "kind": JOB_KIND,
                "name": key.name,
                "namespace": key.namespace,
                "uid": metadata["uid"],
            },
        }
        try:
            await self._api.create(key.namespace, "events", body)
        except ApiError as error:
            log.warning("%s/%s: the event %s is lost: %s", *key, event.reason.value, error)


def _identity(key: Key, metadata: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": API_VERSION,
        "kind": JOB_KIND,
        "metadata": {"name": key.name, "namespace": key.namespace, "uid": metadata["uid"]},
    }


def _version(found: Mapping[str, Any]) -> str:
    return str(found["metadata"]["resourceVersion"])
