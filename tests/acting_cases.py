"""What tests of carrying the law out share: targets, readers and contexts made by code.

Called by unit tests of `halftone.scaling.acting` and of Ray's policy. A target here keeps its count
in memory; `tests/api` has a real one.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from halftone.scaling.acting.targets import Observed, TargetError
from halftone.scaling.capacity_fields import Stated
from halftone.scaling.inputs.counts import ReplicaCounts
from halftone.scaling.reading import Reading

# A capacity card as JSON, as far as the law reads it; it is `fed_endpoints.CAPACITY`.
CARD: dict[str, Any] = {
    "prefillTokensPerSecond": {"value": "5000"},
    "stepBaseSeconds": {"value": "0.02"},
    "secondsPerKvToken": {"value": "1e-8"},
    "secondsPerSequence": {"value": "1e-4"},
    "kvBlocks": 2001,
    "cacheGroups": [{"kind": "FullAttentionSpec", "blockTokens": 16, "blocksPerRequest": 0}],
    "tokenBudget": 1024,
    "maxSequences": 64,
    "warmUpSeconds": "120",
}


class Recorded:
    """A reader that gives the readings that it was made of, one a look; the last one for ever."""

    def __init__(self, readings: Iterable[Reading | Exception]) -> None:
        self._readings: Iterator[Reading | Exception] = iter(readings)
        self._last: Reading | Exception | None = None
        self.asked: list[ReplicaCounts] = []

    def read(self, counts: ReplicaCounts) -> Reading:
        """The next reading, whatever the counts are."""
        self.asked.append(counts)
        self._last = next(self._readings, self._last)
        if isinstance(self._last, Exception):
            raise self._last
        assert self._last is not None
        return self._last


class Telling(Recorded):
    """A reader that also says what it was made of: `said`, or an error."""

    def __init__(
        self, readings: Iterable[Reading | Exception], said: Stated | Exception | None = None
    ) -> None:
        super().__init__(readings)
        self.said = said
        self.times = 0

    def feed(self, readings: Iterable[Reading | Exception]) -> None:
        """What is read from now on."""
        super().__init__(readings)

    def stated(self) -> Stated | None:
        """What it was told to say."""
        self.times += 1
        if isinstance(self.said, Exception):
            raise self.said
        return self.said


@dataclass
class Kept:
    """A target whose count is a number here; `broken` is what the next question gets."""

    count: int = 2
    ready: int | None = None
    rivals: tuple[str, ...] = ()
    broken: str = ""
    lost: bool = False  # a new count is set, and nobody hears of it
    told: list[str] = field(default_factory=list)
    was_set: list[int] = field(default_factory=list)

    name: str = "the target"

    def observe(self) -> Observed:
        """All of the count is ready, unless `ready` says otherwise."""
        if self.broken:
            raise TargetError(self.broken)
        ready = self.count if self.ready is None else self.ready
        counts = ReplicaCounts(ready, max(0, self.count - ready))
        return Observed(self.count, counts, self.rivals)

    def scale(self, count: int, seen: Observed) -> None:
        """Take it."""
        self.count = count
        self.was_set.append(count)
        if self.lost:
            raise TargetError("The answer was lost.")

    def tell(self, reason: str, sentence: str) -> None:
        """Keep it."""
        self.told.append(f"{reason}: {sentence}")

    def close(self) -> None:
        """Nothing is open."""


@dataclass(frozen=True)
class ReplicaId:
    """As Ray names a replica."""

    unique_id: str


@dataclass
class Context:
    """As far as the policy reads Ray's `AutoscalingContext`."""

    target_num_replicas: int
    running: int
    total_queued_requests: float = 0.0

    @property
    def running_replicas(self) -> list[ReplicaId]:
        """Those that run, by their names."""
        return [ReplicaId(f"replica-{number}") for number in range(self.running)]
