"""How long it takes from asking for a replica until it is ready, measured.

Called by `deciding`, for Ray's policy and for the external controller alike. Pure; standard library
only. It must not know what a replica is: it sees two numbers, and when.
"""

from collections import deque
from typing import Final

# Nodes and caches change; older leads say little of the next one.
_KEPT: Final = 20
# With fewer measured than this the prior still counts.
_ENOUGH: Final = 3
_SHARE: Final = 0.9


class LeadTimes:
    """Fed with what is wanted and what is ready, at each look.

        leads = LeadTimes()
        leads.observe(time_s, wanted=3, ready=1)
        leads.lead_s(prior_s=300)

    Those that are asked for become ready in the order of the asks. A replica that dies is asked for
    again by whoever replaces it, at the moment when it is missed. What was outstanding at the first
    look was asked for nobody knows when, and is not counted.
    """

    def __init__(self) -> None:
        self._asked: deque[float | None] = deque()
        self._ready: int | None = None
        self._measured: deque[float] = deque(maxlen=_KEPT)

    @property
    def measured(self) -> tuple[float, ...]:
        """The last leads, in seconds, the newest last."""
        return tuple(self._measured)

    def observe(self, time_s: float, wanted: int, ready: int) -> None:
        """What is there at `time_s`, by a clock that only goes forward."""
        outstanding = max(0, wanted - ready)
        # A replica that was ready and is not does not say when it was asked for: one that misses a
        # probe and is back ten seconds later was never started.
        lost = 0 if self._ready is None else max(0, self._ready - ready)
        if self._ready is None:
            self._asked.extend([None] * outstanding)
        else:
            for _ in range(min(len(self._asked), max(0, ready - self._ready))):
                asked = self._asked.popleft()
                if asked is not None:
                    self._measured.append(max(0.0, time_s - asked))
        self._ready = ready
        while len(self._asked) > outstanding:
            self._asked.pop()  # the last one asked for is the first that is given up
        while len(self._asked) < outstanding:
            self._asked.append(None if lost > 0 else time_s)
            lost -= 1

    def lead_s(self, prior_s: float) -> float:
        """The 90th percentile of the last leads; with few of them not less than the prior."""
        if not self._measured:
            return prior_s
        ordered = sorted(self._measured)
        if len(ordered) < _ENOUGH:
            return max(prior_s, ordered[-1])
        # The nearest rank, so that it is a lead that was seen.
        rank = -(-len(ordered) * int(100 * _SHARE) // 100)
        return ordered[rank - 1]
