"""Readings for tests of the law: an endpoint that finishes what arrives, counted as vLLM counts.

Every replica takes the same share. Nothing computes here; `tests/scaling_cases.py` has the plant.
"""

from dataclasses import dataclass, field, replace
from typing import Final

from halftone.scaling.capacity import CacheGroup, Capacity
from halftone.scaling.reading import Reading, ReplicaReading

# Round numbers: a request of 1000 and 100 tokens takes about half a second of a replica.
CAPACITY: Final = Capacity(
    prefill_tokens_per_second=5000.0,
    step_base_s=0.02,
    seconds_per_kv_token=1e-8,
    seconds_per_sequence=1e-4,
    kv_blocks=2000,
    groups=(CacheGroup(16),),
    token_budget=1024,
    max_sequences=64,
)
STEP_S: Final = 15.0
PROMPT, OUTPUT = 1000, 100


@dataclass
class Fed:
    """An endpoint of `ready` replicas that is told what arrived; `next` reads it."""

    ready: int = 2
    time_s: float = 0.0
    starting: int = 0
    counters: dict[str, ReplicaReading] = field(default_factory=dict)

    def next(
        self,
        arrivals: float,
        *,
        waiting: float = 0.0,
        kv_usage: float | None = None,
        preempted: float = 0.0,
        seconds: float = STEP_S,
        missing: tuple[str, ...] = (),
    ) -> Reading:
        """The reading after `seconds` in which `arrivals` requests came and finished.

        `waiting` and `preempted` are sums over all replicas, `kv_usage` is each one's (0.1 where
        something came or waits, if not given).
        """
        self.time_s += seconds
        each = arrivals / max(1, self.ready)
        held = kv_usage if kv_usage is not None else 0.1 * bool(arrivals or waiting)
        for name in (f"replica-{number}" for number in range(self.ready)):
            before = self.counters.get(name, nothing(name))
            self.counters[name] = replace(
                before,
                time_s=self.time_s,
                waiting=waiting / self.ready,
                kv_usage=held,
                finished=before.finished + each,
                prompt_tokens=before.prompt_tokens + each * PROMPT,
                generation_tokens=before.generation_tokens + each * OUTPUT,
                finished_prompt_tokens=before.finished_prompt_tokens + each * PROMPT,
                finished_output_tokens=before.finished_output_tokens + each * OUTPUT,
                preemptions=before.preemptions + preempted / self.ready,
            )
        replicas = tuple(self.counters[f"replica-{n}"] for n in range(self.ready))
        return Reading(self.time_s, self.ready, self.starting, 0, replicas, missing=missing)


def nothing(name: str) -> ReplicaReading:
    """A replica that has just started."""
    return ReplicaReading(name, 0.0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
