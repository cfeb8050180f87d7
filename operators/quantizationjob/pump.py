"""The pump: kopf's watches fill indexes, and every event names the job that it is about.

Called by `__main__`. Low-level handlers alone: kopf patches nothing, keeps nothing in annotations,
adds no finalizer, and posts no events of its own.
"""

import asyncio
from collections.abc import Mapping
from typing import Any, Final

import kopf

from halftone.spec.cluster import GROUP, JOB_LABEL, PLURAL, VERSION
from operators.quantizationjob.indexes import Indexes
from operators.quantizationjob.queue import Queue
from operators.quantizationjob.reading import (
    Key,
    OwnedChild,
    OwnedPod,
    key_of_child,
    read_child,
    read_object,
    read_pod,
)

_OBJECTS: Final = (GROUP, VERSION, PLURAL)
_CHILDREN: Final = ("batch", "v1", "jobs")
_PODS: Final = ("", "v1", "pods")


class Pump:
    """Handlers for one operator. `ready` is set once everything that exists was listed."""

    def __init__(self, queue: Queue) -> None:
        self.registry = kopf.OperatorRegistry()
        self.ready: asyncio.Future[Indexes] = asyncio.get_running_loop().create_future()
        self._queue = queue
        kopf.on.login(registry=self.registry, id="login")(_login)
        kopf.index(*_OBJECTS, id="objects", registry=self.registry)(_index_object)
        kopf.index(*_CHILDREN, id="children", registry=self.registry)(_index_child)
        kopf.index(*_PODS, id="pods", registry=self.registry)(_index_pod)
        kopf.on.event(*_OBJECTS, registry=self.registry)(self._about_object)
        kopf.on.event(*_CHILDREN, registry=self.registry)(self._about_child)
        kopf.on.event(*_PODS, registry=self.registry)(self._about_child)

    async def _about_object(self, body: kopf.Body, **others: Any) -> None:
        self._note(others)
        self._queue.add(Key(body["metadata"]["namespace"], body["metadata"]["name"]))

    async def _about_child(self, body: kopf.Body, **others: Any) -> None:
        self._note(others)
        key = key_of_child(body)
        if key is not None:
            self._queue.add(key)

    def _note(self, others: Mapping[str, Any]) -> None:
        if not self.ready.done():
            indexes = Indexes(others["objects"], others["children"], others["pods"])
            self.ready.set_result(indexes)


def watching() -> kopf.OperatorSettings:
    """How kopf watches: what carries our labels, and without anything that writes."""
    found = kopf.OperatorSettings()
    found.posting.enabled = False
    found.peering.standalone = True
    # The resources are known, and so are the namespaces: nothing has to be discovered by watching.
    found.scanning.disabled = True
    found.persistence.finalizer = f"{GROUP}/kopf"
    found.watching.label_selectors[_CHILDREN] = JOB_LABEL
    found.watching.label_selectors[_PODS] = JOB_LABEL
    return found


def _login(**arguments: Any) -> kopf.ConnectionInfo | None:
    """As a pod its service account, elsewhere a kubeconfig; read again whenever it expires."""
    return kopf.login_with_service_account(**arguments) or kopf.login_with_kubeconfig(**arguments)


def _index_object(body: kopf.Body, **_: Any) -> dict[Key, dict[str, Any]]:
    found = read_object(body)
    return {Key(found["metadata"]["namespace"], found["metadata"]["name"]): found}


def _index_child(body: kopf.Body, **_: Any) -> dict[Key, OwnedChild]:
    key, child = key_of_child(body), read_child(body)
    return {} if key is None or child is None else {key: child}


def _index_pod(body: kopf.Body, **_: Any) -> dict[Key, OwnedPod]:
    key = key_of_child(body)
    return {} if key is None else {key: read_pod(body)}
