"""Builders for tests of the plant, the replay and policies: capacities, loads, worlds, autoscalers.

Numbers are small and round, so that a test can say what must come out. `trajectory` steps one
replica of the plant by itself, as `tests/peers/vllm_scheduler.py` steps vLLM's scheduler.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from halftone.scaling.capacity import CacheGroup, Capacity
from halftone.scaling.loads.load import Load
from halftone.scaling.plant import state
from halftone.scaling.plant.advancing import finish_alone, step_alone
from halftone.scaling.plant.endpoint import Plant
from halftone.scaling.reading import Reading
from halftone.scaling.replay import World

# A step takes 10 ms, a thousand prompt tokens 100 ms; decoding costs nothing more.
CAPACITY: Final = Capacity(
    prefill_tokens_per_second=10_000.0,
    step_base_s=0.01,
    seconds_per_kv_token=0.0,
    seconds_per_sequence=0.0,
    kv_blocks=1000,
    groups=(CacheGroup(16),),
    token_budget=512,
    max_sequences=32,
)


def capacity(**changes: Any) -> Capacity:
    """CAPACITY, changed."""
    return replace(CAPACITY, **changes)


def world(**changes: Any) -> World:
    """One replica, no spread of leads; changed."""
    fields: dict[str, Any] = {
        "capacity": CAPACITY,
        "lead_s": 60.0,
        "start": 1,
        "lead_spread": 0.0,
        **changes,
    }
    return World(**fields)


def at_once(count: int, prompt: int, output: int, cached: int = 0) -> Load:
    """`count` equal requests at time 0."""
    return Load.of(
        "at once",
        np.zeros(count),
        np.full(count, prompt),
        np.full(count, output),
        np.full(count, cached),
    )


def poisson(rate: float, seconds: float, prompt: int, output: int, seed: int = 0) -> Load:
    """Equal requests at random, `rate` a second on average."""
    chance = np.random.default_rng(seed)
    count = int(chance.poisson(rate * seconds))
    times = np.sort(chance.uniform(0.0, seconds, count))
    return Load.of("poisson", times, np.full(count, prompt), np.full(count, output))


def mixed(count: int, seconds: float, seed: int = 0, most: int = 900) -> Load:
    """Requests at random of lengths at random, prompts up to `most` tokens."""
    chance = np.random.default_rng(seed)
    return Load.of(
        "mixed",
        chance.uniform(0.0, seconds, count),
        chance.integers(1, most, count),
        chance.integers(1, 200, count),
    )


@dataclass
class Steady:
    """Always wants the same number."""

    wanted: int
    interval_s: float = 15.0

    def __call__(self, reading: Reading) -> int:
        return self.wanted


class Scripted:
    """Wants what its plan, rows of (from second, replicas), says; keeps what it was shown."""

    def __init__(self, *plan: tuple[float, int], interval_s: float = 15.0) -> None:
        self.interval_s = interval_s
        self.plan = plan
        self.readings: list[Reading] = []

    def __call__(self, reading: Reading) -> int:
        self.readings.append(reading)
        return [wanted for since, wanted in self.plan if since <= reading.time_s][-1]


def compile_plant() -> None:
    """Compile the plant's kernels, or load them: seconds, which no test's limit should pay for.

    A module of tests that runs the plant calls it in a fixture of its own.
    """
    finished(world(), at_once(1, 1, 1))
    trajectory(CAPACITY, [(1, 1, 0)])


def finished(world: World, load: Load) -> Plant:
    """The plant when all is answered, without anybody who scales it."""
    plant = Plant(world, load)
    plant.finish()
    return plant


def trajectory(capacity: Capacity, requests: Sequence[Sequence[int]]) -> list[list[int]]:
    """A row a step of one replica, for rows of (prompt, output, step before which it arrives).

    Running, waiting and blocks in use once the step was decided, its tokens, running and blocks
    once it was done, preemptions so far.
    """
    prompts, outputs, arrivals = zip(*requests, strict=True)
    load = Load.of("steps", arrivals, prompts, outputs)
    rules = state.rules(capacity, 1e9, "least-loaded")
    rows = state.requests(load, 0)
    replica = state.replicas(1)
    running = state.running(1, capacity.max_sequences)
    cursor = state.cursor(len(load))
    steps: list[list[int]] = []
    while cursor[state.OPEN]:
        arrived = int(np.count_nonzero(load.arrival_s <= len(steps)))
        step_alone(rules, rows, replica, running, cursor, arrived)
        decided = [replica.sequences[0], replica.waiting[0], replica.blocks[0], rows.planned.sum()]
        finish_alone(rules, rows, replica, running, cursor)
        preemptions = replica.counters[0, state.PREEMPTIONS]
        done = [replica.sequences[0], replica.blocks[0], preemptions]
        steps.append([int(each) for each in (*decided, *done)])
    return steps
