"""Conditions of a status: written all at once, their times moved only where the status moved.

Called by `reconciling`. The rules are those of Kubernetes' API conventions, and rows are those of
`metav1.Condition`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from halftone.spec.cluster import Condition
from halftone.spec.status import ConditionRow, ConditionStatus, JobStatus

MAX_MESSAGE: Final = 4096
# No two clocks of a cluster are so far apart.
_WRONG_BY: Final = timedelta(days=1)
_REST: Final = "(Cut here; `halftone logs` has the rest.)"


@dataclass(frozen=True)
class Told:
    """What one condition is to say."""

    condition: Condition
    status: ConditionStatus
    reason: str
    message: str


def shortened(text: str, limit: int, rest: str) -> str:
    """`text` in at most `limit` bytes: whole sentences, then `rest`, which says where more is."""
    if len(text.encode()) <= limit:
        return text
    room = limit - len(rest.encode()) - len("… ".encode())
    head = text.encode()[:room].decode(errors="ignore")
    end = max(head.rfind(". "), head.rfind("; "), head.rfind("\n"))
    # One sentence that alone is too long is cut at a word, so that most of it stays.
    if end * 2 < len(head):
        return f"{head.rpartition(' ')[0] or head}… {rest}"
    return f"{head[: end + 1].rstrip()} {rest}"


def time_text(moment: datetime) -> str:
    """As the API server writes times: UTC, whole seconds, `Z`."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def read_time(text: str | None) -> datetime | None:
    """What `time_text` wrote; None for nothing, and for what somebody else wrote."""
    try:
        moment = datetime.fromisoformat(text) if text else None
        if moment is None or moment.tzinfo is None:
            return moment if moment is None else moment.replace(tzinfo=UTC)
        return moment.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def read_past(text: str | None, now: datetime) -> datetime | None:
    """The same for a time that was; None for one that no clock of a cluster can have shown."""
    moment = read_time(text)
    return None if moment is None or moment - now > _WRONG_BY else moment


def rows(
    told: Sequence[Told], before: JobStatus, generation: int, now: datetime
) -> tuple[ConditionRow, ...]:
    """`told` as rows; `lastTransitionTime` is the former one where the status is."""
    found = []
    for one in told:
        former = before.condition(one.condition)
        kept = former is not None and former.status is one.status
        since = former.lastTransitionTime if former is not None and kept else time_text(now)
        found.append(
            ConditionRow(
                type=one.condition,
                status=one.status,
                reason=one.reason,
                message=shortened(one.message, MAX_MESSAGE, _REST),
                lastTransitionTime=since if read_time(since) else time_text(now),
                observedGeneration=generation,
            )
        )
    return tuple(found)
