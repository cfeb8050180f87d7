"""A policy against a load on the plant: what users would have seen, and what it would have cost.

    world = World(capacity, lead_s=277, objective=Objective())
    outcome = replay(world, load, autoscaler)

Called by `halftone replay` and by `benchmarks/scaling`. The plant is compiled, so its package is
imported when the first replay begins.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np

from halftone.scaling.capacity import Capacity
from halftone.scaling.loads.load import Floats, Load
from halftone.scaling.reading import Reading

if TYPE_CHECKING:
    from halftone.scaling.plant.endpoint import Plant

DEFAULT_TTFT_S: Final = 2.5
DEFAULT_PROMPT_TOKENS_PER_SECOND: Final = 4000.0


class Autoscaler(Protocol):
    """Anything that says how many replicas there should be. It may remember what it saw."""

    interval_s: float  # how often it is asked

    def __call__(self, reading: Reading) -> int:
        """The number wanted: ready and starting together, draining ones not counted."""
        ...


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


def replay(world: World, load: Load, autoscaler: Autoscaler, name: str = "") -> Outcome:
    """Run `load` on the plant of `world` while `autoscaler` decides, until all answers are there.

    It is asked at 0 and every `interval_s` from then on; what it wants is kept within the bounds of
    `world`. Every replica is paid for from its ask until it is gone, or until the last answer.
    Equal arguments give equal outcomes, as far as the autoscaler does. Raises ValueError for a
    router that does not exist, and for an interval that is not positive.
    """
    from halftone.scaling.plant.endpoint import Plant

    if not autoscaler.interval_s > 0:
        raise ValueError(f"an autoscaler cannot be asked every {autoscaler.interval_s} s")
    plant = Plant(world, load)
    wanted, events, asked = world.start, 0, 0
    while True:
        plant.run_until(asked * autoscaler.interval_s)
        if plant.idle:
            break
        before = wanted
        wanted = min(max(autoscaler(plant.read()), world.min_replicas), world.max_replicas)
        if wanted != before:
            plant.scale(wanted)
            events += 1
        asked += 1
    return _outcome(plant, name, events)


def _outcome(plant: "Plant", name: str, events: int) -> Outcome:
    from halftone.scaling.plant.endpoint import answers

    ttft_s, itl_s = answers(plant)
    end_s = plant.last_answer_s
    paid_s = plant.paid_s(end_s)
    met = attained(plant.world.objective, plant.load, ttft_s, itl_s)
    return Outcome(
        policy=name,
        attainment=float(met.mean()) if len(met) else 1.0,
        replica_seconds=paid_s,
        mean_replicas=paid_s / end_s if end_s > 0 else 0.0,
        ttft_s=ttft_s,
        itl_s=itl_s,
        scale_events=events,
        preemptions=plant.preemptions,
        dropped=plant.dropped,
        timeline=_timeline(plant),
    )


def attained(
    objective: Objective, load: Load, ttft_s: Floats, itl_s: Floats
) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Which requests of `load` met the objective; those without an answer did not."""
    in_time = ttft_s <= objective.ttft_s + load.prompt / objective.prompt_rate
    met: np.ndarray[tuple[int], np.dtype[np.bool_]] = in_time & ~(itl_s > objective.itl_s)
    return met


def _timeline(plant: "Plant") -> Timeline:
    rows = np.array(plant.history, np.float64)
    time_s, arrived, wanted, ready, starting, kv_usage, waiting = rows.T
    per_s = np.diff(arrived, prepend=0.0) / plant.world.scrape_interval_s
    return Timeline(time_s, per_s, wanted, ready, starting, kv_usage, waiting)
