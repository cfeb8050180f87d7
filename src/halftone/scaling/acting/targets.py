"""What a controller scales, whatever it is: how many there are, who else scales it, a new count.

`ray_application` and `deployment_scale` are the two kinds; `controlling` knows no other word of
either.
"""

from dataclasses import dataclass
from typing import Protocol

from halftone.scaling.inputs.counts import ReplicaCounts


class TargetError(Exception):
    """The target could not be read or set; the message is a sentence. The next look may do it."""


@dataclass(frozen=True, slots=True)
class Observed:
    """A target at one moment.

    `wanted` is the count that is set, `rivals` name other scalers of it, and `version` is what a
    new count is conditioned on, where the target has such a thing.
    """

    wanted: int
    counts: ReplicaCounts
    rivals: tuple[str, ...] = ()
    version: str = ""


class Target(Protocol):
    """Anything with a count of replicas."""

    @property
    def name(self) -> str:
        """For people: what is scaled, and where."""
        ...

    def observe(self) -> Observed:
        """How it is now. Raises TargetError."""
        ...

    def scale(self, count: int, seen: Observed) -> None:
        """Set `count`, unless it has changed since `seen`. Raises TargetError."""
        ...

    def tell(self, reason: str, sentence: str) -> None:
        """Leave a word where people look at the target. It may do nothing, and does not raise."""
        ...

    def close(self) -> None:
        """Close what is open to it."""
        ...
