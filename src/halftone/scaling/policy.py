"""How many replicas there should be: the law, as one pure function.

    decision, memory = decide(reading, capacity, settings, memory)

Ray's policy class, the external controller and the replay all wrap `decide`. It holds no clock and
does no I/O: `memory` is what the caller keeps from one call to the next, `None` at first. Standard
library only. `docs/scaling.md` has the reasons, and what it costs where.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from halftone.scaling.capacity import Capacity
from halftone.scaling.reading import Reading


class Term(StrEnum):
    """What decided."""

    Rate = "Rate"  # the work that arrives
    Memory = "Memory"  # KV blocks
    Backlog = "Backlog"  # what waits
    Reserve = "Reserve"  # bursts of the last half hour, had they come again
    Window = "Window"  # more was wanted not long ago
    Floor = "Floor"  # as much work arrived not long ago
    Preemption = "Preemption"  # no replica goes while requests are preempted
    Bounds = "Bounds"  # least or most replicas
    Missing = "Missing"  # an input is missing or stale: the count holds


@dataclass(frozen=True, slots=True)
class Settings:
    """What a user says. `theta` is the one knob between cost and attainment: the share of a
    replica's time that arriving work may take (0.72 safe, 0.80 middle, 0.85 lean).

    `lead_s` is from the ask until a replica is ready (its 90th percentile). A request should have
    its first token within `ttft_s + prompt / prompt_rate`. `stale_s` is the age at which an input
    no longer counts.
    """

    lead_s: float
    theta: float = 0.80
    min_replicas: int = 1
    max_replicas: int = 64
    ttft_s: float = 2.5
    prompt_rate: float = 4000.0
    itl_s: float = 0.1
    missed_share: float = 0.02
    stale_s: float = 60.0


@dataclass(frozen=True, slots=True)
class Decision:
    """`wanted` replicas, ready and starting together; `term` decided, `reason` is a sentence.

    `asked` has what each term alone would want, `inputs` what they were computed from; both are
    exported and logged.
    """

    wanted: int
    term: Term
    reason: str
    asked: dict[str, float] = field(default_factory=dict)
    inputs: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Memory:
    """What the law keeps between calls; a caller only hands it back."""
