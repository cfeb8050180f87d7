"""Ratios of percentiles of two endpoints' times, with bounds from paired resampling.

Pure; called by `judging`. A percentile of times has no formula for its error that a queue would
respect, so the prompts are drawn again, with both endpoints' times together, and the ratio is taken
each time (the percentile bootstrap: Efron and Tibshirani, An Introduction to the Bootstrap, 1993,
chapter 13). Prompts are what is drawn, not tokens, because tokens of one answer are not
independent.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from halftone.validate.gates.token_divergence import Floats

Counts = NDArray[np.int64]

_RESAMPLES: Final = 2000
_AT_ONCE: Final = 250  # resamples, so that a long answer's many gaps stay in the cache
# With fewer prompts there are too few different resamples for a bound at one in a hundred.
FEWEST_PROMPTS: Final = 8


@dataclass(frozen=True)
class Ratio:
    """New over old of one percentile; `old` and `new` are seconds. `drawn` is sorted."""

    old: float
    new: float
    drawn: Floats

    @property
    def value(self) -> float:
        return self.new / self.old

    def bound(self, alpha: float, side: int) -> float:
        """The one-sided bound at level `alpha`: a lower one for side -1, an upper for +1."""
        if not self.drawn.size:
            return 0.0 if side < 0 else math.inf
        return float(np.quantile(self.drawn, alpha if side < 0 else 1 - alpha))


def percentile_ratio(
    old: Sequence[Sequence[float]], new: Sequence[Sequence[float]], percent: float, seed: int = 0
) -> Ratio | None:
    """Of times in seconds, a row for each prompt; None where there is no time at all.

    Prompts that one of the two gave no time for are left out for both.
    """
    pairs = [(a, b) for a, b in zip(old, new, strict=True) if len(a) and len(b)]
    if not pairs:
        return None
    sides = [[np.asarray(pair[side], np.float64) for pair in pairs] for side in (0, 1)]
    plain = [float(np.percentile(np.concatenate(rows), percent)) for rows in sides]
    if min(plain) <= 0:
        return None
    if len(pairs) < FEWEST_PROMPTS:
        return Ratio(plain[0], plain[1], np.zeros(0))
    numbers = np.random.default_rng(seed)
    drawn = []
    for _ in range(_RESAMPLES // _AT_ONCE):
        picks = numbers.multinomial(len(pairs), np.full(len(pairs), 1 / len(pairs)), _AT_ONCE)
        before, after = (_percentiles(rows, picks, percent) for rows in sides)
        drawn.append(after / before)
    return Ratio(plain[0], plain[1], np.sort(np.concatenate(drawn)))


def _percentiles(rows: Sequence[Floats], picks: Counts, percent: float) -> Floats:
    """The percentile of all times of each draw; `picks` int[draws, prompts] says how often each
    prompt came."""
    times = np.concatenate(rows)
    order = np.argsort(times, kind="stable")
    owner = np.repeat(np.arange(len(rows)), [len(row) for row in rows])[order]
    reached = np.cumsum(picks[:, owner], axis=1)
    wanted = np.ceil(percent / 100 * reached[:, -1:])
    found: Floats = times[order][np.argmax(reached >= wanted, axis=1)]
    return found
