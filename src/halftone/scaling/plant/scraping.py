"""What a scraper sees of the plant, and when: the newest scrape that is one interval old.

Called by `endpoint`. A scrape happens every interval; it reaches whoever reads an interval later,
as through a Prometheus that evaluates rules of its own. A replica that was not yet ready at a
scrape had served nothing then, and is read so.
"""

from collections import deque
from dataclasses import dataclass
from typing import Final

import numpy as np

from halftone.scaling.loads.load import Integers
from halftone.scaling.plant.state import (
    CACHED,
    FINISHED,
    FINISHED_OUTPUT,
    FINISHED_PROMPT,
    GENERATION,
    PREEMPTIONS,
    PROMPT,
    SEEN_BLOCKS,
    SEEN_RUNNING,
    SEEN_WAITING,
    Replicas,
)
from halftone.scaling.reading import COUNTERS, GAUGES, ITL_BOUNDS, TTFT_BOUNDS, ReplicaReading

_NO_TTFT: Final = (0.0,) * (len(TTFT_BOUNDS) + 1)
_NO_ITL: Final = (0.0,) * (len(ITL_BOUNDS) + 1)


@dataclass(frozen=True)
class Scrape:
    """Everything at one scrape. `rows` says where a name's values are in the arrays."""

    time_s: float
    rows: dict[str, int]
    counters: Integers
    seen: Integers
    ttft: Integers  # cumulative
    itl: Integers
    held: int


class Scraper:
    """Keeps the scrapes that are still to be seen. Times are seconds since the load began."""

    def __init__(self, interval_s: float, kv_blocks: int) -> None:
        self._interval_s = interval_s
        self._kv_blocks = kv_blocks
        self._scrapes: deque[Scrape] = deque()

    def take(self, time_s: float, rows: dict[str, int], replicas: Replicas, held: int) -> None:
        """Scrape the replicas of `rows` now."""
        self._scrapes.append(
            Scrape(
                time_s,
                rows,
                replicas.counters.copy(),
                replicas.seen.copy(),
                replicas.ttft.cumsum(axis=1),
                replicas.itl.cumsum(axis=1),
                held,
            )
        )

    def seen_at(self, time_s: float) -> Scrape | None:
        """The newest scrape that is at least an interval old; None before there is one.

        Older ones are forgotten, so times must not go back.
        """
        visible = time_s - self._interval_s
        while len(self._scrapes) > 1 and self._scrapes[1].time_s <= visible:
            self._scrapes.popleft()
        if self._scrapes and self._scrapes[0].time_s <= visible:
            return self._scrapes[0]
        return None

    def replicas_at(self, time_s: float, names: list[str]) -> tuple[ReplicaReading, ...]:
        """Those of `names` as they are seen at `time_s`."""
        scrape = self.seen_at(time_s)
        if scrape is None:
            # Replicas were scraped before the load began, and had nothing to tell.
            before = np.floor(time_s / self._interval_s) * self._interval_s - self._interval_s
            return tuple(_nothing(name, float(before)) for name in names)
        return tuple(self._of(scrape, name) for name in names)

    def held_at(self, time_s: float) -> float:
        """How many were held in front at the scrape that is seen at `time_s`."""
        scrape = self.seen_at(time_s)
        return 0.0 if scrape is None else float(scrape.held)

    def _of(self, scrape: Scrape, name: str) -> ReplicaReading:
        row = scrape.rows.get(name)
        if row is None:
            return _nothing(name, scrape.time_s)
        counters = [float(each) for each in scrape.counters[row]]
        seen = scrape.seen[row]
        return ReplicaReading(
            name=name,
            time_s=scrape.time_s,
            running=float(seen[SEEN_RUNNING]),
            waiting=float(seen[SEEN_WAITING]),
            kv_usage=float(seen[SEEN_BLOCKS]) / self._kv_blocks,
            finished=counters[FINISHED],
            prompt_tokens=counters[PROMPT],
            cached_tokens=counters[CACHED],
            generation_tokens=counters[GENERATION],
            finished_prompt_tokens=counters[FINISHED_PROMPT],
            finished_output_tokens=counters[FINISHED_OUTPUT],
            preemptions=counters[PREEMPTIONS],
            ttft=tuple(scrape.ttft[row].astype(float).tolist()),
            itl=tuple(scrape.itl[row].astype(float).tolist()),
        )


def _nothing(name: str, time_s: float) -> ReplicaReading:
    """Of a replica that has served nothing."""
    zeros = dict.fromkeys((*GAUGES, *COUNTERS), 0.0)
    return ReplicaReading(name=name, time_s=time_s, **zeros, ttft=_NO_TTFT, itl=_NO_ITL)
