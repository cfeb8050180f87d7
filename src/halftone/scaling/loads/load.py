"""A load: what arrives when, and how long it is.

Made by `traces`, `generators` and `history`; run by the replay.
"""

from dataclasses import dataclass
from typing import Final, Self

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

# A repeated request comes this near to the one that it repeats, at most.
_APART_S: Final = 2.0


@dataclass(frozen=True)
class Load:
    """Requests in the order of their arrival; every array has one row a request.

    `arrival_s` is float64, seconds since the load began; `prompt` and `output` are int64, tokens,
    each at least 1. `cached` (int64) are prompt tokens that a warm prefix cache would hold; zeros
    where nothing is known.
    """

    name: str
    arrival_s: Floats
    prompt: Integers
    output: Integers
    cached: Integers

    @classmethod
    def of(
        cls,
        name: str,
        arrival_s: npt.ArrayLike,
        prompt: npt.ArrayLike,
        output: npt.ArrayLike,
        cached: npt.ArrayLike | None = None,
    ) -> Self:
        """From what numpy takes, sorted by arrival. Raises ValueError for unequal lengths."""
        arrivals = np.asarray(arrival_s, np.float64)
        columns = [np.asarray(each, np.int64) for each in (prompt, output)]
        known = np.zeros(len(arrivals), np.int64) if cached is None else cached
        columns.append(np.asarray(known, np.int64))
        if any(len(column) != len(arrivals) for column in columns):
            raise ValueError("a load needs as many prompts and outputs as arrivals")
        order = np.argsort(arrivals, kind="stable")
        return cls(name, arrivals[order], *(column[order] for column in columns))

    def __len__(self) -> int:
        return len(self.arrival_s)

    @property
    def duration_s(self) -> float:
        """Until the last arrival."""
        return float(self.arrival_s[-1]) if len(self) else 0.0

    def scaled(self, factor: float, seed: int = 0) -> Self:
        """As long as before, with `factor` times the requests.

        Each is repeated so often on average, at most `_APART_S` from where it was: what the load
        does over minutes stays. Below 1 requests are left out at random.
        """
        chance = np.random.default_rng(seed)
        copies = np.floor(factor + chance.random(len(self))).astype(np.int64)
        rows = np.repeat(np.arange(len(self)), copies)
        first = np.concatenate(([True], rows[1:] != rows[:-1])) if len(rows) else rows == 0
        moved = np.where(first, 0.0, chance.uniform(-_APART_S, _APART_S, len(rows)))
        arrivals = np.clip(self.arrival_s[rows] + moved, 0.0, self.duration_s)
        columns = (column[rows] for column in (self.prompt, self.output, self.cached))
        return type(self).of(self.name, arrivals, *columns)
