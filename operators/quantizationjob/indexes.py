"""What the watches know, by the QuantizationJob that it belongs to.

Filled by kopf's indexes (`pump`), read by `observe`. Handlers of events do not run before every
index has seen the whole list, so nothing is judged on half of the picture.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from operators.quantizationjob.reading import Key, OwnedChild, OwnedPod


@dataclass
class Indexes:
    """Views of kopf's own indexes; set once, when the first event arrives."""

    objects: Mapping[Key, Collection[dict[str, Any]]]
    children: Mapping[Key, Collection[OwnedChild]]
    pods: Mapping[Key, Collection[OwnedPod]]

    def object(self, key: Key) -> dict[str, Any] | None:
        """The QuantizationJob, None if there is none."""
        return next(iter(self.objects.get(key, ())), None)

    def names(self) -> Iterator[Key]:
        """All QuantizationJobs."""
        yield from list(self.objects)

    def conditions(self) -> Iterator[tuple[str, str, str]]:
        """(type, status, reason) of every condition of every job."""
        for key in self.names():
            found = self.object(key)
            for row in (found or {}).get("status", {}).get("conditions") or ():
                yield str(row["type"]), str(row["status"]), str(row["reason"])
