"""The pump: watches fill indexes, and every change names the job that it is about.

Called by `__main__`. Before `begin` it names nobody, because a replica that stands by has to know
everything and to do nothing.
"""

import asyncio
from collections.abc import Sequence
from typing import Any, Final

from halftone.spec.cluster import GROUP, JOB_LABEL, PLURAL, VERSION
from halftone.telemetry.operator import OperatorMetrics
from operators.quantizationjob.api import Api
from operators.quantizationjob.indexes import Index, Indexes
from operators.quantizationjob.queue import Queue
from operators.quantizationjob.reading import Key, OwnedChild
from operators.quantizationjob.watch import Kind, Watch

_OBJECTS: Final = Kind(GROUP, VERSION, PLURAL)
_CHILDREN: Final = Kind("batch", "v1", "jobs", JOB_LABEL)
_PODS: Final = Kind("", "v1", "pods", JOB_LABEL)
# A pod changes several times while it starts, and its Job with it; only their end is waited for.
# The Job controller gathers changes of pods for as long.
_BATCH_SECONDS: Final = 1.0


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
        self.indexes = Indexes.telling(self._object_changed, self._child_changed, self._pod_changed)
        kinds: tuple[tuple[Kind, Index[Any]], ...] = (
            (_OBJECTS, self.indexes.objects),
            (_CHILDREN, self.indexes.children),
            (_PODS, self.indexes.pods),
        )
        # By the namespace; None for all.
        self._watches: dict[str | None, list[Watch]] = {
            namespace: [Watch(api, kind, namespace, index, silence) for kind, index in kinds]
            for namespace in (namespaces or (None,))
        }
        # Namespaces of which all three kinds were listed: nothing is judged on half a picture.
        self._known: set[str | None] = set()
        self._any_known = asyncio.Event()

    async def run(self) -> None:
        """For ever."""
        async with asyncio.TaskGroup() as group:
            for namespace, watches in self._watches.items():
                for watch in watches:
                    group.create_task(watch.run())
                group.create_task(self._get_to_know(namespace))

    async def ready(self) -> None:
        """Return once everything in one namespace was listed.

        The others follow, each by itself: one that is gone must not hold up the rest.
        """
        await self._any_known.wait()

    def troubles(self) -> list[str]:
        """What is wrong with the watches, a sentence each."""
        return [
            trouble
            for namespace in self._watches
            for watch in self._watches[namespace]
            if (trouble := self._trouble(watch)) is not None
        ]

    def is_useful(self) -> bool:
        """Whether there is a namespace without any trouble."""
        return any(
            all(self._trouble(watch) is None for watch in watches)
            for watches in self._watches.values()
        )

    def begin(self) -> None:
        """Name all jobs that there are, and from now on everyone that changes."""
        self._begun = True
        for key in self.indexes.names():
            self._note(key)

    async def _get_to_know(self, namespace: str | None) -> None:
        """Wait until all of `namespace` was listed; what was noted too early is named then."""
        for watch in self._watches[namespace]:
            await watch.listed.wait()
        self._known.add(namespace)
        self._any_known.set()
        for key in self.indexes.names():
            if namespace in (None, key.namespace):
                self._note(key)

    def _trouble(self, watch: Watch) -> str | None:
        what = watch.kind.plural
        if len(self._watches) > 1:
            what += f" in '{watch.namespace}'"
        why = f": {watch.trouble}" if watch.trouble else ""
        if not watch.listed.is_set():
            return f"{what} are not listed yet{why}"
        late = watch.lateness()
        return f"the watch of {what} is silent, {late:.0f} s too long{why}" if late > 0 else None

    def _note(self, key: Key, seconds: float = 0.0) -> None:
        """Have `key` looked at, in `seconds` at the latest."""
        if not self._begun or self._known.isdisjoint((None, key.namespace)):
            return
        if seconds:
            self._queue.add_after(key, seconds)
        else:
            self._queue.add(key)

    def _object_changed(self, key: Key, *_: object) -> None:
        self._note(key)

    def _pod_changed(self, key: Key, *_: object) -> None:
        self._note(key, _BATCH_SECONDS)

    def _child_changed(self, key: Key, before: OwnedChild | None, after: OwnedChild | None) -> None:
        is_over = after is None or after.child.finished is not None
        self._note(key, 0.0 if is_over else _BATCH_SECONDS)
        if self._begun and before is not None and after is not None:
            was, child = before.child, after.child
            if was.finished is None and child.finished is not None:
                seconds = (child.finished - child.created).total_seconds()
                self._metrics.end_stage(child.stage, seconds, succeeded=child.complete)
