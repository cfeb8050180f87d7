"""What the watches know, by the QuantizationJob that it belongs to.

Filled by `pump`, read by `observe`. What one holds is what the server had when it was last heard:
whatever a new list does not show is gone from here, too.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from datetime import datetime
from typing import Any, Generic, Self, TypeVar

from halftone.control.headroom import headrooms
from operators.quantizationjob.reading import (
    Key,
    OwnedChild,
    OwnedPod,
    key_of_child,
    read_child,
    read_object,
    read_pod,
)

_T = TypeVar("_T")
_Name = tuple[str, str]
# Of an object its job, and what is kept of it; None for what is not ours.
Read = Callable[[Mapping[str, Any]], tuple[Key, _T] | None]
# Told whose object changed, and what was kept before and now; None where there was or is none.
Changed = Callable[[Key, _T | None, _T | None], None]


class Index(Generic[_T]):
    """Objects of one kind."""

    def __init__(self, read: Read[_T], changed: Changed[_T]) -> None:
        self._read = read
        self._changed = changed
        self._by_job: dict[Key, dict[str, _T]] = {}
        self._jobs: dict[_Name, Key] = {}

    def put(self, body: Mapping[str, Any]) -> None:
        """An object as it is now."""
        name = name_of(body)
        found = self._read(body)
        before = self._jobs.get(name)
        if found is None or (before is not None and before != found[0]):
            self.drop(name)
        if found is None:
            return
        key, value = found
        former = self._by_job.get(key, {}).get(name[1])
        self._jobs[name] = key
        self._by_job.setdefault(key, {})[name[1]] = value
        self._changed(key, former, value)

    def drop(self, name: _Name) -> None:
        """An object that is no more; nothing if it was not known."""
        key = self._jobs.pop(name, None)
        if key is None:
            return
        values = self._by_job[key]
        former = values.pop(name[1])
        if not values:
            del self._by_job[key]
        self._changed(key, former, None)

    def keep_only(self, names: Collection[_Name], namespace: str | None) -> None:
        """Drop all but `names`: the list of a namespace (None: of all) has what there is."""
        for name in [name for name in self._jobs if name not in names]:
            if namespace in (None, name[0]):
                self.drop(name)

    def get(self, key: Key) -> Collection[_T]:
        """All objects of a job."""
        return self._by_job.get(key, {}).values()

    def __iter__(self) -> Iterator[Key]:
        return iter(list(self._by_job))


def name_of(body: Mapping[str, Any]) -> _Name:
    """Namespace and name."""
    return str(body["metadata"]["namespace"]), str(body["metadata"]["name"])


class Indexes:
    """All three kinds."""

    def __init__(
        self,
        objects: Index[dict[str, Any]],
        children: Index[OwnedChild],
        pods: Index[OwnedPod],
    ) -> None:
        self.objects = objects
        self.children = children
        self.pods = pods

    @classmethod
    def telling(
        cls,
        object_changed: Changed[dict[str, Any]],
        child_changed: Changed[OwnedChild],
        pod_changed: Changed[OwnedPod],
    ) -> Self:
        """All three, empty; whoever wants to know of changes is told."""
        return cls(
            Index(_read_object, object_changed),
            Index(_read_child, child_changed),
            Index(_read_pod, pod_changed),
        )

    def object(self, key: Key) -> dict[str, Any] | None:
        """The QuantizationJob, None if there is none."""
        return next(iter(self.objects.get(key)), None)

    def names(self) -> Iterator[Key]:
        """All QuantizationJobs."""
        yield from self.objects

    def conditions(self) -> Iterator[tuple[str, str, str]]:
        """(type, status, reason) of every condition of every job."""
        for key in self.names():
            found = self.object(key)
            for row in (found or {}).get("status", {}).get("conditions") or ():
                yield str(row["type"]), str(row["status"]), str(row["reason"])

    def headrooms(self) -> Iterator[tuple[str, float]]:
        """(metric, share of its limit) of every gate of every job that has both."""
        for key in self.names():
            found = self.object(key) or {}
            yield from headrooms(found.get("spec") or {}, found.get("status") or {})

    def running(self) -> Iterator[tuple[str, datetime]]:
        """(stage, since when) of every Job that runs; of one that was never begun, its creation."""
        for key in self.children:
            for owned in self.children.get(key):
                child = owned.child
                if child.finished is None and not (child.suspended or child.deleting):
                    yield child.stage.value, owned.started or child.created


def _read_object(body: Mapping[str, Any]) -> tuple[Key, dict[str, Any]]:
    found = read_object(body)
    return Key(found["metadata"]["namespace"], found["metadata"]["name"]), found


def _read_child(body: Mapping[str, Any]) -> tuple[Key, OwnedChild] | None:
    key, child = key_of_child(body), read_child(body)
    return None if key is None or child is None else (key, child)


def _read_pod(body: Mapping[str, Any]) -> tuple[Key, OwnedPod] | None:
    key = key_of_child(body)
    return None if key is None else (key, read_pod(body))
