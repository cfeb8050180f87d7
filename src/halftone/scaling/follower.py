"""The law with its memory: what the replay, Ray's policy and the external controller all call.

    follower = Follower(capacity, settings)
    wanted = follower(reading)
    follower.decision.reason

Standard library only, no clock and no I/O, as the law itself.
"""

from dataclasses import replace
from typing import Final

from halftone.scaling.capacity import Capacity
from halftone.scaling.policy import Decision, Memory, Settings, decide
from halftone.scaling.reading import Reading

INTERVAL_S: Final = 15.0


class Follower:
    """Decides again and again. `decision` is the last one; None before the first reading."""

    def __init__(
        self, capacity: Capacity, settings: Settings, interval_s: float = INTERVAL_S
    ) -> None:
        self.interval_s = interval_s
        self.capacity = capacity
        self.settings = settings
        self.decision: Decision | None = None
        self.memory: Memory | None = None

    def __call__(self, reading: Reading) -> int:
        """The number wanted: ready and starting together, draining ones not counted."""
        self.decision, self.memory = decide(reading, self.capacity, self.settings, self.memory)
        return self.decision.wanted

    def forget(self) -> None:
        """Take the count that is there for the right one: somebody set it and means it."""
        self.memory = None

    def expect_lead(self, lead_s: float) -> None:
        """From here on a replica that is asked for is taken to need `lead_s` seconds."""
        self.settings = replace(self.settings, lead_s=lead_s)
