"""The pump: watches fill indexes, and every change names the job that it is about.

Called by `__main__`. Before `begin` it names nobody, because a replica that stands by has to know
everything and to do nothing.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final

from halftone.spec.cluster import GROUP, JOB_LABEL, PLURAL, VERSION
from halftone.telemetry.operator import OperatorMetrics
from operators.quantizationjob.api import Api
from operators.quantizationjob.indexes import Index, Indexes
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
from operators.quantizationjob.watch import Kind, Watch

_OBJECTS: Final = Kind(GROUP, VERSION, PLURAL)
_CHILDREN: Final = Kind("batch", "v1", "jobs", JOB_LABEL)
_PODS: Final = Kind("", "v1", "pods", JOB_LABEL)


class Pump:
    """Watches `namespaces`, or all where there are none."""

    def __init__(
        self,
        api: Api,
        queue: Queue,
        metrics: OperatorMetrics,
        namespaces: Sequence[str],
        silence: float,
    ) -> None:
        self._queue = queue
        self._metrics = metrics
        self._begun = False
        self.indexes = Indexes(
            Index(_read_object, self._object_changed),
            Index(_read_child, self._child_changed),
            Index(_read_pod, self._pod_changed),
        )
        kinds: tuple[tuple[Kind, Index[Any]], ...] = (
            (_OBJECTS, self.indexes.objects),
            (_CHILDREN, self.indexes.children),
            (_PODS, self.indexes.pods),
        )
        self._watches = [
            Watch(api, kind, namespace, index, silence)
            for kind, index in kinds
            for namespace in (namespaces or (None,))
        ]

    async def run(self) -> None:
        """For ever."""
        async with asyncio.TaskGroup() as group:
            for watch in self._watches:
                group.create_task(watch.run())

    async def ready(self) -> None:
        """Return once everything that exists was listed: nothing is judged on half a picture."""
        for watch in self._watches:
            await watch.listed.wait()

    def troubles(self) -> list[str]:
        """What is wrong with the watches, a sentence each."""
        found = []
        for watch in self._watches:
            if not watch.listed.is_set():
                found.append(f"{watch.kind.plural} are not listed yet")
            elif watch.lateness() > 0:
                late = watch.lateness()
                found.append(f"the watch of {watch.kind.plural} is silent, {late:.0f} s too long")
        return found

    def begin(self) -> None:
        """Name all jobs that there are, and from now on everyone that changes."""
        self._begun = True
        for key in self.indexes.names():
            self._queue.add(key)

    def _note(self, key: Key) -> None:
        if self._begun:
            self._queue.add(key)

    def _object_changed(self, key: Key, *_: object) -> None:
        self._note(key)

    def _pod_changed(self, key: Key, *_: object) -> None:
        self._note(key)

    def _child_changed(self, key: Key, before: OwnedChild | None, after: OwnedChild | None) -> None:
        self._note(key)
        if self._begun and before is not None and after is not None:
            was, child = before.child, after.child
            if was.finished is None and child.finished is not None:
                seconds = (child.finished - child.created).total_seconds()
                self._metrics.end_stage(child.stage, seconds, succeeded=child.complete)


def _read_object(body: Mapping[str, Any]) -> tuple[Key, dict[str, Any]]:
    found = read_object(body)
    return Key(found["metadata"]["namespace"], found["metadata"]["name"]), found


def _read_child(body: Mapping[str, Any]) -> tuple[Key, OwnedChild] | None:
    key, child = key_of_child(body), read_child(body)
    return None if key is None or child is None else (key, child)


def _read_pod(body: Mapping[str, Any]) -> tuple[Key, OwnedPod] | None:
    key = key_of_child(body)
    return None if key is None else (key, read_pod(body))
