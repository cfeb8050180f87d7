"""What the last scrapes say together: how much counters grew, how high gauges went.

Called by baselines whose rules have a time window, as PromQL's `increase` and `max_over_time` do.
"""

from collections import deque
from collections.abc import Callable, Sequence
from itertools import pairwise

from halftone.scaling.reading import Reading, ReplicaReading

Gauge = Callable[[ReplicaReading], float]
Histogram = Callable[[ReplicaReading], Sequence[float]]


class Scrapes:
    """The scrapes of the last `window_s` seconds, of each replica."""

    def __init__(self, window_s: float) -> None:
        self.window_s = window_s
        self._kept: dict[str, deque[ReplicaReading]] = {}

    def add(self, reading: Reading) -> None:
        """Remember what is new in `reading`, and forget what is older than the window.

        The window ends at the newest scrape: time in which nothing was scraped ages nothing.
        """
        for each in reading.replicas:
            known = self._kept.setdefault(each.name, deque())
            if not known or each.time_s > known[-1].time_s:
                known.append(each)
        newest = max((known[-1].time_s for known in self._kept.values()), default=0.0)
        for known in self._kept.values():
            while known and known[0].time_s <= newest - self.window_s:
                known.popleft()
        self._kept = {name: known for name, known in self._kept.items() if known}

    def increase(self, counter: Gauge) -> float:
        """How much `counter` grew over all replicas; one that starts anew counts from 0."""
        return sum(self.increases(lambda each: (counter(each),)), 0.0)

    def increases(self, counters: Histogram) -> list[float]:
        """The same of several at once, such as a histogram's buckets; empty where none were read.

        A replica was started anew when its last counter, a histogram's total, is lower than before.
        """
        grown: list[float] = []
        for known in self._kept.values():
            for before, now in pairwise(map(counters, known)):
                if len(before) != len(now) or not now:
                    continue
                base = before if now[-1] >= before[-1] else [0.0] * len(now)
                more = [new - old for new, old in zip(now, base, strict=True)]
                grown = [a + b for a, b in zip(grown, more, strict=True)] if grown else more
        return grown

    def peaks(self, reading: Reading, gauge: Gauge) -> list[float]:
        """The highest `gauge` of each replica that `reading` has, in its order."""
        return [max(map(gauge, self._kept[each.name])) for each in reading.replicas]
