"""What was measured so far, free of any library: kept in the journal, written at the end.

Called by `observing`, `running`, `partial` and `writing`. Names are those on disk.
"""

from collections.abc import Mapping
from math import isfinite
from typing import Any, NamedTuple, Self


class Seen(NamedTuple):
    """What entered a module: the largest magnitude, and how many tokens and samples."""

    amax: float
    tokens: int
    samples: int


class Measured(NamedTuple):
    """`inputs` by module, `caches` (keys, values) by attention module.

    `routed` has by the parent of experts what the router sent to each: (tokens, samples).
    """

    inputs: Mapping[str, Seen]
    caches: Mapping[str, tuple[float, float]]
    routed: Mapping[str, tuple[tuple[int, int], ...]]

    def joined(self, other: "Measured") -> "Measured":
        """Both; they are of different layers."""
        return Measured(
            {**self.inputs, **other.inputs},
            {**self.caches, **other.caches},
            {**self.routed, **other.routed},
        )

    def not_finite(self) -> str | None:
        """The first module, in the order in which they were called, that saw NaN or an infinity."""
        amax = {name: (seen.amax,) for name, seen in self.inputs.items()} | dict(self.caches)
        return next((n for n, values in amax.items() if not all(map(isfinite, values))), None)

    def to_json(self) -> dict[str, Any]:
        """For the journal; floats are written so that they come back the same."""
        return {
            "inputs": {name: list(seen) for name, seen in self.inputs.items()},
            "caches": {name: list(both) for name, both in self.caches.items()},
            "routed": {name: [list(one) for one in all_] for name, all_ in self.routed.items()},
        }

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> Self:
        """What `to_json` gave. Raises KeyError, TypeError or ValueError for anything else."""
        return cls(
            {name: Seen(float(a), int(t), int(s)) for name, (a, t, s) in found["inputs"].items()},
            {name: (float(k), float(v)) for name, (k, v) in found["caches"].items()},
            {
                name: tuple((int(t), int(s)) for t, s in all_)
                for name, all_ in found["routed"].items()
            },
        )
