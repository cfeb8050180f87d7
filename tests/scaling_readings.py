"""Readings as a scraper would give them, for tests of whatever is told one: numbers by hand.

Called by unit tests of baselines. It builds no plant and runs nothing.
"""

from collections.abc import Sequence
from typing import Any

from halftone.scaling.reading import (
    COUNTERS,
    GAUGES,
    ITL_BOUNDS,
    TTFT_BOUNDS,
    Reading,
    ReplicaReading,
)


def replica(name: str = "a", time_s: float = 0.0, **fields: Any) -> ReplicaReading:
    """A replica that does nothing, but for what `fields` say."""
    nothing = dict.fromkeys((*GAUGES, *COUNTERS), 0.0)
    return ReplicaReading(name, time_s, **{**nothing, **fields})


def reading(
    time_s: float, replicas: Sequence[ReplicaReading], starting: int = 0, held: float = 0.0
) -> Reading:
    """All of `replicas` are ready."""
    return Reading(time_s, len(replicas), starting, 0, tuple(replicas), held)


def alike(time_s: float, count: int, starting: int = 0, **fields: Any) -> Reading:
    """`count` replicas of which each says the same."""
    rows = [replica(f"r{place}", time_s, **fields) for place in range(count)]
    return reading(time_s, rows, starting)


def cumulative(bounds: Sequence[float], seconds: Sequence[float]) -> tuple[float, ...]:
    """A histogram of `seconds`: counts at or below each bound, and all."""
    counts = [float(sum(each <= bound for each in seconds)) for bound in bounds]
    return (*counts, float(len(seconds)))


def latencies(ttft: Sequence[float], itl: Sequence[float] = ()) -> dict[str, tuple[float, ...]]:
    """The two histograms of a replica that measured these."""
    return {"ttft": cumulative(TTFT_BOUNDS, ttft), "itl": cumulative(ITL_BOUNDS, itl)}
