"""llm-d's Workload Variant Autoscaler, version 1: one replica more or fewer by spare capacity.

Called by `policies`. Rule and thresholds are those of its documentation of the saturation analyzer;
with one variant there is nothing of costs in it.
"""

from typing import Final

from halftone.scaling.baselines.horizontal import SYNC_S
from halftone.scaling.baselines.scrapes import Scrapes
from halftone.scaling.reading import Reading

CYCLE_S: Final = 60.0
KV_SATURATED: Final = 0.80
QUEUE_SATURATED: Final = 5.0
KV_SPARE: Final = 0.10
QUEUE_SPARE: Final = 3.0


class SpareCapacity:
    """Looks once a minute at the highest KV use and the longest queue of that minute.

    One replica more than are ready, so none is added beside one that starts, and none is given up.
    """

    interval_s = SYNC_S

    def __init__(self) -> None:
        self._scrapes = Scrapes(CYCLE_S)
        self._next_s: float | None = None

    def __call__(self, reading: Reading) -> int:
        self._scrapes.add(reading)
        current = reading.ready + reading.starting
        if self._next_s is None:
            self._next_s = reading.time_s + CYCLE_S
        if reading.time_s < self._next_s or not reading.replicas:
            return current
        self._next_s += CYCLE_S
        kv = self._scrapes.peaks(reading, lambda each: each.kv_usage)
        queues = self._scrapes.peaks(reading, lambda each: each.waiting)
        change = step(kv, queues)
        if change > 0:
            return max(current, reading.ready + 1)
        return current + change if not reading.starting else current


def step(kv: list[float], queues: list[float]) -> int:
    """1, 0 or -1 replicas, by KV use (0 to 1) and waiting requests of each."""
    rows = zip(kv, queues, strict=True)
    open_ = [row for row in rows if row[0] < KV_SATURATED and row[1] < QUEUE_SATURATED]
    if not open_:
        return 1
    used, queued = (sum(column) for column in zip(*open_, strict=True))
    if not _is_spare(used / len(open_), queued / len(open_)):
        return 1
    left = len(open_) - 1
    return -1 if left and _is_spare(used / left, queued / left) else 0


def _is_spare(kv: float, queue: float) -> bool:
    # A billionth, for 0.8 - 0.7 is a little less than 0.1 in binary, and in the rule it is not.
    return KV_SATURATED - kv >= KV_SPARE - 1e-9 and QUEUE_SATURATED - queue >= QUEUE_SPARE - 1e-9
