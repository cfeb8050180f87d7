"""Loads of known shapes: a ramp, a step, a square wave and a day.

    load = generate("ramp", seed=1)

Called by `halftone replay` and by benchmarks. Equal arguments give equal loads.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from halftone.scaling.loads.load import Floats, Integers, Load
from halftone.spec.errors import RefusedInput
from halftone.spec.names import Reason

# Rates are constant over so many seconds; finer than any scraper sees.
_BIN_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Lengths:
    """Log-normal tokens of `mean`; `spread` is the standard deviation over the mean.

    None is longer than `most` times the mean: a log-normal tail has no end, and contexts have one.
    """

    mean: float
    spread: float
    most: float = 12.0

    def draw(self, count: int, chance: np.random.Generator) -> Integers:
        """`count` lengths, each at least 1; int64."""
        variance = math.log1p(self.spread**2)
        drawn = chance.lognormal(math.log(self.mean) - variance / 2, math.sqrt(variance), count)
        return np.clip(np.rint(drawn), 1, self.most * self.mean).astype(np.int64)


# Means and spreads of Azure's conversation trace of 2023 ...
CHAT_PROMPT: Final = Lengths(1155, 0.96)
CHAT_OUTPUT: Final = Lengths(211, 0.77)
# ... and those of the ramp that llm-d published with its latency-ratio law.
RAMP_PROMPT: Final = Lengths(4000, 0.075)
RAMP_OUTPUT: Final = Lengths(1000, 0.08)


def _stages(*stages: tuple[float, float]) -> Floats:
    """Requests per second in each bin, of (rate, seconds)."""
    return np.concatenate([np.full(round(length / _BIN_S), rate) for rate, length in stages])


def _ramp() -> Floats:
    """The stages of llm-d's scored episode: 2 to 10 requests per second, then 4 and 1."""
    climb = [(4.0, 360.0), (6.0, 360.0), (8.0, 360.0), (10.0, 360.0)]
    return _stages((2.0, 330.0), *climb, (4.0, 360.0), (1.0, 300.0))


def _step() -> Floats:
    """Ten quiet minutes, then five times as much for half an hour: longer than any lead."""
    return _stages((2.0, 600.0), (10.0, 1800.0))


def _square() -> Floats:
    """An hour in which ten minutes of much follow ten minutes of little."""
    return _stages(*[(2.0, 600.0), (10.0, 600.0)] * 3)


def _diurnal() -> Floats:
    """A day in two hours: from night to noon and back, once, between 1 and 10 per second."""
    length = round(7200 / _BIN_S)
    phase = 2 * np.pi * (np.arange(length) + 0.5) / length
    rates: Floats = 5.5 - 4.5 * np.cos(phase)
    return rates


@dataclass(frozen=True, slots=True)
class Shape:
    """Rates over time, and the lengths that go with them."""

    rates: Callable[[], Floats]
    prompt: Lengths = CHAT_PROMPT
    output: Lengths = CHAT_OUTPUT


SHAPES: Final = {
    "ramp": Shape(_ramp, RAMP_PROMPT, RAMP_OUTPUT),
    "step": Shape(_step),
    "square": Shape(_square),
    "diurnal": Shape(_diurnal),
}


def generate(
    shape: str,
    seed: int = 0,
    prompt: Lengths | None = None,
    output: Lengths | None = None,
    *,
    even: bool = False,
) -> Load:
    """The load of `shape`, one of `SHAPES`, with lengths of its own unless others are given.

    Arrivals are a Poisson process. `even` spaces them evenly instead, as load generators do that
    hold a constant rate; that is what llm-d's ramp was measured with.

    Raises RefusedInput(InvalidTrace) for a name that is no shape.
    """
    if shape not in SHAPES:
        told = f"'{shape}' is no shape of load; choose one of {', '.join(SHAPES)}."
        raise RefusedInput(Reason.InvalidTrace, shape, told)
    chosen = SHAPES[shape]
    chance = np.random.default_rng(seed)
    rates = chosen.rates()
    arrivals = _evenly(rates) if even else poisson_arrivals(rates, _BIN_S, chance)
    count = len(arrivals)
    prompts = (prompt or chosen.prompt).draw(count, chance)
    return Load.of(shape, arrivals, prompts, (output or chosen.output).draw(count, chance))


def poisson_arrivals(rates: Floats, bin_s: float, chance: np.random.Generator) -> Floats:
    """Seconds, sorted: a Poisson process whose rate (per second) is constant in each bin."""
    counts = chance.poisson(np.maximum(rates, 0.0) * bin_s)
    bins = np.repeat(np.arange(len(rates)), counts)
    return np.sort((bins + chance.random(len(bins))) * bin_s)


def _evenly(rates: Floats) -> Floats:
    """Where the number of requests so far passes a half, one and a half, and so on."""
    total = np.concatenate(([0.0], np.cumsum(rates * _BIN_S)))
    wanted = np.arange(0.5, total[-1], 1.0)
    times: Floats = np.interp(wanted, total, np.arange(len(total)) * _BIN_S)
    return times
