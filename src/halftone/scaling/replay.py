"""A policy against a load on the plant: what users would have seen, and what it would have cost.

    world = World(capacity, lead_s=277, objective=Objective())
    outcome = replay(world, load, autoscaler)

Called by `halftone replay` and by `benchmarks/scaling`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Protocol

from halftone.scaling.capacity import Capacity
from halftone.scaling.loads.load import Floats
from halftone.scaling.reading import Reading

DEFAULT_TTFT_S: Final = 2.5
DEFAULT_PROMPT_TOKENS_PER_SECOND: Final = 4000.0


class Autoscaler(Protocol):
    """Anything that says how many replicas there should be. It may remember what it saw."""

    interval_s: float  # how often it is asked

    def __call__(self, reading: Reading) -> int:
        """The number wanted: ready and starting together, draining ones not counted."""
        ...


# What makes an autoscaler anew for one run: policies remember, and runs must not share that.
Maker = Callable[[], Autoscaler]


@dataclass(frozen=True, slots=True)
class Objective:
    """A request attains it when its first token came within `ttft_s + prompt / prompt_rate`
    seconds, and the mean time between its later tokens was at most `itl_s`.
    """

    ttft_s: float = DEFAULT_TTFT_S
    prompt_rate: float = DEFAULT_PROMPT_TOKENS_PER_SECOND
    itl_s: float = 0.1


@dataclass(frozen=True, slots=True)
class World:
    """All of a run but load and policy.

    `lead_s` is from the ask until a replica is ready; each lead is drawn around it with
    `lead_spread` (relative standard deviation). `start` replicas are ready when the load begins.
    """

    capacity: Capacity
    lead_s: float
    objective: Objective = field(default_factory=Objective)
    start: int = 8
    min_replicas: int = 1
    max_replicas: int = 64
    seed: int = 0
    lead_spread: float = 0.1
    router: str = "least-loaded"  # or "round-robin", "power-of-two"
    scrape_interval_s: float = 15.0
    client_timeout_s: float = 300.0  # a request without its first token until then is dropped


@dataclass(frozen=True)
class Timeline:
    """What happened over time, a row a scrape; float64 arrays of equal length."""

    time_s: Floats
    arrivals_per_s: Floats
    wanted: Floats
    ready: Floats
    starting: Floats
    kv_usage: Floats  # mean of the ready replicas
    waiting: Floats


@dataclass(frozen=True)
class Outcome:
    """One run. `ttft_s` and `itl_s` have a row a request, NaN where there was none (dropped)."""

    policy: str
    attainment: float  # share of all requests, 0 to 1
    replica_seconds: float  # paid for, from each ask until the replica was gone
    mean_replicas: float
    ttft_s: Floats
    itl_s: Floats
    scale_events: int
    preemptions: int
    dropped: int
    timeline: Timeline
